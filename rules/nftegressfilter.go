package rules

import (
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// localNetworks lists the networks that are connected to devices which are no uplinks.
func (p *planner) localNetworks() []netip.Prefix {
	var nets []netip.Prefix
	add := func(device string, address netip.Prefix) {
		if p.isLocal(device, address) {
			nets = append(nets, address.Masked())
		}
	}
	for _, a := range p.obs.Addrs {
		add(a.Device, a.Prefix)
	}
	for _, a := range p.state.Addrs {
		add(a.Device, a.Prefix)
	}
	slices.SortFunc(nets, netip.Prefix.Compare)
	return slices.Compact(nets)
}

// isLocal reports whether an address is one of a local network.
func (p *planner) isLocal(device string, address netip.Prefix) bool {
	if p.devices[device] || !address.Addr().IsGlobalUnicast() {
		return false
	}
	link, _ := p.obs.Link(device)
	return !link.Loopback && !p.keptByUplink(address)
}

// routedNetworks lists the networks that are reached through those, but for those of Observed.Routed.
func (p *planner) routedNetworks() []netip.Prefix {
	var nets []netip.Prefix
	behind := func(n netcfg.Nexthop) bool { return !p.devices[n.Device] }
	add := func(r *netcfg.Route, ours bool) {
		if r.Table == netcfg.TableMain && (r.Protocol == p.k.Protocol) == ours && r.Type == netcfg.Unicast && !r.DefaultLike() && r.Dst.Addr().IsGlobalUnicast() &&
			slices.ContainsFunc(r.Nexthops, behind) {
			nets = append(nets, r.Dst)
		}
	}
	for i := range p.obs.Routes {
		add(&p.obs.Routes[i], false)
	}
	for i := range p.state.Routes { // as they will be
		add(&p.state.Routes[i], true)
	}
	return nets
}

// uplinkSources lists the addresses of all uplinks, each once, by uplink; of IPv6, which is not translated as a rule, their networks.
// Former addresses are among them: no uplink takes those any more.
func (p *planner) uplinkSources() map[Family][]netip.Prefix {
	all := make(map[Family][]netip.Prefix, len(Families))
	seen := make(map[netip.Prefix]bool, len(p.paths))
	add := func(family Family, source netip.Prefix) {
		if !seen[source] {
			seen[source] = true
			all[family] = append(all[family], source)
		}
	}
	p.eachPath(func(u *Uplink, family Family, info PathInfo) {
		for _, source := range p.sourcesBehind(u, family, info) {
			covered := source.IsSingleIP() && slices.ContainsFunc(u.Delegations, func(d Delegation) bool { return d.Prefix.Contains(source.Addr()) })
			if !covered {
				add(family, source)
			}
		}
		for _, source := range p.former[deviceFamily{u.Device, family}] {
			add(family, source)
		}
	})
	for i := range p.cfg.Uplinks {
		if u := &p.cfg.Uplinks[i]; u.IsCLAT() {
			for _, source := range u.CLAT.sources() {
				add(IPv6, source)
			}
		}
	}
	for _, ip := range p.obs.Former {
		add(FamilyOf(ip), netip.PrefixFrom(ip, ip.BitLen()))
	}
	return all
}

// findFormer lists the addresses of uplinks that this plan takes away. That is done once the routes are as they are to be, so
// for a moment they would leave by a router that does not know them (RFC 8028 section 3).
func (p *planner) findFormer() {
	p.former = make(map[deviceFamily][]netip.Prefix)
	for _, a := range p.obs.Addrs {
		if p.devices[a.Device] && p.obs.owns(p.k, a) && !p.assigned(a.Device, a.Prefix) {
			ip := a.Prefix.Addr()
			at := deviceFamily{a.Device, FamilyOf(ip)}
			p.former[at] = append(p.former[at], netip.PrefixFrom(ip, ip.BitLen()))
		}
	}
}

// shortestNetwork bounds what a provider may call the network of an IPv6 uplink: none assigns a link more than a site gets (RFC 6177).
const shortestNetwork = 48

// sourcesBehind lists what may leave by an uplink as it is: its sources and, of IPv6, what hosts of its networks have.
func (p *planner) sourcesBehind(u *Uplink, family Family, info PathInfo) []netip.Prefix {
	sources := p.sources(u, family, info)
	if former := p.former[deviceFamily{u.Device, family}]; len(former) > 0 {
		sources = slices.DeleteFunc(slices.Clone(sources), func(s netip.Prefix) bool { return slices.Contains(former, s) })
	}
	if family != IPv6 {
		return sources
	}
	if p.networks == nil {
		p.findNetworks()
	}
	return append(sources[:len(sources):len(sources)], p.networks[u.ID]...)
}

// findNetworks lists the IPv6 networks that uplinks are connected to. One that two of them are connected to belongs to neither.
func (p *planner) findNetworks() {
	type network struct {
		netip.Prefix
		uplink int
	}
	var all []network
	p.eachPath(func(u *Uplink, family Family, info PathInfo) {
		if family != IPv6 || u.Site {
			return
		}
		former := p.former[deviceFamily{u.Device, IPv6}]
		for _, a := range p.addressesOf(u, family, info) {
			n, removed := network{a.Masked(), u.ID}, slices.Contains(former, netip.PrefixFrom(a.Addr(), 128))
			if a.Bits() >= shortestNetwork && !removed && !slices.Contains(all, n) {
				all = append(all, n)
			}
		}
	})
	p.networks = make(map[int][]netip.Prefix, len(all))
	for _, n := range all {
		shared := slices.ContainsFunc(all, func(o network) bool { return o.uplink != n.uplink && o.Overlaps(n.Prefix) })
		if !n.IsSingleIP() && !shared {
			p.networks[n.uplink] = append(p.networks[n.uplink], n.Prefix)
		}
	}
	for _, list := range p.networks { // one that is assigned comes last at first, and where the kernel lists it later
		slices.SortFunc(list, netcfg.ComparePrefixes)
	}
}

// privateSpace is what no provider routes: the addresses of RFC 1918 and of RFC 4193.
func privateSpace(f Family) []netip.Prefix {
	if f == IPv6 {
		return []netip.Prefix{netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfc}), 7)}
	}
	return []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{10}), 8),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16}), 12),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168}), 16),
	}
}

