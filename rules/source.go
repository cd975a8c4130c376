package rules

import (
	"net/netip"
	"slices"
)

// findSource settles which address new packets leave by the path with: the one that is configured or leased, else the
// one that the default route of others prefers, else the one that the kernel takes by itself. Any other address of the
// device, such as one for the page of a modem, is foreign to the provider.
func (info *PathInfo) findSource(family Family, a Addressing, device string, obs *Observed, k Kernel, foreign foreignDefault) {
	natural := kernelSource(addressesToBe(obs, k, device, a), info.Gateway)
	switch assigned := a.source(); {
	case assigned.IsValid():
		info.NoSource = !info.prefer(assigned)
		if family == IPv4 && natural != assigned || family == IPv6 && !info.NoSource && obs.hasRival(device, assigned.Addr()) {
			info.RouteSource = assigned.Addr()
		}
		return
	case a.Managed && (a.Assign == nil || family == IPv4 && len(a.Assign.Addresses) == 0):
		info.NoSource = true
		return
	}
	if src := foreign.source(); src.IsValid() {
		if at := obs.holder(src, device); at.IsValid() {
			if !info.prefer(at) {
				info.Addresses = slices.Insert(slices.Clone(info.Addresses), 0, netip.PrefixFrom(src, src.BitLen()))
			}
			if natural.Addr() != src {
				info.RouteSource = src
			}
			return
		}
	}
	if family != IPv4 || natural.IsValid() && info.prefer(natural) || !info.HasDefault {
		return
	}
	// A device without an address borrows one of lo first (inet_select_addr): an unnumbered line.
	if borrowed := borrowedSource(obs); len(info.Addresses) == 0 && borrowed.IsValid() {
		info.Addresses = []netip.Prefix{borrowed}
	}
}

// prefer puts an address first, and reports whether it is there.
func (info *PathInfo) prefer(address netip.Prefix) bool {
	i := slices.IndexFunc(info.Addresses, func(have netip.Prefix) bool { return have.Addr() == address.Addr() })
	if i > 0 {
		preferred := info.Addresses[i]
		info.Addresses = slices.Insert(slices.Delete(slices.Clone(info.Addresses), i, i+1), 0, preferred)
	}
	return i >= 0
}

// hasRival reports whether the kernel might choose another IPv6 address of the device for the Internet (RFC 6724).
func (o *Observed) hasRival(device string, address netip.Addr) bool {
	return slices.ContainsFunc(o.Addrs, func(a Addr) bool {
		ip := a.Prefix.Addr()
		return a.Device == device && ip.Is6() && ip != address && !a.LinkScope && !a.Tentative && !a.Deprecated && ip.IsGlobalUnicast() && !ip.IsPrivate() && !compatible(ip)
	})
}

// source returns the address that new packets are to have because it is configured or leased. Of what router
// advertisements give, the kernel chooses for each destination (RFC 6724).
func (a *Addressing) source() netip.Prefix {
	if a.Assign == nil || a.Discovers {
		return netip.Prefix{}
	}
	for _, address := range a.Assign.Addresses {
		if !address.Deprecated {
			return address.Prefix
		}
	}
	return netip.Prefix{}
}

// source returns the preferred source of the route (RTA_PREFSRC). The nexthops of a shared route have one for all, which
// fits whoever has the address.
func (d foreignDefault) source() netip.Addr {
	if d.Route == nil {
		return netip.Addr{}
	}
	return d.Src
}

// holder returns an address of this machine as it stands on a device, or else on any other: lo, mostly, or a network
// behind this machine that has addresses of the provider.
func (o *Observed) holder(address netip.Addr, device string) netip.Prefix {
	var found netip.Prefix
	for _, a := range o.Addrs {
		if a.Prefix.Addr() == address && !a.Tentative && (a.Device == device || !found.IsValid()) {
			found = a.Prefix
		}
	}
	return found
}

// addressesToBe lists the IPv4 addresses of a device in the kernel's order, as they are once the plan is carried out.
func addressesToBe(obs *Observed, k Kernel, device string, a Addressing) []Addr {
	wanted := func(p netip.Prefix) bool {
		return a.Assign != nil && slices.ContainsFunc(a.Assign.Addresses, func(w Address) bool { return w.Prefix == p })
	}
	var list []Addr
	for _, have := range obs.Addrs {
		if have.Device == device && have.Prefix.Addr().Is4() && (wanted(have.Prefix) || !obs.owns(k, have)) {
			list = append(list, have)
		}
	}
	if a.Assign == nil {
		return list
	}
	for _, w := range a.Assign.Addresses {
		if !w.Prefix.Addr().Is4() || slices.ContainsFunc(list, func(have Addr) bool { return have.Prefix == w.Prefix }) {
			continue
		}
		second := slices.ContainsFunc(list, func(have Addr) bool {
			return have.Prefix.Bits() == w.Prefix.Bits() && have.Prefix.Masked() == w.Prefix.Masked()
		})
		list = append(list, Addr{Device: device, Prefix: w.Prefix, Temporary: second})
	}
	return list
}

// kernelSource returns the IPv4 address that the kernel gives packets of a route without a preferred source, and of
// masquerading: the first primary one in whose subnet the gateway lies, else the first (inet_select_addr in
// net/ipv4/devinet.c).
func kernelSource(addrs []Addr, gateway netip.Addr) netip.Prefix {
	var first netip.Prefix
	for _, a := range addrs {
		if a.Temporary || a.LinkScope { // Temporary: secondary
			continue
		}
		if gateway.IsValid() && a.segment().Contains(gateway) {
			return a.Prefix
		}
		if !first.IsValid() {
			first = a.Prefix
		}
	}
	return first
}

// segment is the network that an address makes the device's own.
func (a *Addr) segment() netip.Prefix {
	if a.Peer.IsValid() {
		return a.Peer.Masked()
	}
	return a.Prefix.Masked()
}

// borrowedSource returns the IPv4 address of lo that devices without one use; zero: lo has none for others.
func borrowedSource(obs *Observed) netip.Prefix {
	for _, a := range obs.Addrs {
		if link, ok := obs.Link(a.Device); ok && link.Loopback && a.Prefix.Addr().Is4() && !a.LinkScope && a.Prefix.Addr().IsGlobalUnicast() {
			return netip.PrefixFrom(a.Prefix.Addr(), a.Prefix.Addr().BitLen())
		}
	}
	return netip.Prefix{}
}
