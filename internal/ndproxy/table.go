package ndproxy

import (
	"bytes"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/internal/linksession"
)

// side is one of the two links.
type side int

const (
	lan side = iota
	line
	sides = 2
)

func (s side) other() side { return 1 - s }

const (
	// checkTime is how long the other link is asked for an address before that counts as one of this: as long as hosts wait that check their
	// addresses (RFC 4861 section 10 RETRANS_TIMER, RFC 4862 section 5.1 DupAddrDetectTransmits).
	checkTime = time.Second
	// An address that has not been heard for so long is asked, so often, so far apart (RFC 4861 section 10 MAX_MULTICAST_SOLICIT).
	silence = 10 * time.Minute
	asks    = 3
	// doubt is after what silence one that others on its link look for is asked, too.
	doubt = 10 * time.Second
	// answerTime is for how long we answer ourselves for what is new on the LAN: the kernel does by then.
	answerTime = 5 * time.Second
	// An address that somebody on the line wants, and that nobody here has, is asked for as often as a host asks, and then not for a while: others
	// there are looked for all the time.
	lookupPause = time.Minute
	// loopPause is how long we are silent when both links are one.
	loopPause = time.Minute
)

// A scan asks for each address of a network; hosts have a few.
const (
	mostHosts   = 1024 // of each link; who was heard longest ago goes
	mostLookups = 256
	askAtOnce   = 32
	askEvery    = 50 * time.Millisecond
	crowdedTime = 10 * time.Minute // for how long it is told that there were more
)

// host is an address that is on one of the links.
type host struct {
	side  side
	since time.Time // zero: the other link is being asked
	seen  time.Time
	asked int       // how often since it was heard
	next  time.Time // when the check is over, or the next question is due
}

func (h *host) present() bool { return !h.since.IsZero() }

// due is when there is something to do about a host.
func (h *host) due() time.Time {
	if !h.present() || h.asked > 0 {
		return h.next
	}
	return h.seen.Add(silence)
}

// heard notes a sign of life on its own link.
func (h *host) heard(now time.Time) { h.seen, h.asked = now, 0 }

// lookup is an address that somebody on one link wants, and that the other is asked for.
type lookup struct {
	asker message
	at    time.Time
	tries int
}

// table knows what is where. It does no input and output: what is to be sent is in questions and answers.
type table struct {
	network  netip.Prefix
	own      netip.Addr
	hardware [sides]net.HardwareAddr // nil: the link is down
	hosts    map[netip.Addr]*host
	lookups  [sides]map[netip.Addr]*lookup // by the side of the asker
	budgets  [sides]*linksession.Budget

	questions [sides][]question
	answers   [sides][]answer
	changed   bool
	looped    time.Time // when something of ours came in by the other link
	crowded   time.Time // when a host had to go for another
}

func newTable(network netip.Prefix, own netip.Addr, kept Hosts) *table {
	t := &table{network: network, own: own, hosts: make(map[netip.Addr]*host)}
	for s, addresses := range [sides][]netip.Addr{kept.LAN, kept.Line} {
		t.lookups[s] = make(map[netip.Addr]*lookup)
		t.budgets[s] = linksession.NewBudget(askAtOnce, askEvery)
		for _, a := range addresses {
			if t.concerns(a) && len(t.hosts) < sides*mostHosts {
				t.hosts[a] = &host{side: side(s), since: time.Unix(0, 0)} // seen never: it is asked as soon as its link is up
			}
		}
	}
	return t
}

// concerns reports whether an address may be a host's.
func (t *table) concerns(a netip.Addr) bool {
	return t.network.Contains(a) && a != t.own && a != t.network.Masked().Addr() // the latter is any router's (RFC 4291 section 2.6.1)
}

// linkUp has all that was on a link asked whether it is there.
func (t *table) linkUp(s side, hardware net.HardwareAddr) {
	t.hardware[s] = hardware
	for _, h := range t.hosts {
		if h.side == s && h.present() {
			h.seen, h.asked = time.Time{}, 0
		}
	}
}

