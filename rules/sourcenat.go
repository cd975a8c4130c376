package rules

import (
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// masquerade gives what meets the conditions an address of the uplink: the one that the kernel takes, or another where that
// would be wrong. Masquerading looks at the subnet of the nexthop alone, never at the preferred source of the route
// (nf_nat_masquerade_ipv4); for neighbours in a network of the device that is right in any case. It forgets the connections of an address that goes
// (masq_inet_event), and those by an address that another router takes over are needed until the last packet has come by that one.
func (p *planner) masquerade(u *Uplink, family Family, info PathInfo, srcnat *nft.Chain, why string, conditions ...nft.Expr) {
	to := info.RouteSource
	if !to.IsValid() && u.Shared && family == IPv4 {
		to = info.Source()
	}
	if !to.IsValid() {
		srcnat.Add(why, append(conditions, nft.Masquerade{})...)
		return
	}
	segments := slices.DeleteFunc(p.segments(u, family), func(s netip.Prefix) bool { return u.Shared && s.Contains(to) })
	if len(segments) > 0 {
		srcnat.Add(u.Name+": neighbours see the address that their network has", append(conditions[:len(conditions):len(conditions)], nft.Addresses{Dest: true, Prefixes: segments}, nft.Masquerade{})...)
	}
	srcnat.Add(why, append(conditions, nft.SourceNAT{To: to})...)
}

// correctShared rewrites the source that the kernel has given packets of this machine because a shared route cannot
// name one for each of its nexthops.
func (p *planner) correctShared(u *Uplink, family Family, info PathInfo, srcnat *nft.Chain) {
	if family != IPv4 || !info.RouteSource.IsValid() {
		return
	}
	shared := slices.ContainsFunc(p.state.Routes, func(r netcfg.Route) bool {
		return r.Family == family && len(r.Nexthops) > 1 && slices.ContainsFunc(r.Nexthops, func(n netcfg.Nexthop) bool { return n.Device == u.Device })
	})
	natural := kernelSource(addressesToBe(p.obs, p.k, u.Device, u.Family(family)), info.Gateway)
	if !shared || !natural.IsValid() || natural.Addr() == info.RouteSource {
		return
	}
	conditions := []nft.Expr{nft.Device{Out: true, Name: u.Device}, nft.Source{Prefix: netip.PrefixFrom(natural.Addr(), natural.Addr().BitLen())}}
	if segments := p.segments(u, family); len(segments) > 0 {
		conditions = append(conditions, nft.Addresses{Dest: true, Not: true, Prefixes: segments})
	}
	srcnat.Add(u.Name+": not the source that a shared route gives", append(conditions, nft.SourceNAT{To: info.RouteSource})...)
}

// segments lists the networks that a device is connected to.
func (p *planner) segments(u *Uplink, family Family) []netip.Prefix {
	var list []netip.Prefix
	add := func(segment netip.Prefix) {
		if FamilyOf(segment.Addr()) == family && !segment.IsSingleIP() {
			list = append(list, segment)
		}
	}
	for i := range p.obs.Addrs {
		if a := &p.obs.Addrs[i]; a.Device == u.Device && !a.LinkScope && a.Prefix.Addr().IsGlobalUnicast() {
			add(segmentOf(a.segment(), a.Prefix.Addr(), false))
		}
	}
	if a := u.Family(family).Assign; a != nil {
		for _, address := range a.Addresses {
			add(segmentOf(address.Prefix.Masked(), address.Prefix.Addr(), false))
		}
	}
	return inet.Disjoint(list)
}
