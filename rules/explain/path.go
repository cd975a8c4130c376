package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// departure follows a packet that a socket of this machine makes. A socket without a source asks twice:
// the first answer gives it its source, and that may lead elsewhere by a rule (ip_route_connect,
// ip6_dst_lookup_tail).
func (e *explainer) departure(p Packet) {
	if p.From.Is4() && !e.rt.isLocal(p.From) {
		e.step(Step{Kind: StepSource, What: p.From.String(), Counts: true, Why: "is not an address of this machine: a socket cannot send from it"})
		e.refuse(p, p.From.String()+" is not an address of this machine")
		return
	}
	// ip_route_output_key_hash_rcu asks for the device of a bound socket before anything else.
	if link, _ := e.rt.Link(p.Out); p.Out != "" && p.To.Is4() && !link.Up {
		e.step(Step{Kind: StepSource, What: p.Out, Counts: true, Why: "is down, and the socket is bound to it"})
		e.refuse(p, p.Out+" is down")
		return
	}
	a := e.walk(p)
	e.asked(p, a)
	if p.From.IsValid() && e.reroute(&p, &a) {
		a = e.walk(p)
	}
	if a.outcome != Leaves || p.From.IsValid() {
		e.conclude(p, a)
		return
	}
	e.selectSources(&a)
	source := a.egresses[0].Source
	same := !slices.ContainsFunc(a.egresses, func(w Egress) bool { return w.Source != source })
	if !source.IsValid() || !same {
		if !same {
			e.out.Uncertain = "the source depends on the way that the hash takes, and rules by source count from then on"
		}
		e.conclude(p, a)
		return
	}
	e.step(Step{Kind: StepSource, What: source.String(), Counts: true,
		Why: "is the source that this way gives the socket; with it, the route is looked up once more"})
	p.From = source
	a = e.walk(p)
	if e.reroute(&p, &a) {
		a = e.walk(p)
	}
	e.conclude(p, a)
}

// arrival follows a packet that came in by a device: our packet filter may mark it, and IPv4 validates
// its source.
func (e *explainer) arrival(p Packet) {
	e.prerouting(&p)
	p.UID = 0 // ip_route_input_slow: that of the namespace's owner
	a := e.walk(p)
	if a.outcome == Leaves && e.rt.sysctl("net/"+rules.FamilyOf(p.To).String()+"/conf/"+p.In+"/forwarding") == 0 {
		e.step(Step{Kind: StepSource, What: "forwarding of " + p.In, Counts: true, Why: "is off: only packets for this machine are accepted there"})
		e.refuse(p, "forwarding is off on "+p.In)
		return
	}
	if p.To.Is4() && a.outcome != Refused {
		if why := e.rpFilter(p, &a); why != "" {
			e.out.RPFilter = why
			e.refuse(p, "the source is refused: "+why)
			return
		}
	}
	e.conclude(p, a)
}

// devices lists those that the rules lead a packet to: none when it is refused, or for this machine.
func (e *explainer) devices(p Packet) []string {
	silent := explainer{cfg: e.cfg, rt: e.rt, out: new(Explanation), quiet: true}
	if a := silent.walk(p); a.outcome == Leaves {
		return a.devices
	}
	return nil
}

func (e *explainer) refuse(p Packet, why string) {
	e.out.Outcome, e.out.Reason = Refused, why
	e.asked(p, answer{outcome: Refused})
}

// asked notes a lookup that the kernel can be asked for too.
func (e *explainer) asked(p Packet, a answer) {
	if p.To.Is4() || p.Out == "" || !p.From.IsValid() {
		e.out.Lookup = &Lookup{p, a.outcome, slices.Clone(a.egresses)}
	}
}

// conclude makes the answer of a walk the outcome, as far as our packet filter lets it.
func (e *explainer) conclude(p Packet, a answer) {
	for i := range a.egresses {
		if u := e.cfg.UplinkOn(a.egresses[i].Device); u != nil {
			a.egresses[i].Uplink = u.Name
		}
		if p.From.IsValid() {
			a.egresses[i].Source = p.From
		}
	}
	e.out.Outcome, e.out.Egresses, e.out.Reason = a.outcome, a.egresses, a.reason
	e.asked(p, a)
	if a.outcome == Leaves {
		e.postrouting(p)
	}
}

// sysctl4 is the path of a parameter of IPv4 below /proc/sys.
func sysctl4(device, key string) string { return "net/ipv4/conf/" + device + "/" + key }

