package rules_test

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// byValue lets addresses be compared as what they are.
var byValue = gocmp.Options{cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}, netip.AddrPort{}), cmpopts.EquateEmpty()}

func TestNothingIsToDoBetweenEqualStates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := worlds().Draw(t, "world")
		want, _ := w.plan()
		have := rules.Ours(numbers, w.snapshot())
		for _, s := range []netcfg.State{want, have} {
			if ops := netcfg.Diff(s, s); len(ops) > 0 {
				t.Errorf("Diff of a state and itself:\n%s", commands(ops))
			}
		}
	})
}

func TestApplyingTheDifferenceGivesTheWantedState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := worlds().Draw(t, "world")
		want, _ := w.plan()
		w.round(t)
		have := rules.Ours(numbers, w.snapshot())
		if diff := gocmp.Diff(want.Routes, have.Routes, byValue); diff != "" && !removesAddress(t, w) {
			t.Errorf("routes (-want +have):\n%s", diff)
		}
		if diff := gocmp.Diff(want.Rules, have.Rules, byValue); diff != "" {
			t.Errorf("rules (-want +have):\n%s", diff)
		}
		if diff := gocmp.Diff(want.Addrs, have.Addrs, byValue); diff != "" {
			t.Errorf("addresses (-want +have):\n%s", diff)
		}
		if !want.Table.Matches(have.Table) {
			t.Errorf("nftables: want\n%s\nhave\n%s", want.Table, have.Table)
		}
		for _, g := range want.Groups {
			if w.present(g.Device) && !slices.ContainsFunc(have.Groups, func(h netcfg.LinkGroup) bool { return h.Device == g.Device && h.Group == g.Group }) {
				t.Errorf("%s is not in group %d", g.Device, g.Group)
			}
		}
		for _, s := range want.Sysctls {
			if got, exists := w.obs.Sysctls[s.Name]; got != s.Value && (exists || !s.Restore) {
				t.Errorf("%s is %q, want %q", s.Name, got, s.Value)
			}
		}
	})
}

// removesAddress reports whether the machine still follows up on an address that was taken off it.
func removesAddress(t fataler, w *world) bool {
	t.Helper()
	ops, _ := w.round(t)
	return len(ops) > 0
}

func TestWhatIsNotOursStaysUntouched(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := worlds().Draw(t, "world")
		before := w.clone()
		w.converge(t)
		sameForeign(t, "after the start", before, w.machine)
		w.cfg.Uplinks, w.cfg.Tunnels, w.cfg.WireGuard = nil, nil, nil
		w.converge(t)
		sameForeign(t, "after cleaning up", before, w.machine)
	})
}

func sameForeign(t fataler, when string, before, after *machine) {
	t.Helper()
	routes, list, addrs := before.foreign()
	gotRoutes, gotList, gotAddrs := after.foreign()
	for what, diff := range map[string]string{
		"routes":    gocmp.Diff(routes, gotRoutes, byValue),
		"rules":     gocmp.Diff(list, gotList, byValue),
		"addresses": gocmp.Diff(addrs, gotAddrs, byValue),
	} {
		if diff != "" {
			t.Errorf("%s of others %s (-before +after):\n%s", what, when, diff)
		}
	}
}

// Cleaning up after a run on a machine that held nothing of ours gives that machine back.
func TestCleaningUpLeavesNothingBehind(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := worlds().Draw(t, "world")
		w.cfg, w.obs.Recorded = clearOf(w)
		before := w.clone()
		w.converge(t)
		w.cfg.Uplinks, w.cfg.Tunnels, w.cfg.WireGuard = nil, nil, nil
		w.converge(t)
		for _, s := range []struct {
			what          string
			before, after any
		}{
			{"links", before.obs.Links, w.obs.Links},
			{"routes", sorted(before.obs.Routes), sorted(w.obs.Routes)},
			{"rules", before.obs.Rules, w.obs.Rules},
			{"sysctls", before.obs.Sysctls, w.obs.Sysctls},
			{"table", (*nft.Table)(nil), w.obs.Table},
			{"table of policies", (*nft.Table)(nil), w.obs.Policies},
			{"records", 0, len(w.obs.Recorded.Addrs) + len(w.obs.Recorded.Groups) + len(w.obs.Recorded.Sysctls)},
		} {
			if diff := gocmp.Diff(s.before, s.after, byValue); diff != "" {
				t.Errorf("%s (-before +after):\n%s", s.what, diff)
			}
		}
	})
}

