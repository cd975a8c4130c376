package dhcp6

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// state is what is being asked; doc.go draws the transitions.
type state string

const (
	stopped    state = "stopped" // no link
	soliciting state = "soliciting"
	requesting state = "requesting"
	bound      state = "bound"
	renewing   state = "renewing"
	rebinding  state = "rebinding"
	verifying  state = "verifying" // Rebind, or Confirm for addresses alone, after the link came up
	releasing  state = "releasing"
	released   state = "released" // for good
)

// IAPD asks for delegated prefixes.
type IAPD struct {
	// ID is the IAID: the same for ever, and of no other association of a client with the same DUID.
	ID uint32
	// Hint is the prefix that is wanted, or ::/56 for just a length; zero for any.
	Hint netip.Prefix
}

// iaConfig is what the client asks for.
type iaConfig struct {
	duid  DUID
	iapd  []IAPD
	iana  []uint32
	class Class
	rapid bool
}

func (w *iaConfig) keys() []iaKey {
	var out []iaKey
	for _, pd := range w.iapd {
		out = append(out, iaKey{true, pd.ID})
	}
	for _, id := range w.iana {
		out = append(out, iaKey{false, id})
	}
	return out
}

func (w *iaConfig) hint(k iaKey) netip.Prefix {
	for _, pd := range w.iapd {
		if k == (iaKey{true, pd.ID}) && pd.Hint.Bits() > 0 {
			return pd.Hint.Masked()
		}
	}
	return netip.Prefix{}
}

// exchange is one transaction with its retransmissions.
type exchange struct {
	schedule
	xid   dhcpv6.TransactionID
	began time.Duration // when the first message was sent
	rt    time.Duration
	sent  int
	at    time.Duration // when something is due
	until time.Duration // when the exchange ends unanswered

	confirm bool // verifying: by Confirm, whatever expires meanwhile
}

// effects is what an input led to.
type effects struct {
	send    []byte // nil for nothing
	changes []Change
	notes   []string // for the log
}

// machine is the client's state machine. It is pure: inputs carry the time, and deadline says when tick is
// due. It is not safe for concurrent use.
type machine struct {
	iaConfig
	rand func() float64 // uniform in [0, 1)

	state         state
	held          binding
	former        []entry // what is over, as a hint
	unsure        bool    // former is over only by the wall clock, which may be wrong
	ex            exchange
	offers        []offer
	target        DUID    // requesting: of whom
	include       []entry // requesting and releasing: what
	noBindingFrom DUID    // rebinding and verifying: a server that had no binding for us

	solicitMax time.Duration // SOL_MAX_RT
	failures   int           // of getting anything, in a row
	limit      limiter
	lacking    lacking
	notified   instant // when a lease was told last
	fx         effects
}

// newMachine takes over the lease of an earlier run, nil for none.
func newMachine(w iaConfig, last *Lease, rand func() float64, now instant) (*machine, effects) {
	m := &machine{iaConfig: w, rand: rand, state: stopped, solicitMax: solMaxRT, notified: now}
	if last != nil {
		var changes []PrefixChange
		m.held, m.former, changes = restore(last, m.keys(), now)
		m.unsure = len(m.former) > 0
		m.notify(Restored, changes, "", now)
	}
	return m, m.flush()
}

// linkUp begins: with what is held or was held, else from nothing.
func (m *machine) linkUp(now instant) effects {
	m.expire(now)
	m.failures = 0
	switch {
	case m.state == releasing || m.state == released:
	case len(m.held.entries) > 0 || m.unsure:
		m.begin(verifying, now)
	default:
		m.begin(soliciting, now)
	}
	return m.flush()
}

// linkDown stops asking. What is held stays until it expires.
func (m *machine) linkDown(now instant) effects {
	m.expire(now)
	m.lacking = lacking{}
	switch m.state {
	case released:
	case releasing:
		m.state = released
	default:
		m.state = stopped
	}
	return m.flush()
}

// tick does what is due.
func (m *machine) tick(now instant) effects {
	m.expire(now)
	switch {
	case m.state == bound && now.mono >= m.held.t1:
		m.resume(now)
	case m.exchanging() && now.mono >= m.ex.at:
		m.due(now)
	}
	return m.flush()
}

// release gives back what is held: it is told to be gone first (RFC 9915 section 18.2.7).
func (m *machine) release(now instant) effects {
	m.expire(now)
	if m.state == releasing || m.state == released {
		return m.flush()
	}
	linked := m.state != stopped
	m.include, m.target, m.former = m.held.entries, m.held.server, nil
	outcomes := make(map[netip.Prefix]Outcome)
	m.held.drop(outcomes, Released, func(entry) bool { return true })
	m.notify(Returned, changesOf(outcomes), "", now)
	if linked && len(m.include) > 0 && m.target != nil {
		m.begin(releasing, now)
	} else {
		m.state = released
	}
	return m.flush()
}

