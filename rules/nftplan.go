package rules

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// Priorities of our base chains, relative to the well-known ones of linux/netfilter_ipv4.h.
const (
	prioMangle      = -150 // after connection tracking, before destination NAT
	prioOutput      = -151 // before the marks of others: one that is there is the socket's own
	prioDest        = -100 // destination NAT
	prioForward     = -10  // before the owner's firewall, which would leave hosts without an answer
	prioSource      = 110  // source NAT, after that of others: a connection is translated once, by whoever is first
	prioPostrouting = 200  // after source NAT: sees what really leaves
)

// nftables builds our table: pins connections to uplinks, and keeps foreign sources from leaving.
//
// A connection is pinned once, by the first packet that crosses an uplink device: inwards in
// prerouting (the arrival), outwards in postrouting (the choice). Every later packet gets its mark
// back from the pin on whatever device it comes in, or from local sockets in a chain of type route,
// which makes the kernel route again. Bits outside the mask belong to others and are kept; those within are cleared
// of what comes in without a pin, for the kernel leaves a packet the mark of the one that has carried it here
// (net/ipv4/ip_tunnel_core.c __iptunnel_pull_header). Where there are tunnels, those of what leaves by a tunnel or by no uplink are cleared
// last: tunnels, below bridges too, route what carries it by the same mark (net/ipv4/udp_tunnel_core.c udp_tunnel_dst_lookup), and that has
// a source of its own.
//
// Forwarded packets pass prerouting, forward, where there is something to do, and postrouting. Each of these begins
// by finding the chain of the packet's pin or device, so that their cost does not grow with the uplinks.
func (p *planner) nftables() {
	prerouting := nft.Chain{Name: "prerouting", Type: "filter", Hook: "prerouting", Priority: prioMangle}
	output := nft.Chain{Name: "output", Type: "route", Hook: "output", Priority: prioOutput}
	dstnat := nft.Chain{Name: "dstnat", Type: "nat", Hook: "prerouting", Priority: prioDest}
	forward := nft.Chain{Name: "forward", Type: "filter", Hook: "forward", Priority: prioForward}
	srcnat := nft.Chain{Name: "srcnat", Type: "nat", Hook: "postrouting", Priority: prioSource}
	postrouting := nft.Chain{Name: "postrouting", Type: "filter", Hook: "postrouting", Priority: prioPostrouting}
	egressFilter := nft.Chain{Name: "egress_filter"}
	var pinned, leaving branches
	var arrivals []nft.Chain
	tells := [2]bool{p.tellsNetworks(IPv4), p.tellsNetworks(IPv6)}

	exempt := p.foreignMarks()
	exemptForeignMarks(&prerouting, exempt)
	p.exemptMarkedSockets(&output, exempt)
	p.followUnderlays(&output)
	mask := p.k.MarkMask
	pins := nft.PinBranch{Mask: mask}
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		mark := p.k.Mark(u.ID)
		if u.IsCLAT() {
			continue // one mark, one chain
		}
		pinned.of(u, "pinned").Add("pinned to "+u.Name, nft.SetMark{Mask: mask, Value: mark})
		pins.Pins, pins.Chains = append(pins.Pins, mark), append(pins.Chains, pinned.of(u, "pinned").Name)
	}
	for _, c := range []*nft.Chain{&prerouting, &output} {
		c.DispatchByPin("pinned before", pins)
	}
	prerouting.Add("what a tunnel brings has the mark of its carrier", nft.SetMark{Mask: mask})
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		mark := p.k.Mark(u.ID)
		p.exemptPeers(u, &prerouting, leaving.of(u, "egress"))
		if u.Site {
			continue
		}
		pinnedTo := pinned.of(p.uplink(u.ID), "pinned").Name
		if u.IsCLAT() {
			p.pinTranslated(&prerouting, u, pinnedTo)
		}
		arrivals = append(arrivals, p.pinArrivals(&prerouting, u, tells, pinnedTo)...)
		unpinned := []nft.Expr{nft.CtMark{Mask: mask}}
		if tells != [2]bool{} {
			unpinned = append(unpinned, nft.Mark{Mask: mask, Value: p.k.Mark(routedID), Not: true})
		}
		leaving.of(u, "egress").Add("new by "+u.Name+": pin to it", p.unlessExempt(exempt, unpinned, append([]nft.Expr{nft.SetCtMark{Mask: mask, Value: mark}}, p.countOutgoing(u)...)...)...)
	}
	if tells != [2]bool{} {
		prerouting.Add("not pinned", nft.Goto{Chain: routedChain})
		arrivals = append(arrivals, p.routed(tells))
	}
	p.lanMTU = p.largestLAN()
	p.eachPath(func(u *Uplink, family Family, info PathInfo) {
		p.clampMSS(u, family, info, pinned.of(p.uplink(u.ID), "pinned"), leaving.of(u, "egress"))
	})
	carried := []nft.Expr{nft.Mark{Mask: mask, Not: true}, nft.SetMark{Mask: mask}}
	for i := range p.cfg.Uplinks {
		if u := &p.cfg.Uplinks[i]; p.routesByInnerMark(u.Device) {
			leaving.of(u, "egress").Add(whyCarried, carried...)
		}
	}
	filters := p.filterSources(&leaving, &egressFilter)
	p.returnIPsec(&srcnat)
	forwards := p.forwards(&dstnat, &srcnat)
	p.eachPath(func(u *Uplink, family Family, info PathInfo) {
		p.sourceNAT(u, family, info, &srcnat, &dstnat)
	})
	foreign := p.rejectForeign(&forward)
	postrouting.DispatchByDevice("by the uplink", leaving.branch())
	if p.hasCarriers() {
		postrouting.Add(whyCarried, carried...)
	}

	t := &nft.Table{Chains: []nft.Chain{prerouting, output}}
	for _, chain := range []nft.Chain{dstnat, forward} { // most boxes need none
		if len(chain.Rules) > 0 {
			t.Chains = append(t.Chains, chain)
		}
	}
	t.Chains = append(append(t.Chains, srcnat, postrouting), leaving.chains...)
	if len(egressFilter.Rules) > 0 {
		t.Chains = append(t.Chains, egressFilter)
	}
	t.Chains = slices.Concat(t.Chains, forwards, arrivals, pinned.chains, foreign, p.peerChains(&leaving, tells != [2]bool{}))
	p.offload(t)
	t.AddSets()
	t.Sign()
	p.state.Table = t
	p.egressFilters(filters)
}

