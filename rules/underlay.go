package rules

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// Underlay says who carries the encrypted packets of a tunnel. They have the mark and the table of a group of their
// own, because they follow their carriers, there and back, where other connections stay by what they began on.
type Underlay struct {
	ID       int // 1..MaxUplinks, no uplink's
	Uplink   int // the tunnel's own id
	Carriers []int
	// To are the other ends that the tunnel calls, where its packets have no mark because others call it: an answer leaves
	// by the uplink that the call came in by.
	To []netip.AddrPort
}

// Carrier returns the uplink that carries a tunnel in a family by the plan, 0 for none.
func (r *Report) Carrier(tunnel int, f Family) int { return r.carriers[Path{tunnel, f}] }

// underlays routes what tunnels send to their other ends.
func (p *planner) underlays() {
	for i := range p.cfg.Underlays {
		w := &p.cfg.Underlays[i]
		mark, table := p.k.Mark(w.ID), p.k.Table(w.ID)
		for _, family := range Families {
			candidates := p.carriers(w, family)
			if len(candidates) == 0 {
				continue
			}
			r := p.markRule(family, w.ID, table)
			r.Mark, r.Mask = mark, p.k.MarkMask
			p.state.Rules = append(p.state.Rules, r)
			p.state.Rules = append(p.state.Rules, p.callRules(w, family)...)
			if u := p.bestCarrier(w, candidates, family); u != nil {
				p.setCarrier(Path{w.Uplink, family}, u.ID)
				p.state.Routes = append(p.state.Routes, p.copied(p.k.Table(u.ID), table, family)...)
			}
			p.state.Routes = append(p.state.Routes, netcfg.Route{Family: family, Table: table, Type: netcfg.Unreachable,
				Dst: family.Default(), Metric: metricUnreachable, Protocol: p.k.Protocol})
		}
	}
}

// carriers lists the uplinks that may carry a tunnel in a family, best first.
func (p *planner) carriers(w *Underlay, family Family) []*Uplink {
	var list []*Uplink
	for _, id := range w.Carriers {
		i := slices.IndexFunc(p.cfg.Uplinks, func(u Uplink) bool { return u.ID == id && u.Family(family).Enabled })
		if i >= 0 && !(family == IPv6 && p.obs.NoIPv6) {
			list = append(list, &p.cfg.Uplinks[i])
		}
	}
	return list
}

// bestCarrier picks the first of the best class that has a way out; nil when none has. A tunnel that has left an
// uplink of new flows only stays where it is while that is of the best class too.
func (p *planner) bestCarrier(w *Underlay, candidates []*Uplink, family Family) *Uplink {
	present := p.presentCarrier(w, family)
	var best, stays *Uplink
	most := -1
	for _, u := range candidates {
		info := p.info(u, family)
		if !p.routesInternet(u, family, info) {
			continue
		}
		c := class(p.verdicts[Path{u.ID, family}], info)
		if c > most {
			best, most, stays = u, c, nil
		}
		if c == most && u.Device == present {
			stays = u
		}
	}
	if stays != nil && best.NewFlowsOnly {
		return stays
	}
	return best
}

// presentCarrier returns the device by which the kernel routes what a tunnel sends, "" for none.
func (p *planner) presentCarrier(w *Underlay, family Family) string {
	for i := range p.obs.Routes {
		if r := &p.obs.Routes[i]; r.Table == p.k.Table(w.ID) && r.Family == family && r.Type == netcfg.Unicast && r.IsDefault() && len(r.Nexthops) == 1 {
			return r.Nexthops[0].Device
		}
	}
	return ""
}

func (p *planner) setCarrier(path Path, carrier int) {
	if p.report.carriers == nil {
		p.report.carriers = make(map[Path]int)
	}
	p.report.carriers[path] = carrier
}

// copied returns what a table holds for traffic, as routes of another.
func (p *planner) copied(from, to uint32, family Family) []netcfg.Route {
	var list []netcfg.Route
	for _, r := range p.state.Routes {
		if r.Table == from && r.Family == family && r.Type == netcfg.Unicast {
			r.Table, r.Nexthops = to, slices.Clone(r.Nexthops)
			list = append(list, r)
		}
	}
	return list
}

