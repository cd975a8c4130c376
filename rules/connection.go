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
	ReplySource  netip.Addr // where they come from: another than Dest when that is translated; zero: not known
	Protocol     uint8
	SPort, DPort uint16
	Mark         uint32
}

// OldState tells connections that what was planned has no place for: they began before it was in force, and what connection tracking has
// decided for a connection it never decides again. What it looks at is collected when it is first asked, which it is after few plans.
type OldState struct{ collected func() *oldState }

// Old reports whether the connection must begin anew, and says why. Its next packet is then routed, translated and filtered as that of
// a new one.
func (o *OldState) Old(c *Connection) (why string) { return o.collected().old(c) }

// Began returns the id of the uplink by which a connection left before any was pinned, 0 where nothing tells: who translated its source
// gave it an address that one living uplink alone has.
func (o *OldState) Began(c *Connection) (uplink int) { return o.collected().began(c) }

// MovesTo reports whether a connection is by another uplink than it would be if it began now, which would be by the given one. Those
// that began outside are where their other ends want them, and those whose source is the other uplink's own cannot move. Where
// connection tracking does not know whether a policy is about a connection, or this machine would choose another source, what the policy
// wants counts as well. Only plans with an uplink that TakesBack can tell.
func (o *OldState) MovesTo(uplink int, c *Connection) bool { return o.collected().movesTo(uplink, c) }

type oldState struct {
	k       Kernel
	uplinks map[int]*Uplink
	// local and routed, by index of the family, are where hosts behind this machine are.
	local  map[Family][]netip.Prefix
	routed [2]*RoutedNetworks
	// uplinkPaths are outside, with the sources that leave by them.
	uplinkPaths map[Path]oldPath
	translates  [2]bool // some uplink of the family
	policies    []oldPolicy
	forbidding  []oldPolicy         // the first of them, up to the last kill switch
	addresses   map[netip.Addr]bool // of this machine
	defaults    map[Family]Choice
}

type oldPath struct {
	translates bool
	inherits   bool
	dead       bool
	own        []netip.Prefix
	to         []netip.Prefix // what prefixes are translated to; nil: they are not
	near       []netip.Prefix // what is reached by this uplink, whoever carries the default
	isDefault  bool           // it may carry the default
}

// oldPolicy is a policy that may take a connection, and what its kill switch allows.
type oldPolicy struct {
	*Policy
	group *Group
	// tracked tells which connections meet each of its conditions; unknown is true when connection tracking does not know of one.
	tracked []func(*Connection) bool
	unknown bool
	active  [2]bool // families in which some uplink carries it, or none may
	choice  map[Family]Choice
}

// oldState collects what Old looks at.
func (p *planner) oldState() *oldState {
	o := &oldState{k: p.k, routed: p.obs.Routed, uplinks: make(map[int]*Uplink, len(p.cfg.Uplinks)), local: make(map[Family][]netip.Prefix, len(Families)),
		uplinkPaths: make(map[Path]oldPath, len(p.paths)), defaults: p.report.Defaults}
	for i := range p.cfg.Uplinks {
		o.uplinks[p.cfg.Uplinks[i].ID] = &p.cfg.Uplinks[i]
	}
	o.addresses = make(map[netip.Addr]bool, len(p.obs.Addrs))
	for i := range p.obs.Addrs {
		o.addresses[p.obs.Addrs[i].Prefix.Addr()] = true
	}
	for _, net := range append(p.localNetworks(), p.routedNetworks()...) {
		o.local[FamilyOf(net.Addr())] = append(o.local[FamilyOf(net.Addr())], net)
	}
	p.eachPath(func(u *Uplink, family Family, info PathInfo) {
		at := oldPath{translates: p.translates(u, family) && !u.Site && !u.hasPeers(), own: p.sourcesBehind(u, family, info),
			inherits: u.Inherits, dead: p.verdicts[Path{u.ID, family}].Health == Dead, isDefault: !u.PoliciesOnly && !u.Site}
		if family == IPv6 {
			at.to = p.translations(u)
		}
		o.uplinkPaths[Path{u.ID, family}] = at
		o.translates[family.Index()] = o.translates[family.Index()] || at.translates
	})
	if p.takesBack() {
		p.findNear(o)
	}
	conditions := 0
	for i := range p.cfg.Policies {
		conditions += len(p.cfg.Policies[i].Select)
	}
	o.policies = make([]oldPolicy, 0, len(p.cfg.Policies))
	all := make([]func(*Connection) bool, 0, conditions)
	for i := range p.cfg.Policies {
		policy := &p.cfg.Policies[i]
		old := oldPolicy{Policy: policy, group: p.groups[policy.Group].Group, choice: p.report.Policies[i].Choice}
		for _, family := range Families {
			choice, about := p.report.Policies[i].Choice[family]
			old.active[family.Index()] = about && old.group.decides(&choice)
		}
		for _, c := range policy.Select {
			tracked := c.tracked(p)
			all, old.unknown = append(all, tracked), old.unknown || tracked == nil
		}
		old.tracked = all[len(all)-len(policy.Select):]
		o.policies = append(o.policies, old)
		if old.group.KillSwitch {
			o.forbidding = o.policies
		}
	}
	return o
}