// clearOf takes away what an earlier run left, by the plan of a configuration without uplinks.
func clearOf(w *world) (rules.Config, rules.Recorded) {
	want, _ := rules.Plan(rules.Config{Kernel: numbers}, w.snapshot(), nil)
	for _, op := range netcfg.Diff(rules.Ours(numbers, w.snapshot()), want) {
		_ = w.apply(op)
	}
	return w.cfg, rules.Recorded{}
}

// sorted orders routes by what they are, for a set of them to be compared.
func sorted(routes []netcfg.Route) []netcfg.Route {
	return slices.SortedFunc(slices.Values(routes), func(a, b netcfg.Route) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.String(), b.String()))
	})
}

func TestEveryChangeIsToSomethingOfOurs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := worlds().Draw(t, "world")
		converge := func() {
			ops, _ := w.converge(t)
			for _, op := range ops {
				if !isOurs(w, op) {
					t.Errorf("touches what is not ours: %s", op.Command())
				}
			}
		}
		converge()
		w.happen(t, eventNames...) // of another configuration, maybe
		converge()
	})
}

func isOurs(w *world, op netcfg.Op) bool {
	_, planned := w.providers[device(op)]
	switch op := op.(type) {
	case netcfg.AddAddr:
		return planned || op.Prefix.Addr().Is6() && slices.Contains(w.lans, op.Device)
	case netcfg.ChangeAddr:
		return slices.Contains(w.lans, op.Device)
	case netcfg.DelAddr, netcfg.PutTable, netcfg.PutPolicies:
		return true // the model refuses to remove what is not there; that it is ours is seen by sameForeign
	case netcfg.PutRoute:
		return op.Protocol == numbers.Protocol && (w.ourTable(op.Table) || op.Table == netcfg.TableMain && (op.IsDefault() || (op.Type == netcfg.Unreachable || translates(op.Dst) || w.isShared(op.Dst)) && op.Family == rules.IPv6))
	case netcfg.DelRoute:
		return op.Protocol == numbers.Protocol
	case netcfg.AddRule:
		return op.Protocol == numbers.Protocol && op.Priority >= numbers.RulePriority && op.Priority <= numbers.RulePriority+900
	case netcfg.DelRule:
		return op.Protocol == numbers.Protocol
	case netcfg.SetGroup:
		return planned || op.Restore && op.From == numbers.LinkGroup
	case netcfg.SetHardware:
		return planned || op.Restore
	case netcfg.AddTunnel:
		return tunnelName(op.Device) && strings.HasPrefix(op.Alias, "uplinkd: ")
	case netcfg.SetMTU, netcfg.SetUp, netcfg.SetMaster, netcfg.SetWireGuard:
		return tunnelName(device(op))
	case netcfg.DelTunnel:
		return true // that it is ours is seen by sameForeign
	case netcfg.AddProxyNeighbour:
		return op.Protocol == numbers.Protocol && w.isShared(netip.PrefixFrom(op.Addr, 128))
	case netcfg.DelProxyNeighbour:
		return op.Protocol == numbers.Protocol
	case netcfg.SetSysctl:
		return planned || op.Restore || strings.HasSuffix(op.Name, "/fib_multipath_hash_policy")
	}
	return false
}

