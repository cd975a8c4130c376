package rules

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// An uplink whose provider delegates nothing may give the network of its own line, a /64, to a LAN, and keep single addresses of it. On a
// point-to-point line nobody else is in it, and the provider sends by the line whatever is for it (RFC 7278 section 4.3). On Ethernet its
// router asks for each host by neighbour discovery, and other hosts may be in the network too: the kernel answers on each side for the
// addresses that are on the other (RFC 4389), and knows the way to those on the line one by one.

// ProxiedHosts are the addresses of a network that is on two links.
type ProxiedHosts struct {
	LAN, Line []netip.Addr // on the LAN, and on the uplink's own line
}

// sharedNetworks lists the networks of the uplink's line that it gives to a LAN.
func (u *Uplink) sharedNetworks() (list []netip.Prefix) {
	for _, d := range u.Delegations {
		if d.Shared {
			list = append(list, d.Prefix)
		}
	}
	return list
}

// share leaves an uplink single addresses in the networks that it gives to a LAN, if any LAN wants them.
func (u *Uplink) share(lans []LAN) {
	if !slices.ContainsFunc(lans, func(lan LAN) bool { return slices.Contains(lan.From, u.ID) }) {
		return
	}
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

// proxies reports whether a network of the uplink's line is on both links.
func (p *planner) proxies(u *Uplink, d Delegation) bool {
	link, present := p.obs.Link(u.Device)
	return d.Shared && present && !link.NoNeighbours
}

// ownIn lists the addresses that an uplink keeps of a network.
func (u *Uplink) ownIn(network netip.Prefix) (own []Address) {
	if u.IPv6.Assign == nil {
		return nil
	}
	for _, a := range u.IPv6.Assign.Addresses {
		if network.Contains(a.Prefix.Addr()) {
			own = append(own, a)
		}
	}
	return own
}

// routerIn is the address that hosts of a LAN find this machine by in a part of a delegation. On Ethernet the provider's router has the first
// one, mostly.
func (p *planner) routerIn(u *Uplink, d Delegation, subnet netip.Prefix) netip.Addr {
	if own := u.ownIn(subnet); p.proxies(u, d) && len(own) > 0 {
		return own[0].Prefix.Addr()
	}
	return RouterAddress(subnet)
}

// shareLine gives a LAN the network of an uplink's line. Hosts find the single addresses that the uplink keeps of it: they look for them among
// their neighbours. Duplicate address detection finds out on the LAN, too, whether a host has one of them.
func (p *planner) shareLine(s *Subnet) {
	u := p.uplink(s.Uplink)
	lan, there := p.obs.Link(s.Device)
	if s.Proxied && there && lan.Up {
		p.state.Routes = append(p.state.Routes, p.connected(netcfg.TableMain, s.Device, s.Prefix, s.Router))
	}
	if p.cfg.LANsElsewhere { // the other router of a pair has the addresses, and answers
		return
	}
	for _, a := range u.ownIn(s.Prefix) {
		p.assign(s.Device, a.Prefix, a.Deprecated)
	}
	if !s.Proxied || !there {
		return
	}
	answer := func(device string, addresses []netip.Addr) {
		for _, a := range addresses {
			theirs := slices.ContainsFunc(p.obs.Proxied, func(o netcfg.ProxyNeighbour) bool {
				return o.Device == device && o.Addr == a && o.Protocol != p.k.Protocol
			})
			if s.Prefix.Contains(a) && !p.obs.isOurs(a, "") && !theirs {
				p.state.Proxied = append(p.state.Proxied, netcfg.ProxyNeighbour{Device: device, Addr: a, Protocol: p.k.Protocol})
			}
		}
	}
	answer(u.Device, u.Proxied.LAN)
	answer(s.Device, u.Proxied.Line)
	for _, a := range u.Proxied.Line {
		if s.Prefix.Contains(a) && p.info(u, IPv6).Up {
			for _, table := range []uint32{netcfg.TableMain, p.k.Table(u.ID)} {
				p.state.Routes = append(p.state.Routes, p.connected(table, u.Device, netip.PrefixFrom(a, a.BitLen()), a))
			}
		}
	}
	for _, device := range []string{u.Device, s.Device} {
		for name, value := range proxySysctls(device) {
			if _, known := p.obs.Sysctls[name]; known {
				p.state.Sysctls = append(p.state.Sysctls, netcfg.Sysctl{Name: name, Value: value, Why: fmt.Sprintf("%v is on %s and on %s: neighbours on each are answered for those on the other", s.Prefix, u.Device, s.Device)})
			}
		}
	}
}

const proxyDelay = "/proxy_delay"

// proxySysctls are the parameters by which a device answers at once for the addresses that it shall answer for: the kernel takes up to
// 0.8 s by itself.
func proxySysctls(device string) map[string]string {
	return map[string]string{devSysctl6(device, "proxy_ndp"): "1", "net/ipv6/neigh/" + device + proxyDelay: "0"}
}

// keptByUplink reports whether an address is one of those, which is an uplink's wherever it stands.
func (p *planner) keptByUplink(address netip.Prefix) bool {
	return address.IsSingleIP() && slices.ContainsFunc(p.cfg.Uplinks, func(u Uplink) bool { return u.shares(address.Addr()) })
}