// networksBehind lists the networks of devices, but for those of Observed.Routed.
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

func (o *oldState) old(c *Connection) (why string) {
	if !c.Dest.IsGlobalUnicast() || o.isLocal(c.Dest) {
		return ""
	}
	if !o.isLocal(c.Source) {
		if o.strays(c) {
			return "its source is that of another uplink"
		}
		return ""
	}
	answers := c.Dest // who does
	if c.ReplySource.IsValid() {
		answers = c.ReplySource
	}
	if o.addresses[answers] || o.isLocal(answers) { // a service of this machine, or a port that it forwards to another network behind it
		return ""
	}
	pin := o.k.ID(c.Mark)
	at, known := o.uplinkPaths[Path{pin, c.Family}]
	switch {
	case c.ReplyDest != c.Source && known && at.to != nil && !inet.Within(at.to, c.ReplyDest):
		return "its source is translated to a former prefix" // which each of its packets keeps alive
	case c.ReplyDest != c.Source && known && at.inherits && len(at.own) > 0 && !inet.Within(at.own, c.ReplyDest):
		return "its source is that of another router" // likewise
	case c.ReplyDest != c.Source:
	case known && at.translates && !inet.Within(at.own, c.Source), pin == 0 && o.translates[c.Family.Index()]:
		return "its source is not translated"
	}
	if known && o.forbidden(pin, c) {
		return "a kill switch forbids its uplink"
	}
	return ""
}

// strays reports whether a connection of this machine with the address of one uplink is pinned to another, which translates it: it began
// before the rules about its source stood, as a tunnel does that is set up earlier. What tunnels of ours send is not pinned, and a policy
// may want it so.
func (o *oldState) strays(c *Connection) bool {
	pin := o.k.ID(c.Mark)
	at, known := o.uplinkPaths[Path{pin, c.Family}]
	return known && c.ReplyDest != c.Source && o.addresses[c.Source] && !inet.Within(at.own, c.Source) && len(o.owners(c.Source)) > 0 &&
		!slices.ContainsFunc(o.policies, func(p oldPolicy) bool {
			return p.active[c.Family.Index()] && p.Select.about()&packetsLocal != 0 && p.mayTake(c)
		})
}

func (o *oldState) began(c *Connection) int {
	if o.k.ID(c.Mark) != 0 || c.ReplyDest == c.Source || !o.isLocal(c.Source) || o.isLocal(c.Dest) || o.addresses[c.Source] {
		return 0
	}
	owners := o.owners(c.ReplyDest)
	if len(owners) != 1 || o.uplinkPaths[owners[0]].dead {
		return 0
	}
	return owners[0].Uplink
}

// owners lists the paths that an address leaves by.
func (o *oldState) owners(a netip.Addr) (list []Path) {
	for path, at := range o.uplinkPaths {
		if path.Family == FamilyOf(a) && inet.Within(at.own, a) {
			list = append(list, path)
		}
	}
	return list
}

// isLocal reports whether an address is behind this machine.
func (o *oldState) isLocal(a netip.Addr) bool {
	family := FamilyOf(a)
	return inet.Within(o.local[family], a) || o.routed[family.Index()].has(a, nil)
}

// forbidden reports whether the first policy that a connection belongs to is a kill switch that does not know its uplink.
func (o *oldState) forbidden(uplink int, c *Connection) bool {
	for i := range o.forbidding {
		if p := &o.forbidding[i]; p.active[c.Family.Index()] && p.takes(c) {
			return p.group.KillSwitch && p.group.tier(uplink) == 0
		}
	}
	return false
}

// takes reports whether a policy is about a connection, as far as connection tracking tells. What it does not, such as the owner of a
// socket or what is in a set, is taken for a difference.
func (p *oldPolicy) takes(c *Connection) bool {
	return !p.unknown && p.mayTake(c)
}

// mayTake reports whether a policy may be about a connection.
func (p *oldPolicy) mayTake(c *Connection) bool {
	return !inet.Within(p.group.Except, c.Dest) &&
		!slices.ContainsFunc(p.tracked, func(meets func(*Connection) bool) bool { return meets != nil && !meets(c) })
}
