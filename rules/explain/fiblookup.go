package explain

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// loopback is the name that rules know this machine's own packets by.
const loopback = "lo"

// answer is the outcome of one walk over the rules.
type answer struct {
	outcome  Outcome
	egresses []Egress
	reason   string
	typ      netcfg.RouteType // of the route that decided, 0 when none did
	devices  []string         // of all its nexthops, usable or not
}

// walk is fib_rules_lookup of net/core/fib_rules.c.
func (e *explainer) walk(p Packet) answer {
	list := e.rt.rulesOf(rules.FamilyOf(p.To))
	a := e.walkFrom(list, 0, p)
	if a.outcome == Refused && p.Out != "" && p.To.Is4() {
		// ip_route_output_key_hash_rcu: "Apparently, routing tables are wrong. Assume, that the
		// destination is on link."
		e.step(Step{Kind: StepRoute, What: p.To.String() + " dev " + p.Out, Counts: true,
			Why: "no route leads there, and IPv4 takes the destination of a socket that is bound to a device for a neighbour"})
		return answer{outcome: Leaves, typ: netcfg.Unicast, reason: "the socket is bound to " + p.Out + ", where the destination is taken for a neighbour",
			egresses: []Egress{{Device: p.Out, Weight: 1}}, devices: []string{p.Out}}
	}
	return a
}

func (rt *Routing) rulesOf(family rules.Family) []*netcfg.Rule {
	var list []*netcfg.Rule
	for i := range rt.Rules {
		if rt.Rules[i].Family == family {
			list = append(list, &rt.Rules[i])
		}
	}
	return list
}

func (e *explainer) walkFrom(list []*netcfg.Rule, from int, p Packet) answer {
	for i := from; i < len(list); i++ {
		r := list[i]
		because := e.cfg.OriginOfRule(r)
		if why := mismatch(r, &p); (why != "") != r.Selectors.Not {
			if r.Selectors.Not {
				why = "its selectors match, and it is for what they do not match"
			}
			e.step(Step{Kind: StepRule, What: r.String(), Why: why, Because: because})
			continue
		}
		if r.Selectors.Unknown {
			e.out.Uncertain = "the rule of preference " + fmt.Sprint(r.Priority) + " has selectors that are not understood here and was passed over"
			e.step(Step{Kind: StepRule, What: r.String(), Why: "has further selectors, not understood here", Because: because})
			continue
		}
		switch r.Selectors.Action {
		case netcfg.Nop:
			continue
		case netcfg.Jump:
			target := slices.IndexFunc(list, func(o *netcfg.Rule) bool { return o.Priority == r.Selectors.Goto })
			if target > i { // the kernel refuses jumps backwards; a target that is not there goes on
				e.step(Step{Kind: StepRule, What: r.String(), Counts: true, Why: "matches: on to that rule", Because: because})
				i = target - 1
			}
			continue
		case netcfg.RefuseSilently, netcfg.RefuseNoRoute, netcfg.RefuseProhibited:
			e.step(Step{Kind: StepRule, What: r.String(), Counts: true, Why: "matches, and refuses", Because: because})
			return answer{outcome: Refused, reason: "a rule refuses: " + r.String()}
		}
		e.step(Step{Kind: StepRule, What: r.String(), Counts: true, Why: "matches" + selectedBy(r), Because: because})
		if a, decided := e.ask(list, i, r, p); decided {
			return a
		}
	}
	return answer{outcome: Refused, reason: "no rule leads to a route"}
}

// ask looks the packet up in the table of a rule; not decided means that the next rule is asked.
func (e *explainer) ask(list []*netcfg.Rule, at int, r *netcfg.Rule, p Packet) (a answer, decided bool) {
	a, found := e.tableLookup(r.Table, p)
	if !found {
		return a, false
	}
	if a.outcome == Refused { // a refusal is never suppressed
		return a, true
	}
	kept := slices.DeleteFunc(slices.Clone(a.egresses), func(w Egress) bool {
		why := e.rt.suppressed(r, rules.FamilyOf(p.To), &w)
		if why != "" {
			e.step(Step{Kind: StepRoute, What: "dev " + w.Device, Counts: true, Why: "does not count for this rule: " + why, Because: e.cfg.OriginOfRule(r)})
		}
		return why != ""
	})
	switch {
	case len(kept) == 0 && len(a.egresses) > 0:
		return a, false
	case len(kept) < len(a.egresses):
		// Ways of one route, of which the kernel may take a suppressed one: then it walks on.
		rest := e.walkFrom(list, at+1, p)
		a.egresses = append(kept, rest.egresses...)
		e.out.Uncertain = "some ways of the route do not count for its rule: where the hash takes one of them, the next rules decide"
	}
	return a, true
}