// whyCarried says why a packet that leaves loses its mark.
const whyCarried = "what carries it from here has a way of its own"

// hasCarriers reports whether some device routes by the mark of what is inside.
func (p *planner) hasCarriers() bool {
	return len(p.cfg.Tunnels) > 0 || slices.ContainsFunc(p.obs.Links, func(l Link) bool { return l.Up && l.routesByInnerMark() })
}

// routesByInnerMark reports whether a device puts packets into others of this machine, and routes those by the mark of what is inside.
func (p *planner) routesByInnerMark(device string) bool {
	link, _ := p.obs.Link(device)
	return link.routesByInnerMark() || slices.ContainsFunc(p.cfg.Tunnels, func(t Tunnel) bool { return t.Device == device })
}

func (l *Link) routesByInnerMark() bool {
	switch l.Kind {
	case "vxlan", "geneve", "bareudp", "amt", "gre", "gretap", "erspan", "ip6gre", "ip6gretap", "ip6erspan", "ipip", "ip6tnl", "sit", "vti", "vti6", "xfrm":
		return true
	}
	return false
}

// branches are chains of a kind, one for each uplink that needs one.
type branches struct {
	devices []string
	chains  []nft.Chain
	at      map[string]int // by device
}

// of returns the chain of an uplink, which is valid until the next one is made.
func (b *branches) of(u *Uplink, kind string) *nft.Chain {
	at, known := b.at[u.Device]
	if !known {
		if b.at == nil {
			b.at = make(map[string]int)
		}
		at = len(b.chains)
		b.at[u.Device] = at
		b.devices, b.chains = append(b.devices, u.Device), append(b.chains, nft.Chain{Name: kind + "_" + u.chain()})
	}
	return &b.chains[at]
}