func (t *table) linkDown(s side) { t.hardware[s] = nil }

// receive takes in what was heard on a link.
func (t *table) receive(s side, m message, now time.Time) {
	switch {
	case bytes.Equal(m.hardware, t.hardware[s]): // an access point gives back what it sends
		return
	case t.hardware[s.other()] != nil && bytes.Equal(m.hardware, t.hardware[s.other()]):
		t.looped, t.changed = now, t.changed || len(t.hosts) > 0
		clear(t.hosts)
		clear(t.lookups[lan])
		clear(t.lookups[line])
	}
	if t.isLooped(now) {
		return
	}
	if m.advertisement {
		if t.concerns(m.target) {
			t.advertised(s, m.target, now)
		}
		return
	}
	wanted := t.hosts[m.target]
	toUs := m.target == t.own || wanted != nil && wanted.present() && wanted.side == lan
	if t.concerns(m.source) && (s == lan || toUs) { // what others on the line have to do with one another is not our business
		t.heard(s, m.source, now)
	}
	if t.concerns(m.target) {
		t.solicited(s, m, now)
	}
}

// isLooped reports whether both links are one: each would answer for the other.
func (t *table) isLooped(now time.Time) bool {
	return !t.looped.IsZero() && now.Sub(t.looped) < loopPause
}

// heard takes in that somebody on a link uses an address.
func (t *table) heard(s side, a netip.Addr, now time.Time) {
	switch h := t.hosts[a]; {
	case h == nil:
		t.check(s, a, now)
	case h.side == s:
		h.heard(now)
	default:
		t.contest(h, now)
	}
}

// advertised takes in that somebody on a link has an address.
func (t *table) advertised(s side, a netip.Addr, now time.Time) {
	h, l := t.hosts[a], t.lookups[s.other()][a]
	switch {
	case h == nil && l != nil: // who has asked does not have it
		t.add(a, &host{side: s, since: now, seen: now})
		t.answer(s.other(), t.hosts[a], l.asker, now)
		delete(t.lookups[s.other()], a)
		t.changed = true
	case h == nil && s == lan:
		t.check(s, a, now)
	case h == nil:
	case h.side == s:
		h.heard(now)
	case !h.present(): // whoever has begun to use it is told that it is taken
		h.side, h.since, t.changed = s, now, true
		h.heard(now)
		t.answers[s.other()] = append(t.answers[s.other()], answer{a, message{source: netip.IPv6Unspecified()}})
	default:
		t.contest(h, now)
	}
}

// solicited takes in that somebody on a link wants an address: to talk to it, or to have it.
func (t *table) solicited(s side, m message, now time.Time) {
	h, toHave := t.hosts[m.target], m.source.IsUnspecified()
	switch {
	case h != nil && h.side == s && toHave:
		h.heard(now)
	case h != nil && h.side == s: // whoever wants it does not hear it, maybe, and that may be because it is gone
		if now.Sub(h.seen) >= doubt {
			t.contest(h, now)
		}
	case h != nil && h.present():
		t.answer(s, h, m, now)
		if toHave { // it may have moved over
			t.contest(h, now)
		}
	case h != nil: // will be known in a moment, and is asked for again
	case toHave && s == lan:
		t.check(s, m.target, now)
	default:
		t.lookUp(s, m, now)
	}
}

// answer answers somebody on a link who wants a host of the other that is new. For hosts of the line the kernel alone does, when it has its route:
// before, packets for them would go to the LAN.
func (t *table) answer(s side, h *host, asker message, now time.Time) {
	if h.side == lan && now.Sub(h.since) < answerTime {
		t.answers[s] = append(t.answers[s], answer{asker.target, asker})
	}
}

