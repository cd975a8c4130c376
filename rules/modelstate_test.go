package rules_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Routing protocol numbers of linux/rtnetlink.h.
const (
	protoKernel = 2
	protoStatic = 4
	protoRA     = 9
	protoDHCP   = 16
	protoBird   = 12
)

// clone copies the machine such that changes to one do not show in the other.
func (m *machine) clone() *machine {
	c := *m
	c.obs.Links, c.obs.Addrs, c.obs.Rules = slices.Clone(m.obs.Links), slices.Clone(m.obs.Addrs), slices.Clone(m.obs.Rules)
	c.obs.Routes = slices.Clone(m.obs.Routes)
	for i := range c.obs.Routes {
		c.obs.Routes[i].Nexthops = slices.Clone(c.obs.Routes[i].Nexthops)
	}
	c.obs.Tunnels, c.obs.WireGuard = slices.Clone(m.obs.Tunnels), slices.Clone(m.obs.WireGuard)
	c.obs.Sysctls = maps.Clone(m.obs.Sysctls)
	c.obs.Recorded = m.obs.Recorded.Clone()
	if e := m.obs.Egress; e != nil {
		c.obs.Egress = &rules.Egress{Filters: slices.Clone(e.Filters), Qdiscs: maps.Clone(e.Qdiscs), Impossible: e.Impossible}
	}
	return &c
}

// snapshot is what a kernel adapter would show of the machine.
func (m *machine) snapshot() *rules.Observed {
	obs := m.clone().obs
	obs.Tunnels = slices.DeleteFunc(obs.Tunnels, func(t netcfg.TunnelLink) bool { return !m.present(t.Device) })
	for i := range obs.Tunnels {
		link, _ := m.obs.Link(obs.Tunnels[i].Device)
		obs.Tunnels[i].Up, obs.Tunnels[i].MTU = link.Up, link.MTU
	}
	obs.SeenUp = make(map[int]bool)
	for _, l := range obs.Links { // a device that is down was set down by its owner
		obs.SeenUp[l.Index] = true
	}
	obs.WireGuard = slices.DeleteFunc(obs.WireGuard, func(d rules.WireGuardDevice) bool { return !m.present(d.Device) })
	obs.Routes = slices.DeleteFunc(obs.Routes, func(r netcfg.Route) bool {
		return r.Table != netcfg.TableMain && r.Protocol != m.numbers.Protocol && !m.ourTable(r.Table)
	})
	return &obs
}

func (m *machine) present(device string) bool {
	_, present := m.obs.Link(device)
	return present
}

func (m *machine) ourTable(table uint32) bool {
	return table >= m.numbers.TableBase && table <= m.numbers.TableBase+rules.MaxUplinks || table == m.numbers.NeighbourTable()
}

// apply carries out one change, as the kernel does: with its refusals and its side effects.
func (m *machine) apply(op netcfg.Op) error {
	var err error
	switch op := op.(type) {
	case netcfg.AddAddr:
		err = m.addAddr(rules.Addr{Device: op.Device, Prefix: op.Prefix, Deprecated: op.Deprecated, NoPrefixRoute: op.NoPrefixRoute, LinkScope: op.LinkScope, Protocol: m.numbers.Protocol})
	case netcfg.ChangeAddr:
		err = errors.New("cannot find the address")
		for i, a := range m.obs.Addrs {
			if a.Device == op.Device && a.Prefix == op.Prefix {
				m.obs.Addrs[i].Deprecated, err = op.Deprecated, nil
			}
		}
	case netcfg.DelAddr:
		err = m.delAddr(op.Device, op.Prefix)
	case netcfg.PutRoute:
		err = m.putRoute(op.Route, op.Prepend)
	case netcfg.DelRoute:
		removes := op.Equal
		if op.Family == rules.IPv4 {
			removes = func(r netcfg.Route) bool { return op.Removes(&r) }
		}
		if i := slices.IndexFunc(m.obs.Routes, removes); i >= 0 {
			m.obs.Routes = slices.Delete(m.obs.Routes, i, i+1)
		} else {
			err = errors.New("no such route")
		}
	case netcfg.AddRule:
		err = m.addRule(op.Rule)
	case netcfg.DelRule:
		if i := slices.Index(m.obs.Rules, op.Rule); i >= 0 {
			m.obs.Rules = slices.Delete(m.obs.Rules, i, i+1)
		} else {
			err = errors.New("no such rule")
		}
	case netcfg.PutTable:
		m.obs.Table = op.Table
	case netcfg.PutPolicies:
		m.obs.Policies = op.Table
	case netcfg.PutEgress:
		err = m.putEgress(op)
	case netcfg.DelEgress:
		m.delEgress(op)
	case netcfg.SetGroup:
		err = m.changeLink(op.Device, func(l *rules.Link) { l.Group = op.Group })
	case netcfg.SetHardware:
		err = m.changeLink(op.Device, func(l *rules.Link) { l.Hardware = op.Address })
	case netcfg.SetSysctl:
		if _, ok := m.obs.Sysctls[op.Name]; !ok {
			err = errors.New("no such parameter")
		} else {
			m.obs.Sysctls[op.Name] = op.Value
		}
	default:
		err = m.applyTunnel(op)
	}
	if err != nil {
		return fmt.Errorf("the kernel refuses %q: %w", op.Command(), err)
	}
	return nil
}

