package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// metricUnreachable makes the unreachable default of an uplink table worse than any other route.
const metricUnreachable = 4294967294

// metricV6 is the metric that we give to IPv6 routes which would get the kernel's default (1024):
// spelling it out lets a route read back as it was written.
const metricV6 = 1024

// Report says why a plan is as it is.
type Report struct {
	Paths    map[Path]PathInfo
	Defaults map[Family]Choice
	Policies []PolicyReport  // in the order of the configuration
	Proxies  []ProxyListener // what transparent proxies are to take
	Forwards []ForwardReport // in the order of the configuration
	// Resolvers are the DNS servers of all uplinks, those of the best and foremost first.
	Resolvers []Resolver
	Subnets   []Subnet        // what the LANs have of the delegations
	Delegable []Delegable     // what routers on LANs may have of them
	Online    map[string]bool // LANs, by device, whose hosts can reach the Internet by IPv6
	Problems  []Problem
	// Absent are problems with devices that may come any time: policies are about what comes in by them.
	Absent []Problem
	// Old tells connections that this plan has no place for.
	Old *OldState

	carriers map[Path]int // of tunnels
}

// Choice tells which uplinks carry new traffic of a family, and why those.
type Choice struct {
	Members []Member
	Code    ChoiceCode // how well these work
	Reason  string     // the same for people
	// LastResort is true when nothing better than a dead path is left: nothing may be torn down then,
	// for there is nowhere to go.
	LastResort bool

	class int // of the members
}

// Member is an uplink that carries new traffic.
type Member struct {
	Uplink int
	Weight int     // 1..256
	Share  float64 // 0..1, by weight among the members
}

// Has reports whether the uplink carries new traffic.
func (c *Choice) Has(uplink int) bool {
	return slices.ContainsFunc(c.Members, func(m Member) bool { return m.Uplink == uplink })
}

// Why says why those uplinks carry a family of what a table leads out, "" for a table that leaves no choice.
func (r *Report) Why(k Kernel, table uint32, family Family) string {
	if table == k.TableBase {
		return r.Defaults[family].Reason
	}
	for i := range r.Policies {
		if p := &r.Policies[i]; k.Table(p.Group) == table {
			return p.Choice[family].Reason
		}
	}
	return ""
}

// Problem is something that the owner of the box should know, and what to do about it.
type Problem struct {
	Code     string `json:"code"`
	Severity string `json:"severity"` // "error", "warning", or "notice": it works, and may surprise
	Message  string `json:"message"`
	Fix      string `json:"fix"`
}

// Plan computes the kernel state that the configuration wants, given what the kernel shows and how the
// paths are judged. A path without a verdict counts as Unknown.
func Plan(cfg Config, obs *Observed, verdicts map[Path]Verdict) (netcfg.State, Report) {
	cfg, unusable := checkInput(cfg, obs)
	p := planner{cfg: cfg, k: cfg.Kernel, obs: obs, verdicts: verdicts, own: make(map[Path][]netip.Prefix, len(Families)*len(cfg.Uplinks)), groups: make(map[int]*plannedGroup)}
	p.neighbours = neighbourhoods(obs)
	p.report = Report{Paths: readPaths(cfg, obs, p.neighbours), Defaults: make(map[Family]Choice, 2), Problems: unusable}
	if len(cfg.Uplinks) > 0 {
		p.findPaths()
		p.strayDefaults()
		p.lostDefaults()
		// An uplink has three rules and some sources in each family, a policy mostly one.
		p.state.Rules = make([]netcfg.Rule, 0, 8+10*len(cfg.Uplinks)+2*len(cfg.Policies)+2*len(cfg.Groups))
		// It has a connected route and two defaults in each, a group up to three routes.
		p.state.Routes = make([]netcfg.Route, 0, 8+4*len(p.paths)+6*len(cfg.Groups))
		p.addresses()
		p.uplinkTables()
		p.defaults()
		p.peers()
		p.subnets()
		p.lans()
		p.devices6()
		p.withdrawn()
		p.downstream()
		p.findFormer()
		p.rules()
		p.networkRules()
		p.overlaps()
		p.underlays()
		p.resolvers()
		p.policies()
		p.neighbourNetworks() // of families too that policies alone are about
		p.absentDevices()
		p.inactivePolicies()
		p.policyTable()
		p.markRules()
		p.nftables()
		p.report.Old = &OldState{sync.OnceValue(p.oldState)}
		if p.takesBack() {
			p.report.Old.collected() // of the plan as it is by now
		}
		p.needTables()
		p.linkGroups()
		p.hardware()
		p.sysctls()
		p.avoidForeignRoutes()
		p.foreignRules()
		p.bypassedVPN()
	}
	p.tunnels()
	p.wireGuard()
	p.multipath()
	p.state.Up = append(slices.Clone(obs.up), toBringUp(&cfg, obs)...)
	p.restore()
	p.dropRefused()
	p.state.Sort(p.k.TableBase)
	return p.state, p.report
}