// check begins with an address on a link: the other is asked whether somebody there has it.
func (t *table) check(s side, a netip.Addr, now time.Time) {
	if t.hardware[s.other()] != nil && !t.ask(s.other(), question{target: a, duplicates: true}, now) {
		return // too much at once: it is heard again
	}
	t.add(a, &host{side: s, seen: now, next: now.Add(checkTime)})
}

// contest has a host asked whether it is still there: somebody on the other link uses its address.
func (t *table) contest(h *host, now time.Time) {
	if h.present() && h.asked == 0 {
		h.seen, h.next = time.Time{}, now
	}
}

// lookUp asks the other link for an address that somebody wants.
func (t *table) lookUp(s side, m message, now time.Time) {
	lookups := t.lookups[s]
	tries := 0
	if l := lookups[m.target]; l != nil && now.Sub(l.at) < lookupPause {
		tries = l.tries
	}
	if t.hardware[s.other()] == nil || s == line && tries >= asks || !t.ask(s.other(), question{target: m.target}, now) {
		return
	}
	if len(lookups) >= mostLookups && lookups[m.target] == nil {
		delete(lookups, oldest(lookups, func(l *lookup) (time.Time, bool) { return l.at, true }))
	}
	lookups[m.target] = &lookup{m, now, tries + 1}
}

// ask sends a question if that is not too many.
func (t *table) ask(s side, q question, now time.Time) bool {
	if t.budgets[s].Spend(now) > 0 {
		return false
	}
	t.questions[s] = append(t.questions[s], q)
	return true
}

// add makes room for a host. Others of its link that are gone, or say nothing, go for it.
func (t *table) add(a netip.Addr, h *host) {
	n := 0
	for _, o := range t.hosts {
		if o.side == h.side {
			n++
		}
	}
	if n >= mostHosts {
		delete(t.hosts, oldest(t.hosts, func(o *host) (time.Time, bool) { return o.seen, o.side == h.side }))
		t.changed, t.crowded = true, h.seen
	}
	t.hosts[a] = h
}

// oldest finds what is the longest ago among those that count; of several the lowest address.
func oldest[V any](all map[netip.Addr]V, age func(V) (at time.Time, counts bool)) (found netip.Addr) {
	var since time.Time
	for a, v := range all {
		if at, counts := age(v); counts && (!found.IsValid() || at.Before(since) || at.Equal(since) && a.Less(found)) {
			found, since = a, at
		}
	}
	return found
}

// tick ends checks, and asks those that have been silent for long.
func (t *table) tick(now time.Time) {
	for a, h := range t.hosts {
		switch {
		case now.Before(h.due()):
		case !h.present():
			h.since, t.changed = now, true
		case t.hardware[h.side] == nil: // nobody can answer
		case h.asked == asks:
			delete(t.hosts, a)
			t.changed = true
		case t.ask(h.side, question{target: a}, now):
			h.asked++
			h.next = now.Add(checkTime)
		}
	}
	for _, lookups := range t.lookups {
		maps.DeleteFunc(lookups, func(_ netip.Addr, l *lookup) bool { return now.Sub(l.at) >= lookupPause })
	}
}

// deadline is when tick is to be called next, zero for never.
func (t *table) deadline(now time.Time) (next time.Time) {
	for _, h := range t.hosts {
		due := h.due()
		switch {
		case h.present() && t.hardware[h.side] == nil:
			continue
		case !due.After(now): // the questions are spent
			due = now.Add(askEvery)
		}
		if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	return next
}

// present lists the hosts that count.
func (t *table) present() (list Hosts) {
	for a, h := range t.hosts {
		switch {
		case !h.present():
		case h.side == lan:
			list.LAN = append(list.LAN, a)
		default:
			list.Line = append(list.Line, a)
		}
	}
	slices.SortFunc(list.LAN, netip.Addr.Compare)
	slices.SortFunc(list.Line, netip.Addr.Compare)
	return list
}