// putEgress is tc: a filter hangs on a qdisc, of which there is one.
func (m *machine) putEgress(op netcfg.PutEgress) error {
	e := m.obs.Egress
	switch {
	case op.Qdisc && e.Qdiscs[op.Device]:
		return errors.New("exclusivity flag on, cannot modify")
	case op.Qdisc && e.Qdiscs == nil:
		e.Qdiscs = make(map[string]bool)
	case !op.Qdisc && !e.Qdiscs[op.Device]:
		return errors.New("no such parent")
	}
	e.Qdiscs[op.Device] = true
	m.delFilter(op.Device)
	e.Filters = append(e.Filters, op.EgressFilter)
	return nil
}

func (m *machine) delFilter(device string) {
	m.obs.Egress.Filters = slices.DeleteFunc(m.obs.Egress.Filters, func(f netcfg.EgressFilter) bool { return f.Device == device })
}

func (m *machine) delEgress(op netcfg.DelEgress) {
	m.delFilter(op.Device)
	if op.Qdisc {
		delete(m.obs.Egress.Qdiscs, op.Device)
	}
}

func (m *machine) changeLink(device string, fn func(*rules.Link)) error {
	i := slices.IndexFunc(m.obs.Links, func(l rules.Link) bool { return l.Name == device })
	if i < 0 {
		return errors.New("no such device")
	}
	fn(&m.obs.Links[i])
	return nil
}

// addRule puts a rule behind those of the same preference.
func (m *machine) addRule(r netcfg.Rule) error {
	if slices.Contains(m.obs.Rules, r) {
		return errors.New("file exists")
	}
	i := slices.IndexFunc(m.obs.Rules, func(o netcfg.Rule) bool {
		return o.Family > r.Family || o.Family == r.Family && o.Priority > r.Priority
	})
	if i < 0 {
		i = len(m.obs.Rules)
	}
	m.obs.Rules = slices.Insert(m.obs.Rules, i, r)
	return nil
}

// putRoute is fib_table_insert and fib6_add: a replacing change takes the place of the first route with
// the same key, whoever installed it. Routes of IPv4 with one key are kept in the order of their coming,
// a prepended one first; IPv6 has one route per key and nexthop.
func (m *machine) putRoute(r netcfg.Route, prepend bool) error {
	if err := m.checkNexthops(&r); err != nil {
		return err
	}
	i := slices.IndexFunc(m.obs.Routes, func(o netcfg.Route) bool { return sameKey(&o, &r) })
	switch {
	case i < 0:
		m.obs.Routes = append(m.obs.Routes, r)
	case prepend && slices.ContainsFunc(m.obs.Routes, r.Equal):
		return errors.New("file exists")
	case prepend:
		m.obs.Routes = slices.Insert(m.obs.Routes, i, r)
	default:
		m.obs.Routes[i] = r
	}
	return nil
}

