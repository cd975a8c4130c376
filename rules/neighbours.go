package rules

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// The shortest prefixes of connected networks that are taken for a segment of neighbours. What is shorter, such as a
// lease with the mask of a class A network, covers parts of the Internet that other uplinks carry.
const (
	segmentBits4 = 20
	segmentBits6 = 64
)

// nearBits is how much of a larger IPv4 network around our own address counts as its segment all the same: the page of a
// modem at 10.0.0.138/8 is near.
const nearBits = 24

// RTPROT_* of linux/rtnetlink.h: routes that come and go with addresses, with router advertisements, with leases.
const (
	protocolKernel = 2
	protocolRA     = 9
	protocolDHCP   = 16
)

// NeighbourTable is the table that takes main's place for what lies behind uplink devices, when main has connected
// networks there that would take what others carry.
func (k Kernel) NeighbourTable() uint32 {
	if t := k.TableBase + MaxUplinks + 1; t < tableDefault || t > tableLocal {
		return t
	}
	return k.TableBase - 1
}

// wide reports whether a route leads to more than a segment can be.
func wide(r *netcfg.Route) bool {
	if r.Family == IPv4 {
		return r.Dst.Bits() < segmentBits4
	}
	return r.Dst.Bits() < segmentBits6
}

// segmentOf returns what of a network that an uplink's device is connected to may be reached there by everybody: zero for
// nothing. Of IPv6, what router advertisements say to be on the link is for the uplink's own packets alone: any number
// of prefixes can be said to be, and from elsewhere each is reached by the way that is the best.
func segmentOf(network netip.Prefix, address netip.Addr, advertised bool) netip.Prefix {
	switch {
	case !address.IsValid() || advertised && address.Is6():
		return netip.Prefix{}
	case network.Addr().Is4() && network.Bits() < segmentBits4:
		return netip.PrefixFrom(address, nearBits).Masked()
	case network.Addr().Is6() && network.Bits() < segmentBits6:
		return netip.PrefixFrom(address, segmentBits6).Masked()
	}
	return network.Masked()
}

// withoutConnected reports whether an address that we assign is to be no neighbour to anybody but the uplink's own packets.
// The network of a tunnel is its owner's.
func withoutConnected(u *Uplink, family Family, address netip.Prefix) bool {
	return !u.Site && !u.hasPeers() && !address.IsSingleIP() && segmentOf(address.Masked(), address.Addr(), u.Family(family).Discovers) != address.Masked()
}

// neighbourNetworks replaces what main says of uplink devices where that covers too much: by a table with the routes that
// others have put there, and with the segments of the uplinks' addresses. It is looked up in main's place.
func (p *planner) neighbourNetworks() {
	for _, family := range Families {
		if !p.based[family.Index()] || !p.tooWide(family) {
			continue
		}
		routes, less := p.behindUplinks(family)
		if !less {
			continue
		}
		p.state.Routes = append(p.state.Routes, routes...)
		for i := range p.state.Rules {
			if r := &p.state.Rules[i]; r.Family == family && r.Table == netcfg.TableMain && p.k.looksUpNetworks(r) {
				r.Table, r.SuppressPrefixLen = p.k.NeighbourTable(), -1
			}
		}
	}
}

// tooWide reports whether a network that an uplink's device is connected to, or will be, is more than a segment. Mostly
// none is, and nothing needs to be copied.
func (p *planner) tooWide(family Family) bool {
	for i := range p.obs.Routes {
		r := &p.obs.Routes[i]
		if r.Family != family || r.Table != netcfg.TableMain || r.DefaultLike() || len(r.Nexthops) != 1 || r.Nexthops[0].Gateway.IsValid() || !p.devices[r.Nexthops[0].Device] {
			continue
		}
		if address, advertised, connected := p.connectedBy(r); connected && segmentOf(r.Dst, address, advertised) != r.Dst {
			return true
		}
	}
	return slices.ContainsFunc(p.paths, func(at plannedPath) bool {
		a := at.u.Family(at.family).Assign
		return at.family == family && a != nil && slices.ContainsFunc(a.Addresses, func(w Address) bool { return withoutConnected(at.u, family, w.Prefix) })
	})
}

