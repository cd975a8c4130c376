package rules

import (
	"net/netip"
	"slices"
)

// Priorities of our base chains, relative to the well-known ones of linux/netfilter_ipv4.h.
const (
	prioMangle = -150 // after connection tracking, before destination NAT
	prioDest   = -100 // destination NAT
	prioReject = -10  // before the owner's firewall, which would leave hosts without an answer
	prioClamp  = -5   // segment sizes, whoever else looks at the packet
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
	dstnat := Chain{Name: "dstnat", Type: "nat", Hook: "prerouting", Priority: prioDest}
	foreign := Chain{Name: "foreign", Type: "filter", Hook: "forward", Priority: prioReject}
	segments := Chain{Name: "segments", Type: "filter", Hook: "forward", Priority: prioClamp}
	srcnat := Chain{Name: "srcnat", Type: "nat", Hook: "postrouting", Priority: prioSource}
	guard := Chain{Name: "guard", Type: "filter", Hook: "postrouting", Priority: prioGuard}

	p.unpinned(&output, &postrouting)
	p.unpinnedPeers(&prerouting, &postrouting)
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
	p.guard(&guard)
	p.eachPath(func(u *Uplink, family Family, facts Facts) {
		own := p.sources(u, family, facts)
		rewrite := u.Family(family).Masquerade || family == IPv6 && u.IPv6.Translate
		var out NftExpr = NftDevice{Out: true, Name: u.Device}
		if rewrite {
			for _, source := range own {
				srcnat.add(u.Name+": own source stays", out, NftSource{source}, NftReturn{})
			}
			if family == IPv6 && u.IPv6.Translate {
				p.translate(u, &srcnat, &dstnat)
			}
			if u.Family(family).Masquerade {
				srcnat.add(u.Name+": others get its address", NftFamily{family}, out, NftMasquerade{})
			}
		}
		for _, source := range u.Family(family).MasqueradeFrom {
			if FamilyOf(source.Addr()) == family && !u.Family(family).Masquerade {
				srcnat.add(u.Name+": hides these", out, NftSource{source}, NftMasquerade{})
			}
		}
		p.clamp(u, family, facts, &segments)
		if family == IPv6 {
			p.rejectForeign(u, &foreign)
		}
	})
	p.state.Table = &Table{Chains: []Chain{prerouting, output, postrouting}}
	for _, chain := range []Chain{dstnat, foreign, segments} { // most boxes need none
		if len(chain.Rules) > 0 {
			p.state.Table.Chains = append(p.state.Table.Chains, chain)
		}
	}
	p.state.Table.Chains = append(p.state.Table.Chains, srcnat, guard)
	p.state.Table.nameDevices()
}

// rejectForeign tells hosts at once when they have chosen a source that is of no use behind an uplink: a
// prefix of another provider, their unique-local one, or that of an uplink which is down while another is
// not. ICMPv6 type 1 code 5 makes them choose again (RFC 4443 section 3.1), where silence would cost a timeout.
func (p *planner) rejectForeign(u *Uplink, foreign *Chain) {
	out := NftDevice{Out: true, Name: u.Device}
	reject := func(why string, source netip.Prefix) {
		foreign.add(why, out, NftSource{source}, NftCounter{}, NftReject{})
	}
	choice := p.report.Defaults[IPv6]
	if p.verdicts[Path{u.ID, IPv6}].Health == Dead && len(choice.Members) > 0 && !choice.LastResort && !choice.Has(u.ID) {
		for _, d := range u.Delegations {
			reject(u.Name+" is down: take another source", d.Prefix)
		}
	}
	if u.rewritesIPv6() {
		return
	}
	for i := range p.cfg.Uplinks {
		other := &p.cfg.Uplinks[i]
		for _, d := range other.Delegations {
			if other.ID != u.ID && other.IPv6.Enabled && !slices.Contains(u.Delegations, d) {
				reject(other.Name+"'s prefix never leaves by "+u.Name, d.Prefix)
			}
		}
	}
	for i := range p.cfg.LANs {
		if ula := p.cfg.LANs[i].ULA; ula.IsValid() {
			reject("unique-local addresses never leave by "+u.Name, ula)
		}
	}
}