// sharedSpace is what providers give customers behind a translator of theirs (RFC 6598).
func sharedSpace() netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10) }

// publicOnly reports whether private sources are of no use behind an uplink: it has an address of the Internet. One that has
// private addresses alone leads to a network which may know ours, and so does a tunnel to peers.
func (p *planner) publicOnly(u *Uplink, family Family, info PathInfo) bool {
	if u.Site || u.hasPeers() {
		return false
	}
	own := p.sources(u, family, info)
	if len(own) == 0 {
		return family == IPv6 && (info.LinkLocal || p.getsLinkLocal(u.Device))
	}
	return slices.ContainsFunc(own, func(s netip.Prefix) bool { return !s.Addr().IsPrivate() && !sharedSpace().Contains(s.Addr()) })
}

// translates reports whether what leaves by an uplink gets a source of the uplink, from us or from somebody else.
func (p *planner) translates(u *Uplink, family Family) bool {
	return u.Family(family).Masquerade || family == IPv6 && u.IPv6.PrefixNAT || p.obs.TranslatedBy(u.Device, family) != ""
}

// isWireGuard reports whether an uplink is a tunnel of WireGuard, of which everybody at the other ends is known.
func (p *planner) isWireGuard(u *Uplink) bool {
	return slices.ContainsFunc(p.cfg.Underlays, func(w Underlay) bool { return w.Uplink == u.ID })
}

// beside is what an uplink's device has addresses for beside the provider's: the page of a modem, a line for television.
type beside struct{ sources, networks []netip.Prefix }