// behindUplinks lists the routes of the table in main's place, and reports whether they are less than main has.
func (p *planner) behindUplinks(family Family) (routes []netcfg.Route, less bool) {
	taken := make(map[netcfg.RouteKey]bool)
	add := func(r netcfg.Route) {
		r.Table, r.Protocol = p.k.NeighbourTable(), p.k.Protocol
		if key := r.Key(); !taken[key] {
			taken[key] = true
			routes = append(routes, r)
		}
	}
	provided := make(map[string]bool, len(p.cfg.Uplinks)) // devices whose networks come from providers
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		provided[u.Device] = !u.Site && !u.hasPeers()
	}
	// Whatever device is in the link group, the rule for local networks passes over.
	behind := func(n netcfg.Nexthop) bool {
		link, _ := p.obs.Link(n.Device)
		return p.devices[n.Device] || link.Group == p.k.LinkGroup
	}
	consider := func(r *netcfg.Route) {
		if r.Family != family || r.Table != netcfg.TableMain || r.Type != netcfg.Unicast || r.DefaultLike() || r.Dst.Addr().IsLinkLocalUnicast() || !slices.ContainsFunc(r.Nexthops, behind) {
			return
		}
		c := *r
		c.Nexthops = slices.Clone(r.Nexthops)
		address, advertised, connected := p.connectedBy(r)
		if connected && provided[r.Nexthops[0].Device] {
			whole := c.Dst
			c.Dst = segmentOf(whole, address, advertised)
			less = less || c.Dst != whole
			if c.Dst != whole && family == IPv4 {
				kept := "nothing of it"
				if c.Dst.IsValid() {
					kept = "only " + c.Dst.String()
				}
				p.problemOnce("wide-network", "notice",
					fmt.Sprintf("the network %v of uplink device %s covers destinations of other uplinks: %s is treated as on-link", whole, r.Nexthops[0].Device, kept),
					"nothing, unless hosts there are unreachable: then set the netmask that the network really has")
			}
			if !c.Dst.IsValid() || c.Dst.IsSingleIP() && c.Dst.Addr() == address {
				return
			}
		}
		for i := range c.Nexthops {
			n := &c.Nexthops[i]
			if n.Gateway.IsValid() && p.obs.isOurs(n.Gateway, n.Device) {
				return
			}
			n.Onlink = n.Onlink || uncovered(n.Gateway, p.neighbours[deviceFamily{n.Device, family}])
		}
		add(c)
	}
	for i := range p.obs.Routes {
		consider(&p.obs.Routes[i])
	}
	ours := len(p.state.Routes) // peers of tunnels
	for i := range ours {
		if r := &p.state.Routes[i]; r.Table == netcfg.TableMain && !slices.ContainsFunc(p.obs.Routes, r.Equal) {
			consider(r)
		}
	}
	p.eachPath(func(u *Uplink, f Family, info PathInfo) {
		a := u.Family(f).Assign
		if f != family || a == nil || !info.Up {
			return
		}
		for _, address := range a.Addresses {
			near := address.Prefix.Masked()
			if withoutConnected(u, f, address.Prefix) {
				near = segmentOf(near, address.Prefix.Addr(), u.Family(f).Discovers)
			}
			less = less || near.IsValid() && near != address.Prefix.Masked()
			if near.IsValid() && !near.IsSingleIP() {
				add(p.connected(0, u.Device, near, address.Prefix.Addr()))
			}
		}
	})
	return routes, less
}

// connectedBy tells whether a route is one that came with an address of its device, or with a router's word that the
// network is on the link, and which address that is; zero: none.
func (p *planner) connectedBy(r *netcfg.Route) (address netip.Addr, advertised, connected bool) {
	if len(r.Nexthops) != 1 || r.Nexthops[0].Gateway.IsValid() || r.Protocol == p.k.Protocol {
		return netip.Addr{}, false, false
	}
	switch r.Protocol {
	case protocolKernel, protocolRA, protocolDHCP:
		connected = true
	}
	for i := range p.obs.Addrs {
		a := &p.obs.Addrs[i]
		if a.Device != r.Nexthops[0].Device || a.segment() != r.Dst || address.IsValid() && !(advertised && !a.Dynamic) && a.Prefix.Addr() != r.Src {
			continue
		}
		address, advertised, connected = a.Prefix.Addr(), a.Dynamic, true
	}
	// systemd-networkd has a route to the gateway itself. It leads to a host of a segment that is there anyway.
	for k := 0; connected && !address.IsValid() && r.Dst.IsSingleIP() && k < len(p.obs.Addrs); k++ {
		a := &p.obs.Addrs[k]
		if a.Device == r.Nexthops[0].Device && segmentOf(a.segment(), a.Prefix.Addr(), a.Dynamic).Contains(r.Dst.Addr()) {
			address = a.Prefix.Addr()
		}
	}
	return address, advertised, connected
}

// ownedNetwork is a network that a device takes for its own, or leads to.
type ownedNetwork struct {
	netip.Prefix
	device string
	uplink bool // the device is an uplink's
	routed bool // by a gateway behind the device
}

