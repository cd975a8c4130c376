package ndisc

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/rules/inet"
)

// Solicitation (RFC 4861 section 10, RFC 7559 section 2).
const (
	maxSolicitDelay = time.Second     // before the first, so that a street does not ask at once after a blackout
	firstSolicit    = 4 * time.Second // between the first two; doubled from there
	maxSolicit      = time.Hour
	solicitJitter   = 0.1 // of each span, both ways
	// Some providers send no advertisement without being asked. So they are asked when about three quarters
	// of the shortest lifetime are over, which leaves time for several losses.
	refreshFrom, refreshTo = 0.7, 0.8
	// minRefresh keeps a lifetime that counts down from making us ask without pause.
	minRefresh = 10 * time.Second
)

// Bounds, so that a host that forges advertisements cannot make us grow. A link has one router or two.
const (
	maxRouters  = 16
	maxPrefixes = 32
	maxRoutes   = 64
	maxNames    = 16 // DNS servers, search domains, prefixes of NAT64
)

// silentRouter is how long a router is remembered that offers no default: its MTU counts as long.
// It is the longest router lifetime of RFC 4861 section 6.2.1.
const silentRouter = 9000 * time.Second

// refresh is what is known about soliciting one router again.
type refresh struct {
	refresh time.Time // zero: nothing of it ends
	asked   bool
}

// machine is the pure part of a Discoverer. Its methods return whether to solicit.
type machine struct {
	device string
	secret []byte
	rand   func() float64 // uniform in [0, 1)

	state     State
	refreshes map[netip.Addr]refresh

	follows     bool         // somebody else configures by what routers say: ask only when they are lost
	gateways    []netip.Addr // that somebody else's defaults lead to
	checks      map[netip.Addr]*check
	unreachable map[netip.Addr]bool // routers and gateways that answer no solicitation
	unanswered  int                 // how often the router in use did not answer while the uplink worked
	// unconfirmed did not answer solicitations just now, while probes were answered by what was known.
	unconfirmed   netip.Addr
	unconfirmedAt time.Time
	lost          bool // none that was known answers
	path          Path
	proven        bool                         // the uplink has worked by the router in use
	lastWorking   netip.Addr                   // the router by which it worked last
	chosenAt      time.Time                    // about when the router in use became that; zero: just now
	delegating    netip.Addr                   // by way of which prefixes were delegated
	heldDown      map[netip.Addr]time.Time     // routers by which the uplink was silent, until when that counts
	holdDowns     map[netip.Addr]time.Duration // how long that counted last
	turn          time.Time                    // until when the router in use may try, while the uplink is silent
	linkMTU       int                          // bytes; 0: unknown
	changed       bool

	up    bool
	flaps int  // how often the link has come up
	fresh bool // a router has offered itself since then
	next  time.Time
	last  time.Time // of the latest solicitation
	span  time.Duration
	tries int
}

func newMachine(device string, secret []byte, last State, random func() float64) *machine {
	m := &machine{device: device, secret: secret, rand: random, state: last.usable(), refreshes: map[netip.Addr]refresh{},
		checks: map[netip.Addr]*check{}, unreachable: map[netip.Addr]bool{}, heldDown: map[netip.Addr]time.Time{}, holdDowns: map[netip.Addr]time.Duration{}}
	m.selectRouter()
	return m
}

// usable drops from a state, which may have been read from a file, what no advertisement can have said.
func (s State) usable() State {
	s = s.clone()
	s.Routers = slices.DeleteFunc(s.Routers, func(r Router) bool { return !r.Addr.IsLinkLocalUnicast() })
	for i := range s.Routers {
		s.Routers[i].Unreachable = false // somebody will find out again
	}
	s.Prefixes = slices.DeleteFunc(s.Prefixes, func(p Prefix) bool { return !p.Prefix.IsValid() || !p.Prefix.Addr().Is6() })
	s.Addresses = slices.DeleteFunc(s.Addresses, func(a Address) bool { return a.Address.Bits() != 64 || !a.Address.Addr().Is6() })
	s.Routes = slices.DeleteFunc(s.Routes, func(r Route) bool { return !r.Prefix.IsValid() || !r.Router.IsLinkLocalUnicast() })
	s.DNS = slices.DeleteFunc(s.DNS, func(d Server) bool { return !d.Addr.Is6() })
	s.NAT64 = slices.DeleteFunc(s.NAT64, func(t Translator) bool { return !inet.IsNAT64(t.Prefix) })
	s.Search = slices.DeleteFunc(s.Search, func(d Domain) bool { return !validDomain(d.Name) })
	return s
}