// markRule is the rule by which marked packets find a table. It stands ahead of those that look at sources, so that
// the kernel's WireGuard notices by itself that its route leads through another device, and forgets the source that
// it has used so far (drivers/net/wireguard/socket.c send4).
func (p *planner) markRule(family Family, id int, table uint32) netcfg.Rule {
	return netcfg.Rule{Family: family, Priority: p.k.RulePriority + prefMark + id, Table: table, SuppressPrefixLen: -1, SuppressGroup: -1, Protocol: p.k.Protocol}
}

// callRules lead what a tunnel without a mark sends to the ends that it calls itself. They stand where its mark's rule
// does, and are for this machine's own packets alone: needsDissection says why.
func (p *planner) callRules(w *Underlay, family Family) []netcfg.Rule {
	var list []netcfg.Rule
	for _, to := range w.To {
		if FamilyOf(to.Addr()) != family {
			continue
		}
		r := p.markRule(family, w.ID, p.k.Table(w.ID))
		r.IIF, r.To = loopback, netip.PrefixFrom(to.Addr(), to.Addr().BitLen())
		r.Selectors.Protocol, r.Selectors.DPort = protocolUDP, netcfg.Ports{First: to.Port(), Last: to.Port()}
		list = append(list, r)
	}
	return list
}

// followUnderlays keeps a tunnel's own packets from following the pin that an answer has given them.
func (p *planner) followUnderlays(output *nft.Chain) {
	for i := range p.cfg.Underlays {
		w := &p.cfg.Underlays[i]
		for _, to := range w.To {
			output.Add(fmt.Sprintf("carries %s: follows the underlay", p.uplink(w.Uplink).Name),
				nft.Addresses{Dest: true, Prefixes: []netip.Prefix{netip.PrefixFrom(to.Addr(), to.Addr().BitLen())}},
				nft.Protocols{List: []uint8{protocolUDP}}, nft.Ports{Dest: true, List: []nft.Range{{First: uint32(to.Port()), Last: uint32(to.Port())}}}, nft.Return{})
		}
		output.Add(fmt.Sprintf("carries %s: follows the underlay", p.uplink(w.Uplink).Name), nft.Mark{Mask: p.k.MarkMask, Value: p.k.Mark(w.ID)}, nft.Return{})
	}
}

// unlessExempt makes a rule that is for none of these packets, so that they are not pinned to a carrier for life, and
// for none with a mark that must stay as it is.
func (p *planner) unlessExempt(marks []nft.Mark, match []nft.Expr, then ...nft.Expr) []nft.Expr {
	exprs := match
	for _, m := range marks {
		exprs = append(exprs, nft.Mark{Mask: m.Mask, Value: m.Value, Not: true})
	}
	for i := range p.cfg.Underlays {
		exprs = append(exprs, nft.Mark{Mask: p.k.MarkMask, Value: p.k.Mark(p.cfg.Underlays[i].ID), Not: true})
	}
	return append(exprs, then...)
}

// Bytes of the headers before a TCP segment's data, without options (RFC 6691 section 2).
const (
	headers4 = 20 + 20
	headers6 = 40 + 20
)

// usualMTU is what hosts are taken to have when no LAN tells another.
const usualMTU = 1500

// clampMSS has both ends of a TCP connection send segments that fit an uplink whose MTU is below that of the LANs.
// The answers that would tell them so otherwise (RFC 1191, RFC 8201) do not pass every network. What opens a
// connection from inside leaves by the uplink before it is pinned to it; all else that opens one is pinned.
func (p *planner) clampMSS(u *Uplink, family Family, info PathInfo, chains ...*nft.Chain) {
	link, present := p.obs.Link(u.Device)
	mtu := link.MTU
	if info.MTU > 0 {
		mtu = min(mtu, info.MTU)
	}
	if !present || mtu == 0 || mtu >= p.lanMTU {
		return
	}
	size := mtu - headers4
	if family == IPv6 {
		size = mtu - headers6
	}
	for _, c := range chains {
		c.Add(fmt.Sprintf("%s has an MTU of %d", u.Name, mtu), nft.SYN{}, nft.Family{Family: family}, nft.MaxSegment{Size: uint16(size)})
	}
}

// largestLAN is the largest MTU of the networks that are no uplinks'.
func (p *planner) largestLAN() int {
	largest := 0
	for _, a := range p.obs.Addrs {
		if p.isLocal(a.Device, a.Prefix) {
			link, _ := p.obs.Link(a.Device)
			largest = max(largest, link.MTU)
		}
	}
	if largest == 0 {
		return usualMTU
	}
	return largest
}
