package explain

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// flow is a new connection, which no packet filter has seen yet, on its way through our chains.
type flow struct {
	packet     *Packet
	in, out    string
	rt         *Routing
	routes     func(Packet) []string // devices that the rules lead a packet to
	source     netip.Addr
	pin        uint32
	translated netip.Prefix // what source NAT gives: the zero prefix for an address of the device that it leaves by
	snat       bool         // source NAT has decided
	foreign    string       // that of another program, "" for ours
	ipsec      bool         // an IPsec policy covers it
	dropped    bool
	proxy      uint16 // port of the transparent proxy that takes it; 0 for none
	policy     string // that the last rule which set a mark or dropped the packet is for; "" for none
	forward    string // the [[forward]] that has translated its destination; "" for none
	unseen     string // what decided and cannot be seen from here
}

// prerouting runs a packet that came in through our prerouting chain. A mark of ours that the packet is said to
// have stands for a connection that is pinned already.
func (e *explainer) prerouting(p *Packet) {
	mask := e.cfg.Kernel.MarkMask
	f := flow{packet: p, in: p.In, rt: e.rt, routes: e.devices, source: p.From, pin: p.Mark & mask}
	before, to := p.Mark, p.To
	e.run("prerouting", &f)
	if f.unseen != "" {
		e.out.Uncertain = f.unseen
	}
	e.forward = f.forward
	switch {
	case f.forward != "":
		e.step(Step{Kind: StepMark, What: "nftables chain dstnat", Counts: true, Because: rules.Origin{Key: "forward/" + f.forward},
			Why: fmt.Sprintf("forward %s is for it: the destination is %v from here on", f.forward, netip.AddrPortFrom(p.To, p.DPort))})
	case p.To != to:
		e.step(Step{Kind: StepMark, What: "nftables chain dstnat", Counts: true, Because: e.originOn(p.In, rules.FamilyOf(to).String()),
			Why: fmt.Sprintf("the delegated prefix leads to the LAN's own: the destination is %v from here on", p.To)})
	}
	if p.Mark == before {
		return
	}
	if f.proxy != 0 {
		e.step(Step{Kind: StepMark, What: "nftables chain prerouting of " + nft.PolicyTableName, Counts: true,
			Why: fmt.Sprintf("the transparent proxy at port %d takes it: the mark is %#x from here on", f.proxy, p.Mark)})
		return
	}
	if f.policy != "" {
		e.step(Step{Kind: StepMark, What: "nftables chain prerouting of " + nft.PolicyTableName, Counts: true, Because: rules.Origin{Policy: f.policy},
			Why: fmt.Sprintf("policy %s is for it: the mark is %#x from here on", f.policy, p.Mark)})
		return
	}
	if f.pin == 0 && p.Mark&mask == 0 {
		e.step(Step{Kind: StepMark, What: "nftables chain prerouting", Counts: true, Because: rules.Origin{Key: "kernel.mark_mask"},
			Why: fmt.Sprintf("its connection is not pinned: the mark is %#x from here on", p.Mark)})
		return
	}
	if f.pin == 0 {
		e.step(Step{Kind: StepMark, What: "nftables chain prerouting", Counts: true, Because: rules.Origin{Key: "kernel.mark_mask"},
			Why: fmt.Sprintf("main leads it to a network behind an uplink: the mark is %#x from here on, and it is not pinned", p.Mark)})
		return
	}
	e.step(Step{Kind: StepMark, What: "nftables chain prerouting", Counts: true, Because: e.originOn(p.In, "device"),
		Why: fmt.Sprintf("a connection that begins at %s is pinned to it: the mark is %#x from here on", p.In, p.Mark)})
}

// originOn is a key of the uplink on a device.
func (e *explainer) originOn(device, key string) rules.Origin {
	if u := e.cfg.UplinkOn(device); u != nil {
		return rules.Origin{Uplink: u.Name, Key: key}
	}
	return rules.Origin{Key: "kernel.mark_mask"}
}