func sameKey(a, b *netcfg.Route) bool {
	return a.Family == b.Family && a.Table == b.Table && a.Dst == b.Dst && a.Metric == b.Metric
}

// checkNexthops refuses what fib_check_nh and ip6_route_check_nh refuse.
func (m *machine) checkNexthops(r *netcfg.Route) error {
	for _, hop := range r.Nexthops {
		link, ok := m.obs.Link(hop.Device)
		switch {
		case !ok:
			return errors.New("no such device")
		case !link.Up:
			return errors.New("network is down")
		case len(r.Nexthops) > 1 && r.Family == rules.IPv6 && !hop.Gateway.IsValid():
			return errors.New("device only routes can not be added for IPv6 using the multipath API")
		case hop.Gateway.IsValid() && m.isLocalFor(hop):
			return errors.New("nexthop has invalid gateway")
		case hop.Gateway.IsValid() && !hop.Onlink && !m.onlink(r.Table, hop):
			return errors.New("nexthop has invalid gateway: network is unreachable")
		}
	}
	if r.Src.IsValid() && !m.isLocal(r.Src) {
		return errors.New("invalid preferred source")
	}
	return nil
}

// isLocalFor reports whether a gateway is an address of the machine; a link-local one counts on its own device only.
func (m *machine) isLocalFor(hop netcfg.Nexthop) bool {
	return slices.ContainsFunc(m.obs.Addrs, func(o rules.Addr) bool {
		return o.Prefix.Addr() == hop.Gateway && (o.Device == hop.Device || !hop.Gateway.IsLinkLocalUnicast())
	})
}

func (m *machine) isLocal(a netip.Addr) bool {
	return slices.ContainsFunc(m.obs.Addrs, func(o rules.Addr) bool { return o.Prefix.Addr() == a })
}

// onlink reports whether a gateway is a neighbour on its device, by the route's own table or else by the
// rules.
func (m *machine) onlink(table uint32, hop netcfg.Nexthop) bool {
	if hop.Gateway.IsLinkLocalUnicast() && hop.Gateway.Is6() {
		return true
	}
	q := query{dst: hop.Gateway, oif: hop.Device, iif: "lo"}
	neighbour := func(ways []way) bool {
		return len(ways) > 0 && ways[0].device == hop.Device && !ways[0].gateway.IsValid()
	}
	return neighbour(m.tableLookup(table, q)) || neighbour(m.lookup(q))
}

// addAddr is __inet_insert_ifa and inet6_addr_add: IPv4 makes a second address of a subnet secondary,
// and both families install a connected route on a device that is up.
func (m *machine) addAddr(a rules.Addr) error {
	link, ok := m.obs.Link(a.Device)
	if !ok {
		return errors.New("no such device")
	}
	m.obs.Addrs = slices.DeleteFunc(m.obs.Addrs, func(o rules.Addr) bool { return o.Device == a.Device && o.Prefix == a.Prefix })
	if a.Prefix.Addr().Is4() {
		a.Temporary = slices.ContainsFunc(m.obs.Addrs, func(o rules.Addr) bool { return sameSubnet(&o, &a) && !o.Temporary })
	}
	m.obs.Addrs = append(m.obs.Addrs, a)
	if link.Up && !a.Temporary && !a.NoPrefixRoute {
		m.addConnected(&a)
	}
	return nil
}

func sameSubnet(a, b *rules.Addr) bool {
	return a.Device == b.Device && a.Prefix.Bits() == b.Prefix.Bits() && a.Prefix.Masked() == b.Prefix.Masked()
}

// connected is the route that the kernel installs with an address.
func connected(a *rules.Addr) netcfg.Route {
	r := netcfg.Route{Family: rules.FamilyOf(a.Prefix.Addr()), Table: netcfg.TableMain, Type: netcfg.Unicast,
		Dst: a.Prefix.Masked(), Protocol: protoKernel, Nexthops: []netcfg.Nexthop{{Device: a.Device, Weight: 1}}}
	if r.Family == rules.IPv4 {
		r.Scope, r.Src = netcfg.ScopeLink, a.Prefix.Addr()
	} else {
		r.Metric = 256
	}
	return r
}

