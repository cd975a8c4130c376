package explain

import (
	"fmt"
	"net/netip"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// IPsecPolicy is an entry of the kernel's security policy database for what leaves (ip-xfrm(8)).
type IPsecPolicy struct {
	From, To     netip.Prefix
	Protocol     uint8        // 0: any
	SPort, DPort netcfg.Ports // zero: any
	Device       string
	Mark, Mask   uint32
	Priority     uint32 // the least decides
	Block        bool
	// Tunnel is what packets are put into: from one address to another. Invalid without templates, and in transport mode.
	TunnelFrom, TunnelTo netip.Addr
	Transforms           bool // it has templates
}

func (s *IPsecPolicy) covers(p *Packet, source netip.Addr, out string) bool {
	return s.To.Contains(p.To) && source.IsValid() && s.From.Contains(source) && (s.Protocol == 0 || s.Protocol == p.Protocol) &&
		s.SPort.Has(p.SPort) && s.DPort.Has(p.DPort) && (s.Device == "" || s.Device == out) && (p.Mark^s.Mark)&s.Mask == 0
}

// String writes the policy in the words of ip-xfrm.
func (s *IPsecPolicy) String() string {
	text := fmt.Sprintf("IPsec policy src %v dst %v dir out", s.From, s.To)
	if s.TunnelTo.IsValid() {
		text += fmt.Sprintf(" tmpl src %v dst %v", s.TunnelFrom, s.TunnelTo)
	}
	return text
}

// ipsec asks the security policies about a packet that would leave by a way, as the kernel does before any packet filter on the way out
// (net/ipv4/ip_forward.c xfrm4_route_forward, net/xfrm/xfrm_policy.c xfrm_lookup): nil when none takes it.
func (e *explainer) ipsec(p *Packet, w *Egress) *IPsecPolicy {
	var best *IPsecPolicy
	for i := range e.rt.IPsec {
		s := &e.rt.IPsec[i]
		if s.covers(p, w.Source, w.Device) && (best == nil || s.Priority < best.Priority) {
			best = s
		}
	}
	if best == nil || !best.Block && !best.Transforms {
		return nil
	}
	return best
}

// protect says what an IPsec policy makes of a packet, and returns the ways of the packet that carries it; none when it is refused.
func (e *explainer) protect(p *Packet, w Egress, s *IPsecPolicy) []Egress {
	switch {
	case s.Block:
		e.step(Step{Kind: StepFilter, What: s.String(), Counts: true, Why: "blocks"})
		return nil
	case !s.TunnelTo.IsValid():
		e.step(Step{Kind: StepFilter, What: s.String(), Counts: true, Why: "encrypts it (IPsec): it is neither translated nor dropped"})
		return []Egress{w}
	}
	e.step(Step{Kind: StepFilter, What: s.String(), Counts: true,
		Why: fmt.Sprintf("puts it into a packet of this machine's own, from %v to %v: it is neither translated nor dropped", s.TunnelFrom, s.TunnelTo)})
	silent := explainer{cfg: e.cfg, rt: e.rt, out: new(Explanation), quiet: true}
	a := silent.walk(Packet{From: s.TunnelFrom, To: s.TunnelTo, Protocol: protocolESP})
	for i := range a.egresses {
		a.egresses[i].Source = s.TunnelFrom
		if u := e.cfg.UplinkOn(a.egresses[i].Device); u != nil {
			a.egresses[i].Uplink = u.Name
		}
	}
	if len(a.egresses) == 0 {
		e.step(Step{Kind: StepRoute, What: s.TunnelTo.String(), Counts: true, Why: "has no way: " + a.reason})
	}
	return a.egresses
}

const protocolESP = 50

// TranslatedIPsec lists the translations by others that take packets of IPsec policies out of them: their source is rewritten before
// the policies are asked again, so that they leave in the clear. Each is named once, with a policy.
func (rt *Routing) TranslatedIPsec(cfg rules.Config) map[string]*IPsecPolicy {
	found := make(map[string]*IPsecPolicy)
	for i := range rt.IPsec {
		s := &rt.IPsec[i]
		if !s.Transforms || s.From.IsSingleIP() { // this machine's own address, which it keeps
			continue
		}
		for j := range cfg.Uplinks {
			by := rt.TranslatedBy(cfg.Uplinks[j].Device, rules.FamilyOf(s.From.Addr()))
			if by != "" && found[by] == nil {
				found[by] = s
			}
		}
	}
	return found
}
