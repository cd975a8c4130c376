package rules

import (
	"net/netip"
	"slices"
)

// Priorities of our base chains, relative to the well-known ones of linux/netfilter_ipv4.h.
const (
	prioMangle = -150 // after connection tracking, before destination NAT
	prioSource = 100  // source NAT
	prioGuard  = 200  // after source NAT: sees what really leaves
)

// nftables builds our table: pins connections to uplinks, and keeps foreign sources from leaving.
//
// A connection is pinned once, by the first packet that crosses an uplink device: inwards in
// prerouting (the arrival), outwards in postrouting (the choice). Every later packet gets its mark
// back from the pin on whatever device it comes in, or from local sockets in a chain of type route,
// which makes the kernel route again. Bits outside the mask belong to others and are kept.
func (p *planner) nftables() {
	prerouting := Chain{Name: "prerouting", Type: "filter", Hook: "prerouting", Priority: prioMangle}
	output := Chain{Name: "output", Type: "route", Hook: "output", Priority: prioMangle}
	postrouting := Chain{Name: "postrouting", Type: "filter", Hook: "postrouting", Priority: prioMangle}
	srcnat := Chain{Name: "srcnat", Type: "nat", Hook: "postrouting", Priority: prioSource}
	guard := Chain{Name: "guard", Type: "filter", Hook: "postrouting", Priority: prioGuard}

	mask := p.k.MarkMask
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		mark := p.k.Mark(u.ID)
		prerouting.add("new at "+u.Name+": pin to it", NftDevice{Name: u.Device}, NftCtMark{mask, 0}, NftSetCtMark{mask, mark})
		postrouting.add("new by "+u.Name+": pin to it", NftDevice{Out: true, Name: u.Device}, NftCtMark{mask, 0}, NftSetCtMark{mask, mark})
	}
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		mark := p.k.Mark(u.ID)
		for _, c := range []*Chain{&prerouting, &output} {
			c.add("pinned to "+u.Name, NftCtMark{mask, mark}, NftSetMark{mask, mark}, NftReturn{})
		}
	}
	lans := p.localNetworks()
	uplinks := p.uplinkSources()
	guard.Rules = make([]NftRule, 0, len(p.cfg.Uplinks)*(len(uplinks[IPv4])+len(uplinks[IPv6])+len(lans)))
	p.eachPath(func(u *Uplink, family Family, facts Facts) {
		own := p.sources(u, family, facts)
		rewrite := u.Family(family).Masquerade
		var out NftExpr = NftDevice{Out: true, Name: u.Device}
		if rewrite {
			for _, source := range own {
				srcnat.add(u.Name+": own source stays", out, NftSource{source}, NftReturn{})
			}
			srcnat.add(u.Name+": others get its address", NftFamily{family}, out, NftMasquerade{})
		}
		why := "never leaves by " + u.Name
		for _, source := range foreignSources(family, own, uplinks[family], lans, rewrite) {
			guard.add(why, out, NftSource{source}, NftCounter{}, NftDrop{})
		}
	})
	p.state.Table = &Table{Chains: []Chain{prerouting, output, postrouting, srcnat, guard}}
}

func (c *Chain) add(why string, exprs ...NftExpr) { c.Rules = append(c.Rules, newRule(why, exprs...)) }

// localNetworks lists the networks that are connected to devices which are no uplinks.
func (p *planner) localNetworks() []netip.Prefix {
	uplinks := make(map[string]bool)
	for i := range p.cfg.Uplinks {
		uplinks[p.cfg.Uplinks[i].Device] = true
	}
	var nets []netip.Prefix
	for _, a := range p.obs.Addrs {
		net := a.Prefix.Masked()
		link, _ := p.obs.Link(a.Device)
		if uplinks[a.Device] || link.Loopback || !a.Prefix.Addr().IsGlobalUnicast() || slices.Contains(nets, net) {
			continue
		}
		nets = append(nets, net)
	}
	slices.SortFunc(nets, netip.Prefix.Compare)
	return nets
}

// uplinkSources lists the addresses of all uplinks, each once, by uplink.
func (p *planner) uplinkSources() map[Family][]netip.Prefix {
	all := make(map[Family][]netip.Prefix, len(Families))
	seen := make(map[netip.Prefix]bool)
	p.eachPath(func(u *Uplink, family Family, facts Facts) {
		for _, source := range p.sources(u, family, facts) {
			if !seen[source] {
				seen[source] = true
				all[family] = append(all[family], source)
			}
		}
	})
	return all
}

// foreignSources lists sources that must not be seen behind an uplink: addresses of the other uplinks,
// and, where it masquerades, those of the local networks. The latter would leave un-rewritten when
// connection tracking holds a packet for invalid. An address that two uplinks share is foreign to
// neither.
func foreignSources(family Family, own, uplinks, lans []netip.Prefix, rewrite bool) []netip.Prefix {
	foreign := make([]netip.Prefix, 0, len(uplinks)+len(lans))
	for _, source := range uplinks {
		if !slices.Contains(own, source) {
			foreign = append(foreign, source)
		}
	}
	if rewrite {
		for _, net := range lans {
			covers := slices.ContainsFunc(own, func(o netip.Prefix) bool { return net.Contains(o.Addr()) })
			if FamilyOf(net.Addr()) == family && !covers {
				foreign = append(foreign, net)
			}
		}
	}
	return foreign
}
