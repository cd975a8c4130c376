package rules

import (
	"fmt"
	"net/netip"
)

// flow is a new connection, which no packet filter has seen yet, on its way through our chains.
type flow struct {
	packet      *Packet
	in, out     string
	source      netip.Addr
	pin         uint32
	masqueraded bool
	dropped     bool
}

// enter runs a packet that came in through our prerouting chain. A mark of ours that the packet is said to
// have stands for a connection that is pinned already.
func (e *explainer) enter(p *Packet) {
	if e.table == nil {
		return
	}
	mask := e.cfg.Kernel.MarkMask
	f := flow{packet: p, in: p.In, source: p.From, pin: p.Mark & mask}
	before := p.Mark
	e.run("prerouting", &f)
	if p.Mark == before {
		return
	}
	because := Origin{Key: "kernel.mark_mask"}
	if u := e.uplinkOn(p.In); u != nil {
		because = Origin{u.Name, "device"}
	}
	e.step(Step{Kind: StepMark, What: "nftables chain prerouting", Counts: true, Because: because,
		Why: fmt.Sprintf("a connection that begins at %s is pinned to it: the mark is %#x from here on", p.In, p.Mark)})
}

// leave runs the packet through our postrouting chains, once for each way that it may take.
func (e *explainer) leave(p Packet) {
	if e.table == nil {
		return
	}
	kept := e.out.Ways[:0]
	for _, w := range e.out.Ways {
		q := p
		f := flow{packet: &q, out: w.Device, source: w.Source, pin: p.Mark & e.cfg.Kernel.MarkMask}
		e.run("postrouting", &f)
		switch {
		case f.dropped:
			e.step(Step{Kind: StepFilter, What: "nftables chain guard", Counts: true, Because: Origin{w.Uplink, FamilyOf(p.To).String()},
				Why: fmt.Sprintf("drops what would leave by %s with the source %v", w.Device, f.source)})
			continue
		case f.masqueraded:
			e.step(Step{Kind: StepFilter, What: "nftables chain srcnat", Counts: true, Because: Origin{w.Uplink, FamilyOf(p.To).String()},
				Why: fmt.Sprintf("what leaves by %s gets an address of that device", w.Device)})
		}
		kept = append(kept, w)
	}
	e.out.Ways = kept
	if len(kept) == 0 {
		e.out.Outcome, e.out.Reason = Filtered, "its source belongs to another network than the one that it would leave by"
	}
}

// run evaluates our chains of a hook, in the order of their priorities, which is that of the table.
func (e *explainer) run(hook string, f *flow) {
	for i := range e.table.Chains {
		c := &e.table.Chains[i]
		if c.Hook != hook || c.Type == "nat" && f.masqueraded {
			continue
		}
		for j := range c.Rules {
			if f.rule(e.cfg.Kernel, &c.Rules[j]) {
				break
			}
		}
		if f.dropped {
			return
		}
	}
}

// rule evaluates one rule and reports whether it ends its chain.
func (f *flow) rule(k Kernel, r *NftRule) (ends bool) {
	for _, x := range r.Exprs {
		switch x := x.(type) {
		case NftDevice:
			if x.Out && x.Name != f.out || !x.Out && x.Name != f.in {
				return false
			}
		case NftCtMark:
			if f.pin&x.Mask != x.Value {
				return false
			}
		case NftSource:
			if f.masqueraded || !f.source.IsValid() || !x.Prefix.Contains(f.source) {
				return false
			}
		case NftFamily:
			if FamilyOf(f.packet.To) != x.Family {
				return false
			}
		case NftSetMark:
			f.packet.Mark = f.packet.Mark&^x.Mask | x.Value
		case NftSetCtMark:
			f.pin = f.pin&^x.Mask | x.Value
		case NftCounter:
		case NftMasquerade:
			f.masqueraded = true
			return true
		case NftDrop:
			f.dropped = true
			return true
		case NftReturn:
			return true
		default:
			return false // what this walk does not follow, such as a rule for a single kind of packet
		}
	}
	return false
}
