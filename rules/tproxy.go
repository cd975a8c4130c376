package rules

import (
	"net/netip"

	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// TProxy has a program of this machine answer hosts in the place of their destinations.
type TProxy struct {
	Name   string
	Group  int      // id that all proxies share, no uplink's and no group's of policies
	Select Selector // has devices and protocols
	Except []netip.Prefix
	Port   uint16 // where the program listens, on sockets with IP_TRANSPARENT
	// Reject refuses connections while nobody listens there; else they go on without the proxy.
	Reject bool
}

// ProxyListener is one family and transport protocol of what a transparent proxy is to take.
type ProxyListener struct {
	*TProxy
	Family   Family
	Protocol uint8
	Devices  []string // that the packets come in by
}

// tproxies adds what catches the packets for proxies. A packet that is caught has a socket and our mark; the
// rules lead it to a table in which every address is local.
//
// Which of them a connection belongs to is decided with its first packet and kept in its mark, so that one that
// went on without a proxy is not caught in its middle when the proxy returns. The kernel knows whether
// somebody listens: nothing has to be changed when a proxy fails.
func (p *planner) tproxies(c *nft.Chain) {
	if len(p.cfg.TProxies) == 0 {
		return
	}
	mask, mark := p.k.MarkMask, p.k.Mark(p.cfg.TProxies[0].Group)
	c.Add("leaves by an uplink, or came by one", nft.Mark{Mask: mask, Not: true}, nft.Mark{Mask: mask, Value: p.k.Mark(routedID), Not: true}, nft.Return{})
	c.Add("answers go where their questions came from", nft.Reply{}, nft.Return{})
	c.Add("this router itself stays reachable", nft.LocalDestination{}, nft.Return{})
	for _, family := range Families {
		if family == IPv6 && p.obs.NoIPv6 {
			continue
		}
		c.Add("never meant for a proxy", nft.Addresses{Dest: true, Prefixes: proxyExclusions[family]}, nft.Return{})
	}
	var devices []string
	for i := range p.cfg.TProxies {
		devices = append(devices, conditionOf[SelectDevices](p.cfg.TProxies[i].Select)...)
	}
	c.Add("answered by a proxy already", nft.Devices{Names: sorted(devices)}, nft.Protocols{List: []uint8{protocolTCP}}, nft.Transparent{}, nft.SetMark{Mask: mask, Value: mark}, nft.Return{})
	for i := range p.cfg.TProxies {
		proxy := &p.cfg.TProxies[i]
		for _, family := range Families {
			if proxy.Select.covers(family) && !(family == IPv6 && p.obs.NoIPv6) {
				p.tproxy(c, proxy, family, mask, mark)
				for _, protocol := range sorted(conditionOf[SelectProtocols](proxy.Select)) {
					p.report.Proxies = append(p.report.Proxies, ProxyListener{proxy, family, protocol, conditionOf[SelectDevices](proxy.Select)})
				}
			}
		}
	}
	c.Add("what a proxy began only a proxy can end", nft.CtMark{Mask: mask, Value: mark}, nft.Protocols{List: []uint8{protocolTCP}}, nft.Reset{})
	c.Add("what a proxy began only a proxy can end", nft.CtMark{Mask: mask, Value: mark}, nft.Refuse{})
	p.tproxyTable(devices)
}

// proxyExclusions is multicast, link-local and broadcast.
var proxyExclusions = map[Family][]netip.Prefix{
	IPv4: {netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("255.255.255.255/32")},
	IPv6: {netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8")},
}

const (
	protocolTCP = 6
	protocolUDP = 17
)

// tproxy adds what catches one family's packets for one proxy: those of connections that are caught already,
// and of new ones.
func (p *planner) tproxy(c *nft.Chain, proxy *TProxy, family Family, mask, mark uint32) {
	to := nft.TProxy{Family: family, Port: proxy.Port}
	for _, match := range proxy.Select.matches(proxy.Except, family) {
		with := func(why string, exprs ...nft.Expr) {
			all := append(match[:len(match):len(match)], exprs...)
			c.Add(why, all...)
		}
		with("proxy "+proxy.Name, nft.CtMark{Mask: mask, Value: mark}, to, nft.SetMark{Mask: mask, Value: mark}, nft.Return{})
		with("new at proxy "+proxy.Name, nft.New{}, nft.CtMark{Mask: mask}, to, nft.SetCtMark{Mask: mask, Value: mark}, nft.SetMark{Mask: mask, Value: mark}, nft.Return{})
		if proxy.Reject {
			for _, protocol := range sorted(conditionOf[SelectProtocols](proxy.Select)) {
				var end nft.Expr = nft.Refuse{}
				if protocol == protocolTCP {
					end = nft.Reset{}
				}
				with("nobody listens at proxy "+proxy.Name, nft.Protocols{List: []uint8{protocol}}, nft.Counter{}, end)
			}
		}
	}
}

// tproxyTable leads what is caught to the machine itself. A rule names its device: the lookup back to the
// source, by which packets are validated, comes in by none and must not find everything local.
func (p *planner) tproxyTable(devices []string) {
	id := p.cfg.TProxies[0].Group
	for _, family := range Families {
		if family == IPv6 && p.obs.NoIPv6 {
			continue
		}
		p.baseRules(family)
		metric := uint32(0)
		if family == IPv6 {
			metric = metricV6
		}
		p.state.Routes = append(p.state.Routes, netcfg.Route{Family: family, Table: p.k.Table(id), Type: netcfg.Local, Dst: family.Default(), Metric: metric,
			Protocol: p.k.Protocol, Scope: scopeOf(family), Nexthops: []netcfg.Nexthop{{Device: loopback, Weight: 1}}})
		for _, device := range sorted(devices) {
			r := p.rule(family, prefMark+id, p.k.Table(id))
			r.IIF, r.Mark, r.Mask = device, p.k.Mark(id), p.k.MarkMask
			p.state.Rules = append(p.state.Rules, r)
		}
		// Local networks win over everything but this: a packet that has a socket cannot be forwarded
		// (net/ipv4/ip_forward.c).
		for i := range p.state.Rules {
			if r := &p.state.Rules[i]; r.Family == family && r.Priority == p.k.RulePriority+prefLocalNets {
				r.Mark, r.Mask, r.Selectors.Not = p.k.Mark(id), p.k.MarkMask, true
			}
		}
	}
}

func scopeOf(f Family) uint8 {
	if f == IPv4 {
		return netcfg.ScopeHost
	}
	return 0
}
