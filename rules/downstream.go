package rules

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// Downstream is a prefix that a router on a LAN has been given by DHCPv6, until it must have left it.
type Downstream struct {
	Prefix netip.Prefix
	Router netip.Addr // link-local
	Number int        // of the router: the part of a prefix that is translated to which it appears by, counted from the last
}

// Delegable is a prefix of which the routers on a LAN may have parts, namely what of it is nobody's network.
type Delegable struct {
	Device     string // the LAN's
	Uplink     int    // 0: of the router's own prefix
	Delegation Delegation
	Usable     bool // for new connections, as of a [Subnet]
	Taken      []netip.Prefix
}

// delegable lists what routers on LANs may have parts of.
func (p *planner) delegable() {
	for i := range p.cfg.LANs {
		lan := &p.cfg.LANs[i]
		if lan.DelegateLength == 0 || p.obs.NoIPv6 || p.obs.ipv6Off(lan.Device) {
			continue
		}
		source := p.sourceOf(lan)
		for j := range p.cfg.Uplinks {
			u := &p.cfg.Uplinks[j]
			if !u.IPv6.Enabled || u.IPv6.PrefixNAT || !slices.Contains(lan.From, u.ID) {
				continue
			}
			usable := source.Has(u.ID) && !source.LastResort || p.rewritten(u)
			for _, d := range u.Delegations {
				if d.Prefix.Bits() < lan.DelegateLength {
					p.report.Delegable = append(p.report.Delegable, Delegable{lan.Device, u.ID, d, usable && !d.Elsewhere && !d.Deprecated, p.takenOf(d)})
				} else if !d.Shared {
					p.problem("delegate-length", "notice", fmt.Sprintf("routers on %s get nothing of %s: it delegates %v, and they are to have a /%d each", lan.Device, u.Name, d.Prefix, lan.DelegateLength),
						"ask the provider for a shorter prefix with prefix_hint, or set a longer delegate_length")
				}
			}
		}
		if site := p.cfg.Site; site.IsValid() {
			p.report.Delegable = append(p.report.Delegable, Delegable{lan.Device, 0, Delegation{Prefix: site}, true, p.takenOf(Delegation{Prefix: site})})
		}
	}
}

// takenOf lists the parts of a delegation, or of the router's own prefix, that no router behind us can have: they are networks of LANs, of
// the provider, of this machine or of another delegation, or hold the address that the uplink has of it.
func (p *planner) takenOf(d Delegation) (taken []netip.Prefix) {
	add := func(part netip.Prefix) {
		if part.IsValid() && part.Overlaps(d.Prefix) && !slices.Contains(taken, part) {
			taken = append(taken, part)
		}
	}
	add(d.Exclude)
	for id := range 2 { // see ownOfDelegation
		if subnet, ok := (Delegation{Prefix: d.Prefix}).Subnet(id); ok {
			add(subnet)
		}
	}
	for i := range p.cfg.LANs {
		lan := &p.cfg.LANs[i]
		add(lan.ULA)
		if subnet, ok := (Delegation{Prefix: d.Prefix}).Subnet(lan.SubnetID); ok {
			add(subnet)
		}
	}
	for _, s := range p.report.Subnets {
		add(s.Prefix)
	}
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		for _, other := range u.Delegations {
			if other.Prefix.Bits() > d.Prefix.Bits() {
				add(other.Prefix)
			}
		}
		if assign := u.IPv6.Assign; assign != nil && u.IPv6.Enabled {
			for _, a := range assign.Addresses {
				if occupies(a.Prefix, d.Prefix) {
					add(a.Prefix.Masked())
				}
			}
		}
	}
	for _, a := range p.obs.Addrs {
		if !p.obs.owns(p.k, a) && occupies(a.Prefix, d.Prefix) {
			add(a.Prefix.Masked())
		}
	}
	for i := range p.obs.Routes {
		r := &p.obs.Routes[i]
		if r.Family == IPv6 && r.Table == netcfg.TableMain && r.Type == netcfg.Unicast && r.Protocol != p.k.Protocol && r.Protocol != protocolKernel && r.Dst.Bits() > d.Prefix.Bits() {
			add(r.Dst)
		}
	}
	for _, net := range p.obs.Routed[IPv6.Index()].within(d.Prefix, maxSearch) {
		add(net)
	}
	return taken
}

// metricDownstream differs from those of the routes that others make.
const metricDownstream = 1536

// downstream leads to the routers on LANs what they have been given. What their provider has taken back since leads there too, until
// they must have left it, and leaves by no uplink: see [planner.withdrawn].
func (p *planner) downstream() {
	for i := range p.cfg.LANs {
		lan := &p.cfg.LANs[i]
		link, present := p.obs.Link(lan.Device)
		if !present || !link.Up || p.obs.NoIPv6 || p.obs.ipv6Off(lan.Device) {
			continue
		}
		for _, d := range lan.Downstream {
			if p.obs.isOurs(d.Router, lan.Device) {
				continue // somebody pretends to be us
			}
			if !p.ours(d.Prefix) {
				if p.inUse(d.Prefix) {
					continue
				}
				p.withdrawnPrefixes = append(p.withdrawnPrefixes, d.Prefix)
			}
			p.state.Routes = append(p.state.Routes, netcfg.Route{Family: IPv6, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: d.Prefix, Metric: metricDownstream,
				Protocol: p.k.Protocol, Nexthops: []netcfg.Nexthop{{Device: lan.Device, Gateway: d.Router, Weight: 1}}})
		}
	}
}

// downstreamNAT does what prefixNAT does for what the routers on a LAN have: each appears by one part of the delegation, whichever
// prefix its hosts use. It returns used with these parts.
func (p *planner) downstreamNAT(u *Uplink, lan *LAN, used []netip.Prefix, srcnat, dstnat *nft.Chain) []netip.Prefix {
	list := u.usableDelegations()
	if len(list) == 0 {
		return used
	}
	taken := append(p.takenOf(list[0]), used...)
	led := make(map[netip.Prefix]bool)
	for _, first := range []bool{true, false} { // calls from outside go to what lasts
		for _, d := range lan.Downstream {
			external, ok := inet.LastPart(list[0].Prefix, lan.DelegateLength, d.Number)
			if !ok || d.Prefix.Bits() != external.Bits() || first != (p.cfg.Site.IsValid() && p.cfg.Site.Contains(d.Prefix.Addr())) || slices.ContainsFunc(taken, external.Overlaps) {
				continue
			}
			srcnat.Add(u.Name+": a router on "+lan.Device+" appears by the delegation", nft.Device{Out: true, Name: u.Device}, nft.Source{Prefix: d.Prefix}, nft.PrefixNAT{To: external})
			if !led[external] {
				dstnat.Add(u.Name+": the delegation leads to a router on "+lan.Device, nft.Device{Name: u.Device}, nft.Destination{Prefix: external}, nft.PrefixNAT{To: d.Prefix, Dest: true})
				led[external], used = true, append(used, external)
			}
		}
	}
	return used
}

// ours reports whether a prefix is part of one that we have now.
func (p *planner) ours(prefix netip.Prefix) bool {
	within := func(whole netip.Prefix) bool {
		return whole.IsValid() && whole.Bits() <= prefix.Bits() && whole.Contains(prefix.Addr())
	}
	return within(p.cfg.Site) || slices.ContainsFunc(p.cfg.Uplinks, func(u Uplink) bool {
		return u.IPv6.Enabled && slices.ContainsFunc(u.Delegations, func(d Delegation) bool { return within(d.Prefix) })
	})
}