// linkUp asks for routers: the first time after a random delay, at once when the link was lost and is back,
// because somebody waits. What was learned before stays until its time is over.
func (m *machine) linkUp(mtu int, now time.Time) {
	m.linkMTU = mtu
	m.up, m.fresh, m.tries = true, false, 0
	m.next = now
	if m.flaps == 0 {
		m.next = now.Add(time.Duration(m.rand() * float64(maxSolicitDelay)))
	}
	m.flaps++
	m.verify(now) // what was there may have been replaced
}

func (m *machine) linkDown() {
	m.up = false
	clear(m.checks)
}

// soliciting reports whether an answer is waited for. RFC 7559 section 2: only an advertisement with a router
// lifetime ends the asking.
func (m *machine) soliciting() bool {
	if !m.up {
		return false
	}
	if m.follows {
		return m.lost && !m.fresh
	}
	if !m.fresh || !m.hasDefault() {
		return true
	}
	for _, l := range m.refreshes {
		if l.asked {
			return true
		}
	}
	return false
}

// hasDefault reports whether a router offers a default that is not known to be unreachable.
func (m *machine) hasDefault() bool {
	return slices.ContainsFunc(m.state.Routers, func(r Router) bool { return r.Default && !r.Unreachable })
}

// again begins a new series of solicitations, no sooner after the last than two of a series are apart.
func (m *machine) again(now time.Time) {
	m.tries, m.next = 0, now
	if soonest := m.last.Add(firstSolicit); !m.last.IsZero() && m.next.Before(soonest) {
		m.next = soonest
	}
}

// tick removes what is over, and reports whether a solicitation is due now.
func (m *machine) tick(now time.Time) bool {
	m.expire(now)
	m.rotate(now)
	for addr, l := range m.refreshes {
		if !l.asked && !l.refresh.IsZero() && !now.Before(l.refresh) {
			l.asked = true
			m.refreshes[addr] = l
			m.again(now)
		}
	}
	if !m.soliciting() || now.Before(m.next) {
		return false
	}
	m.span = m.following()
	m.tries++
	m.last, m.next = now, now.Add(m.span)
	return true
}

// unsent is told that the solicitation which was due could not be sent. The link is in trouble, no router is
// silent: the series begins anew.
func (m *machine) unsent(now time.Time) { m.tries, m.next = 0, now.Add(firstSolicit) }

// following is the span until the next solicitation, as in RFC 8415 section 15 without an end.
func (m *machine) following() time.Duration {
	random := (2*m.rand() - 1) * solicitJitter
	if m.tries == 0 {
		return firstSolicit + time.Duration(random*float64(firstSolicit))
	}
	span := 2*m.span + time.Duration(random*float64(m.span))
	if span > maxSolicit {
		return maxSolicit + time.Duration(random*float64(maxSolicit))
	}
	return span
}

// deadline is when tick has something to do; zero for never.
func (m *machine) deadline() time.Time {
	var d time.Time
	if m.soliciting() {
		d = m.next
	}
	for _, l := range m.refreshes {
		if m.up && !l.asked {
			d = earlier(d, l.refresh)
		}
	}
	for _, c := range m.checks {
		if m.up {
			d = earlier(d, c.next)
		}
	}
	if m.up && m.path == PathSilent {
		d = earlier(d, m.turn)
	}
	for _, end := range m.heldDown {
		d = earlier(d, end)
	}
	for _, r := range m.state.Routers {
		if r.Default {
			d = earlier(d, r.Expires)
		} else {
			d = earlier(d, r.Heard.Add(silentRouter))
		}
	}
	for _, p := range m.state.Prefixes {
		d = earlier(d, p.Valid)
	}
	for _, a := range m.state.Addresses {
		d = earlier(d, a.Valid)
	}
	for _, r := range m.state.Routes {
		d = earlier(d, r.Expires)
	}
	for _, s := range m.state.DNS {
		d = earlier(d, s.Expires)
	}
	for _, t := range m.state.NAT64 {
		d = earlier(d, t.Expires)
	}
	for _, s := range m.state.Search {
		d = earlier(d, s.Expires)
	}
	return d
}