// deadline returns when tick is due; never for not at all.
func (m *machine) deadline() time.Duration {
	first, _ := m.held.end()
	switch {
	case m.state == bound:
		return min(first, m.held.t1)
	case m.exchanging():
		return min(first, m.ex.at)
	}
	return first
}

func (m *machine) exchanging() bool {
	switch m.state {
	case stopped, bound, released:
		return false
	}
	return true
}

func (m *machine) flush() effects {
	fx := m.fx
	m.fx = effects{}
	return fx
}

func (m *machine) note(format string, args ...any) {
	m.fx.notes = append(m.fx.notes, fmt.Sprintf(format, args...))
}

// notify reports what holds now.
func (m *machine) notify(r Reason, changes []PrefixChange, note string, now instant) {
	m.notified = now
	m.fx.changes = append(m.fx.changes, Change{Reason: r, Lease: m.held.lease(now), Prefixes: changes, Note: note})
}

// expire notices what time has done: steps of the clock and ends of leases.
func (m *machine) expire(now instant) {
	if now.strayed(m.notified) && len(m.held.entries) > 0 {
		m.notify(Reset, nil, "", now)
	}
	before := m.held.entries
	changes := m.held.expire(now.mono)
	if changes == nil {
		return
	}
	m.notify(Lapsed, changes, "", now)
	if len(m.held.entries) > 0 {
		return
	}
	m.former, m.unsure = before, false
	switch m.state {
	case bound, renewing, rebinding, verifying:
		m.begin(soliciting, now)
	}
}

// begin starts an exchange.
func (m *machine) begin(s state, now instant) {
	m.state, m.noBindingFrom = s, nil
	m.ex = exchange{schedule: scheduleOf(s, m.solicitMax), until: never, confirm: s == verifying && m.onlyAddresses()}
	for i := range m.ex.xid {
		m.ex.xid[i] = byte(m.rand() * 256)
	}
	delay := time.Duration(m.rand() * float64(m.ex.delay))
	switch s {
	case soliciting:
		m.offers, m.target, m.include, m.unsure = nil, nil, nil, false
		if m.failures > 0 {
			// A server that offers and then refuses must not be asked every two seconds (section 14.1).
			delay += spread(min(solTimeout<<min(m.failures, 20), m.solicitMax), 0.2*m.rand()-0.1)
		}
	case renewing:
		m.ex.until = m.held.t2
	}
	m.ex.at = now.mono + delay
	if delay == 0 {
		m.transmit(now)
	}
}

// due acts when an exchange has waited for long enough.
func (m *machine) due(now instant) {
	switch {
	case m.state == soliciting && len(m.offers) > 0:
		m.requestNext(now)
	case m.noBindingFrom != nil:
		m.requestHeld(m.noBindingFrom, now)
	case m.ex.mrc > 0 && m.ex.sent >= m.ex.mrc, now.mono >= m.ex.until:
		m.fail(now)
	default:
		m.transmit(now)
	}
}

// fail acts when an exchange ended unanswered.
func (m *machine) fail(now instant) {
	switch m.state {
	case requesting:
		m.requestNext(now)
	case renewing:
		m.begin(rebinding, now)
	case verifying:
		m.note("no server has answered since the link came up: the lease is kept for its lifetime")
		m.resume(now)
	case releasing:
		m.note("no server answered the Release")
		m.state = released
	}
}

// resume goes on with what is held.
func (m *machine) resume(now instant) {
	switch {
	case len(m.held.entries) == 0:
		m.begin(soliciting, now)
	case now.mono >= m.held.t2:
		m.begin(rebinding, now)
	case now.mono >= m.held.t1:
		m.begin(renewing, now)
	default:
		m.state = bound
	}
}

// requestNext asks the best server that advertised and was not asked yet; if there is none, it solicits.
func (m *machine) requestNext(now instant) {
	if len(m.offers) == 0 {
		m.failures++
		m.begin(soliciting, now)
		return
	}
	o := m.offers[0]
	m.offers, m.target, m.include = m.offers[1:], o.server, o.entries
	m.begin(requesting, now)
}

// requestHeld asks a server for what is held, of which it knows nothing.
func (m *machine) requestHeld(server DUID, now instant) {
	m.offers, m.target, m.include = nil, server, m.lastHeld()
	m.begin(requesting, now)
}

// lastHeld is what was held last.
func (m *machine) lastHeld() []entry { return append(slices.Clone(m.held.entries), m.former...) }

