package rules

import (
	"net/netip"
	"slices"
)

// Servers that know a customer by DUID alone delegate one prefix on several of our uplinks (RFC 9915 section 12 wants the
// IAID to count too), and a contract may do the same. Each of these uplinks may carry the prefix; one at a time does, so that
// hosts have one way that works.

// holds reports whether the provider of an uplink takes all sources of a prefix, because it delegates that or more.
func (u *Uplink) holds(prefix netip.Prefix) bool {
	return u.IPv6.Enabled && slices.ContainsFunc(u.Delegations, func(d Delegation) bool {
		return !d.Elsewhere && d.Prefix.Bits() <= prefix.Bits() && d.Prefix.Contains(prefix.Addr())
	})
}

// earlierHolders counts the uplinks before u that hold a prefix of it: none has the same address of it.
func (p *planner) earlierHolders(u *Uplink, prefix netip.Prefix) (n uint64) {
	for i := range p.cfg.Uplinks {
		if p.cfg.Uplinks[i].ID == u.ID {
			break
		}
		if p.cfg.Uplinks[i].holds(prefix) {
			n++
		}
	}
	return n
}

// carriesShared reports whether an uplink is the one that carries a delegated prefix of its own, which others may hold too.
func (p *planner) carriesShared(u *Uplink, prefix netip.Prefix) bool {
	if !p.heldElsewhere(u, prefix) {
		return true
	}
	choice := p.selectBest(IPv6, preference{weight: (*Uplink).ownWeight, tier: func(o *Uplink) int {
		if !o.holds(prefix) {
			return 0
		}
		return o.defaultTier()
	}})
	if len(choice.Members) == 0 {
		return p.earlierHolders(u, prefix) == 0
	}
	return choice.Members[0].Uplink == u.ID
}

// heldElsewhere reports whether another uplink may carry a prefix too.
func (p *planner) heldElsewhere(u *Uplink, prefix netip.Prefix) bool {
	return slices.ContainsFunc(p.cfg.Uplinks, func(o Uplink) bool { return o.ID != u.ID && o.holds(prefix) })
}

// livesElsewhere reports whether another uplink that is not dead may carry a prefix too.
func (p *planner) livesElsewhere(u *Uplink, prefix netip.Prefix) bool {
	return slices.ContainsFunc(p.cfg.Uplinks, func(o Uplink) bool {
		return o.ID != u.ID && o.holds(prefix) && p.verdicts[Path{o.ID, IPv6}].Health > Dead
	})
}
