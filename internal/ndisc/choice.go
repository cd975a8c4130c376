package ndisc

import (
	"net/netip"
	"slices"
	"time"
)

// Of several routers on a link one is used at a time: each drops what does not carry a prefix of its own (BCP 38), and the
// kernel has no route by source for our own packets. So the router that is used decides which of our addresses are
// (RFC 8028 section 3), and a working one is not left for another that happens to be preferred, unless both announce a
// prefix in common and are the same provider's therefore.

// Path is what probing says of the uplink.
type Path int

// What is known of the uplink as a whole.
const (
	PathUnknown   Path = iota
	PathWorking        // probes are answered
	PathSuspected      // they are not since a moment ago
	PathSilent         // they are not, and nothing else explains that
)

const (
	// firstTurn is how long the router in use is left alone after the uplink has fallen silent: what is behind it
	// fails more often than the router is the wrong one.
	firstTurn = 10 * time.Second
	// A router that is tried has laterTurn to carry an answer. The one that worked last has lastWorkingTurn each time: it is still the
	// likeliest.
	laterTurn       = 10 * time.Second
	lastWorkingTurn = 45 * time.Second
	// confirmWithin is how long silence to neighbour solicitations counts, from when it is confirmed by probes.
	confirmWithin = 10 * time.Second
	// provenAfter is how long the uplink must have worked since a router is used for it to work by that one.
	provenAfter = 10 * time.Second
	// A router by which the uplink was silent is not preferred for a while, which doubles each time: to try it costs an
	// outage.
	minHoldDown, maxHoldDown = 10 * time.Minute, 6 * time.Hour
)

// compare orders routers by reachability, then preference (RFC 4191 section 3.2).
func (r *Router) compare(o *Router) int {
	if r.Unreachable != o.Unreachable {
		return ordered(r.Unreachable)
	}
	return int(o.Preference - r.Preference)
}

// fits reports whether a prefix that some routers announce may be the source of what the router in use gets. One that
// announces none itself is taken for a second router of the same provider.
func (s *State) fits(routers []netip.Addr) bool {
	return len(routers) == 0 || !s.Chosen.IsValid() || slices.Contains(routers, s.Chosen) || !s.announces(s.Chosen)
}

// announces reports whether a router is known to announce a prefix.
func (s *State) announces(router netip.Addr) bool {
	return slices.ContainsFunc(s.Prefixes, func(p Prefix) bool { return slices.Contains(p.Routers, router) }) ||
		slices.ContainsFunc(s.Addresses, func(a Address) bool { return slices.Contains(a.Routers, router) })
}

// Carries reports whether the router in use is one that another one's prefixes may be used by: itself, or one of the same
// provider, as far as that is known.
func (s *State) Carries(given netip.Addr) bool {
	return !given.IsValid() || !s.Chosen.IsValid() || s.Chosen == given || s.sameProvider(s.Chosen, given)
}

// sameProvider reports whether two routers announce a prefix in common, or one announces none: either may carry what the other does.
func (s *State) sameProvider(a, b netip.Addr) bool {
	return !s.announces(a) || !s.announces(b) ||
		slices.ContainsFunc(s.Prefixes, func(p Prefix) bool { return slices.Contains(p.Routers, a) && slices.Contains(p.Routers, b) })
}

// router returns what is known of a router that offers a default; nil when it does not.
func (s *State) router(addr netip.Addr) *Router {
	i := slices.IndexFunc(s.Routers, func(r Router) bool { return r.Addr == addr && r.Default })
	if i < 0 {
		return nil
	}
	return &s.Routers[i]
}

// candidates lists the routers that offer a default, best first: of equal ones those of the same provider as the one in use.
func (m *machine) candidates() []Router {
	var list []Router
	for _, r := range m.state.Routers {
		if r.Default {
			list = append(list, r)
		}
	}
	isHeldDown := func(r *Router) bool { return !m.heldDown[r.Addr].IsZero() }
	sameProvider := func(r *Router) bool { return !m.state.Chosen.IsValid() || m.state.sameProvider(r.Addr, m.state.Chosen) }
	slices.SortStableFunc(list, func(a, b Router) int {
		if a.Unreachable != b.Unreachable {
			return ordered(a.Unreachable)
		}
		if isHeldDown(&a) != isHeldDown(&b) {
			return ordered(isHeldDown(&a))
		}
		if sameProvider(&a) != sameProvider(&b) && m.proven {
			return ordered(sameProvider(&b))
		}
		return a.compare(&b)
	})
	return list
}