// device names the device that a change is about, where it is about one.
func device(op netcfg.Op) string {
	switch op := op.(type) {
	case netcfg.AddAddr:
		return op.Device
	case netcfg.DelAddr:
		return op.Device
	case netcfg.SetGroup:
		return op.Device
	case netcfg.SetHardware:
		return op.Device
	case netcfg.SetMTU:
		return op.Device
	case netcfg.SetUp:
		return op.Device
	case netcfg.SetMaster:
		return op.Device
	case netcfg.SetWireGuard:
		return op.Device
	case netcfg.SetSysctl:
		name, _ := strings.CutPrefix(op.Name, "net/ipv4/conf/")
		return name[:strings.LastIndex(name, "/")]
	}
	return ""
}

func TestOneUplinksChangeTouchesNoOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := worlds().Draw(t, "world")
		// A multipath default of others goes as a whole when one of its devices does.
		w.dropRoutes(func(r netcfg.Route) bool { return len(r.Nexthops) > 1 })
		for i := range w.cfg.Uplinks { // one that several have is asked by the best of them
			if u := &w.cfg.Uplinks[i]; len(u.Resolvers) > 0 {
				u.Resolvers = []netip.Addr{netip.AddrFrom4([4]byte{10, 53, 1, byte(u.ID)})}
			}
		}
		w.converge(t)
		w.cfg.Uplinks = slices.Clone(w.cfg.Uplinks)
		u := &w.cfg.Uplinks[draw(t, "uplink", len(w.cfg.Uplinks))]
		sharing := shares(w, u)
		name := rapid.SampledFrom([]string{"verdict", "renumbering", "carrier", "down", "up", "unplugged"}).Draw(t, "event")
		events[name](t, w, slices.IndexFunc(w.cfg.Uplinks, func(o rules.Uplink) bool { return o.ID == u.ID }))
		sharing = append(sharing, shares(w, u)...)
		ops, _ := w.converge(t)
		for _, op := range ops {
			if slices.ContainsFunc(w.cfg.Uplinks, func(o rules.Uplink) bool { return o.IPv6.PrefixNAT || o.IPv6.Masquerade }) && selectsDelegation(op) {
				continue // whether such an uplink carries new traffic decides where the prefixes of others lead
			}
			if owner := ownerOf(w, op); owner != 0 && owner != u.ID && !slices.Contains(sharing, owner) {
				t.Errorf("%s of %s touches uplink %d: %s", name, u.Name, owner, op.Command())
			}
		}
	})
}

// ownerOf returns the id of the uplink that a change belongs to, 0 for what all share: the weighted
// default, main's default, the neighbours of all uplinks, the common rules, what policies share and the nftables tables.
func ownerOf(w *world, op netcfg.Op) int {
	id := func(table uint32) int {
		if owner := int(table - numbers.TableBase); table != netcfg.TableMain && table != numbers.NeighbourTable() && !slices.ContainsFunc(w.cfg.Groups, func(g rules.Group) bool { return g.ID == owner }) && !w.isUnderlay(owner) {
			return owner
		}
		return 0
	}
	switch op := op.(type) {
	case netcfg.PutRoute:
		return id(op.Table)
	case netcfg.DelRoute:
		return id(op.Table)
	case netcfg.AddRule:
		return id(op.Table)
	case netcfg.DelRule:
		return id(op.Table)
	case netcfg.PutTable, netcfg.PutPolicies:
		return 0
	}
	if u := w.uplinkOn(device(op)); u != nil {
		return u.ID
	}
	return 0
}

// selectsDelegation reports whether a change is to a rule that a delegated prefix is routed by.
func selectsDelegation(op netcfg.Op) bool {
	switch op := op.(type) {
	case netcfg.AddRule:
		return op.From.IsValid() && !op.From.IsSingleIP()
	case netcfg.DelRule:
		return op.From.IsValid() && !op.From.IsSingleIP()
	}
	return false
}