func (m *machine) addConnected(a *rules.Addr) {
	r := connected(a)
	// IPv4 has no connected route for a /32; IPv6 has one, for the address.
	if r.Family == rules.IPv4 && a.Prefix.IsSingleIP() || slices.ContainsFunc(m.obs.Routes, r.Equal) {
		return
	}
	m.obs.Routes = append(m.obs.Routes, r)
}

// delAddr is __inet_del_ifa and ipv6_del_addr.
func (m *machine) delAddr(device string, prefix netip.Prefix) error {
	i := slices.IndexFunc(m.obs.Addrs, func(o rules.Addr) bool { return o.Device == device && o.Prefix == prefix })
	if i < 0 {
		return errors.New("cannot assign requested address")
	}
	removed := m.obs.Addrs[i]
	m.obs.Addrs = slices.Delete(m.obs.Addrs, i, i+1)
	if removed.Prefix.Addr().Is6() {
		if !slices.ContainsFunc(m.obs.Addrs, func(o rules.Addr) bool { return sameSubnet(&o, &removed) }) {
			m.dropRoutes(connected(&removed).Equal)
		}
		return nil
	}
	m.dropSource(device, prefix.Addr())
	if !removed.Temporary {
		m.losePrimary(&removed)
	}
	if !m.hasIPv4(device) {
		m.disableIPv4(device)
	}
	return nil
}

// losePrimary promotes the next address of the subnet where the machine is told to, and else removes
// all of them: promote_secondaries is off unless somebody sets it.
func (m *machine) losePrimary(removed *rules.Addr) {
	secondary := func(o rules.Addr) bool { return o.Prefix.Addr().Is4() && sameSubnet(&o, removed) }
	if m.sysctl("all", "promote_secondaries")+m.sysctl(removed.Device, "promote_secondaries") == 0 {
		var gone []netip.Addr
		for _, o := range m.obs.Addrs {
			if secondary(o) {
				gone = append(gone, o.Prefix.Addr())
			}
		}
		m.obs.Addrs = slices.DeleteFunc(m.obs.Addrs, secondary)
		for _, a := range gone {
			m.dropSource(removed.Device, a)
		}
		return
	}
	if i := slices.IndexFunc(m.obs.Addrs, secondary); i >= 0 {
		m.obs.Addrs[i].Temporary = false
		if link, _ := m.obs.Link(removed.Device); link.Up {
			m.addConnected(&m.obs.Addrs[i])
		}
	}
}

// dropSource removes the routes of main that prefer a source which is gone: all of them, or those of its
// device when another device has the same address (fib_del_ifaddr).
func (m *machine) dropSource(device string, source netip.Addr) {
	elsewhere := m.isLocal(source)
	m.dropRoutes(func(r netcfg.Route) bool {
		return r.Table == netcfg.TableMain && r.Src == source && (!elsewhere || r.Protocol == protoKernel && r.Nexthops[0].Device == device)
	})
}

func (m *machine) dropRoutes(which func(netcfg.Route) bool) {
	m.obs.Routes = slices.DeleteFunc(m.obs.Routes, which)
}

// disableIPv4 is fib_disable_ip: a route goes, in whatever table, when none of its nexthops is left.
func (m *machine) disableIPv4(device string) {
	m.dropRoutes(func(r netcfg.Route) bool {
		return r.Family == rules.IPv4 && len(r.Nexthops) > 0 && !slices.ContainsFunc(r.Nexthops, func(n netcfg.Nexthop) bool {
			link, _ := m.obs.Link(n.Device)
			return n.Device != device && link.Up
		})
	})
}

// dropIPv6 takes the device out of every IPv6 route.
func (m *machine) dropIPv6(device string) {
	for i := range m.obs.Routes {
		r := &m.obs.Routes[i]
		if r.Family == rules.IPv6 {
			r.Nexthops = slices.DeleteFunc(r.Nexthops, func(n netcfg.Nexthop) bool { return n.Device == device })
			if len(r.Nexthops) == 1 {
				r.Nexthops[0].Weight = 1
			}
		}
	}
	m.dropRoutes(func(r netcfg.Route) bool {
		return r.Family == rules.IPv6 && r.Type == netcfg.Unicast && len(r.Nexthops) == 0
	})
}

