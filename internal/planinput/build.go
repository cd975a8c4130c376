package planinput

import (
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// KernelNumbers picks the numbers that planning needs out of the configuration.
func KernelNumbers(k config.Kernel) rules.Kernel {
	return rules.Kernel{Protocol: uint8(k.Protocol), RulePriority: k.RulePriority, TableBase: uint32(k.TableBase),
		MarkMask: k.MarkMask, LinkGroup: k.LinkGroup}
}

// Build turns a configuration, and what leases and routers give, into what planning takes. Site is the
// router's own /48; invalid: none.
func Build(c *config.Config, ids map[string]int, learned Learned, site netip.Prefix) rules.Config {
	uplinks := slices.Concat(c.Uplinks, guarded(c))
	out := rules.Config{Kernel: KernelNumbers(c.Kernel), Uplinks: make([]rules.Uplink, len(uplinks)), Underlays: underlaysOf(c, ids, learned),
		MainDefault: mainDefault(c.Kernel.MainDefault), IngressQdisc: c.Kernel.IngressQdisc, Offload: c.Kernel.Offload, Tunnels: tunnelsOf(c, learned), MPTCP: c.Daemon.MPTCP, Site: site}
	for i := range uplinks {
		u := &uplinks[i]
		var given LearnedUplink
		if s := learned[u.Name]; s != nil && i < len(c.Uplinks) {
			given = *s
		}
		out.Uplinks[i] = rules.Uplink{
			ID: ids[u.Name], Name: u.Name, Device: u.Device, Tier: u.Tier, Weight: u.Weight, PoliciesOnly: !u.Default,
			IPv4: addressing(u.IPv4, given.IPv4), IPv6: addressing(u.IPv6, given.IPv6), NewFlowsOnly: u.Failback == config.FailbackNewFlowsOnly,
			TakesBack: u.Failback == config.FailbackImmediateAll, Shared: u.Shared, Expects: u.Shared && i >= len(c.Uplinks), Inherits: c.Pair.On() && !u.Shared, Overflows: c.Overflow(u) > 0,
		}
		if i < len(c.Uplinks) { // the backup of a pair does not call itself what the primary does
			out.Uplinks[i].Hardware = u.HardwareAddress
		}
		if u.Kind == config.KindWireGuard {
			wire(&out.Uplinks[i].IPv4, given.IPv4, &u.IPv4, u.WireGuard != nil)
			wire(&out.Uplinks[i].IPv6, given.IPv6, &u.IPv6, u.WireGuard != nil)
			out.Uplinks[i].Site = !routesInternet(given.IPv4) && !routesInternet(given.IPv6)
		}
		if given.WireGuard != nil {
			out.WireGuard = append(out.WireGuard, *given.WireGuard)
		}
		out.Uplinks[i].IPv6.Watched = given.Watched
		out.Uplinks[i].Delegations = DelegationsOf(u, &given)
		if u.IPv6.SixRD != nil && i < len(c.Uplinks) {
			addressing6RD(&out.Uplinks[i], c, u, learned)
		}
		if a := out.Uplinks[i].IPv6.Assign; u.IPv6.Shares(given.Undelegated) && a != nil && len(given.Stale) > 0 {
			current := *a
			current.Addresses = slices.DeleteFunc(slices.Clone(a.Addresses), func(o rules.Address) bool { return slices.Contains(given.Stale, o.Prefix.Addr()) })
			out.Uplinks[i].IPv6.Assign = &current
		}
		for _, r := range ResolversOf(u, given.Resolvers) {
			out.Uplinks[i].Resolvers = append(out.Uplinks[i].Resolvers, r.Addr)
		}
		for _, t := range u.Probe.Targets {
			if !slices.Contains(out.Targets, t.Addr()) {
				out.Targets = append(out.Targets, t.Addr())
			}
		}
	}
	translators(&out, c, learned)
	for i := range c.Waiting {
		out.Elsewhere = append(out.Elsewhere, ids[c.Waiting[i].Name])
	}
	for i := range c.LANs {
		lan := rules.LAN{Device: c.LANs[i].Device, SubnetID: c.LANs[i].SubnetID, DelegateLength: c.LANs[i].DelegateLength}
		for _, name := range c.LANs[i].PrefixesFrom {
			lan.From = append(lan.From, ids[name])
		}
		if site.IsValid() {
			lan.ULA = ULASubnet(site, lan.SubnetID)
		}
		out.LANs = append(out.LANs, lan)
	}
	policyInput(&out, c, ids)
	forwardInput(&out, c, ids)
	return out
}

// guarded lists the uplinks of another router that are planned here too: nothing leaves by them, or what does is translated, from the moment that
// keepalived brings address and route. A tunnel's device is not there yet.
func guarded(c *config.Config) []config.Uplink {
	return slices.DeleteFunc(slices.Clone(c.Waiting), func(u config.Uplink) bool { return u.Kind != config.KindISP })
}

func mainDefault(a config.Auto) rules.MainDefault {
	switch a {
	case config.On:
		return rules.MainDefaultAlways
	case config.Off:
		return rules.MainDefaultNever
	}
	return rules.MainDefaultAuto
}

// DelegationsOf lists what an uplink has for LANs: what is routed to it for ever, and what its lease holds or its routers announce.
func DelegationsOf(u *config.Uplink, given *LearnedUplink) []rules.Delegation {
	var leased []rules.Delegation
	for _, d := range given.Delegations {
		if d.Shared && u.IPv6.Shares(given.Undelegated) || !d.Shared && u.IPv6.Delegation {
			leased = append(leased, d)
		}
	}
	if !u.IPv6.Prefix.IsValid() {
		return leased
	}
	list := []rules.Delegation{{Prefix: u.IPv6.Prefix, Configured: true}}
	for _, d := range leased {
		if d.Prefix != u.IPv6.Prefix {
			list = append(list, d)
		}
	}
	return list
}

var leftTo = map[config.LeftTo]rules.LeftTo{config.LeftToMain: rules.LeftToMain, config.LeftToDefault: rules.LeftToDefault}

// policyInput adds the policies, and the groups of uplinks that they share.
func policyInput(out *rules.Config, c *config.Config, ids map[string]int) {
	groups := make(map[string]bool)
	for i := range c.Policies {
		p := &c.Policies[i]
		key := p.Group()
		if !groups[key] {
			groups[key] = true
			g := rules.Group{ID: ids[key], LeftTo: leftTo[p.LeftTo], KillSwitch: p.Fallback == config.FallbackUnreachable, Except: p.Except}
			for _, names := range p.Uplinks {
				tier := make([]int, len(names))
				for i, name := range names {
					tier[i] = ids[name]
					if w := p.Weights[name]; w > 0 {
						if g.Weights == nil {
							g.Weights = make(map[int]int)
						}
						g.Weights[ids[name]] = w
					}
				}
				g.Tiers = append(g.Tiers, tier)
			}
			out.Groups = append(out.Groups, g)
		}
		out.Policies = append(out.Policies, rules.Policy{Name: p.Name, Select: selector(&p.Match), Group: ids[key], Sticky: p.Sticky == config.StickySource})
	}
	for _, s := range c.Sets {
		if s.Filled && !s.Timeouts || s.Dnsmasq {
			out.MergedSets = append(out.MergedSets, s.Name)
		}
	}
	for i := range c.TProxies {
		p := &c.TProxies[i]
		out.TProxies = append(out.TProxies, rules.TProxy{Name: p.Name, Group: ids[config.TProxyGroup], Select: selector(&p.Match),
			Except: p.Except, Port: uint16(p.Port), Reject: p.OnFailure == config.OnFailureReject})
	}
}

// forwardInput adds the ports that lead to hosts.
func forwardInput(out *rules.Config, c *config.Config, ids map[string]int) {
	for i := range c.Forwards {
		f := &c.Forwards[i]
		forward := rules.Forward{Name: f.Name, Protocols: f.Protocols, Ports: port(f.Ports), ToPort: uint16(f.ToPort), Device: f.LAN, To4: f.To4, ID6: f.ID6}
		for _, name := range f.Uplinks {
			forward.Uplinks = append(forward.Uplinks, ids[name])
		}
		out.Forwards = append(out.Forwards, forward)
	}
}

// selector lists the conditions that are given, in the order of rules.Conditions.
func selector(m *config.Match) (s rules.Selector) {
	add := func(given bool, c rules.Condition) {
		if given {
			s = append(s, c)
		}
	}
	add(len(m.IIF) > 0, rules.SelectDevices(m.IIF))
	add(!m.From.Empty(), rules.SelectAddresses{Prefixes: m.From.Prefixes, Sets: m.From.Filled, Lists: lists(m.From.Lists)})
	add(!m.To.Empty(), rules.SelectAddresses{Dest: true, Prefixes: m.To.Prefixes, Sets: m.To.Filled, Lists: lists(m.To.Lists)})
	add(len(m.Protocols) > 0, rules.SelectProtocols(m.Protocols))
	add(len(m.SPorts) > 0, rules.SelectPorts{List: ranges(m.SPorts, port)})
	add(len(m.DPorts) > 0, rules.SelectPorts{Dest: true, List: ranges(m.DPorts, port)})
	add(len(m.UIDs) > 0, rules.SelectUIDs(ranges(m.UIDs, func(r config.Range) netcfg.UIDs { return netcfg.UIDs{Set: true, First: r.First, Last: r.Last} })))
	add(m.MarkMask != 0, rules.SelectMark{Value: m.Mark, Mask: m.MarkMask})
	add(len(m.DSCP) > 0, rules.SelectDSCP(m.DSCP))
	add(len(m.MACs) > 0, rules.SelectMACs(m.MACs))
	return s
}

// lists are empty until somebody gives them what is in them.
func lists(names []string) (list []rules.List) {
	for _, name := range names {
		list = append(list, rules.List{Name: name})
	}
	return list
}

func port(r config.Range) netcfg.Ports {
	return netcfg.Ports{First: uint16(r.First), Last: uint16(r.Last)}
}

func ranges[T any](list []config.Range, as func(config.Range) T) (out []T) {
	for _, r := range list {
		out = append(out, as(r))
	}
	return out
}

// addressing says where one family gets its addresses; given is what a lease or routers offer.
func addressing(ip config.IP, given *rules.Assignment) rules.Addressing {
	a := rules.Addressing{Enabled: ip.Method != config.MethodOff, Masquerade: ip.Masquerade == config.On || ip.Masquerade == config.Automatic, MasqueradeFrom: ip.MasqueradeFrom, PrefixNAT: ip.Translate}
	switch ip.Method {
	case config.MethodStatic:
		a.Managed, a.Assign = true, &rules.Assignment{Addresses: []rules.Address{{Prefix: ip.Address}}, Gateway: ip.Gateway}
	case config.MethodDHCP:
		a.Managed, a.Assign = true, given
	case config.MethodRA:
		a.Managed, a.Discovers, a.Assign = true, true, given
	}
	return a
}

// wire gives a family what a WireGuard device has; addresses of a device that others made are theirs. What leads to peers alone
// is like a LAN: sources are rewritten where that was asked for.
func wire(a *rules.Addressing, given *rules.Assignment, ip *config.IP, made bool) {
	if a.Enabled {
		a.Assign, a.Managed = given, made
	}
	if ip.Masquerade == config.Automatic {
		a.Masquerade = routesInternet(given) && len(ip.MasqueradeFrom) == 0
	}
}

func routesInternet(a *rules.Assignment) bool { return a == nil || !a.NoDefault }

// UnderlayName is the name that a tunnel's group has among the ids. No uplink, and no group of policies, can be called so.
func UnderlayName(uplink string) string { return "@underlay " + uplink }

// underlaysOf lists the groups of tunnels whose packets can be marked: WireGuard's.
func underlaysOf(c *config.Config, ids map[string]int, learned Learned) []rules.Underlay {
	var list []rules.Underlay
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		if u.Kind != config.KindWireGuard {
			continue
		}
		w := rules.Underlay{ID: ids[UnderlayName(u.Name)], Uplink: ids[u.Name]}
		for _, name := range c.Carriers(u) {
			w.Carriers = append(w.Carriers, ids[name])
		}
		if s := learned[u.Name]; s != nil {
			w.To = s.Calls
		}
		list = append(list, w)
	}
	return list
}

// ULASubnet returns a LAN's /64 of the router's own /48.
func ULASubnet(site netip.Prefix, subnetID int) netip.Prefix {
	subnet, _ := rules.Delegation{Prefix: site}.Subnet(subnetID)
	return subnet
}