// shares lists the uplinks that have an IPv4 subnet or any address in common with u: what u does changes
// describe their neighbours are to be asked and which of them speaks for the address.
func shares(w *world, u *rules.Uplink) []int {
	_, report := w.plan()
	var ids []int
	networks := func(o *rules.Uplink) []netip.Prefix {
		list := slices.Clone(report.Paths[rules.Path{Uplink: o.ID, Family: rules.IPv4}].Addresses)
		if o.IPv4.Assign != nil {
			list = append(list, o.IPv4.Assign.Addresses[0].Prefix)
		}
		for _, a := range report.Paths[rules.Path{Uplink: o.ID, Family: rules.IPv6}].Addresses {
			list = append(list, netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
		}
		if o.IPv6.Assign != nil {
			list = append(list, netip.PrefixFrom(o.IPv6.Assign.Addresses[0].Prefix.Addr(), 128))
		}
		return list
	}
	// A line that has IPv4 by a translator alone may have an address of its own for all that, which tunnels use.
	has := func(local netip.Addr) bool {
		return slices.ContainsFunc(w.obs.Addrs, func(a rules.Addr) bool {
			return a.Prefix.Addr() == local && slices.ContainsFunc(w.cfg.Uplinks, func(o rules.Uplink) bool { return o.ID == u.ID && o.Device == a.Device })
		})
	}
	for i := range w.cfg.Uplinks {
		o := &w.cfg.Uplinks[i]
		overlap := slices.ContainsFunc(networks(u), func(a netip.Prefix) bool {
			return slices.ContainsFunc(networks(o), func(b netip.Prefix) bool { return a.Masked().Overlaps(b.Masked()) })
		})
		carried := slices.ContainsFunc(w.cfg.Tunnels, func(t rules.Tunnel) bool {
			return t.Device == o.Device && (has(t.Local) || slices.ContainsFunc(networks(u), func(a netip.Prefix) bool { return a.Addr() == t.Local }))
		}) || slices.ContainsFunc(w.cfg.Underlays, func(c rules.Underlay) bool { return c.Uplink == o.ID && slices.Contains(c.Carriers, u.ID) })
		if o.ID != u.ID && (overlap || carried) {
			ids = append(ids, o.ID)
		}
	}
	return ids
}

// What works at both ends works all along. (To count would be weaker: the loss of one uplink could hide
// behind the gain of another.)
func TestNoStateOnTheWayIsWorseThanBothEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := worlds().Draw(t, "world")
		event := ""
		if flip(t, "not the first start") {
			w.converge(t)
			if seldom(t, "clean") {
				w.cfg.Uplinks, w.cfg.Tunnels, w.cfg.WireGuard = nil, nil, nil
			} else {
				event = w.happen(t, eventNames...)
			}
		}
		chance := byChance(w)
		states, names := passage(t, w)
		first, last := states[0], states[len(states)-1]
		if event == "ours deleted" {
			// With some of ours gone, what works may work by chance, and no order of repair keeps every chance.
			// That it ends well is for TestEverySequenceOfEventsConverges.
			return
		}
		if slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, "ip link delete dev tun") }) {
			return // what a tunnel carries fails while it is made anew
		}
		for i, s := range states {
			for item := range first {
				if last[item] && !s[item] && !slices.ContainsFunc(chance, func(name string) bool { return strings.HasSuffix(item, " by "+name) }) {
					t.Errorf("%s fails after %s", item, names[i])
				}
			}
		}
	})
}

// byChance lists the uplinks whose replies leave, but not by what is theirs. Either the device has just come and is not in our
// group, with a connected network so wide that the Internet seems to be behind it as a LAN is; or it is given an address that
// another device has and it has not yet. Those whose own address gets a mask that covers the Internet are listed too: while the address is
// there with both, for one plan, they lose replies.
func byChance(w *world) []string {
	var names []string
	for i := range w.cfg.Uplinks {
		u := &w.cfg.Uplinks[i]
		link, _ := w.obs.Link(u.Device)
		wide := slices.ContainsFunc(w.obs.Addrs, func(a rules.Addr) bool {
			return a.Device == u.Device && a.Prefix.Masked().Contains(internet[rules.FamilyOf(a.Prefix.Addr())])
		})
		given := func(a rules.Addr) bool {
			as := u.Family(rules.FamilyOf(a.Prefix.Addr())).Assign
			return as != nil && slices.ContainsFunc(as.Addresses, func(own rules.Address) bool { return own.Prefix.Addr() == a.Prefix.Addr() })
		}
		borrowed := slices.ContainsFunc(w.obs.Addrs, given) &&
			!slices.ContainsFunc(w.obs.Addrs, func(a rules.Addr) bool { return a.Device == u.Device && given(a) })
		covering := u.IPv4.Assign != nil && slices.ContainsFunc(u.IPv4.Assign.Addresses, func(given rules.Address) bool {
			return given.Prefix.Masked().Contains(internet[rules.IPv4]) && slices.ContainsFunc(w.obs.Addrs, func(a rules.Addr) bool {
				return a.Device == u.Device && a.Prefix.Addr() == given.Prefix.Addr() && a.Prefix != given.Prefix
			})
		})
		if link.Group != numbers.LinkGroup && wide || borrowed || covering {
			names = append(names, u.Name)
		}
	}
	return names
}

