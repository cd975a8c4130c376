package rules

import (
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Connection is an entry of connection tracking.
type Connection struct {
	Family       Family
	Source, Dest netip.Addr // of the first packet, as it came in
	ReplyDest    netip.Addr // where answers go: another than Source when that is translated
	Protocol     uint8
	SPort, DPort uint16
	Mark         uint32
}

// OldState tells connections that what was planned has no place for: they began before it was in force, and what connection tracking has
// decided for a connection it never decides again.
type OldState struct {
	k       Kernel
	uplinks map[int]*Uplink
	// local is where hosts behind this machine are, and outside what is not: uplinks, by id and family, with the sources that leave by them.
	local       map[Family][]netip.Prefix
	uplinkPaths map[Path]oldPath
	translates  [2]bool // some uplink of the family
	policies    []oldPolicy
}

type oldPath struct {
	translates bool
	own        []netip.Prefix
	to         []netip.Prefix // what prefixes are translated to; nil: they are not
}

// oldPolicy is a policy that may take a connection, and what its kill switch allows.
type oldPolicy struct {
	*Policy
	group *Group
	// tracked tells which connections meet each of its conditions; unknown is true when connection tracking does not know of one.
	tracked []func(*Connection) bool
	unknown bool
	active  [2]bool // families in which some uplink carries it, or none may
}

// oldState collects what Old looks at.
func (p *planner) oldState() *OldState {
	o := &OldState{k: p.k, uplinks: make(map[int]*Uplink, len(p.cfg.Uplinks)), local: make(map[Family][]netip.Prefix, len(Families)),
		uplinkPaths: make(map[Path]oldPath, len(p.paths))}
	for i := range p.cfg.Uplinks {
		o.uplinks[p.cfg.Uplinks[i].ID] = &p.cfg.Uplinks[i]
	}
	for _, net := range append(p.localNetworks(), p.routedNetworks()...) {
		o.local[FamilyOf(net.Addr())] = append(o.local[FamilyOf(net.Addr())], net)
	}
	p.eachPath(func(u *Uplink, family Family, info PathInfo) {
		at := oldPath{translates: p.translates(u, family) && !u.Site && !u.hasPeers(), own: p.sourcesBehind(u, family, info)}
		if family == IPv6 {
			at.to = p.translations(u)
		}
		o.uplinkPaths[Path{u.ID, family}] = at
		o.translates[family.Index()] = o.translates[family.Index()] || at.translates
	})
	last := -1
	for i := range p.cfg.Policies {
		if p.groups[p.cfg.Policies[i].Group].KillSwitch {
			last = i
		}
	}
	for i := range last + 1 {
		policy := &p.cfg.Policies[i]
		old := oldPolicy{Policy: policy, group: p.groups[policy.Group].Group}
		for _, family := range Families {
			choice, about := p.report.Policies[i].Choice[family]
			old.active[family.Index()] = about && (len(choice.Members) > 0 || old.group.KillSwitch)
		}
		for _, c := range policy.Select {
			tracked := c.tracked(p)
			old.tracked, old.unknown = append(old.tracked, tracked), old.unknown || tracked == nil
		}
		o.policies = append(o.policies, old)
	}
	return o
}

// networksBehind lists the networks of devices.
func (p *planner) networksBehind(devices []string) []netip.Prefix {
	nets := []netip.Prefix{}
	for _, a := range p.obs.Addrs {
		if matchesDevice(devices, a.Device) {
			nets = append(nets, a.Prefix.Masked())
		}
	}
	for i := range p.obs.Routes {
		r := &p.obs.Routes[i]
		if r.Table == netcfg.TableMain && r.Type == netcfg.Unicast && !r.DefaultLike() && slices.ContainsFunc(r.Nexthops, func(n netcfg.Nexthop) bool { return matchesDevice(devices, n.Device) }) {
			nets = append(nets, r.Dst)
		}
	}
	return nets
}

// Old reports whether the connection must begin anew, and says why. Its next packet is then routed, translated and filtered as that of
// a new one.
func (o *OldState) Old(c *Connection) (why string) {
	local := o.local[c.Family]
	if !inet.Within(local, c.Source) || inet.Within(local, c.Dest) || !c.Dest.IsGlobalUnicast() {
		return ""
	}
	pin := o.k.ID(c.Mark)
	at, known := o.uplinkPaths[Path{pin, c.Family}]
	switch {
	case c.ReplyDest != c.Source && known && at.to != nil && !inet.Within(at.to, c.ReplyDest):
		return "its source is translated to a former prefix" // which each of its packets keeps alive
	case c.ReplyDest != c.Source:
	case known && at.translates && !inet.Within(at.own, c.Source), pin == 0 && o.translates[c.Family.Index()]:
		return "its source is not translated"
	}
	if known && o.forbidden(pin, c) {
		return "a kill switch forbids its uplink"
	}
	return ""
}

// forbidden reports whether the first policy that a connection belongs to is a kill switch that does not know its uplink.
func (o *OldState) forbidden(uplink int, c *Connection) bool {
	for i := range o.policies {
		if p := &o.policies[i]; p.active[c.Family.Index()] && p.takes(c) {
			return p.group.KillSwitch && p.group.tier(uplink) == 0
		}
	}
	return false
}

// takes reports whether a policy is about a connection, as far as connection tracking tells. What it does not, such as the owner of a
// socket or what is in a set, is taken for a difference.
func (p *oldPolicy) takes(c *Connection) bool {
	return !p.unknown && !inet.Within(p.group.Except, c.Dest) && !slices.ContainsFunc(p.tracked, func(meets func(*Connection) bool) bool { return !meets(c) })
}