// setDown sets a device administratively down: IPv4 keeps its addresses, IPv6 does not.
func (m *machine) setDown(device string) {
	if m.changeLink(device, func(l *rules.Link) { l.Up, l.Carrier = false, false }) != nil {
		return
	}
	m.obs.Addrs = slices.DeleteFunc(m.obs.Addrs, func(a rules.Addr) bool { return a.Device == device && a.Prefix.Addr().Is6() })
	m.dropIPv6(device)
	m.disableIPv4(device)
}

// setUp sets a device administratively up: connected routes of IPv4 return, others do not.
func (m *machine) setUp(device string) {
	if m.changeLink(device, func(l *rules.Link) { l.Up, l.Carrier = true, true }) != nil {
		return
	}
	for _, a := range slices.Clone(m.obs.Addrs) {
		if a.Device == device && a.Prefix.Addr().Is4() && !a.Temporary {
			m.addConnected(&a)
		}
	}
}

// unplug removes a device and all that hangs on it.
func (m *machine) unplug(device string) {
	m.setDown(device)
	m.obs.Links = slices.DeleteFunc(m.obs.Links, func(l rules.Link) bool { return l.Name == device })
	m.obs.Addrs = slices.DeleteFunc(m.obs.Addrs, func(a rules.Addr) bool { return a.Device == device })
	m.dropRoutes(func(r netcfg.Route) bool {
		return slices.ContainsFunc(r.Nexthops, func(n netcfg.Nexthop) bool { return n.Device == device })
	})
	for _, key := range sysctlKeys {
		delete(m.obs.Sysctls, "net/ipv4/conf/"+device+"/"+key)
	}
}

// plug adds a device, up, with the kernel's default parameters and an IPv6 link-local address.
func (m *machine) plug(l rules.Link) {
	for _, o := range m.obs.Links {
		l.Index = max(l.Index, o.Index+1)
	}
	m.obs.Links = append(m.obs.Links, l)
	for _, key := range sysctlKeys {
		m.obs.Sysctls["net/ipv4/conf/"+l.Name+"/"+key] = "0"
	}
	if l.Up && !l.Loopback {
		m.addLinkLocal(&l)
	}
}

// addLinkLocal gives a device an address of an identifier of its own.
func (m *machine) addLinkLocal(l *rules.Link) {
	m.obs.Addrs = append(m.obs.Addrs, rules.Addr{Device: l.Name, LinkScope: true,
		Prefix: netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("fe80::%x", 0x1000+l.Index)), 64)})
	m.addConnected(&m.obs.Addrs[len(m.obs.Addrs)-1])
}

// sysctlKeys are the parameters that the model knows.
var sysctlKeys = []string{"rp_filter", "src_valid_mark", "arp_ignore", "arp_announce", "promote_secondaries", "arp_notify"}

// foreign lists what is not ours, to see that it stays as it is. Routes that the kernel makes from
// addresses are left out: they come and go with the addresses that we assign. So is what hangs on devices of ours.
func (m *machine) foreign() (routes []netcfg.Route, list []netcfg.Rule, addrs []rules.Addr) {
	for _, r := range m.obs.Routes {
		if !slices.ContainsFunc(r.Nexthops, func(n netcfg.Nexthop) bool { return tunnelName(n.Device) }) && r.Protocol != m.numbers.Protocol && r.Protocol != protoKernel {
			routes = append(routes, r)
		}
	}
	for _, r := range m.obs.Rules {
		if r.Protocol != m.numbers.Protocol {
			list = append(list, r)
		}
	}
	for _, a := range m.obs.Addrs {
		if a.Protocol != m.numbers.Protocol && !tunnelName(a.Device) {
			a.Temporary = false // which of several is primary changes with ours
			addrs = append(addrs, a)
		}
	}
	slices.SortFunc(addrs, func(a, b rules.Addr) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), a.Prefix.Addr().Compare(b.Prefix.Addr()))
	})
	return routes, list, addrs
}
