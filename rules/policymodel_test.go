package rules_test

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// selected are hosts on the Internet that generated policies are about; internet is what none is about.
var selected = map[rules.Family]netip.Addr{
	rules.IPv4: netip.MustParseAddr("192.0.2.33"),
	rules.IPv6: netip.MustParseAddr("2001:db8:ffff::99"),
}

const firstGroup = 20 // id; those of generated uplinks are 1 to 6 and 57 to 62

// drawPolicies gives the machine up to four policies that share up to three groups.
func (w *world) drawPolicies(t *rapid.T) {
	w.cfg.Groups, w.cfg.Policies = nil, nil
	for n := range draw(t, "groups", 4) {
		g := rules.Group{ID: firstGroup + n}
		if seldom(t, "left alone") {
			g.LeftTo = rapid.SampledFrom([]rules.LeftTo{rules.LeftToMain, rules.LeftToDefault}).Draw(t, "left to")
			w.cfg.Groups = append(w.cfg.Groups, g)
			continue
		}
		g.KillSwitch = flip(t, "kill switch")
		if seldom(t, "except") {
			g.Except = []netip.Prefix{netip.MustParsePrefix("192.0.2.32/28"), netip.MustParsePrefix("2001:db8:7777::/48")}
		}
		for i := range w.cfg.Uplinks {
			switch id := w.cfg.Uplinks[i].ID; {
			case flip(t, "not in the group"):
			case len(g.Tiers) > 0 && flip(t, "same tier"):
				last := len(g.Tiers) - 1
				g.Tiers[last] = append(g.Tiers[last], id)
			default:
				g.Tiers = append(g.Tiers, []int{id})
			}
		}
		for _, tier := range g.Tiers {
			if len(tier) > 1 && flip(t, "own weight") {
				g.Weights = map[int]int{tier[0]: 1 + draw(t, "weight in the group", 9)}
			}
		}
		if len(g.Tiers) > 0 {
			w.cfg.Groups = append(w.cfg.Groups, g)
		}
	}
	for n := range draw(t, "policies", 5) {
		if len(w.cfg.Groups) == 0 {
			return
		}
		g := &w.cfg.Groups[draw(t, "group", len(w.cfg.Groups))]
		p := rules.Policy{Name: fmt.Sprintf("p%d", n), Group: g.ID, Sticky: seldom(t, "sticky") && g.LeftTo == rules.LeftToNobody}
		for _, kind := range rules.Conditions() {
			if key := kind.Key(); key == "to" || key == "iif" && len(w.lans) > 0 && flip(t, key) || key != "iif" && seldom(t, key) {
				p.Select = append(p.Select, drawn[key].draw(t, w))
			}
		}
		w.cfg.Policies = append(w.cfg.Policies, p)
	}
}

// drawn has for each kind of condition a generator, and what it means in words of its own rather than the planner's.
var drawn = map[string]struct {
	draw  func(*rapid.T, *world) rules.Condition
	meets func(rules.Condition, query) bool
}{
	"iif": {
		func(t *rapid.T, w *world) rules.Condition {
			return rules.SelectDevices{rapid.SampledFrom(w.lans).Draw(t, "lan")}
		},
		func(c rules.Condition, q query) bool { return slices.Contains(c.(rules.SelectDevices), q.iif) },
	},
	"from": {
		func(t *rapid.T, _ *world) rules.Condition {
			list := []string{"2001:db8::/32"}
			for i := range 40 { // of which odd hosts are some
				list = append(list, fmt.Sprintf("192.168.1.%d/32", 1+2*i))
			}
			return asLists(t, from(list...))
		},
		func(c rules.Condition, q query) bool { return inAddresses(c, q.src) },
	},
	"to": {
		func(t *rapid.T, _ *world) rules.Condition {
			return asLists(t, to(selected[rules.IPv4].String()+"/32", selected[rules.IPv6].String()+"/128"))
		},
		func(c rules.Condition, q query) bool { return inAddresses(c, q.dst) },
	},
	"protocol": {
		func(*rapid.T, *world) rules.Condition { return rules.SelectProtocols{6} },
		func(c rules.Condition, q query) bool { return slices.Contains(c.(rules.SelectProtocols), q.protocol) },
	},
	"sport": {
		func(t *rapid.T, _ *world) rules.Condition { return rules.SelectPorts{List: drawPorts(t)} },
		func(c rules.Condition, q query) bool { return hasPort(c.(rules.SelectPorts).List, q.sport) },
	},
	"dport": {
		func(t *rapid.T, _ *world) rules.Condition {
			return rules.SelectPorts{Dest: true, List: drawPorts(t)}
		},
		func(c rules.Condition, q query) bool { return hasPort(c.(rules.SelectPorts).List, q.dport) },
	},
	"uid": { // root makes all packets here
		func(t *rapid.T, _ *world) rules.Condition {
			first := uint32(1000 * draw(t, "owner", 2))
			return rules.SelectUIDs{{Set: true, First: first, Last: first + 999}}
		},
		func(c rules.Condition, q query) bool { return q.iif == "lo" && c.(rules.SelectUIDs)[0].First == 0 },
	},
	"fwmark": {
		func(*rapid.T, *world) rules.Condition { return rules.SelectMark{Value: 1, Mask: 0xff} },
		func(_ rules.Condition, q query) bool { return q.mark&0xff == 1 },
	},
	"dscp": {
		func(*rapid.T, *world) rules.Condition { return rules.SelectDSCP{34, 46} },
		func(c rules.Condition, q query) bool { return slices.Contains(c.(rules.SelectDSCP), q.dscp) },
	},
	"mac": {
		func(*rapid.T, *world) rules.Condition { return rules.SelectMACs{someMAC, {2, 5: 0x11}} },
		func(c rules.Condition, q query) bool {
			return q.iif != "lo" && slices.Contains(c.(rules.SelectMACs), q.mac)
		},
	},
}

