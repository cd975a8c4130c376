package rules

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// Forward leads a port of the uplinks' addresses to a host behind this machine.
type Forward struct {
	Name      string
	Protocols []uint8 // TCP, UDP
	Ports     netcfg.Ports
	ToPort    uint16 // of the host; 0: the same
	// Device is that of the host's network.
	Device string
	To4    netip.Addr // zero: no IPv4
	// ID6 is the interface identifier of the host (RFC 4291 section 2.5.1), under whatever prefix its network has; 0: no IPv6.
	ID6 uint64
	// Uplinks are those whose addresses have the port; nil: all, and addresses that the machine has elsewhere than in networks behind it.
	Uplinks []int
}

// ForwardReport says where a port leads now.
type ForwardReport struct {
	*Forward
	To map[Family]netip.Addr // none: nowhere
}

// Has reports whether an uplink has the port. Tunnels to peers alone are like LANs.
func (f *Forward) Has(u *Uplink) bool {
	return !u.Site && (f.Uplinks == nil || slices.Contains(f.Uplinks, u.ID))
}

func (f *Forward) about(family Family) bool {
	return family == IPv4 && f.To4.IsValid() || family == IPv6 && f.ID6 != 0
}

// forwardsChain holds what is forwarded. Which addresses are the machine's the kernel knows: a new lease needs no new rules.
const forwardsChain = "forwards"

// forwards translates the destination of what is for a forwarded port, before prefixes are translated. Answers find back by the pin of their
// connection, and hosts behind the host's own device get them through this machine, because it takes the place of their source.
func (p *planner) forwards(dstnat, srcnat *nft.Chain) []nft.Chain {
	if len(p.cfg.Forwards) == 0 {
		return nil
	}
	c := nft.Chain{Name: forwardsChain}
	for _, family := range Families {
		for _, part := range inSets(p.addressesBehind(family)) {
			c.Add("this router's own address in a network behind it", nft.Addresses{Dest: true, Prefixes: part}, nft.Return{})
		}
	}
	dstnat.Add("for an address of this router", nft.LocalDestination{}, nft.Jump{Chain: c.Name})
	for i := range p.cfg.Forwards {
		f := &p.cfg.Forwards[i]
		report := p.forwardTargets(f)
		for _, family := range Families {
			if !f.about(family) || family == IPv6 && p.obs.NoIPv6 {
				continue
			}
			p.forward(&c, &report, family)
			p.hairpin(srcnat, &report, family)
		}
		p.forwardDirect(dstnat, &report)
		p.report.Forwards = append(p.report.Forwards, report)
	}
	return []nft.Chain{c}
}

// addressesBehind lists the addresses that this machine has in networks behind it. They are no uplink's, whoever calls them.
func (p *planner) addressesBehind(family Family) []netip.Prefix {
	if family == IPv6 && p.obs.NoIPv6 {
		return nil
	}
	var own []netip.Prefix
	if family == IPv6 {
		own = append(own, netip.MustParsePrefix("fe80::/10"))
	}
	add := func(device string, address netip.Prefix) {
		link, _ := p.obs.Link(device)
		u, ip := p.cfg.UplinkOn(device), address.Addr()
		if FamilyOf(ip) == family && !link.Loopback && (u == nil || u.Site) && !p.keptByUplink(address) {
			own = append(own, netip.PrefixFrom(ip, ip.BitLen()))
		}
	}
	for i := range p.obs.Addrs {
		add(p.obs.Addrs[i].Device, p.obs.Addrs[i].Prefix)
	}
	for i := range p.state.Addrs {
		add(p.state.Addrs[i].Device, p.state.Addrs[i].Prefix)
	}
	return own
}

// forwardTargets finds the host's addresses.
func (p *planner) forwardTargets(f *Forward) ForwardReport {
	report := ForwardReport{Forward: f, To: make(map[Family]netip.Addr, 2)}
	if f.To4.IsValid() {
		report.To[IPv4] = f.To4
		near := inet.Within(p.networksBehind([]string{f.Device}), f.To4) || p.obs.Routed[IPv4.Index()].has(f.To4, func(device string) bool { return device == f.Device })
		if _, present := p.obs.Link(f.Device); present && !near {
			p.problem("forward-target", "warning", fmt.Sprintf("forward %s leads to %v, which is in no network of %s", f.Name, f.To4, f.Device),
				fmt.Sprintf("correct to4 or lan of forward %s, or give %s an address in the network of %v", f.Name, f.Device, f.To4))
		}
	}
	if f.ID6 == 0 || p.obs.NoIPv6 {
		return report
	}
	if prefix, ok := p.lastingPrefix(f.Device); ok {
		report.To[IPv6] = addressIn(prefix, f.ID6, lanBits).Addr()
	} else if _, present := p.obs.Link(f.Device); present {
		p.problem("forward-prefix", "notice", fmt.Sprintf("forward %s leads to no IPv6 host: %s has no prefix now", f.Name, f.Device),
			fmt.Sprintf("nothing, if a provider is about to delegate one; otherwise a [[lan]] for %s, or an address of a /64 on it", f.Device))
	}
	return report
}

