package rules

import (
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// What comes from the Internet by an uplink is pinned to it. Hosts in a network behind an uplink's device that use this machine as their
// gateway are like those of a LAN: tiers, policies and verdicts are for them too. And what main leads to a network behind an
// uplink, such as one that a routing daemon has found behind a tunnel, follows main for as long as the connection lives.
//
// Which is which the rules themselves know: a packet that is marked with routedID is led by main's routes that are no
// defaults, or not at all. The packet filter asks for a source or destination by that mark (nft_fib). Where the rules are not
// there, all seems to be led: nothing is pinned until they are back, and the next packet of each connection is.

// tellsNetworks reports whether networks behind uplinks are told from the Internet: a family with one uplink alone has one way to both.
func (p *planner) tellsNetworks(f Family) bool {
	n := 0
	for i := range p.paths {
		if p.paths[i].family == f && !p.paths[i].u.Site {
			n++
		}
	}
	return n > 1
}

// networkRules look for networks behind uplinks. What an uplink brings goes there before its mark is looked at: an answer from the Internet
// to a host behind another uplink. The lookup by which the kernel validates the source of what such a host sends comes in by
// the device that the packet leaves by (net/ipv4/route.c __mkroute_input), and so finds the host too.
func (p *planner) networkRules() {
	for _, family := range Families {
		if !p.tellsNetworks(family) {
			continue
		}
		main := func(offset int) netcfg.Rule {
			r := p.rule(family, offset, netcfg.TableMain)
			r.SuppressPrefixLen = family.DefaultBits()
			return r
		}
		for i := range p.paths {
			if at := &p.paths[i]; at.family == family && !at.u.Site {
				arrived := main(prefArrived)
				arrived.IIF = at.u.Device
				p.state.Rules = append(p.state.Rules, arrived)
			}
		}
		routed, unrouted := main(prefRouted), p.rule(family, prefUnrouted, 0)
		routed.Mark, routed.Mask = p.k.Mark(routedID), p.k.MarkMask
		unrouted.Mark, unrouted.Mask, unrouted.Selectors.Action = routed.Mark, routed.Mask, netcfg.RefuseNoRoute
		p.state.Rules = append(p.state.Rules, routed, unrouted)
	}
}

// looksUpNetworks reports whether a rule of ours looks for networks behind uplinks.
func (k Kernel) looksUpNetworks(r *netcfg.Rule) bool {
	switch r.Priority - k.RulePriority {
	case prefArrived, prefRouted, prefMain:
		return true
	}
	return false
}

// pinArrivals pins what comes in by an uplink to it, and adds the chains that this leads to.
func (p *planner) pinArrivals(prerouting *nft.Chain, u *Uplink, family [2]bool, pinned string) []nft.Chain {
	pin := []nft.Expr{nft.SetCtMark{Mask: p.k.MarkMask, Value: p.k.Mark(u.ID)}, nft.Goto{Chain: pinned}}
	first := []nft.Expr{nft.Device{Name: u.Device}, nft.CtMark{Mask: p.k.MarkMask}}
	if family == [2]bool{} {
		prerouting.Add("new at "+u.Name+": pin to it", append(first, pin...)...)
		return nil
	}
	arrival, behind := nft.Chain{Name: "arrival_" + u.chain()}, nft.Chain{Name: "behind_" + u.chain()}
	prerouting.Add("new at "+u.Name, append(first, nft.Goto{Chain: arrival.Name})...)
	p.eachPath(func(other *Uplink, f Family, info PathInfo) {
		if other == u {
			p.clampMSS(u, f, info, &behind)
		}
	})
	to := routedChain
	chains := []nft.Chain{}
	if len(behind.Rules) > 0 {
		behind.Add("all others", nft.Goto{Chain: routedChain})
		to, chains = behind.Name, append(chains, behind)
	}
	if u.Shared { // an answer that comes before its connection: a reset would end that, and an entry of its own take its port
		arrival.Add("of a connection that is not here yet", nft.New{}, nft.Midstream{}, nft.LocalDestination{}, nft.Counter{}, nft.Drop{})
		if u.Expects { // of UDP nobody can tell
			arrival.Add("perhaps of one", nft.New{}, nft.Protocols{List: []uint8{protocolUDP}}, nft.LocalDestination{}, nft.Counter{}, nft.Drop{})
		}
	}
	arrival.Add("new flow", nft.New{}, nft.ToThisHost{}, nft.NamedCounter{Name: flowsIn + u.Name})
	arrival.Add("for this machine: pin to "+u.Name, append([]nft.Expr{nft.LocalDestination{}}, pin...)...)
	for _, f := range Families {
		if family[f.Index()] {
			arrival.Add("from a network behind "+u.Name, p.routedBy(f, publicOnes(p.networksOf(u)), nil, nft.Route{Back: true}, nft.Goto{Chain: to})...)
		}
	}
	arrival.Add("from the Internet: pin to "+u.Name, pin...)
	return append(chains, arrival)
}

// routedChain is the chain that what is not pinned leads to.
const routedChain = "routed"

// routed marks what main leads to a network behind an uplink, so that it is not pinned, and no policy is asked.
func (p *planner) routed(family [2]bool) nft.Chain {
	c := nft.Chain{Name: routedChain}
	lans := slices.Concat(p.localNetworks(), p.nearResolvers) // which need no asking for, or have rules of their own
	var delegated []netip.Prefix
	for i := range p.cfg.Uplinks {
		for _, d := range p.cfg.Uplinks[i].Delegations {
			delegated = append(delegated, d.Prefix)
		}
	}
	for _, f := range Families {
		if family[f.Index()] {
			c.Add(nft.LeadsBehindAnUplink, p.routedBy(f, delegated, lans, nft.Route{}, nft.Return{})...)
		}
	}
	c.Add("all others", nft.SetMark{Mask: p.k.MarkMask})
	return c
}

// routedBy matches packets of a family that main leads by some route, which their mark asks for from then on. The destinations are left out, and
// what has to leave by the uplink of its source (RFC 8028 section 3).
func (p *planner) routedBy(f Family, sources, dests []netip.Prefix, by nft.Route, then nft.Expr) []nft.Expr {
	var match []nft.Expr
	for _, part := range inSets(inet.OfFamily(sources, f)) {
		match = append(match, nft.Addresses{Not: true, Prefixes: part})
	}
	for _, part := range inSets(inet.OfFamily(dests, f)) {
		match = append(match, nft.Addresses{Dest: true, Not: true, Prefixes: part})
	}
	if len(match) == 0 { // nothing else tells the families apart
		match = append(match, nft.Family{Family: f})
	}
	return append(match, nft.SetMark{Mask: p.k.MarkMask, Value: p.k.Mark(routedID)}, by, then)
}

// publicOnes lists those that are not private.
func publicOnes(list []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(list), func(n netip.Prefix) bool { return n.Addr().IsPrivate() })
}

// networksOf lists the IPv6 networks that an uplink is connected to.
func (p *planner) networksOf(u *Uplink) []netip.Prefix {
	if p.networks == nil {
		p.findNetworks()
	}
	return p.networks[u.ID]
}
