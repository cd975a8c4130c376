package rules

import (
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// rejectForeign tells hosts at once when they have chosen a source that is of no use behind an uplink: a
// prefix of another provider, a private address, or the prefix of an uplink which is down, or whose flows are to end, while another is
// not. ICMPv6 type 1 code 5 makes them choose again (RFC 4443 section 3.1), where silence would cost a timeout.
// It returns the chains that forward leads to.
func (p *planner) rejectForeign(forward *nft.Chain) []nft.Chain {
	var chains []nft.Chain
	networks := p.uplinkNetworks()
	for _, family := range []Family{IPv6, IPv4} {
		var foreign, private branches
		p.eachPath(func(u *Uplink, of Family, info PathInfo) {
			if of != family {
				return
			}
			if family == IPv6 {
				p.rejectPrefixes(u, info, &foreign, len(networks) > 0)
			}
			p.rejectPrivate(u, family, info, &foreign, &private)
		})
		if len(foreign.chains) == 0 {
			continue
		}
		if family == IPv6 && slices.ContainsFunc(p.cfg.Forwards, func(f Forward) bool { return f.about(IPv6) }) {
			forward.Add("answers of forwarded ports get the address back that was called", nft.Reply{}, nft.DestinationNAT{}, nft.Return{})
		}
		forward.DispatchByDevice("sources that may leave", foreign.branch(), nft.Family{Family: family})
		chains = append(append(chains, foreign.chains...), private.chains...)
		if jumpsTo(foreign.chains, foreignNetworks) {
			shared := nft.Chain{Name: foreignNetworks}
			for _, part := range inSets(networks) {
				shared.Add("an uplink's network never leaves by another", nft.Addresses{Prefixes: part}, nft.Counter{}, nft.Reject{})
			}
			chains = append(chains, shared)
		}
	}
	return chains
}

// foreignNetworks is the chain that rejects the networks of all uplinks. Chains of uplinks lead to it behind their own: the rules
// grow with the uplinks, not with their square.
const foreignNetworks = "foreign"

func jumpsTo(chains []nft.Chain, name string) bool {
	return slices.ContainsFunc(chains, func(c nft.Chain) bool {
		return slices.ContainsFunc(c.Rules, func(r nft.Rule) bool { return slices.Contains(r.Exprs, nft.Expr(nft.Jump{Chain: name})) })
	})
}

// uplinkNetworks lists the public IPv6 networks that uplinks are connected to.
func (p *planner) uplinkNetworks() []netip.Prefix {
	if p.networks == nil {
		p.findNetworks()
	}
	var all []netip.Prefix
	for i := range p.cfg.Uplinks {
		all = append(all, p.networks[p.cfg.Uplinks[i].ID]...)
	}
	return slices.DeleteFunc(all, func(net netip.Prefix) bool { return net.Addr().IsPrivate() })
}

// rejectPrefixes does it for IPv6 prefixes of providers.
func (p *planner) rejectPrefixes(u *Uplink, info PathInfo, foreign *branches, some bool) {
	reject := func(why string, source netip.Prefix) {
		foreign.of(u, "foreign").Add(why, nft.Source{Prefix: source}, nft.Counter{}, nft.Reject{})
	}
	p.rejectWithdrawn(u, foreign)
	choice, verdict := p.report.Defaults[IPv6], p.verdicts[Path{u.ID, IPv6}]
	if (verdict.Health == Dead || verdict.Ended > 0) && len(choice.Members) > 0 && !choice.LastResort && !choice.Has(u.ID) {
		for _, d := range u.Delegations {
			if !p.livesElsewhere(u, d.Prefix) { // else its connections move there as they are
				if !d.Elsewhere {
					foreign.of(u, "foreign").Add("answers to who calls by "+u.Name, nft.Source{Prefix: d.Prefix}, nft.Reply{}, nft.Return{})
				}
				reject(u.Name+" is left: take another source", d.Prefix)
			}
		}
	}
	if u.rewritesIPv6() {
		return
	}
	for _, d := range u.Delegations {
		if d.Elsewhere {
			reject("another router of "+u.Name+" has this", d.Prefix)
		}
	}
	own := inet.Disjoint(p.sourcesBehind(u, IPv6, info))
	others := p.delegatedToOthers(u, own)
	if len(others) == 0 && !some {
		return
	}
	if len(own) > 0 {
		foreign.of(u, "foreign").Add("its own sources", nft.Addresses{Prefixes: own}, nft.Return{})
	}
	for _, part := range inSets(others) {
		foreign.of(u, "foreign").Add("prefixes of other uplinks never leave by "+u.Name, nft.Addresses{Prefixes: part}, nft.Counter{}, nft.Reject{})
	}
	if some {
		foreign.of(u, "foreign").Add("nor do their networks", nft.Jump{Chain: foreignNetworks})
	}
}

// delegatedToOthers lists the delegations of other uplinks, as far as they are not within what is an uplink's own.
func (p *planner) delegatedToOthers(u *Uplink, own []netip.Prefix) []netip.Prefix {
	var others []netip.Prefix
	for i := range p.cfg.Uplinks {
		other := &p.cfg.Uplinks[i]
		if other.ID == u.ID || !other.IPv6.Enabled {
			continue
		}
		for _, d := range other.Delegations {
			if !slices.ContainsFunc(own, func(o netip.Prefix) bool { return o.Bits() <= d.Prefix.Bits() && o.Contains(d.Prefix.Addr()) }) {
				others = append(others, d.Prefix)
			}
		}
	}
	return others
}

// rejectPrivate does it for private addresses, where nobody translates them. What others may translate is left to chain egress_filter, which
// sees whether they have.
func (p *planner) rejectPrivate(u *Uplink, family Family, info PathInfo, foreign, private *branches) {
	translated, all := p.obs.mayTranslate(u.Device, family)
	if all || p.translates(u, family) || !p.publicOnly(u, family, info) {
		return
	}
	kind, to, end := "foreign", "private", nft.Expr(nft.Reject{})
	if family == IPv4 {
		kind, to, end = "foreign4", "private4", nft.Refuse{}
	}
	c := private.of(u, to)
	foreign.of(u, kind).Add("nor do private addresses", nft.Goto{Chain: c.Name})
	c.Add("connections that others began get their address back", nft.Pinned{Mask: p.k.MarkMask}, nft.Return{})
	p.returnIPsec(c)
	for _, part := range inSets(append(translated, inet.OfFamily(u.Family(family).MasqueradeFrom, family)...)) {
		c.Add("they get another source", nft.Addresses{Prefixes: part}, nft.Return{})
	}
	c.Add("private addresses never leave by "+u.Name, nft.Addresses{Prefixes: privateSpace(family)}, nft.Counter{}, end)
}