// translate maps the /64 of each LAN, whichever prefix its hosts use, to the one of the same number that
// the uplink delegates, host by host; and back for those who ask from outside.
func (p *planner) translate(u *Uplink, srcnat, dstnat *Chain) {
	if len(u.Delegations) == 0 {
		return
	}
	if own, ok := p.ownOfDelegation(u); ok {
		dstnat.add(u.Name+": its own address is the router's", NftDevice{Name: u.Device}, NftDestination{netip.PrefixFrom(own.Addr(), 128)}, NftReturn{})
	}
	for _, lan := range p.lansFrom(u.ID) {
		outside, ok := p.translated(u, lan)
		if !ok {
			continue
		}
		inside := make([]netip.Prefix, 0, 4)
		if lan.ULA.IsValid() {
			inside = append(inside, lan.ULA)
		}
		for _, s := range p.report.Subnets {
			if s.Device == lan.Device {
				inside = append(inside, s.Prefix)
			}
		}
		for _, source := range inside {
			srcnat.add(u.Name+": "+lan.Device+" appears by the delegation", NftDevice{Out: true, Name: u.Device}, NftSource{source}, NftPrefixNAT{To: outside})
		}
		if len(inside) > 0 {
			dstnat.add(u.Name+": the delegation leads to "+lan.Device, NftDevice{Name: u.Device}, NftDestination{outside}, NftPrefixNAT{To: inside[0], Dest: true})
		}
	}
}

func (c *Chain) add(why string, exprs ...NftExpr) { c.Rules = append(c.Rules, newRule(why, exprs...)) }

// localNetworks lists the networks that are connected to devices which are no uplinks.
func (p *planner) localNetworks() []netip.Prefix {
	uplinks := make(map[string]bool)
	for i := range p.cfg.Uplinks {
		uplinks[p.cfg.Uplinks[i].Device] = true
	}
	var nets []netip.Prefix
	note := func(device string, address netip.Prefix) {
		net := address.Masked()
		link, _ := p.obs.Link(device)
		if !uplinks[device] && !link.Loopback && address.Addr().IsGlobalUnicast() && !slices.Contains(nets, net) {
			nets = append(nets, net)
		}
	}
	for _, a := range p.obs.Addrs {
		note(a.Device, a.Prefix)
	}
	for _, a := range p.state.Addrs {
		note(a.Device, a.Prefix)
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
			covered := source.IsSingleIP() && slices.ContainsFunc(u.Delegations, func(d Delegation) bool { return d.Prefix.Contains(source.Addr()) })
			if !seen[source] && !covered {
				seen[source] = true
				all[family] = append(all[family], source)
			}
		}
	})
	return all
}

// guard drops what would leave an uplink with a source that is foreign there: an address of another uplink
// and, where sources are rewritten, one of a local network. The latter would leave as it is when connection
// tracking holds a packet for invalid. An address that two uplinks share is foreign to neither. Each uplink has
// one rule for its own sources, and all share the rest: the chain grows with the uplinks, not with their square.
func (p *planner) guard(c *Chain) {
	lans, sources := p.localNetworks(), p.uplinkSources()
	devices, rewriting := make(map[Family][]string), make(map[Family][]string)
	p.eachPath(func(u *Uplink, family Family, facts Facts) {
		own := disjoint(p.sources(u, family, facts))
		if len(own) > 0 {
			c.add(u.Name+": its own sources", NftDevice{Out: true, Name: u.Device}, NftAddresses{Prefixes: own}, NftReturn{})
		}
		devices[family] = append(devices[family], u.Device)
		if !u.Family(family).Masquerade && !(family == IPv6 && u.IPv6.Translate) {
			return
		}
		hidden := ofFamily(lans, family)
		within := slices.DeleteFunc(slices.Clone(hidden), func(net netip.Prefix) bool { return !slices.ContainsFunc(own, net.Overlaps) })
		if len(within) == 0 {
			rewriting[family] = append(rewriting[family], u.Device)
			return
		}
		hidden = slices.DeleteFunc(hidden, func(net netip.Prefix) bool { return slices.Contains(within, net) })
		p.hide(c, u.Name+" hides local networks", []string{u.Device}, hidden)
	})
	for _, family := range Families {
		p.hide(c, "an uplink's source never leaves by another", devices[family], sources[family])
		p.hide(c, "local networks are hidden", rewriting[family], ofFamily(lans, family))
	}
}

func (p *planner) hide(c *Chain, why string, devices []string, sources []netip.Prefix) {
	if len(devices) == 0 || len(sources) == 0 {
		return
	}
	devices = sorted(devices)
	for _, part := range inSets(sources) {
		c.add(why, NftDevices{Out: true, Names: devices}, NftAddresses{Prefixes: part}, NftCounter{}, NftDrop{})
	}
}