// reroute runs a packet of a local socket through our output chains, and reports whether it has another mark then:
// the kernel looks its route up once more.
func (e *explainer) reroute(p *Packet, a *answer) bool {
	if a.outcome != Leaves {
		return false // it does not get there
	}
	f := flow{packet: p, out: a.egresses[0].Device, rt: e.rt, routes: e.devices, source: p.From, pin: p.Mark & e.cfg.Kernel.MarkMask}
	before := p.Mark
	e.run("output", &f)
	if p.Mark == before || f.policy == "" {
		return false
	}
	e.step(Step{Kind: StepMark, What: "nftables chain output of " + nft.PolicyTableName, Counts: true, Because: rules.Origin{Policy: f.policy},
		Why: fmt.Sprintf("policy %s is for it: the mark is %#x from here on", f.policy, p.Mark)})
	return true
}

// postrouting runs the packet through our chains on its way out, once for each way that it may take.
func (e *explainer) postrouting(p Packet) {
	why := "its source belongs to another uplink than the one it would leave by"
	var kept []Egress
	for _, w := range e.out.Egresses {
		q := p
		s := e.ipsec(&p, &w)
		f := flow{packet: &q, in: p.In, out: w.Device, rt: e.rt, routes: e.devices, source: w.Source, pin: p.Mark & e.cfg.Kernel.MarkMask, ipsec: s != nil, forward: e.forward}
		if p.In != "" {
			e.run("forward", &f)
			if f.unseen != "" {
				e.out.Uncertain = f.unseen
			}
		}
		if f.dropped && f.policy != "" {
			why = "policy " + f.policy + " is a kill switch, and its connections leave by no other uplink"
			e.step(Step{Kind: StepFilter, What: "nftables chain forward of " + nft.PolicyTableName, Counts: true, Because: rules.Origin{Policy: f.policy},
				Why: fmt.Sprintf("policy %s is a kill switch: its traffic never leaves by %s", f.policy, w.Device)})
			continue
		}
		at := "forward"
		if !f.dropped {
			at = "egress_filter"
			f.foreign = e.translatedByOthers(&f)
			e.run("postrouting", &f)
		}
		switch {
		case f.dropped:
			e.step(Step{Kind: StepFilter, What: "nftables chain " + at, Counts: true, Because: rules.Origin{Uplink: w.Uplink, Key: rules.FamilyOf(p.To).String()},
				Why: fmt.Sprintf("drops what would leave by %s with the source %v", w.Device, f.source)})
			if f.source.IsPrivate() {
				why = "its source is private, and it would leave untranslated"
			}
			continue
		case f.foreign != "":
			e.step(Step{Kind: StepFilter, What: "nftables table " + f.foreign + " of another program", Counts: true,
				Why: fmt.Sprintf("what leaves by %s gets another source", w.Device)})
		case f.snat:
			gets := "an address of that device"
			if f.translated.IsValid() {
				gets = fmt.Sprintf("a source of %v", f.translated)
			}
			e.step(Step{Kind: StepFilter, What: "nftables chain srcnat", Counts: true, Because: rules.Origin{Uplink: w.Uplink, Key: rules.FamilyOf(p.To).String()},
				Why: fmt.Sprintf("what leaves by %s gets %s", w.Device, gets)})
		}
		if s == nil {
			kept = append(kept, w)
		} else if carried := e.protect(&p, w, s); len(carried) > 0 {
			kept, e.out.Reason = carried, "IPsec carries it, and the packets that carry it lead to "+e.names(carried)
		} else {
			why = "an IPsec policy covers it, but the encrypted packet has no route"
		}
	}
	e.out.Egresses = kept
	if len(kept) == 0 {
		e.out.Outcome, e.out.Reason = Filtered, why
	}
}

// translatedByOthers reports who else gives a packet another source, "" for nobody. That is done before it is our turn.
func (e *explainer) translatedByOthers(f *flow) (by string) {
	if f.ipsec || !f.source.IsValid() || f.in == "" { // what this machine sends has the right source already
		return ""
	}
	if by = e.rt.TranslatedBy(f.out, rules.FamilyOf(f.source)); by == "" {
		may, listed := e.rt.MayTranslate(f.out, f.source)
		switch {
		case listed:
			by, e.out.Uncertain = may, fmt.Sprintf("%s rewrites some sources, %v among them: whether it looks at more than that is not seen from here", may, f.source)
		case may != "":
			e.out.Uncertain = fmt.Sprintf("%s rewrites the sources of some packets: whether of this one is not seen from here", may)
		}
	}
	f.snat = by != ""
	return by
}

