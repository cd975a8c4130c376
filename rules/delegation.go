package rules

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Delegation is an IPv6 prefix that the provider of an uplink routes to us (RFC 9915 section 6.3).
type Delegation struct {
	Prefix     netip.Prefix // masked
	Exclude    netip.Prefix // what the provider keeps of it (RFC 6603); zero: nothing
	Deprecated bool         // its preferred lifetime is over
	// Elsewhere is true while another router than the one in use has given it, which would drop what has such a source
	// (RFC 8028 section 3).
	Elsewhere bool
	// Shared is true for the network of the uplink's own link, which is to serve a LAN (RFC 7278).
	Shared bool
	// Configured is true for a prefix that the owner says is routed here; others are leased, and checked.
	Configured bool
}

// lanBits is the length of a LAN's prefix: what hosts need to make addresses of their own (RFC 4862).
const lanBits = 64

// Subnet returns the /64 with a number, counted from 0. It is false when the delegation is too small for
// that, or keeps this one for the provider.
func (d Delegation) Subnet(id int) (netip.Prefix, bool) {
	bits := d.Prefix.Bits()
	if bits > lanBits || id < 0 || bits > 0 && uint64(id)>>min(lanBits-bits, 63) != 0 {
		return netip.Prefix{}, false
	}
	b := d.Prefix.Masked().Addr().As16()
	binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])|uint64(id))
	subnet := netip.PrefixFrom(netip.AddrFrom16(b), lanBits)
	return subnet, !(d.Exclude.IsValid() && d.Exclude.Overlaps(subnet))
}

// LAN is a network of hosts that are given prefixes of ours.
type LAN struct {
	Device   string
	SubnetID int          // which /64 of each delegation; no two LANs of an uplink have the same
	From     []int        // the uplinks whose delegations it draws on
	ULA      netip.Prefix // its /64 of the router's own addresses (RFC 4193); zero: none
	// Withdrawn are former prefixes of it that its hosts may still hold.
	Withdrawn []netip.Prefix
	// DelegateLength is that of the prefixes which routers on it are given by DHCPv6; 0: none.
	DelegateLength int
	// Downstream are the prefixes that these have.
	Downstream []Downstream
}

// Subnet is what a LAN has of one delegation.
type Subnet struct {
	Device     string // the LAN's
	Uplink     int
	Prefix     netip.Prefix // a /64
	Delegation Delegation
	// Usable is true when hosts may use it for new connections: of the uplinks that the LAN draws on, its own is to be
	// preferred now, or those that carry new traffic rewrite sources.
	Usable bool
	Router netip.Addr // this machine, in that network
	// Proxied is true where the uplink's own line has the network too, and neighbours are found on both: see [ProxiedHosts].
	Proxied bool
}

// routerID is the interface identifier of the router in each of its LANs.
const routerID = 1

// RouterAddress returns the router's address in a LAN's /64.
func RouterAddress(subnet netip.Prefix) netip.Addr {
	return addressIn(subnet, routerID, lanBits).Addr()
}

// ownID is that of the address which an uplink gets of its own delegation when its provider gives it no
// other (RFC 7084 WAA-7). It spells "uplink".
const ownID = 0x75706c696e6b

func addressIn(subnet netip.Prefix, id uint64, bits int) netip.Prefix {
	b := subnet.Addr().As16()
	binary.BigEndian.PutUint64(b[8:], id)
	return netip.PrefixFrom(netip.AddrFrom16(b), bits)
}

// subnets deals the delegations out to the LANs.
func (p *planner) subnets() {
	choice := p.report.Defaults[IPv6]
	sources := make(map[string]Choice, len(p.cfg.LANs))
	for i := range p.cfg.LANs {
		sources[p.cfg.LANs[i].Device] = p.sourceOf(&p.cfg.LANs[i])
	}
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		if !u.IPv6.Enabled || p.obs.NoIPv6 {
			continue
		}
		rewritten := p.rewritten(u)
		for _, d := range u.Delegations {
			if d.Elsewhere {
				p.problem("delegation-elsewhere", "warning",
					fmt.Sprintf("%v was delegated to %s through another router than the one in use now: packets from it are rejected", d.Prefix, u.Name),
					"nothing, if that router returns or its successor knows the delegation (it is being asked); otherwise check which routers are on that link")
			}
			for _, lan := range p.lansFrom(u.ID) {
				if p.obs.ipv6Off(lan.Device) {
					continue
				}
				source := sources[lan.Device]
				usable := (source.Has(u.ID) && !source.LastResort || rewritten) && !d.Elsewhere
				subnet, ok := p.subnet(u, d, lan)
				if ok {
					p.reportOccupied(u, d, lan, subnet)
				}
				switch {
				case !ok:
					p.noSubnet(u, d, lan)
				case !u.IPv6.PrefixNAT: // hosts never see a prefix that is translated to
					p.report.Subnets = append(p.report.Subnets, Subnet{lan.Device, u.ID, subnet, d, usable && !d.Deprecated, p.routerIn(u, d, subnet), p.proxies(u, d)})
				}
			}
		}
	}
	p.delegable()
	p.report.Online = make(map[string]bool, len(p.cfg.LANs))
	for i := range p.cfg.LANs {
		lan := &p.cfg.LANs[i]
		p.report.Online[lan.Device] = slices.ContainsFunc(p.report.Subnets, func(s Subnet) bool { return s.Device == lan.Device && s.Usable }) ||
			lan.ULA.IsValid() && len(choice.Members) > 0 && !choice.LastResort && p.rewrittenBy(&choice, lan)
	}
}