// unanswered is how many messages of an exchange stay without an answer before that is worth a line.
const unanswered = 4

// transmit sends the message of the exchange, now or when the rate limit allows.
func (m *machine) transmit(now instant) {
	if free := m.limit.free(); free > now.mono {
		m.ex.at = min(free, m.ex.until)
		return
	}
	if m.ex.sent == 0 {
		m.ex.began = now.mono
		if m.ex.mrd > 0 {
			m.ex.until = now.mono + m.ex.mrd
		}
	}
	m.ex.rt = m.ex.next(m.ex.rt, m.rand())
	m.ex.at = min(now.mono+m.ex.rt, m.ex.until)
	m.ex.sent++
	m.limit.sent(now.mono)
	r := m.request(now)
	if m.state == soliciting {
		m.noteAsked(now)
	}
	if m.ex.sent == unanswered && m.state != verifying {
		m.note("%v is unanswered: sent %d times", r.kind, unanswered-1)
	}
	m.fx.send = r.bytes()
}

// request makes the message of the present state.
func (m *machine) request(now instant) *request {
	r := &request{xid: m.ex.xid, client: m.duid, elapsed: now.mono - m.ex.began, ias: m.keys(), class: m.class}
	entries, hints := m.held.entries, true
	switch m.state {
	case soliciting:
		r.kind, r.rapid, entries = dhcpv6.MessageTypeSolicit, m.rapid, m.lastHeld()
	case requesting:
		r.kind, r.server, entries = dhcpv6.MessageTypeRequest, m.target, m.include
	case renewing:
		r.kind, r.server = dhcpv6.MessageTypeRenew, m.held.server
	case rebinding:
		r.kind = dhcpv6.MessageTypeRebind
	case verifying:
		entries = m.lastHeld()
		r.kind = dhcpv6.MessageTypeRebind
		if m.ex.confirm {
			r.kind, r.ias, hints = dhcpv6.MessageTypeConfirm, keysOf(entries), false
		}
	case releasing:
		r.kind, r.server, entries, hints = dhcpv6.MessageTypeRelease, m.target, m.include, false
		r.ias = keysOf(entries)
	}
	r.include = func(k iaKey) []netip.Prefix { return m.included(k, entries, hints) }
	return r
}

// onlyAddresses reports whether a link that came up is verified by Confirm: only addresses are at stake
// (section 18.2.12), and held ones, for Confirm revives nothing.
func (m *machine) onlyAddresses() bool {
	pd := func(e entry) bool { return e.ia.pd }
	return len(m.held.entries) > 0 && len(m.former) == 0 && !slices.ContainsFunc(m.held.entries, pd)
}

// included lists the prefixes of one association, and the configured hint if there is nothing better to
// name. A hint for a length overrules what was held with another one.
func (m *machine) included(k iaKey, entries []entry, hints bool) []netip.Prefix {
	var out []netip.Prefix
	hint := m.hint(k)
	for _, e := range entries {
		other := m.state == soliciting && hint.IsValid() && hint.Bits() != e.prefix.Bits()
		if e.ia == k && !other && !slices.Contains(out, e.prefix) {
			out = append(out, e.prefix)
		}
	}
	if out == nil && hints && hint.IsValid() {
		out = append(out, hint)
	}
	return out
}

func keysOf(entries []entry) []iaKey {
	var out []iaKey
	for _, e := range entries {
		if !slices.Contains(out, e.ia) {
			out = append(out, e.ia)
		}
	}
	return out
}

// receive takes a datagram in. What is not for us, or of no use, changes nothing.
func (m *machine) receive(b []byte, now instant) effects {
	m.expire(now)
	msg, err := parse(b)
	if err != nil || !m.exchanging() || m.ex.sent == 0 || msg.xid != m.ex.xid {
		return m.flush() // somebody else's, or late: multicast brings much that is not for us
	}
	// Section 16.3 and 16.10.
	switch {
	case !bytes.Equal(msg.client, m.duid):
		m.note("%v with client id %q not used", msg.kind, msg.client)
		return m.flush()
	case msg.server == nil:
		m.note("%v without a server id not used", msg.kind)
		return m.flush()
	}
	for _, f := range msg.faults {
		m.note("%v from server %v: %s", msg.kind, msg.server, f)
	}
	if msg.solMaxRT != 0 {
		m.solicitMax = msg.solMaxRT // also from an Advertise that is of no use otherwise (section 18.2.9)
		if m.state == soliciting {
			m.ex.mrt = msg.solMaxRT
		}
	}
	switch {
	case msg.kind == dhcpv6.MessageTypeReply:
		m.reply(msg, now)
	case m.state == soliciting:
		m.advertise(msg, now)
	}
	return m.flush()
}