// asLists puts some of the addresses into lists: all, those of one family, or none.
func asLists(t *rapid.T, a rules.SelectAddresses) rules.SelectAddresses {
	moved := rapid.SampledFrom([]func(netip.Prefix) bool{
		func(netip.Prefix) bool { return false }, func(netip.Prefix) bool { return true }, func(p netip.Prefix) bool { return p.Addr().Is4() },
	}).Draw(t, "in lists")
	var kept []netip.Prefix
	var first, second []inet.Range
	for i, p := range a.Prefixes {
		switch {
		case !moved(p):
			kept = append(kept, p)
		case i%3 == 0:
			first = append(first, inet.RangeOf(p))
		default:
			second = append(second, inet.RangeOf(p))
		}
	}
	if a.Prefixes = kept; len(first)+len(second) > 0 {
		a.Lists = []rules.List{{Name: "first", Set: inet.NewSet(first)}, {Name: "second", Set: inet.NewSet(second)}}
	}
	return a
}

// inAddresses looks for an address one by one.
func inAddresses(c rules.Condition, a netip.Addr) bool {
	s := c.(rules.SelectAddresses)
	for _, l := range s.Lists {
		for _, r := range l.Ranges(rules.FamilyOf(a)) {
			if r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0 {
				return true
			}
		}
	}
	return covers(s.Prefixes, a)
}

var someMAC = [6]byte{2, 5: 0x10}

func drawPorts(t *rapid.T) []netcfg.Ports {
	return []netcfg.Ports{{First: 440, Last: 450}, {First: 1024, Last: uint16(50000 + 15535*draw(t, "to the last port", 2))}}
}

func hasPort(list []netcfg.Ports, port uint16) bool {
	return slices.ContainsFunc(list, func(r netcfg.Ports) bool { return r.First <= port && port <= r.Last })
}

func covers(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(x netip.Prefix) bool { return x.Contains(a) })
}

func from(list ...string) rules.SelectAddresses {
	var a rules.SelectAddresses
	for _, s := range list {
		a.Prefixes = append(a.Prefixes, netip.MustParsePrefix(s))
	}
	return a
}

func to(list ...string) rules.SelectAddresses {
	return rules.SelectAddresses{Dest: true, Prefixes: from(list...).Prefixes}
}

func TestConditionsOfEveryKindAreDrawn(t *testing.T) {
	for _, c := range rules.Conditions() {
		if drawn[c.Key()].draw == nil || drawn[c.Key()].meets == nil {
			t.Errorf("nothing draws %s", c.Key())
		}
	}
}

// about reports whether a policy is for a packet, in words of its own rather than the planner's.
func (w *world) about(p *rules.Policy, q query) bool {
	family := rules.FamilyOf(q.dst)
	g := w.group(p.Group)
	carried := g.KillSwitch || g.LeftTo != rules.LeftToNobody
	for i := range w.cfg.Uplinks {
		u := &w.cfg.Uplinks[i]
		carried = carried || u.Family(family).Enabled && inGroup(g, u.ID)
	}
	return carried && !covers(g.Except, q.dst) &&
		!slices.ContainsFunc(p.Select, func(c rules.Condition) bool { return !drawn[c.Key()].meets(c, q) })
}

func inGroup(g *rules.Group, id int) bool {
	return slices.ContainsFunc(g.Tiers, func(tier []int) bool { return slices.Contains(tier, id) })
}

func (w *world) group(id int) *rules.Group {
	i := slices.IndexFunc(w.cfg.Groups, func(g rules.Group) bool { return g.ID == id })
	return &w.cfg.Groups[i]
}