// lastingPrefix is the /64 of a network behind this machine that hosts will have the longest. It will do for a call by any uplink: answers
// get the address back that was called.
func (p *planner) lastingPrefix(device string) (netip.Prefix, bool) {
	for i := range p.cfg.LANs {
		if lan := &p.cfg.LANs[i]; lan.Device == device && lan.ULA.IsValid() {
			return lan.ULA, true
		}
	}
	for _, usable := range []bool{true, false} {
		for _, s := range p.report.Subnets {
			if s.Device == device && s.Usable == usable && !s.Delegation.Elsewhere {
				return s.Prefix, true
			}
		}
	}
	var others []netip.Prefix // that others have given it
	for _, a := range p.obs.Addrs {
		if a.Device == device && a.Prefix.Bits() == lanBits && a.Prefix.Addr().Is6() && a.Prefix.Addr().IsGlobalUnicast() && !p.obs.owns(p.k, a) {
			others = append(others, a.Prefix.Masked())
		}
	}
	if len(others) == 0 {
		return netip.Prefix{}, false
	}
	return slices.MinFunc(others, netcfg.ComparePrefixes), true
}

// forward adds what leads one family of a forwarded port to its host.
func (p *planner) forward(c *nft.Chain, r *ForwardReport, family Family) {
	to := r.To[family]
	if !to.IsValid() {
		return
	}
	lead := func(conditions ...nft.Expr) {
		r.add(c, "", slices.Concat(conditions, []nft.Expr{nft.Family{Family: family}}, r.matches(r.Ports), []nft.Expr{nft.DestNAT{To: to, Port: r.ToPort}})...)
	}
	if r.Uplinks == nil {
		lead()
		return
	}
	var addresses []netip.Prefix // of these uplinks, which those behind this machine call
	p.eachPath(func(u *Uplink, of Family, info PathInfo) {
		if of != family || !r.Has(u) {
			return
		}
		lead(nft.Device{Name: u.Device})
		for _, source := range p.sources(u, family, info) {
			if source.IsSingleIP() {
				addresses = append(addresses, source)
			}
		}
	})
	for _, part := range inSets(addresses) {
		lead(nft.Addresses{Dest: true, Prefixes: part})
	}
}

// add adds a rule that is for the forward; what says what it does, "" where that is plain.
func (f *Forward) add(c *nft.Chain, what string, exprs ...nft.Expr) {
	c.Rules = append(c.Rules, nft.Rule{Exprs: exprs, Comment: "forward " + f.Name + what, Forward: f.Name})
}

func (f *Forward) matches(ports netcfg.Ports) []nft.Expr {
	return []nft.Expr{nft.Protocols{List: sorted(f.Protocols)}, nft.Ports{Dest: true, List: []nft.Range{{First: uint32(ports.First), Last: uint32(ports.Last)}}}}
}

// hostPorts are those that packets have once they are translated.
func (f *Forward) hostPorts() netcfg.Ports {
	if f.ToPort != 0 {
		return netcfg.Ports{First: f.ToPort, Last: f.ToPort}
	}
	return f.Ports
}

// hairpin gives neighbours of the host this machine's source, or the host would answer them past it. They are told by their networks: before
// Linux 5.7 a packet that leaves has no input device (net/ipv4/ip_output.c ip_output).
func (p *planner) hairpin(srcnat *nft.Chain, r *ForwardReport, family Family) {
	to := r.To[family]
	if !to.IsValid() {
		return
	}
	for _, part := range inSets(p.networksOn(r.Device, family)) {
		r.add(srcnat, ": its neighbours get their answers from here", slices.Concat(
			[]nft.Expr{nft.Device{Out: true, Name: r.Device}, nft.Addresses{Prefixes: part}, nft.Destination{Prefix: netip.PrefixFrom(to, to.BitLen())}},
			r.matches(r.hostPorts()), []nft.Expr{nft.DestinationNAT{}, nft.Masquerade{}})...)
	}
}

// networksOn lists the networks of a family that a device is in, or will be.
func (p *planner) networksOn(device string, family Family) []netip.Prefix {
	var list []netip.Prefix
	add := func(on string, address netip.Prefix) {
		if on == device && FamilyOf(address.Addr()) == family && address.Addr().IsGlobalUnicast() && !address.IsSingleIP() {
			list = append(list, address.Masked())
		}
	}
	for i := range p.obs.Addrs {
		add(p.obs.Addrs[i].Device, p.obs.Addrs[i].Prefix)
	}
	for i := range p.state.Addrs {
		add(p.state.Addrs[i].Device, p.state.Addrs[i].Prefix)
	}
	return list
}

// forwardDirect translates the port of what is for the host's own IPv6 addresses, where the host has another one.
func (p *planner) forwardDirect(dstnat *nft.Chain, r *ForwardReport) {
	if r.ToPort == 0 || !r.To[IPv6].IsValid() {
		return
	}
	lead := func(u *Uplink, prefix netip.Prefix, to netip.Addr) {
		r.add(dstnat, ": of the host's own address", slices.Concat([]nft.Expr{nft.Device{Name: u.Device}, nft.Destination{Prefix: addressIn(prefix, r.ID6, 128)}},
			r.matches(r.Ports), []nft.Expr{nft.DestNAT{To: to, Port: r.ToPort}})...)
	}
	for _, s := range p.report.Subnets {
		if u := p.uplink(s.Uplink); s.Device == r.Device && r.Has(u) {
			lead(u, s.Prefix, addressIn(s.Prefix, r.ID6, 128).Addr())
		}
	}
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		for _, lan := range p.lansFrom(u.ID) {
			if external, ok := p.translated(u, lan); ok && lan.Device == r.Device && r.Has(u) {
				lead(u, external, r.To[IPv6])
			}
		}
	}
}