type planner struct {
	cfg      Config
	k        Kernel
	obs      *Observed
	verdicts map[Path]Verdict
	state    netcfg.State
	report   Report

	paths             []plannedPath
	neighbours        map[deviceFamily][]netip.Prefix
	routesOf          map[deviceFamily][]*netcfg.Route // of main, through uplinks
	devices           map[string]bool                  // of uplinks
	based             [2]bool                          // families that have the rules which every family needs, by index
	own               map[Path][]netip.Prefix
	networks          map[int][]netip.Prefix          // IPv6, by uplink
	former            map[deviceFamily][]netip.Prefix // addresses of uplinks that go
	groups            map[int]*plannedGroup
	placements        []placement
	lanMTU            int            // the largest, in bytes
	withdrawnPrefixes []netip.Prefix // withdrawn ones that nobody has now
	nearResolvers     []netip.Prefix // DNS servers of uplinks in the networks of others
	delegates         bool           // hosts may have addresses that belong to one uplink
}

// dummyAddress stands on devices whose other addresses may all go: with the last one, the kernel takes all IPv4 routes of a device, in every table
// (fib_disable_ip). It is the IPv4 dummy address of RFC 7600, and with link scope the source of nothing.
var dummyAddress = netip.MustParsePrefix("192.0.0.8/32")

// addresses assigns what the configuration and leases give the uplinks.
func (p *planner) addresses() {
	p.eachPath(func(u *Uplink, family Family, _ PathInfo) {
		if u.Shared && family == IPv4 {
			p.assignAddr(netcfg.AddrAssignment{Device: u.Device, Prefix: dummyAddress, LinkScope: true})
		}
		if a := u.Family(family).Assign; a != nil {
			for _, address := range a.Addresses {
				p.assignAddr(netcfg.AddrAssignment{Device: u.Device, Prefix: address.Prefix, Deprecated: address.Deprecated,
					NoPrefixRoute: withoutConnected(u, family, address.Prefix)})
			}
		}
	})
}

