package rules

import (
	"net/netip"
	"slices"
)

// borrows reports whether an uplink without a global address has one to send with all the same: of its delegation, or, where
// another program deals prefixes out, of a device that is no uplink (RFC 7084 WAA-7). An address that another uplink's
// provider routes is none: no other provider takes it, and it would never come back.
func borrows(cfg Config, obs *Observed, u *Uplink) bool {
	return len(u.usableDelegations()) > 0 || slices.ContainsFunc(obs.Addrs, func(a Addr) bool {
		ip := a.Prefix.Addr()
		return ip.Is6() && !a.Tentative && !a.LinkScope && ip.IsGlobalUnicast() && !ip.IsPrivate() && !obs.owns(cfg.Kernel, a) &&
			!slices.ContainsFunc(cfg.Uplinks, func(o Uplink) bool { return o.Device == a.Device || o.ID != u.ID && o.routes(ip, obs) })
	})
}

// routes reports whether the provider of an uplink is known to route an address: by a delegation, or because it is of
// the network of the uplink's device.
func (u *Uplink) routes(ip netip.Addr, obs *Observed) bool {
	return slices.ContainsFunc(u.Delegations, func(d Delegation) bool { return d.Prefix.Contains(ip) }) ||
		slices.ContainsFunc(obs.Addrs, func(a Addr) bool { return a.Device == u.Device && a.Prefix.Masked().Contains(ip) })
}

// routesInternet reports whether a path is one to the Internet: it has a default, and packets can leave with a source that belongs
// to it. The kernel gives what leaves without one, and what is masqueraded, the address of some other device (RFC 6724
// section 5; inet_select_addr in net/ipv4/devinet.c): its provider drops that, and so does our own egress filter.
func (p *planner) routesInternet(u *Uplink, family Family, info PathInfo) bool {
	if !info.Up || !info.HasDefault {
		return false
	}
	if family == IPv4 {
		a := u.Family(family)
		return a.source().IsValid() || info.Source().IsValid()
	}
	return info.Borrows || len(p.addressesOf(u, family, info)) > 0
}