// overlaps names the networks that an uplink and a LAN, or two uplinks, both take for theirs. Where one is the smaller, its
// hosts are found; those of the larger one are not among them. Two uplinks in one and the same network are twins.
func (p *planner) overlaps() {
	networks := p.ownedNetworks()
	slices.SortFunc(networks, func(a, b ownedNetwork) int {
		return cmp.Or(a.Compare(b.Prefix), strings.Compare(a.device, b.device))
	})
	var around []ownedNetwork // those that cover the present one, the widest first
	for _, inner := range networks {
		for len(around) > 0 && !around[len(around)-1].Contains(inner.Addr()) {
			around = around[:len(around)-1]
		}
		for _, outer := range around {
			if outer.device == inner.device {
				continue
			}
			if same := outer.Bits() == inner.Bits(); same && outer.uplink && !inner.uplink {
				p.overlap(inner, outer)
			} else {
				p.overlap(outer, inner)
			}
		}
		around = append(around, inner)
	}
}

// overlap names a network that covers another one, or is the same.
func (p *planner) overlap(outer, inner ownedNetwork) {
	switch {
	case outer.uplink && inner.uplink && outer.Bits() < inner.Bits():
		p.problemOnce("network-overlap", "notice",
			fmt.Sprintf("the network %v of %s covers %v of %s: hosts there are reached through %s", outer.Prefix, outer.device, inner.Prefix, inner.device, inner.device),
			"nothing, unless hosts there are unreachable: then renumber one of the two")
	case !outer.uplink && inner.uplink:
		where := "behind"
		if outer.routed {
			where = "which is reached through"
		}
		p.problemOnce("network-overlap", "warning",
			fmt.Sprintf("the network %v of uplink device %s lies within %v %s %s: hosts there are looked up on the wrong interface", inner.Prefix, inner.device, outer.Prefix, where, outer.device),
			"renumber the LAN, or the modem")
	}
}

// ownedNetworks lists the networks that uplinks are connected to, and those that cover one: what other devices are connected to, and
// what is reached by gateways behind these.
func (p *planner) ownedNetworks() []ownedNetwork {
	loopback := make(map[string]bool, 1)
	for i := range p.obs.Links {
		if p.obs.Links[i].Loopback {
			loopback[p.obs.Links[i].Name] = true
		}
	}
	connected := func(a *Addr) bool {
		return !a.LinkScope && !loopback[a.Device] && a.Prefix.Addr().IsGlobalUnicast() && !a.segment().IsSingleIP()
	}
	var list []ownedNetwork
	for i := range p.obs.Addrs {
		if a := &p.obs.Addrs[i]; p.devices[a.Device] && connected(a) {
			list = append(list, ownedNetwork{Prefix: a.segment(), device: a.Device, uplink: true})
		}
	}
	slices.SortFunc(list, func(a, b ownedNetwork) int { return netcfg.ComparePrefixes(a.Prefix, b.Prefix) })
	ofUplinks := list
	add := func(n ownedNetwork) {
		// What a network covers does not stand before it, and nothing else is between.
		at, _ := slices.BinarySearchFunc(ofUplinks, n.Prefix, func(u ownedNetwork, p netip.Prefix) int { return netcfg.ComparePrefixes(u.Prefix, p) })
		if at < len(ofUplinks) && n.Contains(ofUplinks[at].Addr()) {
			list = append(list, n)
		}
	}
	for i := range p.obs.Addrs {
		if a := &p.obs.Addrs[i]; !p.devices[a.Device] && connected(a) {
			add(ownedNetwork{Prefix: a.segment(), device: a.Device})
		}
	}
	for i := range p.obs.Routes {
		r := &p.obs.Routes[i]
		if r.Table != netcfg.TableMain || r.Type != netcfg.Unicast || len(r.Nexthops) == 0 || r.Dst.IsSingleIP() || r.DefaultLike() {
			continue
		}
		if n := &r.Nexthops[0]; n.Gateway.IsValid() && !p.devices[n.Device] {
			add(ownedNetwork{Prefix: r.Dst, device: n.Device, routed: true})
		}
	}
	for _, n := range ofUplinks {
		routed := p.obs.Routed[FamilyOf(n.Addr()).Index()]
		for i := range routed.covering(n.Prefix) {
			if r := routed.route(i); r.Nexthops[0].Gateway.IsValid() {
				list = append(list, ownedNetwork{Prefix: r.Dst, device: r.Nexthops[0].Device, routed: true})
			}
		}
	}
	return list
}
