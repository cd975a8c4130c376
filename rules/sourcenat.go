package rules

import (
	"net/netip"
	"slices"
)

// masquerade gives what meets the conditions an address of the uplink: the one that the kernel takes, or another where that
// would be wrong. Masquerading looks at the subnet of the nexthop alone, never at the preferred source of the route
// (nf_nat_masquerade_ipv4); for neighbours in a network of the device that is right in any case.
func (p *planner) masquerade(u *Uplink, family Family, info PathInfo, srcnat *Chain, why string, conditions ...NftExpr) {
	if !info.RouteSource.IsValid() {
		srcnat.add(why, append(conditions, NftMasquerade{})...)
		return
	}
	if segments := p.segments(u, family); len(segments) > 0 {
		srcnat.add(u.Name+": neighbours see the address that their network has", append(conditions[:len(conditions):len(conditions)], NftAddresses{Dest: true, Prefixes: segments}, NftMasquerade{})...)
	}
	srcnat.add(why, append(conditions, NftSourceNAT{info.RouteSource})...)
}

// correctShared rewrites the source that the kernel has given packets of this machine because a shared route cannot
// name one for each of its nexthops.
func (p *planner) correctShared(u *Uplink, family Family, info PathInfo, srcnat *Chain) {
	if family != IPv4 || !info.RouteSource.IsValid() {
		return
	}
	shared := slices.ContainsFunc(p.state.Routes, func(r Route) bool {
		return r.Family == family && len(r.Nexthops) > 1 && slices.ContainsFunc(r.Nexthops, func(n Nexthop) bool { return n.Device == u.Device })
	})
	natural := kernelSource(addressesToBe(p.obs, p.k, u.Device, u.Family(family)), info.Gateway)
	if !shared || !natural.IsValid() || natural.Addr() == info.RouteSource {
		return
	}
	conditions := []NftExpr{NftDevice{Out: true, Name: u.Device}, NftSource{netip.PrefixFrom(natural.Addr(), natural.Addr().BitLen())}}
	if segments := p.segments(u, family); len(segments) > 0 {
		conditions = append(conditions, NftAddresses{Dest: true, Not: true, Prefixes: segments})
	}
	srcnat.add(u.Name+": not the source that a shared route gives", append(conditions, NftSourceNAT{info.RouteSource})...)
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
	return disjoint(list)
}
