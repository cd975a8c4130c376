package rules

import (
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/inet"
)

// takesBack reports whether connections move to any uplink when it returns.
func (p *planner) takesBack() bool {
	return slices.ContainsFunc(p.cfg.Uplinks, func(u Uplink) bool { return u.TakesBack })
}

// findNear collects what movesTo looks at beside.
func (p *planner) findNear(o *oldState) {
	paths := make(map[uint32]Path, len(p.paths)) // by table
	for i := range p.cfg.Uplinks {
		paths[p.k.Table(p.cfg.Uplinks[i].ID)] = Path{Uplink: p.cfg.Uplinks[i].ID}
	}
	near := func(path Path, net netip.Prefix) {
		if at, known := o.uplinkPaths[path]; known {
			at.near = append(at.near, net)
			o.uplinkPaths[path] = at
		}
	}
	for i := range p.state.Routes {
		r := &p.state.Routes[i]
		if path, ours := paths[r.Table]; ours && !r.DefaultLike() {
			near(Path{path.Uplink, r.Family}, r.Dst)
		}
	}
	for i := range p.report.Resolvers {
		r := &p.report.Resolvers[i]
		near(Path{r.Uplink, r.Family()}, netip.PrefixFrom(r.Addr.WithZone(""), r.Addr.BitLen()))
	}
}

func (o *oldState) movesTo(uplink int, c *Connection) bool {
	from := o.k.ID(c.Mark)
	at, known := o.uplinkPaths[Path{from, c.Family}]
	made := o.addresses[c.Source]
	switch {
	case !known || from == uplink || !c.Dest.IsGlobalUnicast():
		return false
	case !made && !o.isLocal(c.Source), o.addresses[c.Dest], o.isLocal(c.Dest), inet.Within(at.near, c.Dest):
		return false
	case !made && inet.Within(at.own, c.Source):
		return false
	}
	origin := packetsArrived
	if made {
		origin = packetsLocal
	}
	for i := range o.policies {
		p := &o.policies[i]
		choice := p.choice[c.Family]
		switch {
		case !p.active[c.Family.Index()] || p.Select.about()&origin == 0 || !p.mayTake(c):
		case choice.Has(from), p.group.LeftTo == LeftToMain: // whose default may be by that uplink
			return false
		case !p.unknown && !(made && p.asksForSource()):
			return choice.Has(uplink)
		}
	}
	choice := o.defaults[c.Family]
	return at.isDefault && choice.Has(uplink) && !choice.Has(from)
}

// asksForSource reports whether a policy is about sources.
func (p *oldPolicy) asksForSource() bool {
	return slices.ContainsFunc(p.Select, func(c Condition) bool { a, ok := c.(SelectAddresses); return ok && !a.Dest })
}