// eachSelected calls fn with packets that LAN hosts and this machine send to the selected hosts, and with the
// devices by which they may leave.
func (w *world) eachSelected(report *rules.Report, fn func(q query, closed bool, devices []string)) {
	for f, dst := range selected {
		for _, q := range []query{
			{protocol: 6, sport: 40000, dport: 443, mac: someMAC}, {protocol: 6, sport: 443, dport: 60000, dscp: 46, mac: [6]byte{2, 5: 9}}, {protocol: 17, sport: 40000, dport: 53, mark: 1},
		} {
			q.dst, q.iif = dst, "lo"
			w.allowed(report, q, fn)
			w.eachLANHost(f, func(lan string, host netip.Addr) {
				q.src, q.iif = host, lan
				w.allowed(report, q, fn)
			})
		}
	}
}

// allowed finds where a packet of a new connection may go by the policies: the uplinks of the first one that is
// about it and has any, or of a kill switch before that; none where that one leaves it alone. Closed is true when a kill switch decides.
func (w *world) allowed(report *rules.Report, q query, fn func(q query, closed bool, devices []string)) {
	for i := range w.cfg.Policies {
		p := &w.cfg.Policies[i]
		if !w.about(p, q) {
			continue
		}
		choice := report.Policies[i].Choice[rules.FamilyOf(q.dst)]
		g := w.group(p.Group)
		if g.LeftTo != rules.LeftToNobody {
			return // it may go anywhere
		}
		if len(choice.Members) > 0 || g.KillSwitch {
			var devices []string
			for i := range w.cfg.Uplinks {
				if u := &w.cfg.Uplinks[i]; inGroup(g, u.ID) {
					devices = append(devices, u.Device)
				}
			}
			fn(q, g.KillSwitch, devices)
			return
		}
	}
}

// A policy's new connections leave by its uplinks, or by none.
func TestPoliciesDecideWhereNewConnectionsLeave(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		w.eachSelected(&report, func(q query, closed bool, devices []string) {
			for _, d := range w.sent(q, &connection{fresh: true}) {
				if d.device != "" && !slices.Contains(devices, d.device) {
					t.Errorf("%v protocol %d: %v, want one of %v", q, q.protocol, d, devices)
				}
			}
		})
	})
}

// What is left to main or to the default takes the way that it would take without policies, whatever later ones say.
func TestWhatIsLeftAloneGoesAsIfThereWereNoPolicies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := worlds().Draw(t, "world")
		g := rules.Group{ID: firstGroup + 9, LeftTo: rules.LeftToDefault}
		w.cfg.Groups = append(w.cfg.Groups, g)
		alone := rules.Policy{Name: "alone", Group: g.ID, Select: rules.Selector{asLists(t, to(selected[rules.IPv4].String()+"/32", selected[rules.IPv6].String()+"/128"))}}
		w.cfg.Policies = append([]rules.Policy{alone}, w.cfg.Policies...)
		w.converge(t)
		_, report := w.plan()
		for f, dst := range selected {
			w.eachLANHost(f, func(lan string, host netip.Addr) {
				for _, d := range w.sent(query{dst: dst, src: host, iif: lan, protocol: 6, sport: 40000, dport: 443}, &connection{fresh: true}) {
					if u := w.cfg.UplinkOn(d.device); u != nil && len(report.Defaults[f].Members) > 0 && !slices.ContainsFunc(report.Defaults[f].Members, func(m rules.Member) bool { return m.Uplink == u.ID }) && !displaced(&report) {
						t.Errorf("%v: %v, and the default is %v", dst, d, report.Defaults[f])
					}
				}
			})
		}
	})
}

// A rule about protocols or ports that is not for local packets alone has the kernel dissect each one that it
// forwards (include/net/fib_rules.h fib_rule_requires_fldissect).
func TestNoRuleHasForwardedPacketsDissected(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, _ rules.Report) {
		state, _ := w.plan()
		for _, r := range state.Rules {
			if r.IIF != "lo" && (r.Selectors.Protocol != 0 || r.Selectors.SPort != netcfg.Ports{} || r.Selectors.DPort != netcfg.Ports{}) {
				t.Errorf("%+v", r)
			}
		}
	})
}

// sent is what becomes of a packet, whoever makes it.
func (w *world) sent(q query, conn *connection) []departure {
	if q.iif == "lo" {
		return w.send(packet{query: q, conn: conn})
	}
	return w.receive(packet{query: q, conn: conn}, netip.Addr{})
}