// mismatch is fib_rule_match without its inversion: it returns why the rule is not for the packet, "" when it is.
func mismatch(r *netcfg.Rule, p *Packet) string {
	in := p.In
	if in == "" {
		in = loopback
	}
	switch {
	case r.IIF != "" && r.IIF != in && in == loopback:
		return "is for what comes in by " + r.IIF + ", and this machine makes the packet"
	case r.IIF != "" && r.IIF != in:
		return "is for what comes in by " + r.IIF
	case r.OIF != "" && r.OIF != p.Out:
		return "is for sockets bound to " + r.OIF
	case (r.Mark^p.Mark)&r.Mask != 0:
		return fmt.Sprintf("the mark is %#x", p.Mark)
	case r.Selectors.UIDs.Set && (p.UID < r.Selectors.UIDs.First || p.UID > r.Selectors.UIDs.Last):
		return fmt.Sprintf("the owner is %d", p.UID)
	case r.From.IsValid() && r.From.Bits() > 0 && !p.From.IsValid():
		return "there is no source yet"
	case r.From.IsValid() && r.From.Bits() > 0 && !r.From.Contains(p.From):
		return "the source is " + p.From.String()
	case r.To.IsValid() && !r.To.Contains(p.To):
		return "the destination is " + p.To.String()
	case !matchesTOS(&r.Selectors, r.Family, p.TOS):
		return fmt.Sprintf("the type of service is %#x", p.TOS)
	case r.Selectors.Protocol != 0 && r.Selectors.Protocol != p.Protocol:
		return "is for another protocol"
	case !r.Selectors.SPort.Has(p.SPort):
		return fmt.Sprintf("the source port is %d", p.SPort)
	case !r.Selectors.DPort.Has(p.DPort):
		return fmt.Sprintf("the destination port is %d", p.DPort)
	}
	return ""
}

// matchesTOS is fib4_rule_dscp_match and fib6_rule_dscp_match: IPv4 compares a rule's "tos" with three bits.
func matchesTOS(m *netcfg.RuleSelectors, family rules.Family, tos uint8) bool {
	switch {
	case m.DSCP:
		return m.TOS>>2 == tos>>2
	case m.TOS == 0:
		return true
	case family == rules.IPv4:
		return m.TOS&0xfc == tos&0x1c
	}
	return m.TOS&0xfc == tos&0xfc
}

// selectedBy says which selectors matched.
func selectedBy(r *netcfg.Rule) string {
	var by []string
	for _, s := range []struct {
		has  bool
		word string
	}{{r.Mask != 0, "mark"}, {r.OIF != "", "device"}, {r.IIF != "", "incoming device"}, {r.From.IsValid() && r.From.Bits() > 0, "source"},
		{r.To.IsValid() && r.To.Bits() > 0, "destination"}, {r.Selectors.Protocol != 0, "protocol"}, {r.Selectors.UIDs.Set, "owner"}} {
		if s.has {
			by = append(by, s.word)
		}
	}
	if len(by) == 0 {
		return " every packet"
	}
	return " by its " + strings.Join(by, " and ")
}

// suppressed is fib4_rule_suppress and fib6_rule_suppress: it returns why a way does not count for the rule.
func (rt *Routing) suppressed(r *netcfg.Rule, family rules.Family, w *Egress) string {
	if w.bits <= r.SuppressPrefixLen {
		return fmt.Sprintf("its prefix has %d bits, %d or fewer are passed over", w.bits, r.SuppressPrefixLen)
	}
	device := w.Device
	if family == rules.IPv4 {
		device = w.first
	}
	if link, ok := rt.Link(device); ok && r.SuppressGroup >= 0 && int64(link.Group) == r.SuppressGroup {
		return fmt.Sprintf("%s is in link group %d", device, link.Group)
	}
	return ""
}

// tableLookup is fib_table_lookup and fib6_table_lookup: the longest prefix, then the least metric, with a
// nexthop that is usable and, for a bound socket, on its device.
func (e *explainer) tableLookup(table uint32, p Packet) (a answer, found bool) {
	candidates := e.rt.candidates(table, &p)
	for i, r := range candidates {
		if r.Type == netcfg.Throw {
			e.step(Step{Kind: StepRoute, What: r.String(), Counts: true, Why: "sends back to the rules", Because: e.cfg.OriginOfRoute(&r.Route)})
			return a, false
		}
		if refuses(r.Type) {
			if p.Out != "" && r.Family == rules.IPv6 {
				continue // rt6_score_route: such a route is on device lo, which the socket is not bound to
			}
			e.step(Step{Kind: StepRoute, What: r.String(), Counts: true, Why: "refuses", Because: e.cfg.OriginOfRoute(&r.Route)})
			return answer{outcome: Refused, typ: r.Type, reason: e.refusal(r)}, true
		}
		egresses := e.rt.usable(r, p.Out)
		if len(egresses) == 0 {
			e.step(Step{Kind: StepRoute, What: r.String(), Why: unusable(p.Out), Because: e.cfg.OriginOfRoute(&r.Route)})
			continue
		}
		egresses = append(egresses, e.rt.equalRoutes(r, candidates[i+1:], p.Out)...)
		a = answer{outcome: Leaves, typ: r.Type, egresses: egresses}
		for _, n := range r.Nexthops {
			a.devices = append(a.devices, n.Device)
		}
		if r.Type != netcfg.Unicast {
			a.outcome, a.egresses = Delivered, []Egress{{Device: r.Nexthops[0].Device, Table: r.Table, bits: r.Dst.Bits(), first: r.Nexthops[0].Device}}
		}
		a.reason = e.choice(r, &a)
		e.step(Step{Kind: StepRoute, What: r.String(), Counts: true, Why: a.reason, Because: e.cfg.OriginOfRoute(&r.Route)})
		return a, true
	}
	e.step(Step{Kind: StepRoute, What: fmt.Sprintf("table %d", table), Why: "has no route to " + p.To.String()})
	return a, false
}