// Somebody flushes an uplink's table: its replies take the default until they may not, and must not be
// rejected before their own route is back.
func TestAFlushedTableComesBackWithoutAGap(t *testing.T) {
	w := tiers()
	for _, f := range rules.Families {
		w.verdicts[rules.Path{Uplink: 1, Family: f}] = rules.Verdict{Health: rules.Good}
	}
	w.converge(t)
	w.dropRoutes(func(r netcfg.Route) bool { return r.Table == numbers.Table(1) })
	states, names := passage(t, w)
	for i, s := range states {
		for _, f := range rules.Families {
			if item := fmt.Sprintf("%v replies by fiber", f); !s[item] {
				t.Errorf("%s fails after %s", item, names[i])
			}
		}
	}
}

// passage converges and returns what works before, after each change, and at the end.
func passage(t fataler, w *world) (states []map[string]bool, names []string) {
	uplinks := w.cfg.Uplinks
	states, names = append(states, w.working(uplinks)), append(names, "nothing")
	for range 3 {
		want, _ := w.plan()
		ops := netcfg.Diff(rules.Ours(numbers, w.foreseen()), want)
		w.obs.Recorded.Record(ops)
		for _, op := range ops {
			if err := w.apply(op); err != nil {
				t.Fatalf("%v", err)
			}
			states, names = append(states, w.working(uplinks)), append(names, op.Command())
		}
	}
	return states, names
}

// working lists what works: the LANs, a way for new traffic, and replies by arrival for each uplink.
func (w *world) working(uplinks []rules.Uplink) map[string]bool {
	works := make(map[string]bool)
	for _, f := range rules.Families {
		w.eachLANHost(f, func(lan string, host netip.Addr) {
			if devices(w.lookup(query{dst: host, iif: "lo"})) == lan {
				works[fmt.Sprintf("%v to %s", f, lan)] = true
			}
		})
		if ways := w.lookup(query{dst: internet[f], iif: "lo"}); !ways[0].rejected {
			works[fmt.Sprintf("new %v traffic", f)] = true
		}
		for i := range uplinks {
			if u := &uplinks[i]; u.Family(f).Enabled && w.answers(u, f) {
				works[fmt.Sprintf("%v replies by %s", f, u.Name)] = true
			}
		}
	}
	return works
}

// answers reports whether a reply from any address of the uplink leaves by it.
func (w *world) answers(u *rules.Uplink, f rules.Family) bool {
	return slices.ContainsFunc(w.obs.Addrs, func(a rules.Addr) bool {
		address := a.Prefix.Addr()
		if a.Device != u.Device || rules.FamilyOf(address) != f || a.LinkScope || a.Tentative {
			return false
		}
		p := path{Uplink: u, family: f}
		conn := w.arrive(&p, internet[f], address)
		got := w.send(packet{query: query{src: address, dst: internet[f]}, conn: conn})
		return !slices.ContainsFunc(got, func(d departure) bool { return d.device != u.Device })
	})
}