// sourceOf chooses among the uplinks that delegate something to a LAN. What hosts send with such a source leaves by its
// uplink, whichever one carries other traffic: one that loses much, or has a higher tier, is better than none.
func (p *planner) sourceOf(lan *LAN) Choice {
	return p.selectBest(IPv6, preference{weight: (*Uplink).ownWeight, fastest: true, tier: func(u *Uplink) int {
		if len(u.usableDelegations()) == 0 || !slices.Contains(lan.From, u.ID) {
			return 0
		}
		return u.defaultTier()
	}})
}

// subnet returns the part of a delegation that is a LAN's. A single /64 goes to the LAN of the lowest
// number, whatever that is: most owners number their only LAN 1, and not every provider delegates more.
//
// One that is the network of another device is exchanged.
func (p *planner) subnet(u *Uplink, d Delegation, lan *LAN) (netip.Prefix, bool) {
	if wanted, ok := p.numbered(u, d, lan); !ok || p.occupant(wanted, lan) == "" {
		return wanted, ok
	}
	return p.otherSubnet(u, d, lan)
}

// numbered is the part of a delegation that is a LAN's whoever else has it.
func (p *planner) numbered(u *Uplink, d Delegation, lan *LAN) (netip.Prefix, bool) {
	if d.Prefix.Bits() == lanBits && p.lansFrom(u.ID)[0] == lan {
		return d.Subnet(0)
	}
	return d.Subnet(lan.SubnetID)
}

// noSubnet says why a LAN has nothing of a delegation.
func (p *planner) noSubnet(u *Uplink, d Delegation, lan *LAN) {
	const more = "choose another subnet_id for the LAN, or ask the provider for a shorter prefix with prefix_hint"
	what, fix := fmt.Sprintf("%s delegates %v, which has no subnet %d for %s", u.Name, d.Prefix, lan.SubnetID, lan.Device), more
	if wanted, ok := p.numbered(u, d, lan); ok {
		if by := p.occupant(wanted, lan); by != "" {
			what = fmt.Sprintf("%s delegates %v, but %v of it is already the network of %s, and nothing is left for %s", u.Name, d.Prefix, wanted, by, lan.Device)
			fix = "ask the provider for a shorter prefix, with prefix_hint = \"::/56\" for example, or for another prefix on the link"
		}
	}
	p.problem("subnet-unavailable", "warning", what, fix)
}

// lansFrom lists the LANs that draw on an uplink, by their number.
func (p *planner) lansFrom(uplink int) []*LAN {
	var lans []*LAN
	for i := range p.cfg.LANs {
		if slices.Contains(p.cfg.LANs[i].From, uplink) {
			lans = append(lans, &p.cfg.LANs[i])
		}
	}
	slices.SortStableFunc(lans, func(a, b *LAN) int { return a.SubnetID - b.SubnetID })
	return lans
}

// rewritten reports whether hosts may use the delegations of an uplink whoever carries new traffic,
// because all that do give the packets of these LANs sources of their own.
func (p *planner) rewritten(u *Uplink) bool {
	choice, lans := p.report.Defaults[IPv6], p.lansFrom(u.ID)
	if len(lans) == 0 || len(choice.Members) == 0 || choice.LastResort || choice.Has(u.ID) {
		return false
	}
	return !slices.ContainsFunc(lans, func(lan *LAN) bool { return !p.rewrittenBy(&choice, lan) })
}

// rewrittenBy reports whether every uplink that carries new traffic gives the packets of a LAN a source of
// its own.
func (p *planner) rewrittenBy(choice *Choice, lan *LAN) bool {
	return !slices.ContainsFunc(choice.Members, func(m Member) bool {
		by := p.uplink(m.Uplink)
		if by.IPv6.Masquerade && len(p.addressesOf(by, IPv6, p.info(by, IPv6))) > 0 {
			return false
		}
		_, ok := p.translated(by, lan)
		return !ok
	})
}

// translated returns the prefix that the hosts of a LAN appear by behind an uplink that translates.
func (p *planner) translated(u *Uplink, lan *LAN) (netip.Prefix, bool) {
	list := u.usableDelegations()
	if !u.IPv6.PrefixNAT || len(list) == 0 || !slices.Contains(lan.From, u.ID) {
		return netip.Prefix{}, false
	}
	return p.subnet(u, list[0], lan)
}

// usableDelegations lists the delegations of an uplink that its router carries, those last that are not for new connections any
// more.
func (u *Uplink) usableDelegations() []Delegation {
	list := slices.DeleteFunc(slices.Clone(u.Delegations), func(d Delegation) bool { return d.Elsewhere })
	slices.SortStableFunc(list, func(a, b Delegation) int {
		switch {
		case a.Deprecated == b.Deprecated:
			return 0
		case a.Deprecated:
			return 1
		}
		return -1
	})
	return list
}

