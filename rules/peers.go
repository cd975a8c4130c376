package rules

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// metricPeer is that of routes in main to the networks of peers: a route that somebody else has put there goes before it.
const metricPeer = 117

func (u *Uplink) hasPeers() bool {
	return slices.ContainsFunc(Families[:], func(f Family) bool { return len(u.peers(f)) > 0 })
}

// peers lists the networks behind an uplink's device.
func (u *Uplink) peers(f Family) []PeerNetwork {
	if a := u.Family(f).Assign; a != nil {
		return a.Peers
	}
	return nil
}

func peerRoute(u *Uplink, family Family, table uint32, metric uint32, protocol uint8, dst netip.Prefix) netcfg.Route {
	r := netcfg.Route{Family: family, Table: table, Type: netcfg.Unicast, Dst: dst, Metric: metric, Protocol: protocol, Nexthops: []netcfg.Nexthop{{Device: u.Device, Weight: 1}}}
	if family == IPv4 {
		r.Scope = netcfg.ScopeLink
	}
	return r
}

// peerRoutes has an uplink's table lead to all of its peers, also those that are not there: that is how they are looked for.
func (p *planner) peerRoutes(u *Uplink, family Family, table uint32, peers []PeerNetwork) {
	for _, n := range peers {
		r := peerRoute(u, family, table, metricPeer, p.k.Protocol, n.Dst)
		if FamilyOf(n.Dst.Addr()) == family && !slices.ContainsFunc(p.state.Routes, func(s netcfg.Route) bool { return s.Key() == r.Key() }) {
			p.state.Routes = append(p.state.Routes, r)
		}
	}
}

// peers has main lead to the peers that are there. Of several tunnels to one network, the one that works best is taken,
// and of these that of the lowest tier.
func (p *planner) peers() {
	type candidate struct {
		u     *Uplink
		class int
	}
	best := make(map[netip.Prefix]candidate)
	p.eachPath(func(u *Uplink, family Family, info PathInfo) {
		if !info.Up {
			return
		}
		c := candidate{u, class(p.verdicts[Path{u.ID, family}], info)}
		for _, n := range u.peers(family) {
			have, taken := best[n.Dst]
			if n.Alive && FamilyOf(n.Dst.Addr()) == family && (!taken || cmp.Or(cmp.Compare(c.class, have.class), cmp.Compare(have.u.Tier, u.Tier)) > 0) {
				best[n.Dst] = c
			}
		}
	})
	for dst, c := range best {
		p.state.Routes = append(p.state.Routes, peerRoute(c.u, FamilyOf(dst.Addr()), netcfg.TableMain, metricPeer, p.k.Protocol, dst))
	}
}

// exemptPeers keeps what peers begin, and what is begun with them, from being pinned to their tunnel: they may move to
// another router and take their connections along, and what they send to others leaves as if a LAN's host had sent it. All that comes
// by a tunnel without a way to the Internet is of peers.
func (p *planner) exemptPeers(u *Uplink, prerouting, egress *nft.Chain) {
	if u.Site {
		prerouting.Add("by a peer of "+u.Name+": not pinned", nft.Device{Name: u.Device}, nft.CtMark{Mask: p.k.MarkMask}, nft.Goto{Chain: fromPeers(u)})
		return
	}
	for _, family := range Families {
		var networks []netip.Prefix
		for _, n := range u.peers(family) {
			if FamilyOf(n.Dst.Addr()) == family {
				networks = append(networks, n.Dst)
			}
		}
		for _, part := range inSets(networks) {
			unpinned := nft.CtMark{Mask: p.k.MarkMask}
			prerouting.Add("by a peer of "+u.Name+": not pinned", nft.Device{Name: u.Device}, unpinned, nft.Addresses{Prefixes: part}, nft.Goto{Chain: fromPeers(u)})
			egress.Add("to a peer: not pinned", unpinned, nft.Addresses{Dest: true, Prefixes: part}, nft.Goto{Chain: toPeers(u)})
		}
	}
}

func fromPeers(u *Uplink) string { return "frompeers_" + u.Name }
func toPeers(u *Uplink) string   { return "topeers_" + u.Name }

// peerChains are what exemptPeers leads to: all that an uplink's chains do besides pinning.
func (p *planner) peerChains(leaving *branches, tells bool) []nft.Chain {
	var chains []nft.Chain
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		if !u.hasPeers() && !u.Site {
			continue
		}
		from, to := nft.Chain{Name: fromPeers(u)}, nft.Chain{Name: toPeers(u)}
		p.eachPath(func(other *Uplink, family Family, info PathInfo) {
			if other == u {
				p.clampMSS(u, family, info, &from)
			}
		})
		if tells {
			from.Add("all others", nft.Goto{Chain: routedChain})
		} else {
			from.Add("all others", nft.Return{})
		}
		chains = append(chains, from)
		if u.Site {
			continue
		}
		egress := leaving.of(u, "egress").Rules
		pin := slices.IndexFunc(egress, func(r nft.Rule) bool {
			return slices.ContainsFunc(r.Exprs, func(e nft.Expr) bool { _, pins := e.(nft.SetCtMark); return pins })
		})
		to.Rules = slices.Clone(egress[pin+1:])
		if len(to.Rules) == 0 {
			to.Add("all others", nft.Return{})
		}
		chains = append(chains, to)
	}
	return chains
}