// Whatever happens, in whatever order, one look at the machine is enough to set it right.
func TestEverySequenceOfEventsConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := worlds().Draw(t, "world")
		w.converge(t)
		for range rapid.IntRange(1, 8).Draw(t, "events") {
			w.happen(t, eventNames...)
			before := w.clone()
			ops, _ := w.converge(t)
			after := w.clone()
			for _, op := range ops {
				if del, ok := op.(netcfg.DelAddr); ok {
					// With its last address the kernel takes a device's routes, whosoever they are.
					through := func(r netcfg.Route) bool {
						return slices.ContainsFunc(r.Nexthops, func(n netcfg.Nexthop) bool { return n.Device == del.Device })
					}
					before.dropRoutes(through)
					after.dropRoutes(through)
				}
			}
			sameForeign(t, "after an event", before, after)
		}
	})
}

// The kernel deletes the first route that a request fits, and a request does not say everything of a route.
func TestAMainDefaultThatTheKernelDoesNotTellFromItsSuccessorGoesFirst(t *testing.T) {
	gateway := netip.MustParseAddr("198.51.100.1")
	route := func(change func(*netcfg.Route)) netcfg.Route {
		r := static("0.0.0.0/0", "wan1", gateway, 1)
		r.Protocol = numbers.Protocol
		change(&r)
		return r
	}
	plain := route(func(*netcfg.Route) {})
	onlink := route(func(r *netcfg.Route) { r.Nexthops[0].Onlink = true })
	sourced := route(func(r *netcfg.Route) { r.Src = netip.MustParseAddr("198.51.100.2") })
	narrow := route(func(r *netcfg.Route) { r.MTU = 1400 })
	elsewhere := route(func(r *netcfg.Route) { r.Nexthops[0].Device = "wan2" })
	for name, c := range map[string]struct {
		have, want netcfg.Route
		first      bool
	}{
		"no more on-link":     {onlink, plain, true},
		"on-link from now on": {plain, onlink, true},
		"a source is named":   {plain, sourced, true},
		"no source any more":  {sourced, plain, false},
		"an MTU is named":     {plain, narrow, true},
		"no MTU any more":     {narrow, plain, false},
		"another device":      {plain, elsewhere, false},
	} {
		ops := netcfg.Diff(netcfg.State{Routes: []netcfg.Route{c.have}}, netcfg.State{Routes: []netcfg.Route{c.want}})
		if len(ops) != 2 {
			t.Fatalf("%s: %v", name, ops)
		}
		if _, first := ops[0].(netcfg.DelRoute); first != c.first {
			t.Errorf("%s: the old one goes first: %v\n%s", name, first, commands(ops))
		}
	}
}

// Between both nobody's connection may begin translated and by an uplink that a kill switch forbids.
func TestAfterAFlushKillSwitchesComeBackBeforeWhatTranslates(t *testing.T) {
	w := dual()
	w.cfg.Groups = []rules.Group{{ID: 9, Tiers: [][]int{{2}}, KillSwitch: true}}
	w.cfg.Policies = []rules.Policy{{Name: "tight", Group: 9, Select: rules.Selector{rules.SelectDevices{"lan0"}, rules.SelectProtocols{6}}}}
	w.converge(t)
	w.obs.Table, w.obs.Policies = nil, nil
	want, _ := w.plan()
	ops := netcfg.Diff(rules.Ours(numbers, w.foreseen()), want)
	first := slices.IndexFunc(ops, func(op netcfg.Op) bool { _, is := op.(netcfg.PutPolicies); return is })
	second := slices.IndexFunc(ops, func(op netcfg.Op) bool { _, is := op.(netcfg.PutTable); return is })
	if first < 0 || second < first {
		t.Errorf("policies at %d, the table at %d of\n%s", first, second, commands(ops))
	}
}