// The choice of a policy is what it says: somebody carries the traffic when somebody can.
func TestThePoliciesChoicesAreCarriedOut(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		for i := range w.cfg.Policies {
			for f, choice := range report.Policies[i].Choice {
				if len(choice.Members) == 0 || displaced(&report) || w.group(w.cfg.Policies[i].Group).LeftTo != rules.LeftToNobody {
					continue
				}
				want := devices(memberWays(w, f, choice))
				q := query{dst: selected[f], src: internet[f], iif: "lan9"}
				if got := devices(w.tableLookup(numbers.Table(w.cfg.Policies[i].Group), q)); got != want && len(w.group(w.cfg.Policies[i].Group).Except) == 0 {
					t.Errorf("%v: %q, want %q: %s", f, got, want, choice.Reason)
				}
			}
		}
	})
}

// While the machine goes from one state to another, change by change, and whatever a connection was pinned to
// before, a kill switch lets nothing out by an uplink that is not its own. The policies stay as they are.
func TestKillSwitchesHoldAtEveryStep(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := worlds().Draw(t, "world")
		w.converge(t)
		// A configuration without an uplink that a policy names is a mistake, and a lock that somebody takes away
		// is open until it is put back.
		name := rapid.SampledFrom(slices.DeleteFunc(slices.Sorted(maps.Keys(events)), func(n string) bool { return n == "removed" || n == "ours deleted" })).Draw(t, "event")
		w.cfg.Uplinks = slices.Clone(w.cfg.Uplinks)
		events[name](t, w, draw(t, "uplink", len(w.cfg.Uplinks)))
		want, report := w.plan()
		ops := netcfg.Diff(rules.Ours(numbers, w.foreseen()), want)
		w.obs.Recorded.Record(ops)
		w.checkKillSwitches(t, &report, name, true)
		for i, op := range ops {
			if err := w.apply(op); err != nil {
				t.Fatalf("%v", err)
			}
			w.checkKillSwitches(t, &report, name+", then "+op.Command(), i < len(ops)-1)
		}
	})
}

// checkKillSwitches checks what leaves; unfinished says that the plan is not carried out yet: the kernel's own route to a network that a
// provider claims attracts what it likes until the rule for main is out of its way, which is the last change.
func (w *world) checkKillSwitches(t *rapid.T, report *rules.Report, when string, unfinished bool) {
	w.eachSelected(report, func(q query, closed bool, devices []string) {
		claimed := slices.ContainsFunc(w.obs.Addrs, func(a rules.Addr) bool { return w.uplinkOn(a.Device) != nil && a.Prefix.Contains(q.dst) })
		if !closed || w.anyBefore(q) || unfinished && claimed {
			return
		}
		connections := map[string]*connection{"new": {fresh: true}}
		if q.iif != "lo" {
			connections = w.pins()
		}
		for name, conn := range connections {
			for _, d := range w.sent(q, conn) {
				if d.device != "" && !slices.Contains(devices, d.device) && w.uplinkOn(d.device) != nil {
					t.Errorf("after %s: %s %v protocol %d: %v, want one of %v", when, name, q, q.protocol, d, devices)
				}
			}
		}
	})
}

// anyBefore reports whether a policy that is no kill switch stands before the one that decides: it may have had a
// way before the plan, and is entitled to it.
func (w *world) anyBefore(q query) bool {
	for i := range w.cfg.Policies {
		if p := &w.cfg.Policies[i]; w.about(p, q) {
			return !w.group(p.Group).KillSwitch
		}
	}
	return false
}

func (w *world) pins() map[string]*connection {
	list := map[string]*connection{"new": {fresh: true}, "untracked": nil}
	for i := range w.cfg.Uplinks {
		list["pinned to "+w.cfg.Uplinks[i].Name] = &connection{mark: numbers.Mark(w.cfg.Uplinks[i].ID)}
	}
	return list
}

// Uplinks share a tier of a policy by the weights that stand there, and else by their own.
func TestAPolicysTierIsSharedByItsWeights(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		for i := range w.cfg.Policies {
			g := w.group(w.cfg.Policies[i].Group)
			if g.LeftTo != rules.LeftToNobody {
				continue
			}
			for f, choice := range report.Policies[i].Choice {
				total := 0
				weight := func(id int) int {
					if own := g.Weights[id]; own > 0 {
						return own
					}
					return w.cfg.Uplinks[slices.IndexFunc(w.cfg.Uplinks, func(u rules.Uplink) bool { return u.ID == id })].Weight
				}
				for _, m := range choice.Members {
					total += weight(m.Uplink)
				}
				for _, m := range choice.Members {
					if want := float64(weight(m.Uplink)) / float64(total); math.Abs(m.Share-want) > 1e-9 {
						t.Errorf("%v: uplink %d has the share %v of %s, want %v", f, m.Uplink, m.Share, w.cfg.Policies[i].Name, want)
					}
				}
			}
		}
	})
}
