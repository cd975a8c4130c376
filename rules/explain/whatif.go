package explain

import (
	"maps"
	"slices"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// WithLinkDown is the routing that there would be shortly after the cable of an uplink is pulled, as far as planning
// decides it: its verdict is "down", its device has no carrier, and the difference to the plan of that moment has
// been applied. It returns that plan too.
func (rt *Routing) WithLinkDown(cfg rules.Config, verdicts map[rules.Path]rules.Verdict, uplink *rules.Uplink) (*Routing, netcfg.State) {
	after := &Routing{Observed: new(rules.Observed)}
	*after.Observed = *rt.Observed
	after.Links, after.Rules, after.Tables = slices.Clone(rt.Links), slices.Clone(rt.Rules), slices.Clone(rt.Tables)
	for i := range after.Links {
		if after.Links[i].Name == uplink.Device {
			after.Links[i].Carrier = false
		}
	}
	for i := range after.Tables {
		t := &after.Tables[i]
		t.Linkdown = slices.Clone(t.Linkdown)
		for n := range t.Nexthops {
			if t.Nexthops[n].Device == uplink.Device && n < len(t.Linkdown) {
				t.Linkdown[n] = true
			}
		}
	}
	modified := make(map[rules.Path]rules.Verdict, len(verdicts))
	maps.Copy(modified, verdicts)
	for _, family := range rules.Families {
		modified[rules.Path{Uplink: uplink.ID, Family: family}] = rules.Verdict{Health: rules.Dead, State: "down"}
	}
	state, _ := rules.Plan(cfg, after.Observed, modified)
	for _, op := range netcfg.Diff(rules.Ours(cfg.Kernel, after.Observed), state) {
		after.apply(op)
	}
	return after, state
}

// apply does to the routing what a change would do to the kernel's.
func (rt *Routing) apply(op netcfg.Op) {
	switch op := op.(type) {
	case netcfg.PutRoute:
		t := TableRoute{Route: op.Route}
		t.Nexthops = nil
		for _, hop := range op.Nexthops {
			link, _ := rt.Link(hop.Device)
			t.AddNexthop(hop, !link.Up, !link.Carrier)
		}
		i := slices.IndexFunc(rt.Tables, func(o TableRoute) bool { return o.SameKey(&op.Route) })
		switch {
		case i < 0:
			rt.Tables = append(rt.Tables, t)
		case op.Prepend:
			rt.Tables = slices.Insert(rt.Tables, i, t)
		default:
			rt.Tables[i] = t
		}
	case netcfg.DelRoute:
		rt.Tables = slices.DeleteFunc(rt.Tables, func(o TableRoute) bool { return o.Route.Equal(op.Route) })
	case netcfg.AddRule:
		i := slices.IndexFunc(rt.Rules, func(o netcfg.Rule) bool { return o.Family == op.Family && o.Priority > op.Priority })
		if i < 0 {
			i = len(rt.Rules)
		}
		rt.Rules = slices.Insert(rt.Rules, i, op.Rule)
	case netcfg.DelRule:
		rt.Rules = slices.DeleteFunc(rt.Rules, func(o netcfg.Rule) bool { return o == op.Rule })
	}
}