// What others delete comes back in one round, whichever part it is: the kernel takes no route whose gateway it cannot find by
// what stands at that moment (fib_check_nh). Where an uplink's network is wide, main does not help.
func TestRoutesOfGroupsComeBackWhateverElseIsDeleted(t *testing.T) {
	rule := func(is func(r netcfg.Rule) bool) func(*world) {
		return func(w *world) { w.obs.Rules = slices.DeleteFunc(w.obs.Rules, is) }
	}
	route := func(is func(r netcfg.Route) bool) func(*world) {
		return func(w *world) { w.obs.Routes = slices.DeleteFunc(w.obs.Routes, is) }
	}
	ours := func(r netcfg.Route) bool { return r.Protocol == numbers.Protocol }
	const group = 9
	parts := map[string]func(*world){
		"rules for devices":      rule(func(r netcfg.Rule) bool { return r.OIF != "" }),
		"rules about main":       rule(func(r netcfg.Rule) bool { return r.Protocol == numbers.Protocol && r.Table == netcfg.TableMain }),
		"rules about neighbours": rule(func(r netcfg.Rule) bool { return r.Table == numbers.NeighbourTable() }),
		"routes to neighbours":   route(func(r netcfg.Route) bool { return r.Table == numbers.NeighbourTable() }),
		"connected routes":       route(func(r netcfg.Route) bool { return ours(r) && !r.IsDefault() }),
		"the uplinks' defaults":  route(func(r netcfg.Route) bool { return ours(r) && r.IsDefault() && r.Table != numbers.TableBase }),
	}
	names := slices.Sorted(maps.Keys(parts))
	for set := range 1 << len(names) {
		w := box(rules.Link{}, "wan1", "wan2")
		w.hold("wan1", "198.51.100.2/26")
		w.hold("wan2", "192.0.2.2/2")
		w.lead("wan1", "198.51.100.1", 100)
		w.lead("wan2", "192.0.2.1", 200)
		w.cfg.Groups = []rules.Group{{ID: group, Tiers: [][]int{{1, 2}}}}
		w.cfg.Policies = []rules.Policy{{Name: "video", Group: group, Select: rules.Selector{rules.SelectProtocols{17}}}}
		w.converge(t)
		var deleted []string
		for i, name := range names {
			if set>>i&1 == 1 {
				parts[name](w)
				deleted = append(deleted, name)
			}
		}
		route(func(r netcfg.Route) bool { return r.Table == numbers.Table(group) })(w)
		w.round(t)
		if t.Failed() {
			t.Fatalf("after the loss of %q", deleted)
		}
		if more, _ := w.round(t); len(more) > 0 {
			t.Fatalf("after the loss of %q there is still to do:\n%s", deleted, commands(more))
		}
	}
}

// Of a host whose containers come and go, new flows do not wait for the packet filter; one that an uplink needs comes before its routes.
func TestALostUplinksRoutesGoAheadOfLocalNetworks(t *testing.T) {
	for _, c := range []struct {
		name       string
		change     func(w *world)
		tableFirst bool
	}{
		{"a container has come", func(w *world) { w.hold("lan1", "10.77.0.1/24", "2001:db8:77::1/64") }, false},
		{"and an uplink's address has changed", func(w *world) {
			w.hold("lan1", "10.77.0.1/24")
			w.hold("wan2", "172.16.99.2/24")
		}, true},
		{"and another uplink hides nothing any more", func(w *world) {
			w.hold("lan1", "10.77.0.1/24")
			w.cfg.Uplinks[1].IPv4.Masquerade = false
		}, true},
	} {
		w := full(3, 0, 0)
		w.converge(t)
		c.change(w)
		for _, family := range rules.Families {
			w.verdicts[rules.Path{Uplink: 1, Family: family}] = rules.Verdict{Health: rules.Dead}
		}
		obs := w.snapshot()
		want, _ := rules.Plan(w.cfg, obs, w.verdicts)
		ops := netcfg.Diff(rules.Ours(numbers, obs), want)
		table := slices.IndexFunc(ops, func(op netcfg.Op) bool { _, is := op.(netcfg.PutTable); return is })
		route := slices.IndexFunc(ops, func(op netcfg.Op) bool {
			r, is := op.(netcfg.PutRoute)
			return is && r.Table == numbers.TableBase && r.IsDefault()
		})
		if table < 0 || route < 0 || (table < route) != c.tableFirst {
			t.Errorf("%s: the packet filter is change %d, the route %d", c.name, table, route)
		}
	}
}