func refuses(t netcfg.RouteType) bool {
	return t == netcfg.Blackhole || t == netcfg.Unreachable || t == netcfg.Prohibit
}

func unusable(out string) string {
	if out != "" {
		return "leads by no device that the socket is bound to, or one that is down"
	}
	return "its device is down"
}

// candidates lists the routes of a table that cover the packet, best first.
func (rt *Routing) candidates(table uint32, p *Packet) []*TableRoute {
	family := rules.FamilyOf(p.To)
	var list []*TableRoute
	for i := range rt.Tables {
		r := &rt.Tables[i]
		if r.Table != table || r.Family != family || !r.Dst.Contains(p.To.WithZone("")) ||
			r.TOS != 0 && r.TOS != p.TOS&0x1c ||
			r.From.IsValid() && r.From.Bits() > 0 && !(p.From.IsValid() && r.From.Contains(p.From)) {
			continue
		}
		list = append(list, r)
	}
	// IPv6 compares destinations first, then sources (fib6_node_lookup).
	slices.SortStableFunc(list, func(a, b *TableRoute) int {
		return cmp.Or(cmp.Compare(b.Dst.Bits(), a.Dst.Bits()), cmp.Compare(max(b.From.Bits(), 0), max(a.From.Bits(), 0)),
			cmp.Compare(b.TOS, a.TOS), cmp.Compare(a.Metric, b.Metric))
	})
	return list
}

// usable lists the nexthops of a route that may be taken.
func (rt *Routing) usable(r *TableRoute, out string) []Egress {
	var egresses []Egress
	for i, hop := range r.Nexthops {
		dead := i < len(r.Unusable) && r.Unusable[i]
		down := i < len(r.Linkdown) && r.Linkdown[i] && rt.ignoresLinkdown(r.Family, hop.Device)
		if dead || down || out != "" && out != hop.Device {
			continue
		}
		egresses = append(egresses, Egress{Device: hop.Device, Gateway: hop.Gateway, Table: r.Table, Source: r.Src, Weight: hop.Weight,
			MTU: r.MTU, bits: r.Dst.Bits(), first: r.Nexthops[0].Device, scope: r.Scope})
	}
	return egresses
}

// equalRoutes lists the egresses of routes that are as good as the first: IPv6 takes any of one metric (find_rr_leaf),
// IPv4 any of several defaults (fib_select_default).
func (rt *Routing) equalRoutes(first *TableRoute, rest []*TableRoute, out string) []Egress {
	var egresses []Egress
	for _, r := range rest {
		same := r.Type == netcfg.Unicast && first.Type == netcfg.Unicast && r.Dst == first.Dst && r.From == first.From && r.Metric == first.Metric && r.TOS == first.TOS
		if same && (r.Family == rules.IPv6 || r.IsDefault()) {
			egresses = append(egresses, rt.usable(r, out)...)
		}
	}
	return egresses
}

// choice says why the route decides.
func (e *explainer) choice(r *TableRoute, a *answer) string {
	switch {
	case r.Type != netcfg.Unicast:
		return "is an address of this machine"
	case len(a.egresses) > 1 && len(r.Nexthops) > 1:
		return "shares new flows among " + e.names(a.egresses) + ", by a hash of each flow"
	case len(a.egresses) > 1:
		return "is one of several that are equal: " + e.names(a.egresses)
	}
	return "leads to " + e.names(a.egresses)
}

// refusal says on whose behalf a route refuses.
func (e *explainer) refusal(r *TableRoute) string {
	o := e.cfg.OriginOfRoute(&r.Route)
	if o.Policy != "" {
		return "policy " + o.Policy + " is a kill switch, and none of its uplinks works"
	}
	if o.Uplink != "" {
		return "uplink " + o.Uplink + " has no way to the Internet, and its traffic may not leave by another"
	}
	return "a route refuses: " + r.String()
}

// names lists the uplinks of egresses, or their devices where those are no uplinks.
func (e *explainer) names(egresses []Egress) string {
	var names []string
	for _, w := range egresses {
		name := w.Device
		if u := e.cfg.UplinkOn(w.Device); u != nil {
			name = u.Name
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}