// uplinkTables fills the table of each uplink: what main holds for its device, its own default, and an
// unreachable default behind it, so that traffic which belongs to a dead uplink fails at once instead
// of leaking out of another with a foreign source.
func (p *planner) uplinkTables() {
	p.routesOf = p.deviceRoutes()
	p.eachPath(func(u *Uplink, family Family, info PathInfo) {
		table := p.k.Table(u.ID)
		at := deviceFamily{u.Device, family}
		for _, main := range p.routesOf[at] {
			r := *main
			r.Table, r.Protocol = table, p.k.Protocol
			r.Nexthops = slices.Clone(r.Nexthops)
			via := &r.Nexthops[0]
			via.Weight = 1
			// A static route outlives the address that its gateway was reached from.
			via.Onlink = via.Onlink || uncovered(via.Gateway, p.neighbours[at])
			p.state.Routes = append(p.state.Routes, r)
		}
		// An address that we are about to assign has no connected route in main yet, but its gateway
		// needs one, and main will have it in a moment.
		if a := u.Family(family).Assign; a != nil && info.Up && !p.off(u.Device, family) {
			for _, address := range a.Addresses {
				p.addConnected(table, u.Device, family, address.Prefix)
			}
			p.offeredRoutes(u, family, table, a)
			p.peerRoutes(u, family, table, a.Peers)
		}
		if u.CLAT != nil && family == IPv6 {
			p.translatorRoutes(u, table)
		}
		if own, ok := p.ownOfDelegation(u); ok && family == IPv6 && info.Up && !p.off(u.Device, family) {
			p.addConnected(table, u.Device, family, own)
		}
		if p.routesInternet(u, family, info) {
			r := p.defaultRoute(family, table, info.MTU, hop(u, info, 1))
			r.Src = info.RouteSource
			p.state.Routes = append(p.state.Routes, r)
		}
		p.state.Routes = append(p.state.Routes, netcfg.Route{Family: family, Table: table, Type: netcfg.Unreachable,
			Dst: family.Default(), Metric: metricUnreachable, Protocol: p.k.Protocol})
	})
}

// offeredRoutes adds the routes that a router on the link offers, for what belongs to the uplink. In main they
// would let one provider take traffic that another one carries; the kernel believes none of them by default
// either (accept_ra_rt_info_max_plen).
func (p *planner) offeredRoutes(u *Uplink, family Family, table uint32, a *Assignment) {
	for _, o := range a.Routes {
		r := netcfg.Route{Family: family, Table: table, Type: netcfg.Unicast, Dst: o.Dst, Protocol: p.k.Protocol,
			Nexthops: []netcfg.Nexthop{{Device: u.Device, Gateway: o.Gateway, Weight: 1}}}
		switch {
		case family == IPv6:
			r.Metric = metricV6
		case !o.Gateway.IsValid():
			r.Scope = netcfg.ScopeLink
		default:
			r.Nexthops[0].Onlink = !a.covers(o.Gateway)
		}
		if !slices.ContainsFunc(p.state.Routes, func(s netcfg.Route) bool { return s.Key() == r.Key() }) {
			p.state.Routes = append(p.state.Routes, r)
		}
	}
}

// deviceRoutes lists what main holds for each uplink's device, defaults left out. Main may hold two IPv4 routes
// that differ in their gateway only ("ip route append"); the first is the one that is used, and an
// uplink table has room for one.
func (p *planner) deviceRoutes() map[deviceFamily][]*netcfg.Route {
	type key struct {
		device string
		netcfg.RouteKey
	}
	byDevice := make(map[deviceFamily][]*netcfg.Route, len(p.paths))
	taken := make(map[key]bool, len(p.paths))
	for i := range p.obs.Routes {
		r := &p.obs.Routes[i]
		if r.Table != netcfg.TableMain || r.Protocol == p.k.Protocol || r.Type != netcfg.Unicast || r.DefaultLike() || r.Dst == compatibles || len(r.Nexthops) != 1 {
			continue
		}
		device, gateway := r.Nexthops[0].Device, r.Nexthops[0].Gateway
		if at := (key{device, r.Key()}); p.devices[device] && !taken[at] && !(gateway.IsValid() && p.obs.isOurs(gateway, device)) {
			taken[at] = true
			byDevice[deviceFamily{device, r.Family}] = append(byDevice[deviceFamily{device, r.Family}], r)
		}
	}
	return byDevice
}

func (p *planner) addConnected(table uint32, device string, family Family, address netip.Prefix) {
	r := p.connected(table, device, address.Masked(), address.Addr())
	known := slices.ContainsFunc(p.state.Routes, func(o netcfg.Route) bool { return o.Key() == r.Key() })
	if address.IsSingleIP() && family == IPv4 || known {
		return
	}
	p.state.Routes = append(p.state.Routes, r)
}