// run evaluates our chains of a hook, in the order of their priorities.
func (e *explainer) run(hook string, f *flow) {
	type base struct {
		table *nft.Table
		*nft.Chain
	}
	var chains []base
	for _, table := range []*nft.Table{e.table, e.policies} {
		for i := 0; table != nil && i < len(table.Chains); i++ {
			if c := &table.Chains[i]; c.Hook == hook {
				chains = append(chains, base{table, c})
			}
		}
	}
	slices.SortStableFunc(chains, func(a, b base) int { return a.Priority - b.Priority })
	for _, c := range chains {
		if c.Type == "nat" && f.snat {
			continue
		}
		f.through(c.table, c.Chain)
		if f.dropped {
			return
		}
	}
}

// What a rule says about the way on.
type nftVerdict uint8

const (
	nftContinue nftVerdict = iota
	nftReturn              // to the chain that has jumped here
	nftEnd                 // of the base chain
)

// through runs the packet through a chain and those that it leads to.
func (f *flow) through(t *nft.Table, c *nft.Chain) nftVerdict {
	for i := range c.Rules {
		r := &c.Rules[i]
		v, to := f.rule(r)
		if to != "" {
			next := t.Chain(to)
			if _, comes := r.Exprs[len(r.Exprs)-1].(nft.Jump); !comes {
				return f.through(t, next)
			}
			v = f.through(t, next)
		}
		switch v {
		case nftReturn:
			return nftContinue
		case nftEnd:
			return nftEnd
		}
	}
	return nftContinue
}

// rule evaluates one rule: its verdict, or the chain that it leads to.
func (f *flow) rule(r *nft.Rule) (v nftVerdict, to string) {
	for _, x := range r.Exprs {
		switch x := x.(type) {
		case nft.Device:
			if x.Out && !x.Matches(f.out) || !x.Out && !x.Matches(f.in) {
				return nftContinue, ""
			}
		case nft.CtMark:
			if (f.pin&x.Mask == x.Value) == x.Not {
				return nftContinue, ""
			}
		case nft.Source:
			if f.snat || !f.source.IsValid() || !x.Prefix.Contains(f.source) {
				return nftContinue, ""
			}
		case nft.Family:
			if rules.FamilyOf(f.packet.To) != x.Family {
				return nftContinue, ""
			}
		case nft.SetMark:
			f.packet.Mark, f.policy = f.packet.Mark&^x.Mask|x.Value, r.Policy
		case nft.SetCtMark:
			f.pin = f.pin&^x.Mask | x.Value
		case nft.Counter, nft.NamedCounter, nft.Offload, nft.MaxSegment:
		case nft.Masquerade:
			f.snat = true
			return nftEnd, ""
		case nft.SourceNAT:
			f.snat, f.translated = true, netip.PrefixFrom(x.To, x.To.BitLen())
			return nftEnd, ""
		case nft.PrefixNAT:
			if x.Dest {
				f.packet.To = inPrefix(x.To, f.packet.To)
			} else {
				f.snat, f.translated = true, x.To
			}
			return nftEnd, ""
		case nft.DestNAT:
			f.packet.To = x.To
			if x.Port != 0 {
				f.packet.DPort = x.Port
			}
			f.forward = r.Forward
			return nftEnd, ""
		case nft.TProxy:
			if rules.FamilyOf(f.packet.To) != x.Family {
				return nftContinue, ""
			}
			f.proxy, f.unseen = x.Port, fmt.Sprintf("whether a program listens at port %d is not looked at: it is taken for granted", x.Port)
		case nft.Drop, nft.Reject, nft.Refuse, nft.Reset:
			f.dropped, f.policy = true, r.Policy
			return nftEnd, ""
		case nft.Accept:
			return nftEnd, ""
		case nft.Return:
			return nftReturn, ""
		case nft.Jump:
			return nftContinue, x.Chain
		case nft.Goto:
			return nftContinue, x.Chain
		case nft.Branch:
			device := f.in
			if x.Out {
				device = f.out
			}
			if i := slices.Index(x.Devices, device); i >= 0 {
				return nftContinue, x.Chains[i]
			}
		case nft.PinBranch:
			if i := slices.Index(x.Pins, f.pin&x.Mask); i >= 0 {
				return nftContinue, x.Chains[i]
			}
		case nft.ExternalSet:
			if addr := f.address(x.Dest); x.Known != nil {
				if !addr.IsValid() || x.Known.Contains(addr) == x.Not || rules.FamilyOf(addr) != x.Family || !x.Dest && f.snat {
					return nftContinue, ""
				}
				continue
			}
			f.unseen = "what other programs have put into the set " + x.Set + " is not looked at: it is taken for empty"
			return nftContinue, ""
		default:
			if !f.meets(x) {
				return nftContinue, ""
			}
		}
	}
	return nftContinue, ""
}