// expire removes what is over. Losing the last default is a reason to ask.
func (m *machine) expire(now time.Time) {
	had := m.hasDefault()
	s := &m.state
	for i := range s.Routers {
		if r := &s.Routers[i]; r.Default && over(r.Expires, now) {
			r.Default, m.changed = false, true
		}
	}
	s.Routers = without(m, s.Routers, func(r Router) bool { return !r.Default && over(r.Heard.Add(silentRouter), now) })
	s.Prefixes = without(m, s.Prefixes, func(p Prefix) bool { return over(p.Valid, now) })
	s.Addresses = without(m, s.Addresses, func(a Address) bool { return over(a.Valid, now) })
	s.Routes = without(m, s.Routes, func(r Route) bool { return over(r.Expires, now) })
	s.DNS = without(m, s.DNS, func(d Server) bool { return over(d.Expires, now) })
	s.NAT64 = without(m, s.NAT64, func(t Translator) bool { return over(t.Expires, now) })
	s.Search = without(m, s.Search, func(d Domain) bool { return over(d.Expires, now) })
	for addr := range m.refreshes {
		if !slices.ContainsFunc(s.Routers, func(r Router) bool { return r.Addr == addr }) {
			delete(m.refreshes, addr)
		}
	}
	maps.DeleteFunc(m.holdDowns, func(a netip.Addr, _ time.Duration) bool { return !m.checkable(a) })
	maps.DeleteFunc(m.heldDown, func(a netip.Addr, end time.Time) bool { return over(end, now) || !m.checkable(a) })
	for addr := range m.unreachable {
		if !m.checkable(addr) {
			delete(m.unreachable, addr)
		}
	}
	m.selectRouter()
	if had && !m.hasDefault() {
		m.again(now)
	}
}

// without deletes and notes that it did.
func without[T any](m *machine, list []T, gone func(T) bool) []T {
	n := len(list)
	list = slices.DeleteFunc(list, gone)
	m.changed = m.changed || len(list) != n
	return list
}

// view is what holds now.
func (m *machine) view() View {
	v := m.state.view()
	v.Unanswered = m.unanswered
	v.Unreachable = slices.SortedFunc(maps.Keys(m.unreachable), netip.Addr.Compare)
	return v
}

// receive takes an advertisement in. The error says why it was discarded, or which of its options were; the
// rest of it counts all the same.
func (m *machine) receive(p Packet, now time.Time) error {
	a, err := parseAdvert(p)
	if err != nil {
		return fmt.Errorf("advertisement of %v: %w", p.From, err)
	}
	m.expire(now)
	had, known := m.hasDefault(), m.state.router(p.From) != nil
	r := findOrAdd(&m.state.Routers, maxRouters, func(r Router) bool { return r.Addr == p.From })
	if r == nil {
		return fmt.Errorf("advertisement of %v: %w: %d routers are known already", p.From, errMessage, maxRouters)
	}
	m.changed = true
	r.Addr, r.Heard, r.Preference = p.From, now, a.preference
	if a.mtu > 0 && (m.linkMTU == 0 || a.mtu <= m.linkMTU) {
		r.MTU = a.mtu
	} else if a.mtu > 0 {
		a.ignored = append(a.ignored, fmt.Sprintf("MTU %d, the link's is %d", a.mtu, m.linkMTU))
	}
	r.Default, r.Expires = a.lifetime > 0, now.Add(a.lifetime)
	if !r.Default {
		r.Expires = time.Time{}
	}
	for _, o := range a.routes {
		if o.prefix.Bits() == 0 { // it overrides the header (RFC 4191 section 3.1)
			r.Default, r.Preference, r.Expires = o.lifetime > 0, o.preference, until(now, o.lifetime)
		}
	}
	m.fresh = m.fresh || r.Default
	m.applyRA(&a, p.From, now)
	if r.Default && !known {
		m.verify(now) // it may have come in the place of another
	}
	m.answered(p.From)
	m.refreshes[p.From] = refresh{refresh: m.refreshAfter(a, now)}
	if had && !m.hasDefault() {
		m.again(now)
	}
	if len(a.ignored) > 0 {
		return fmt.Errorf("advertisement of %v: not used: %q", p.From, a.ignored)
	}
	return nil
}

// refreshAfter is when the router shall be asked again; zero when nothing that it said ends.
func (m *machine) refreshAfter(a advert, now time.Time) time.Time {
	least := time.Duration(forever)
	note := func(lifetime time.Duration) {
		if lifetime > 0 {
			least = min(least, lifetime)
		}
	}
	note(a.lifetime)
	for _, p := range a.prefixes {
		note(p.preferred)
	}
	for _, r := range a.routes {
		note(r.lifetime)
	}
	if least == forever {
		return time.Time{}
	}
	share := refreshFrom + m.rand()*(refreshTo-refreshFrom)
	return now.Add(max(time.Duration(share*float64(least)), minRefresh))
}

// findOrAdd finds an element or appends one; nil when the list is full.
func findOrAdd[T any](list *[]T, limit int, is func(T) bool) *T {
	if i := slices.IndexFunc(*list, is); i >= 0 {
		return &(*list)[i]
	}
	if len(*list) >= limit {
		return nil
	}
	*list = append(*list, *new(T))
	return &(*list)[len(*list)-1]
}