func (u *Uplink) rewritesIPv6() bool { return u.IPv6.Masquerade || u.IPv6.PrefixNAT }

// lans gives the router its addresses in the LANs, and rejects what is delegated and not in use: such
// packets would go to the provider and come back until their hop limit ends (RFC 7084 WPD-5).
func (p *planner) lans() {
	if value, known := p.obs.Sysctls[forwarding6]; known && value == "0" && len(p.cfg.LANs) > 0 {
		p.problem("forwarding-off", "error", "IPv6 forwarding is off: LAN hosts have prefixes but no way out",
			"sysctl -w net.ipv6.conf.all.forwarding=1, and the same in a file in /etc/sysctl.d")
	}
	for _, s := range p.report.Subnets {
		usable := slices.ContainsFunc(p.report.Subnets, func(o Subnet) bool { return o.Device == s.Device && o.Prefix == s.Prefix && o.Usable })
		if !s.Proxied {
			p.lanNetwork(s.Device, s.Prefix, !usable)
		}
		if s.Delegation.Shared {
			p.shareLine(&s)
		}
	}
	for i := range p.cfg.LANs {
		if lan := &p.cfg.LANs[i]; lan.ULA.IsValid() && !p.obs.NoIPv6 {
			p.lanNetwork(lan.Device, lan.ULA, false)
		}
	}
	p.eachPath(func(u *Uplink, family Family, info PathInfo) {
		if family != IPv6 {
			return
		}
		if own, ok := p.ownOfDelegation(u); ok && info.Present {
			p.assign(u.Device, own, false)
		}
		for _, d := range u.Delegations {
			p.state.Routes = append(p.state.Routes, netcfg.Route{Family: IPv6, Table: netcfg.TableMain, Type: netcfg.Unreachable, Dst: d.Prefix,
				Metric: metricUnreachable, Protocol: p.k.Protocol})
		}
	})
}

// lanNetwork gives the router its address in a network of a LAN, and with it the route; or the route alone.
func (p *planner) lanNetwork(device string, network netip.Prefix, deprecated bool) {
	if !p.cfg.LANsElsewhere {
		p.assign(device, addressIn(network, routerID, lanBits), deprecated)
		return
	}
	r := netcfg.Route{Family: IPv6, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: network, Metric: metricLAN, Protocol: p.k.Protocol,
		Nexthops: []netcfg.Nexthop{{Device: device, Weight: 1}}}
	link, present := p.obs.Link(device)
	if present && link.Up && !slices.ContainsFunc(p.state.Routes, func(have netcfg.Route) bool { return have.SameKey(&r) }) {
		p.state.Routes = append(p.state.Routes, r)
	}
}

// metricLAN is worse than that of the route which the kernel makes with an address, 256.
const metricLAN = 512

// assign wants an address on a device that is there. An address that somebody else has put on the device
// stays theirs: if it became ours, it would go with us, and with it the way to the box.
func (p *planner) assign(device string, address netip.Prefix, deprecated bool) {
	p.assignAddr(netcfg.AddrAssignment{Device: device, Prefix: address, Deprecated: deprecated})
}

func (p *planner) assignAddr(want netcfg.AddrAssignment) {
	device, address := want.Device, want.Prefix
	if _, present := p.obs.Link(device); !present || p.off(device, FamilyOf(address.Addr())) || p.assigned(device, address) {
		return
	}
	theirs := slices.ContainsFunc(p.obs.Addrs, func(o Addr) bool {
		return o.Device == device && o.Prefix == address && !p.obs.owns(p.k, o)
	})
	if !theirs {
		p.state.Addrs = append(p.state.Addrs, want)
	}
}

func (p *planner) assigned(device string, address netip.Prefix) bool {
	return slices.ContainsFunc(p.state.Addrs, func(a netcfg.AddrAssignment) bool { return a.Device == device && a.Prefix == address })
}

// ownOfDelegation returns the address that an uplink gets of its delegation. Without one its own packets
// would leave with an address of some other device, which may belong to another uplink.
func (p *planner) ownOfDelegation(u *Uplink) (netip.Prefix, bool) {
	if u.IPv6.Assign != nil && len(u.IPv6.Assign.Addresses) > 0 {
		return netip.Prefix{}, false
	}
	for _, d := range u.usableDelegations() {
		for id := range 2 { // one of two is not excluded
			subnet, ok := d.Subnet(id)
			if !ok {
				continue
			}
			own := addressIn(subnet, ownID+p.earlierHolders(u, d.Prefix), 128)
			others := slices.ContainsFunc(p.obs.Addrs, func(a Addr) bool {
				return a.Device == u.Device && a.Prefix != own && !a.Tentative && !a.LinkScope && a.Prefix.Addr().Is6() &&
					a.Prefix.Addr().IsGlobalUnicast() && !a.Prefix.Addr().IsPrivate() && !compatible(a.Prefix.Addr()) && !p.obs.owns(p.k, a)
			})
			return own, !others
		}
	}
	return netip.Prefix{}, false
}
