package rules

import (
	"fmt"
	"net/netip"
	"slices"
)

// An uplink whose provider delegates nothing may have a /64 all to itself: on a point-to-point line nobody else is in it, and the provider
// sends by the line whatever is for it. That network goes to a LAN, and this machine keeps single addresses of it (RFC 7278 section 4.3). On
// Ethernet the provider's router asks for each host by neighbour discovery, and nobody would answer.

// share takes from an uplink the delegations that it cannot share, and leaves it single addresses in the others.
func (o *inputCheck) share(u *Uplink) {
	link, present := o.obs.Link(u.Device)
	u.Delegations = slices.DeleteFunc(u.Delegations, func(d Delegation) bool {
		if !d.Shared || !present || link.NoNeighbours { // hosts have it while the device is away
			return false
		}
		o.problems = append(o.problems, Problem{"share-ethernet", "warning",
			fmt.Sprintf("%s cannot share %v with a LAN: %s is no point-to-point device, and hosts behind this machine would not be found there", u.Name, d.Prefix, u.Device),
			"ask the provider for a delegation (DHCPv6-PD) and set delegation = true in the place of share; or masquerade = true in its [uplink.ipv6]"})
		return true
	})
	a := u.IPv6.Assign
	if a == nil || !slices.ContainsFunc(a.Addresses, func(address Address) bool { return u.shares(address.Prefix.Addr()) }) {
		return
	}
	single := *a
	single.Addresses = slices.Clone(a.Addresses)
	for i := range single.Addresses {
		if address := &single.Addresses[i]; u.shares(address.Prefix.Addr()) {
			address.Prefix = netip.PrefixFrom(address.Prefix.Addr(), 128)
		}
	}
	u.IPv6.Assign = &single
}

// shares reports whether an address is in a network that the uplink shares with a LAN.
func (u *Uplink) shares(a netip.Addr) bool {
	return slices.ContainsFunc(u.Delegations, func(d Delegation) bool { return d.Shared && d.Prefix.Contains(a) })
}

// answerFor has hosts find the single addresses that an uplink keeps of a LAN's network: they look for them among their neighbours. Duplicate
// address detection finds out on the LAN, too, whether a host has one of them.
func (p *planner) answerFor(s *Subnet) {
	u := p.uplink(s.Uplink)
	if !s.Delegation.Shared || u.IPv6.Assign == nil {
		return
	}
	for _, a := range u.IPv6.Assign.Addresses {
		if s.Prefix.Contains(a.Prefix.Addr()) {
			p.assign(s.Device, a.Prefix, a.Deprecated)
		}
	}
}

// keptByUplink reports whether an address is one of those, which is an uplink's wherever it stands.
func (p *planner) keptByUplink(address netip.Prefix) bool {
	return address.IsSingleIP() && slices.ContainsFunc(p.cfg.Uplinks, func(u Uplink) bool { return u.shares(address.Addr()) })
}