// connected is a route to a network that a device is in by an address.
func (p *planner) connected(table uint32, device string, network netip.Prefix, address netip.Addr) netcfg.Route {
	r := netcfg.Route{Family: FamilyOf(address), Table: table, Type: netcfg.Unicast, Dst: network, Protocol: p.k.Protocol, Nexthops: []netcfg.Nexthop{{Device: device, Weight: 1}}}
	if r.Family == IPv4 {
		r.Scope, r.Src = netcfg.ScopeLink, address
	} else {
		r.Metric = 256 // IP6_RT_PRIO_ADDRCONF, what the kernel gives the connected route in main
	}
	return r
}

func hop(u *Uplink, info PathInfo, weight int) netcfg.Nexthop {
	return netcfg.Nexthop{Device: u.Device, Gateway: info.Gateway, Onlink: info.Onlink, Weight: weight}
}

// defaultRoute makes a default route; mtu is that of the path in bytes, 0 for the devices'.
func (p *planner) defaultRoute(family Family, table uint32, mtu int, hops ...netcfg.Nexthop) netcfg.Route {
	r := netcfg.Route{Family: family, Table: table, Type: netcfg.Unicast, Dst: family.Default(), Protocol: p.k.Protocol, MTU: mtu, Nexthops: hops}
	if family == IPv6 {
		r.Metric = metricV6
	} else if len(hops) == 1 && !hops[0].Gateway.IsValid() {
		r.Scope = netcfg.ScopeLink
	}
	return r
}

// defaults installs the weighted default, and keeps table main's default in step for programs that
// read nothing else.
func (p *planner) defaults() {
	for _, family := range Families {
		choice := p.selectDefault(family)
		p.report.Defaults[family] = choice
		if len(choice.Members) == 0 {
			continue
		}
		mtu, hops := p.members(family, &choice)
		p.mainDefault(family, mtu, hops)
		p.state.Routes = append(p.state.Routes, p.shared(family, p.k.TableBase, &choice))
	}
}

// members lists the ways of a choice, and the path MTU of the narrowest: the nexthops of a route share it.
func (p *planner) members(family Family, choice *Choice) (mtu int, hops []netcfg.Nexthop) {
	hops = make([]netcfg.Nexthop, len(choice.Members))
	for i, m := range choice.Members {
		u := p.uplinkOf(Path{m.Uplink, family})
		info := p.info(u, family)
		hops[i] = hop(u, info, m.Weight)
		if mtu == 0 || info.MTU != 0 && info.MTU < mtu {
			mtu = info.MTU
		}
	}
	return mtu, hops
}

// shared is the default that shares new flows among the members of a choice.
func (p *planner) shared(family Family, table uint32, choice *Choice) netcfg.Route {
	mtu, hops := p.members(family, choice)
	if len(hops) == 1 {
		hops[0].Weight = 1
	} else if family == IPv6 {
		for i := range hops {
			if !hops[i].Gateway.IsValid() {
				hops[i].Gateway = PlaceholderGateway
			}
		}
	}
	r := p.defaultRoute(family, table, mtu, hops...)
	if len(hops) == 1 { // several would have one source for all
		r.Src = p.routeSource(family, hops[0].Device)
	}
	return r
}

// routeSource returns the source that routes by a device have to name, zero for none.
func (p *planner) routeSource(family Family, device string) netip.Addr {
	for i := range p.paths {
		if at := &p.paths[i]; at.family == family && at.u.Device == device {
			return at.info.RouteSource
		}
	}
	return netip.Addr{}
}

// uplink returns the uplink of an id, which there must be; of one with a translator the line.
func (p *planner) uplink(id int) *Uplink {
	i := 0
	for p.cfg.Uplinks[i].ID != id {
		i++
	}
	return &p.cfg.Uplinks[i]
}