// address is the packet's destination or source, as it is now.
func (f *flow) address(dest bool) netip.Addr {
	if dest {
		return f.packet.To
	}
	return f.source
}

// meets evaluates the conditions of policies.
func (f *flow) meets(x nft.Expr) bool {
	switch x := x.(type) {
	case nft.Devices:
		device := f.in
		if x.Out {
			device = f.out
		}
		return slices.Contains(x.Names, device)
	case nft.Addresses:
		addr := f.address(x.Dest)
		family := rules.FamilyOf(x.Prefixes[0].Addr())
		return addr.IsValid() && rules.FamilyOf(addr) == family && x.Contains(addr) != x.Not && (x.Dest || !f.snat)
	case nft.Protocols:
		return slices.Contains(x.List, f.packet.Protocol)
	case nft.Ports:
		port := f.packet.SPort
		if x.Dest {
			port = f.packet.DPort
		}
		return slices.ContainsFunc(x.List, func(p nft.Range) bool { return p.Has(uint32(port)) })
	case nft.Owners:
		return f.in == "" && slices.ContainsFunc(x.List, func(u nft.Range) bool { return u.Has(f.packet.UID) })
	case nft.Mark:
		return (f.packet.Mark&x.Mask == x.Value) != x.Not
	case nft.DSCP:
		return slices.Contains(x.List, f.packet.TOS>>2)
	case nft.MACs:
		link, _ := f.rt.Link(f.in)
		if link.Hardware != [6]byte{} && f.packet.MAC == [6]byte{} {
			f.unseen = "a policy looks at the hardware address, and none is given (mac): it is taken for another host's"
		}
		return link.Hardware != [6]byte{} && slices.Contains(x.List, f.packet.MAC)
	case nft.Pinned:
		return f.pin&x.Mask != 0
	case nft.IPsec:
		return f.ipsec != x.Not
	case nft.SourceShare:
		return x.Has(f.source)
	case nft.Destination:
		return x.Prefix.Contains(f.packet.To)
	case nft.LocalDestination:
		return f.rt.isLocal(f.packet.To)
	case nft.Route:
		p := Packet{From: f.packet.From, To: f.packet.To, Mark: f.packet.Mark, Protocol: f.packet.Protocol, TOS: f.packet.TOS}
		if !x.Back {
			return len(f.routes(p)) > 0
		}
		p.From, p.To = p.To, p.From
		return slices.Contains(f.routes(p), f.in)
	case nft.SYN:
		return f.packet.Protocol == protocolTCP
	case nft.New, nft.ToThisHost:
		return true
	case nft.DestinationNAT:
		return f.forward != ""
	case nft.Established, nft.Reply, nft.Transparent, nft.SourceTranslated, nft.Midstream: // of connections that exist
		return false
	}
	f.unseen = fmt.Sprintf("the packet filter of uplinkd has a condition that is not understood here (%T) and is taken for one that does not hold", x)
	return false
}

const protocolTCP = 6

// inPrefix is an address with another prefix.
func inPrefix(p netip.Prefix, a netip.Addr) netip.Addr {
	from, to := p.Masked().Addr().As16(), a.As16()
	for i := range p.Bits() {
		bit := byte(0x80) >> (i % 8)
		to[i/8] = to[i/8]&^bit | from[i/8]&bit
	}
	return netip.AddrFrom16(to)
}