// selectRouter keeps the router in use, or takes another when that one is gone, does not answer, or is no better than an equal of
// higher preference.
func (m *machine) selectRouter() {
	list := m.candidates()
	if len(list) == 0 {
		m.use(netip.Addr{})
		return
	}
	present := m.state.router(m.state.Chosen)
	if present == nil && m.follows && len(m.gateways) > 0 && !m.unreachable[m.gateways[0]] {
		if m.state.router(m.gateways[0]) != nil { // else it has not been heard yet
			m.use(m.gateways[0])
		}
		return
	}
	if g := m.state.router(m.delegating); g != nil && !g.Unreachable && m.path != PathSilent && m.heldDown[m.delegating].IsZero() && !m.state.Carries(m.delegating) {
		m.use(m.delegating)
		return
	}
	switch best := &list[0]; {
	case present == nil, present.Unreachable && !best.Unreachable:
		m.use(best.Addr)
	case m.path == PathSilent: // each has its turn
	case best.compare(present) < 0 && m.heldDown[best.Addr].IsZero() && (!m.proven && present.Addr != m.delegating || m.state.sameProvider(best.Addr, present.Addr)):
		m.use(best.Addr)
	}
}

func (m *machine) use(router netip.Addr) {
	if m.state.Chosen == router {
		return
	}
	// The first router that is heard while the uplink works is the one that it works by.
	m.proven = m.path == PathWorking && !m.state.Chosen.IsValid()
	if m.proven {
		m.lastWorking = router
	}
	m.state.Chosen, m.chosenAt, m.changed = router, time.Time{}, true
}

// setPath is told what probing says of the uplink.
func (m *machine) setPath(p Path, now time.Time) {
	if m.chosenAt.IsZero() {
		m.chosenAt = now
	}
	if p == m.path {
		if p == PathWorking && !m.proven && now.Sub(m.chosenAt) >= provenAfter {
			m.proven, m.lastWorking = m.state.Chosen.IsValid(), m.state.Chosen
		}
		return
	}
	was := m.path
	m.path = p
	if (p == PathSuspected || p == PathSilent) && m.unconfirmed.IsValid() && now.Sub(m.unconfirmedAt) < confirmWithin {
		m.silent(m.unconfirmed, now)
		m.unconfirmed = netip.Addr{}
	}
	switch p {
	case PathWorking:
		m.proven, m.lastWorking = m.state.Chosen.IsValid(), m.state.Chosen
	case PathSuspected:
		m.verify(now)
	case PathSilent:
		m.turn = now.Add(firstTurn)
		if was != PathSuspected {
			m.verify(now)
		}
	}
}

// holdDown notes that the uplink was silent by a router.
func (m *machine) holdDown(router netip.Addr, now time.Time) {
	span := min(max(2*m.holdDowns[router], minHoldDown), maxHoldDown)
	m.holdDowns[router], m.heldDown[router] = span, now.Add(span)
}

// setDelegating is told by way of which router prefixes were delegated. Of several it is the one to be used, for LANs have
// nothing by another, unless the uplink was silent by it lately.
func (m *machine) setDelegating(router netip.Addr) {
	if m.delegating != router {
		m.delegating = router
		m.selectRouter()
	}
}

// rotate lets the next router try when the one in use has had its turn. Only those that answer have one.
func (m *machine) rotate(now time.Time) {
	if m.path != PathSilent || now.Before(m.turn) || !m.up {
		return
	}
	list := slices.DeleteFunc(m.candidates(), func(r Router) bool { return r.Unreachable })
	slices.SortFunc(list, func(a, b Router) int { return a.Addr.Compare(b.Addr) }) // whose order depends on the choice
	m.turn = now.Add(laterTurn)
	if len(list) < 2 {
		return
	}
	at := slices.IndexFunc(list, func(r Router) bool { return r.Addr == m.state.Chosen })
	next := list[(at+1)%len(list)].Addr
	if next == m.lastWorking {
		m.turn = now.Add(lastWorkingTurn)
	}
	m.holdDown(m.state.Chosen, now)
	m.use(next)
}