// rules lays down the policy rules of both families in the order of docs/architecture.md.
func (p *planner) rules() {
	rule := func(family Family, offset int, table uint32) *netcfg.Rule {
		p.state.Rules = append(p.state.Rules, p.rule(family, offset, table))
		return &p.state.Rules[len(p.state.Rules)-1]
	}
	p.eachPath(func(u *Uplink, family Family, info PathInfo) {
		p.baseRules(family)
		table := p.k.Table(u.ID)
		r := rule(family, prefMark+u.ID, table)
		r.Mark, r.Mask = p.k.Mark(u.ID), p.k.MarkMask
		rule(family, prefDevice+u.ID, table).OIF = u.Device
		for _, source := range p.sources(u, family, info) {
			if (p.routesInternet(u, family, info) || !p.routedElsewhere(u, family, source)) && !p.rewrittenElsewhere(u, source) &&
				(family == IPv4 || source.IsSingleIP() || p.carriesShared(u, source)) {
				rule(family, prefSource+u.ID, table).From = source
			}
		}
		if u.CLAT != nil && family == IPv6 {
			rule(family, prefSource+u.ID, table).IIF = u.CLAT.Device // whatever its source is
		}
	})
}

func (p *planner) rule(family Family, offset int, table uint32) netcfg.Rule {
	return netcfg.Rule{Family: family, Priority: p.k.RulePriority + offset, Table: table,
		SuppressPrefixLen: -1, SuppressGroup: -1, Protocol: p.k.Protocol}
}

// baseRules lays down what a family needs however few uplinks carry it.
func (p *planner) baseRules(family Family) {
	if p.based[family.Index()] {
		return
	}
	p.based[family.Index()] = true
	local := p.rule(family, prefLocalNets, netcfg.TableMain)
	local.SuppressPrefixLen, local.SuppressGroup = family.DefaultBits(), int64(p.k.LinkGroup)
	static := p.rule(family, prefMain, netcfg.TableMain)
	static.SuppressPrefixLen = family.DefaultBits()
	p.state.Rules = append(p.state.Rules, local, static, p.rule(family, prefDefault, p.k.TableBase))
}

// routedElsewhere reports whether another uplink has the same address, and a default. A local socket's
// packet is routed by its source before its pin is known: it must not fail there in the table of a
// dead uplink.
func (p *planner) routedElsewhere(u *Uplink, family Family, source netip.Prefix) bool {
	for i := range p.cfg.Uplinks {
		other := &p.cfg.Uplinks[i]
		if info := p.info(other, family); other.ID != u.ID && info.Up && info.HasDefault &&
			slices.ContainsFunc(p.addressesOf(other, family, info), func(a netip.Prefix) bool { return a.Addr() == source.Addr() }) {
			return true
		}
	}
	return false
}

// rewrittenElsewhere reports whether hosts may go on using a delegation while its uplink carries no new
// traffic. Answers by the uplink have its mark.
func (p *planner) rewrittenElsewhere(u *Uplink, source netip.Prefix) bool {
	return !source.IsSingleIP() && source.Addr().Is6() && p.rewritten(u)
}

// addressesOf lists the addresses of a path, also those that are assigned in this very plan.
func (p *planner) addressesOf(u *Uplink, family Family, info PathInfo) []netip.Prefix {
	a := u.Family(family).Assign
	if !info.Present || a == nil && len(u.Delegations) == 0 {
		return info.Addresses
	}
	addresses := slices.Clone(info.Addresses)
	add := func(address netip.Prefix) {
		if !slices.Contains(addresses, address) {
			addresses = append(addresses, address)
		}
	}
	if a != nil {
		for _, assigned := range a.Addresses {
			add(assigned.Prefix)
		}
	}
	if own, ok := p.ownOfDelegation(u); ok && family == IPv6 {
		add(own)
	}
	return addresses
}

// sources lists what selects the uplink's table by source: each of its addresses, and its delegations.
func (p *planner) sources(u *Uplink, family Family, info PathInfo) []netip.Prefix {
	path := Path{u.ID, family}
	list, known := p.own[path]
	if !known {
		list = p.findSources(u, family, info)
		p.own[path] = list
	}
	return list
}