// beside lists the private IPv4 addresses of an uplink whose source on the Internet is a public one, and where packets with them may go.
// Masquerading takes such an address when the gateway is in no network of the device (net/ipv4/devinet.c inet_select_addr), as after a
// renumbering until the routes follow.
func (p *planner) beside(u *Uplink, family Family, info PathInfo) beside {
	source := info.Source()
	if a := u.Family(family).Assign; a != nil && len(a.Addresses) > 0 {
		source = a.Addresses[0].Prefix.Addr()
	}
	if family != IPv4 || !source.IsValid() || source.IsPrivate() {
		return beside{}
	}
	var b beside
	for _, a := range p.addressesOf(u, family, info) {
		if a.Addr().IsPrivate() {
			b.sources = append(b.sources, netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
		}
		b.networks = append(b.networks, a.Masked())
	}
	if len(b.sources) == 0 {
		return beside{}
	}
	for _, r := range p.routesOf[deviceFamily{u.Device, family}] {
		b.networks = append(b.networks, r.Dst)
	}
	b.networks = append(b.networks, netip.PrefixFrom(netip.AddrFrom4([4]byte{224}), 4)) // what is on the link hears it
	b.sources, b.networks = inet.Disjoint(b.sources), inet.Disjoint(b.networks)
	return b
}

// filterSources drops what would leave an uplink with a source that is foreign there: an address of another uplink, one that is private and,
// where sources are rewritten, one of a local network. These would leave as they are when connection
// tracking holds a packet for invalid. An address that two uplinks share is foreign to neither. Each uplink has
// a chain for its own sources, and all share the rest: the rules grow with the uplinks, not with their square.
// Egress filters have the same sources.
func (p *planner) filterSources(leaving *branches, chain *nft.Chain) map[string]*egressSources {
	lans, sources := p.localNetworks(), p.uplinkSources()
	var routed []netip.Prefix
	if len(p.obs.Translations) > 0 {
		routed = p.routedNetworks()
		for _, many := range p.obs.Routed {
			for r := range many.Routes() {
				routed = append(routed, r.Dst)
			}
		}
	}
	filters := make(map[string]*egressSources, len(p.cfg.Uplinks))
	devices, rewriting, public := make(map[Family][]string), make(map[Family][]string), make(map[Family][]string)
	p.eachPath(func(u *Uplink, family Family, info PathInfo) {
		c := leaving.of(u, "egress")
		own := inet.Disjoint(p.sourcesBehind(u, family, info))
		beside := p.beside(u, family, info)
		if len(beside.sources) > 0 {
			own = slices.DeleteFunc(own, func(s netip.Prefix) bool { return slices.Contains(beside.sources, s) })
			c.Add("beside the provider", nft.Addresses{Prefixes: beside.sources}, nft.Addresses{Dest: true, Prefixes: beside.networks}, nft.Return{})
			c.Add("the Internet is not for it", nft.Addresses{Prefixes: beside.sources}, nft.Counter{}, nft.Drop{})
		}
		if len(own) > 0 {
			c.Add("its own sources", nft.Addresses{Prefixes: own}, nft.Return{})
		}
		if u.Inherits { // what is translated here has one of those
			c.Add("translated by the other router", nft.SourceTranslated{}, nft.Counter{}, nft.Drop{})
			c.Add("called at the other router", nft.DestinationNAT{}, nft.Counter{}, nft.Drop{})
		}
		filter := filters[u.Device]
		if filter == nil {
			filter = &egressSources{}
			filters[u.Device] = filter
		}
		filter.own, filter.foreign = append(filter.own, own), append(filter.foreign, sources[family])
		filter.beside = append(filter.beside, beside)
		if family == IPv4 {
			for _, n := range p.pathNetworks(u, family, info) {
				if n.Addr().IsPrivate() || n.Bits() >= segmentBits4 { // others may be large parts of the Internet
					filter.networks = append(filter.networks, n)
				}
			}
		}
		devices[family] = append(devices[family], u.Device)
		if p.publicOnly(u, family, info) {
			public[family] = append(public[family], u.Device)
			filter.hidden = append(filter.hidden, privateSpace(family))
		}
		if !u.Family(family).Masquerade && !(family == IPv6 && u.IPv6.PrefixNAT) {
			return
		}
		translated := slices.Clone(inet.OfFamily(lans, family))
		by := p.obs.TranslatedBy(u.Device, family)
		if by != "" { // when they fail, nobody else does it
			translated = append(translated, inet.OfFamily(routed, family)...)
		}
		within := slices.DeleteFunc(slices.Clone(translated), func(net netip.Prefix) bool { return !slices.ContainsFunc(own, net.Overlaps) })
		translated = slices.DeleteFunc(translated, func(net netip.Prefix) bool { return slices.Contains(within, net) })
		if p.isWireGuard(u) {
			// Peers that have called a host by its own address know it, as those of a tunnel do that leads nowhere else.
			for _, part := range inSets(translated) {
				c.Add("an answer to a peer of "+u.Name, nft.Reply{}, nft.Addresses{Prefixes: part}, nft.Return{})
			}
		} else {
			filter.hidden = append(filter.hidden, translated)
		}
		if len(within) == 0 && by == "" {
			rewriting[family] = append(rewriting[family], u.Device)
			return
		}
		for _, part := range inSets(translated) {
			c.Add(u.Name+" hides local networks", append(p.unlessIPsec(), nft.Addresses{Prefixes: part}, nft.Counter{}, nft.Drop{})...)
		}
	})
	p.returnIPsec(chain)
	for _, family := range Families {
		dropForeign(chain, "an uplink's source never leaves by another", devices[family], sources[family])
		p.goneAddresses(chain, devices[family], family)
		p.answers(chain, devices[family], family)
		dropForeign(chain, nft.LocalNetworksAreHidden, rewriting[family], inet.OfFamily(lans, family))
		dropForeign(chain, "private addresses stay here", public[family], privateSpace(family))
		p.transit(chain, devices[family], family, inet.OfFamily(lans, family))
	}
	for i := range leaving.chains {
		if len(chain.Rules) > 0 {
			leaving.chains[i].Add("all others", nft.Goto{Chain: chain.Name})
		}
	}
	return filters
}

// goneAddresses drops what comes in by an uplink for an address of this machine and would leave by one: the address is gone, and answers
// that are still under way to it are not for a host behind the uplink. Another router of the segment may have it now.
func (p *planner) goneAddresses(chain *nft.Chain, devices []string, family Family) {
	var own []netip.Prefix
	p.eachPath(func(u *Uplink, of Family, info PathInfo) {
		if of != family || u.Site || u.hasPeers() {
			return
		}
		for _, a := range p.addressesOf(u, family, info) {
			own = append(own, netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
		}
	})
	names := slices.DeleteFunc(sorted(devices), p.leadsToPeers)
	if len(names) == 0 {
		return
	}
	for _, part := range inSets(inet.Disjoint(own)) {
		chain.Add("an address of ours that is gone", nft.Devices{Names: names}, nft.Devices{Out: true, Names: names}, nft.Addresses{Dest: true, Prefixes: part}, nft.Counter{}, nft.Drop{})
	}
}

// leadsToPeers reports whether a device is that of an uplink whose other ends may send for anybody.
func (p *planner) leadsToPeers(device string) bool {
	return slices.ContainsFunc(p.cfg.Uplinks, func(u Uplink) bool { return u.Device == device && (u.Site || u.hasPeers()) })
}

// answers lets those pass that hosts behind uplinks get: whom they have called by its own address answers with that.
func (p *planner) answers(chain *nft.Chain, devices []string, family Family) {
	for _, part := range inSets(p.networksBehindUplinks(family)) {
		chain.Add("an answer to a host behind an uplink", nft.Devices{Out: true, Names: sorted(devices)}, nft.Addresses{Dest: true, Prefixes: part}, nft.Reply{}, nft.Return{})
	}
}

// transit drops what comes in by an uplink and would leave by one as it came, unless a network behind an uplink or a policy asks for it.
// Else an answer from the Internet goes back to the Internet when the route to the host that it is for is away.
// Kernels before 5.7 do not know in postrouting where a packet came in (net/ipv4/ip_output.c ip_output), and let it pass.
func (p *planner) transit(chain *nft.Chain, devices []string, family Family, lans []netip.Prefix) {
	names := slices.DeleteFunc(sorted(devices), p.leadsToPeers)
	if len(names) == 0 {
		return
	}
	rule := []nft.Expr{nft.Devices{Names: names}, nft.Devices{Out: true, Names: names}}
	behind := p.networksBehindUplinks(family)
	asked := inet.Disjoint(slices.Concat(behind, p.askedTransit(family, lans), unrouted(family)))
	if slices.ContainsFunc(asked, func(net netip.Prefix) bool { return net.Bits() == 0 }) {
		return
	}
	for _, part := range inSets(behind) {
		chain.Add("forwarded to a host behind an uplink", slices.Concat(rule, []nft.Expr{nft.Addresses{Dest: true, Prefixes: part}, nft.DestinationNAT{}, nft.Return{}})...)
	}
	for _, part := range inSets(asked) {
		rule = append(rule, nft.Addresses{Not: true, Prefixes: part})
	}
	chain.Add("nobody asked for it to go on by an uplink", append(rule, nft.Counter{}, nft.Drop{})...)
}

// networksBehindUplinks lists the networks behind uplinks, whose hosts may use this machine as their gateway.
func (p *planner) networksBehindUplinks(family Family) []netip.Prefix {
	var nets []netip.Prefix
	p.eachPath(func(u *Uplink, of Family, info PathInfo) {
		if of != family {
			return
		}
		nets = append(nets, p.pathNetworks(u, family, info)...)
	})
	return nets
}

// pathNetworks lists the networks behind one uplink.
func (p *planner) pathNetworks(u *Uplink, family Family, info PathInfo) []netip.Prefix {
	var nets []netip.Prefix
	for _, a := range p.addressesOf(u, family, info) {
		nets = append(nets, segmentOf(a.Masked(), a.Addr(), false))
	}
	for _, n := range u.peers(family) {
		nets = append(nets, n.Dst)
	}
	for _, r := range p.routesOf[deviceFamily{u.Device, family}] {
		if r.Nexthops[0].Gateway.IsValid() || !wide(r) {
			nets = append(nets, r.Dst)
		}
	}
	return nets
}

// askedTransit lists public sources of policies that no local network has: they may go from uplink to uplink too.
func (p *planner) askedTransit(family Family, lans []netip.Prefix) []netip.Prefix {
	var nets []netip.Prefix
	for i := range p.cfg.Policies {
		for _, source := range p.cfg.Policies[i].Select.sources() {
			if FamilyOf(source.Addr()) == family && !source.Addr().IsPrivate() && !slices.ContainsFunc(lans, source.Overlaps) {
				nets = append(nets, source)
			}
		}
	}
	return nets
}

// unrouted is what this machine itself sends before it has an address, and to neighbours: multicast listener reports and the like come
// here with the device that they leave by as the one that they came in by (net/ipv6/mcast.c mld_newpack).
func unrouted(f Family) []netip.Prefix {
	if f == IPv6 {
		return []netip.Prefix{netip.PrefixFrom(netip.IPv6Unspecified(), 128), netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfe, 0x80}), 10)}
	}
	return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 32), netip.PrefixFrom(netip.AddrFrom4([4]byte{169, 254}), 16)}
}

// dropForeign drops sources that would leave by one of the devices.
func dropForeign(c *nft.Chain, why string, devices []string, sources []netip.Prefix) {
	if len(devices) == 0 || len(sources) == 0 {
		return
	}
	out := nft.Devices{Out: true, Names: sorted(devices)}
	for _, part := range inSets(sources) {
		c.Add(why, out, nft.Addresses{Prefixes: part}, nft.Counter{}, nft.Drop{})
	}
}

// unlessIPsec is the condition that no IPsec policy covers the packet: it would leave within another one, of this machine's.
func (p *planner) unlessIPsec() []nft.Expr {
	if !p.obs.XFRM {
		return nil
	}
	return []nft.Expr{nft.IPsec{Not: true}}
}

// returnIPsec leaves alone what an IPsec policy covers.
func (p *planner) returnIPsec(c *nft.Chain) {
	if p.obs.XFRM {
		c.Add("an IPsec policy covers it", nft.IPsec{}, nft.Return{})
	}
}
