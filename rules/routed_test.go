package rules_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// drawRouted draws a route by a LAN, mostly by a gateway there, and mostly to what something else is at too.
func (w *world) drawRouted(t *rapid.T) netcfg.Route {
	lan := 1 + draw(t, "lan", len(w.lans))
	family := rules.Families[draw(t, "family", 2)]
	dst := []string{"198.51.100.0/24", "198.51.100.0/26", "198.51.0.0/16", "10.1.0.0/16", "10.0.0.0/9", "10.7.7.0/24", "192.0.2.77/32"}
	if family == rules.IPv6 {
		dst = []string{"2001:db8:a0::/64", "2001:db8:a0::/44", "2001:db8:c000::/56", "2001:db8:c000:1::/64", "2001:db8:2::/64", "fd00:77::/48", "2001:db8:ffff::/48"}
	}
	r := static(rapid.SampledFrom(dst).Draw(t, "destination"), w.lans[lan-1], lanHost(lan, family, 2+draw(t, "gateway", 2)), rapid.SampledFrom([]uint32{0, 256, 1024, 2048, 4294967294}).Draw(t, "metric"))
	if n := len(w.cfg.Tunnels); n > 0 && flip(t, "by a tunnel") {
		r.Nexthops[0].Device = w.cfg.Tunnels[n-1].Device
	}
	r.Protocol = rapid.SampledFrom([]uint8{protoStatic, protoBird, protoRA}).Draw(t, "protocol")
	if seldom(t, "no gateway") {
		r.Nexthops[0].Gateway = netip.Addr{}
	}
	if seldom(t, "several ways") {
		r.Nexthops = append(r.Nexthops, netcfg.Nexthop{Device: w.lans[0], Gateway: lanHost(1, family, 9), Weight: 3})
	}
	if seldom(t, "and an uplink") {
		r.Nexthops = append(r.Nexthops, netcfg.Nexthop{Device: w.cfg.Uplinks[0].Device, Gateway: lanHost(1, family, 9), Weight: 1})
	}
	return r
}

// split moves what may be in Routed there.
func split(obs *rules.Observed, cfg rules.Config) {
	near := func(device string) bool {
		link, _ := obs.Link(device)
		return link.Group == numbers.LinkGroup || slices.Contains(rules.QueryOf(cfg, rules.Recorded{}).Near, device)
	}
	var routed [2][]*netcfg.Route
	all := obs.Routes
	obs.Routes = nil
	for i := range all {
		if at := all[i].Family.Index(); numbers.LeadsToLocal(&all[i], near) {
			routed[at] = append(routed[at], &all[i])
		} else {
			obs.Routes = append(obs.Routes, all[i])
		}
	}
	for i := range routed {
		obs.Routed[i] = rules.NewRoutedNetworks(slices.Values(routed[i]), 0)
	}
}

func drawConnection(t *rapid.T) *rules.Connection {
	hosts := []string{"10.1.7.7", "10.7.7.7", "198.51.100.9", "192.0.2.77", "192.168.1.9", "203.0.113.4"}
	c := &rules.Connection{Family: rules.Families[draw(t, "of", 2)], Protocol: 6, DPort: 443, Mark: uint32(draw(t, "pin", 4)) << 24}
	if c.Family == rules.IPv6 {
		hosts = []string{"2001:db8:107::7", "2001:db8:a0::9", "2001:db8:c000::9", "fd00:77::9", "2001:db8:ffff::77", "2001:db8:1::9"}
	}
	host := func(label string) netip.Addr { return netip.MustParseAddr(rapid.SampledFrom(hosts).Draw(t, label)) }
	c.Source, c.Dest = host("source"), host("to")
	if c.ReplyDest = c.Source; flip(t, "translated") {
		c.ReplyDest = host("translated to")
	}
	return c
}

// whicheverRoute leaves out of problems which route of others stands in the place of one of ours: of several any may be named.
func whicheverRoute(problems []rules.Problem) []rules.Problem {
	problems = slices.Clone(problems)
	for i := range problems {
		if p := &problems[i]; p.Code == "foreign-route" {
			p.Message, _, _ = strings.Cut(p.Message, ":")
		}
	}
	return problems
}

// Whether a great many routes are listed one by one or not changes nothing that is planned.
func TestRoutedNetworksArePlannedForAsRoutesAre(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := worlds().Filter(func(w *world) bool { return len(w.lans) > 0 }).Draw(t, "world")
		if flip(t, "converged") {
			w.converge(t)
		}
		if flip(t, "a prefix was withdrawn") {
			w.cfg.LANs[0].Withdrawn = []netip.Prefix{netip.MustParsePrefix("2001:db8:c000:1::/64"), netip.MustParsePrefix("2001:db8:2::/64")}
		}
		if flip(t, "a kill switch of a LAN") {
			only := rules.Group{ID: firstGroup + 9, Tiers: [][]int{{w.cfg.Uplinks[0].ID}}, KillSwitch: true}
			w.cfg.Groups = append(w.cfg.Groups, only)
			w.cfg.Policies = append(w.cfg.Policies, rules.Policy{Name: "lan", Group: only.ID, Select: rules.Selector{rules.SelectDevices{w.lans[0]}}})
		}
		for range draw(t, "routes", 12) {
			w.obs.Routes = append(w.obs.Routes, w.drawRouted(t))
		}
		listed, collected := w.snapshot(), w.snapshot()
		split(collected, w.cfg)
		listed, collected = listed.Foresee(w.cfg), collected.Foresee(w.cfg)
		want, report := rules.Plan(w.cfg, listed, w.verdicts)
		got, other := rules.Plan(w.cfg, collected, w.verdicts)
		if diff := gocmp.Diff(want, got, byValue); diff != "" {
			t.Errorf("state (-listed +collected):\n%s", diff)
		}
		if diff := gocmp.Diff(whicheverRoute(report.Problems), whicheverRoute(other.Problems)); diff != "" {
			t.Errorf("problems (-listed +collected):\n%s", diff)
		}
		for range 20 {
			c := drawConnection(t)
			if a, b := report.Old.Old(c), other.Old.Old(c); a != b {
				t.Errorf("connection %+v: %q, but %q", *c, a, b)
			}
		}
	})
}

func TestRoutedNetworksAreKeptAsTheyCame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		for n := range 2 {
			w.addLAN(t, n+1)
		}
		w.addUplink(t, 0)
		var four []netcfg.Route
		for range draw(t, "routes", 20) {
			if r := w.drawRouted(t); r.Family == rules.IPv4 {
				r.MTU, r.Scope = 1400*draw(t, "MTU", 2), uint8(draw(t, "scope", 2))
				four = append(four, r)
			}
		}
		var came, kept []string
		n := rules.NewRoutedNetworks(func(yield func(*netcfg.Route) bool) {
			for i := range four {
				came = append(came, fmt.Sprintf("%+v", four[i]))
				r := four[i]
				r.Nexthops = slices.Clone(r.Nexthops)
				if !yield(&r) {
					return
				}
				r.Nexthops[0] = netcfg.Nexthop{} // it is not kept
			}
		}, 3)
		for r := range n.Routes() {
			kept = append(kept, fmt.Sprintf("%+v", *r))
		}
		slices.Sort(came)
		slices.Sort(kept)
		if diff := gocmp.Diff(came, kept); diff != "" || n.Len() != len(came) {
			t.Errorf("%d of them (-came +kept):\n%s", n.Len(), diff)
		}
	})
}