func (p *planner) findSources(u *Uplink, family Family, info PathInfo) []netip.Prefix {
	addresses := p.addressesOf(u, family, info)
	sources := make([]netip.Prefix, 0, len(addresses)+len(u.Delegations))
	for _, a := range addresses {
		sources = append(sources, netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
	}
	slices.SortFunc(sources, netcfg.ComparePrefixes)
	sources = slices.Compact(sources)
	if family == IPv6 {
		for _, d := range u.Delegations {
			sources = append(sources, d.Prefix)
		}
	}
	return sources
}

func (p *planner) linkGroups() {
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		if _, present := p.obs.Link(u.Device); present && !u.Site {
			p.state.Groups = append(p.state.Groups, netcfg.LinkGroup{Device: u.Device, Group: p.k.LinkGroup,
				Why: "tells uplink " + u.Name + "'s routes in main from those of other networks"})
		}
	}
}

// avoidForeignRoutes drops wanted routes whose place is taken by somebody else's: replacing those
// would destroy what is not ours.
func (p *planner) avoidForeignRoutes() {
	taken := make(map[netcfg.RouteKey]*netcfg.Route)
	for i := range p.obs.Routes {
		r := &p.obs.Routes[i]
		if r.Protocol != p.k.Protocol && (r.Table != netcfg.TableMain || r.Family == IPv6) {
			taken[r.Key()] = r
		}
	}
	p.state.Routes = slices.DeleteFunc(p.state.Routes, func(want netcfg.Route) bool {
		foreign, ok := taken[want.Key()]
		if !ok && want.Table == netcfg.TableMain && want.Family == IPv6 {
			if r, found := p.obs.Routed[IPv6.Index()].find(want.Key()); found {
				foreign, ok = &r, true
			}
		}
		if ok {
			p.problem("foreign-route", "error",
				fmt.Sprintf("a route of another program is where ours belongs: %s (protocol %d)", foreign.String(), foreign.Protocol),
				"remove it, or change [kernel] table_base")
		}
		return ok
	})
}

// restore returns what earlier plans changed and this one no longer wants.
func (p *planner) restore() {
	wanted := make(map[string]bool)
	for _, g := range p.state.Groups {
		wanted[g.Device] = true
	}
	for _, l := range p.obs.Links {
		if l.Group != p.k.LinkGroup || wanted[l.Name] {
			continue
		}
		former, ours := p.obs.Recorded.Groups[l.Name]
		switch {
		case ours:
			p.state.Groups = append(p.state.Groups, netcfg.LinkGroup{Device: l.Name, Group: former, Why: "no longer an uplink", Restore: true})
		case len(p.cfg.Uplinks) > 0:
			p.problem("foreign-link-group", "error",
				fmt.Sprintf("%s is not an uplink but is in link group %d, so its networks are treated as an uplink's", l.Name, l.Group),
				fmt.Sprintf("ip link set dev %s group default, or change [kernel] link_group", l.Name))
		}
	}
	clear(wanted)
	for _, s := range p.state.Sysctls {
		wanted[s.Name] = true
	}
	p.restoreHardware()
	p.state.Qdiscs = slices.Clone(p.obs.Recorded.Qdiscs)
	for name, value := range p.obs.Recorded.Sysctls {
		if _, exists := p.obs.Sysctls[name]; exists && !wanted[name] {
			p.state.Sysctls = append(p.state.Sysctls, netcfg.Sysctl{Name: name, Value: value, Why: "given back", Restore: true})
		}
	}
}

// problemOnce reports a problem that planning meets in several places.
func (p *planner) problemOnce(code, severity, message, fix string) {
	if problem := (Problem{code, severity, message, fix}); !slices.Contains(p.report.Problems, problem) {
		p.report.Problems = append(p.report.Problems, problem)
	}
}

func (p *planner) problem(code, severity, message, fix string) {
	p.report.Problems = append(p.report.Problems, Problem{code, severity, message, fix})
}