// rpFilter is IPv4's validation of sources (net/ipv4/fib_frontend.c __fib_validate_source). It returns why
// the packet is refused, "" when it is not.
func (e *explainer) rpFilter(p Packet, onward *answer) string {
	filter := max(e.rt.sysctl(sysctl4("all", "rp_filter")), e.rt.sysctl(sysctl4(p.In, "rp_filter")))
	back := Packet{From: p.To, To: p.From, Mark: p.Mark, Protocol: p.Protocol, SPort: p.DPort, DPort: p.SPort, TOS: p.TOS}
	if e.rt.sysctl(sysctl4("all", "src_valid_mark"))+e.rt.sysctl(sysctl4(p.In, "src_valid_mark")) == 0 {
		back.Mark = 0
	}
	// The flow back comes in where this packet would leave, or from this machine.
	if onward.outcome == Leaves {
		back.In = onward.egresses[0].Device
	}
	silent := explainer{cfg: e.cfg, rt: e.rt, out: new(Explanation), quiet: true}
	a := silent.walk(back)
	what := fmt.Sprintf("rp_filter %d on %s: the route back to %v", filter, p.In, p.From)
	verdict := func(counts bool, why string) string {
		e.step(Step{Kind: StepSource, What: what, Counts: counts, Why: why})
		if !counts {
			return ""
		}
		return why
	}
	local := e.rt.sysctl(sysctl4("all", "accept_local"))+e.rt.sysctl(sysctl4(p.In, "accept_local")) != 0
	noAddress := !slices.ContainsFunc(e.rt.Addrs, func(a rules.Addr) bool { return a.Device == p.In && a.Prefix.Addr().Is4() })
	switch {
	case a.typ == netcfg.Broadcast, a.typ == netcfg.Local && !local:
		return verdict(true, "it is one of this machine's own addresses")
	case a.outcome == Refused && filter != 0:
		return verdict(true, "no route leads back: "+a.reason)
	case a.outcome == Refused:
		return verdict(false, "none is asked for")
	case slices.Contains(a.devices, p.In):
		return verdict(false, "leads through "+p.In)
	case filter == 0 || filter == 2 && !noAddress:
		return verdict(false, "leads through "+strings.Join(a.devices, ", ")+", which is tolerated")
	}
	return verdict(true, "leads through "+strings.Join(a.devices, ", ")+" and not through "+p.In)
}

func (rt *Routing) isLocal(a netip.Addr) bool {
	return slices.ContainsFunc(rt.Addrs, func(o rules.Addr) bool { return o.Prefix.Addr() == a }) ||
		a.IsLoopback() && slices.ContainsFunc(rt.Addrs, func(o rules.Addr) bool { return o.Prefix.Contains(a) && o.Prefix.Addr().IsLoopback() })
}

// selectSources gives each way the source that a socket without one would get there.
func (e *explainer) selectSources(a *answer) {
	for i := range a.egresses {
		w := &a.egresses[i]
		if !w.Source.IsValid() {
			w.Source = e.rt.source(w, e.out.Packet.To)
		}
	}
}

// source is inet_select_addr for IPv4: the primary address of the subnet that the gateway is in, else the
// first one of the device. For IPv6 it is RFC 6724 as far as the device's own addresses go.
func (rt *Routing) source(w *Egress, to netip.Addr) netip.Addr {
	var own []rules.Addr
	for _, a := range rt.Addrs {
		if a.Device == w.Device && rules.FamilyOf(a.Prefix.Addr()) == rules.FamilyOf(to) {
			own = append(own, a)
		}
	}
	if to.Is6() {
		usable, _ := rules.UsableAddresses(rules.IPv6, own)
		if len(usable) == 0 || to.IsLinkLocalUnicast() {
			return netip.Addr{}
		}
		best := slices.MinFunc(usable, func(a, b netip.Prefix) int { return rank6(a.Addr(), to) - rank6(b.Addr(), to) })
		return best.Addr()
	}
	near := w.Gateway
	if !near.IsValid() {
		near = to
	}
	for _, must := range []bool{true, false} {
		for _, a := range own {
			if !a.Temporary && !a.LinkScope && (!must || a.Prefix.Contains(near)) {
				return a.Prefix.Addr()
			}
		}
	}
	return netip.Addr{}
}

// rank6 puts addresses of the destination's sort, global or unique-local, first.
func rank6(a, to netip.Addr) int {
	if a.IsPrivate() != to.IsPrivate() {
		return 1
	}
	return 0
}