// branch leads to the chains, by the device that a packet leaves by.
func (b *branches) branch() nft.Branch {
	e := nft.Branch{Out: true, Devices: b.devices}
	for i := range b.chains {
		e.Chains = append(e.Chains, b.chains[i].Name)
	}
	return e
}

// sourceNAT gives packets an address of the uplink that they leave by, where that is wanted.
func (p *planner) sourceNAT(u *Uplink, family Family, info PathInfo, srcnat, dstnat *nft.Chain) {
	masquerade, translate := u.Family(family).Masquerade, family == IPv6 && u.IPv6.PrefixNAT
	if by := p.obs.TranslatedBy(u.Device, family); by != "" && masquerade {
		masquerade = false
		p.problem("foreign-masquerade", "notice", fmt.Sprintf("the nftables table %s already rewrites the source of everything that leaves by %s (%v), so %s is not masqueraded again", by, u.Device, family, u.Name),
			fmt.Sprintf("nothing; to have uplinkd masquerade instead, remove the masquerading of %s from that table", u.Device))
	}
	var out nft.Expr = nft.Device{Out: true, Name: u.Device}
	if masquerade {
		p.correctShared(u, family, info, srcnat)
	}
	if masquerade || translate {
		for _, source := range p.sources(u, family, info) {
			srcnat.Add(u.Name+": own source stays", out, nft.Source{Prefix: source}, nft.Return{})
		}
	}
	if translate {
		p.prefixNAT(u, srcnat, dstnat)
	}
	if masquerade {
		p.masquerade(u, family, info, srcnat, u.Name+": others get its address", nft.Family{Family: family}, out)
		return
	}
	for _, source := range u.Family(family).MasqueradeFrom {
		if FamilyOf(source.Addr()) == family {
			p.masquerade(u, family, info, srcnat, u.Name+": hides these", out, nft.Source{Prefix: source})
		}
	}
}

// prefixNAT maps the /64 of each LAN, whichever prefix its hosts use, to the one of the same number that
// the uplink delegates, host by host; and back for those who ask from outside.
func (p *planner) prefixNAT(u *Uplink, srcnat, dstnat *nft.Chain) {
	if len(u.Delegations) == 0 {
		return
	}
	if own, ok := p.ownOfDelegation(u); ok {
		dstnat.Add(u.Name+": its own address is the router's", nft.Device{Name: u.Device}, nft.Destination{Prefix: netip.PrefixFrom(own.Addr(), 128)}, nft.Return{})
	}
	var used []netip.Prefix
	for _, lan := range p.lansFrom(u.ID) {
		external, ok := p.translated(u, lan)
		if !ok {
			continue
		}
		internal := make([]netip.Prefix, 0, 4)
		if lan.ULA.IsValid() {
			internal = append(internal, lan.ULA)
		}
		for _, s := range p.report.Subnets {
			if s.Device == lan.Device {
				internal = append(internal, s.Prefix)
			}
		}
		for _, source := range internal {
			srcnat.Add(u.Name+": "+lan.Device+" appears by the delegation", nft.Device{Out: true, Name: u.Device}, nft.Source{Prefix: source}, nft.PrefixNAT{To: external})
		}
		if len(internal) > 0 {
			dstnat.Add(u.Name+": the delegation leads to "+lan.Device, nft.Device{Name: u.Device}, nft.Destination{Prefix: external}, nft.PrefixNAT{To: internal[0], Dest: true})
		}
		used = p.downstreamNAT(u, lan, used, srcnat, dstnat)
	}
}

// inSets splits prefixes into parts that a set can hold.
func inSets(list []netip.Prefix) [][]netip.Prefix {
	return slices.Collect(slices.Chunk(inet.Disjoint(list), nft.MaxSet))
}
