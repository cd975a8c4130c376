package ndisc

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/ndp"
)

const (
	typeNeighbourAdvert = 136
	neighbourHeader     = 24   // bytes: an advertisement's fixed part
	flagSolicited       = 0x40 // RFC 4861 section 4.4
)

// Neighbour unreachability detection of routers (RFC 4861 sections 7.3 and 10). The kernel's own begins half a minute
// after the last sign of life, and five seconds after the next packet.
const (
	maxNeighbourSolicits = 3           // MAX_UNICAST_SOLICIT
	retransTimer         = time.Second // RETRANS_TIMER
	// A router that does not answer is asked again, more and more seldom.
	minRecheck, maxRecheck = 10 * time.Second, 5 * time.Minute
)

// check is the asking of one router whether it is there.
type check struct {
	left  int           // solicitations to be sent before silence counts
	next  time.Time     // when the next is due, or the answer to the last is given up
	pause time.Duration // between two, once it was found silent; 0: not yet
}

// follow tells of gateways that somebody else's default routes lead to, the one in use first. They are checked as routers are.
func (m *machine) follow(gateways []netip.Addr, now time.Time) {
	for _, g := range gateways {
		if !slices.Contains(m.gateways, g) && m.state.router(g) == nil {
			m.ask(g, now)
		}
	}
	m.gateways = gateways
}

// verify asks all routers whether they are there.
func (m *machine) verify(now time.Time) {
	for _, r := range m.state.Routers {
		if r.Default {
			m.ask(r.Addr, now)
		}
	}
	for _, g := range m.gateways {
		m.ask(g, now)
	}
}

// ask begins a check of one router unless one is under way.
func (m *machine) ask(router netip.Addr, now time.Time) {
	c := m.checks[router]
	if c == nil {
		c = new(check)
		m.checks[router] = c
	}
	if c.left == 0 {
		*c = check{left: maxNeighbourSolicits, next: now}
	}
}

// answered is told of a sign of life.
func (m *machine) answered(router netip.Addr) {
	delete(m.checks, router)
	if m.unconfirmed == router {
		m.unconfirmed = netip.Addr{}
	}
	m.setReachable(router, true)
}

// checkable reports whether a router is still one that anybody wants to know of.
func (m *machine) checkable(router netip.Addr) bool {
	return m.state.router(router) != nil || slices.Contains(m.gateways, router)
}

// due lists the routers to be solicited now, and gives up those that have been solicited for long enough. The first
// solicitation goes where the router was last; the others to everybody, for it may be elsewhere: another network card with
// the same address.
func (m *machine) due(now time.Time) (unicast, multicast []netip.Addr) {
	for router, c := range m.checks {
		switch {
		case !m.checkable(router):
			delete(m.checks, router)
		case !m.up || now.Before(c.next):
		case c.left == 0 && c.pause == 0 && m.path == PathWorking && router == m.inUse():
			// Solicitations get lost, and some routers are picky about whom they answer: probes have the last word. They are asked for.
			delete(m.checks, router)
			m.unanswered++
			m.unconfirmed, m.unconfirmedAt, m.changed = router, now, true
		case c.left == 0 && c.pause == 0:
			c.pause, c.next = minRecheck, now.Add(minRecheck)
			m.silent(router, now)
		case c.left == 0:
			c.pause = min(2*c.pause, maxRecheck)
			c.next = now.Add(c.pause)
			multicast = append(multicast, router)
		case c.left == maxNeighbourSolicits:
			c.left, c.next = c.left-1, now.Add(retransTimer)
			unicast = append(unicast, router)
		default:
			c.left, c.next = c.left-1, now.Add(retransTimer)
			multicast = append(multicast, router)
		}
	}
	return unicast, multicast
}

// inUse returns the router that our packets go by, as far as that is known.
func (m *machine) inUse() netip.Addr {
	if m.follows && len(m.gateways) > 0 {
		return m.gateways[0]
	}
	return m.state.Chosen
}

// silent takes a router for unreachable. When no other is there, one may be that speaks when it is asked only.
func (m *machine) silent(router netip.Addr, now time.Time) {
	m.setReachable(router, false)
	reachable := func(a netip.Addr) bool { return !m.unreachable[a] }
	if !m.hasDefault() && !slices.ContainsFunc(m.gateways, reachable) {
		m.fresh, m.lost = false, true
		m.again(now)
	}
}

// setReachable notes whether a router answers neighbour solicitations.
func (m *machine) setReachable(router netip.Addr, reachable bool) {
	if m.unreachable[router] == reachable {
		if m.changed = true; reachable {
			delete(m.unreachable, router)
			delete(m.heldDown, router) // it has been away, and is another one since, maybe
			delete(m.holdDowns, router)
		} else {
			m.unreachable[router] = true
		}
	}
	for i := range m.state.Routers {
		if r := &m.state.Routers[i]; r.Addr == router && r.Unreachable == reachable {
			r.Unreachable, m.changed = !reachable, true
		}
	}
	if reachable {
		m.lost = false
	}
	m.selectRouter()
}

// neighbour takes a neighbour advertisement in (RFC 4861 section 7.1.2). Only an answer proves that the way there works.
func (m *machine) neighbour(p Packet) error {
	switch {
	case p.HopLimit != hopLimit:
		return fmt.Errorf("%w: its hop limit is %d, it may come from beyond the link", errMessage, p.HopLimit)
	case len(p.Data) < neighbourHeader || p.Data[0] != typeNeighbourAdvert || p.Data[1] != 0:
		return fmt.Errorf("%w: it is no neighbour advertisement", errMessage)
	case p.Data[4]&flagSolicited == 0:
		return nil
	}
	if target := netip.AddrFrom16([16]byte(p.Data[8:24])); m.checks[target] != nil {
		m.answered(target)
	}
	return nil
}

// solicitNode makes a neighbour solicitation; hardware is our address on the link, if it has such.
func solicitNode(target netip.Addr, hardware net.HardwareAddr) ([]byte, error) {
	m := &ndp.NeighborSolicitation{TargetAddress: target}
	if len(hardware) == 6 {
		m.Options = append(m.Options, &ndp.LinkLayerAddress{Direction: ndp.Source, Addr: hardware})
	}
	return ndp.MarshalMessage(m)
}
