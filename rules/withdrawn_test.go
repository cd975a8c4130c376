package rules_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// delegating is two providers with a delegation each and a LAN that had a prefix of another one before.
func delegating() *world {
	w := dual()
	w.obs.Addrs = slices.DeleteFunc(w.obs.Addrs, func(a rules.Addr) bool { return a.Device == "lan0" && a.Prefix.Addr().Is6() })
	w.cfg.Uplinks[0].Delegations = []rules.Delegation{{Prefix: netip.MustParsePrefix("2001:db8:a00::/56")}}
	w.cfg.Uplinks[1].Delegations = []rules.Delegation{{Prefix: netip.MustParsePrefix("2001:db8:b00::/56")}}
	w.cfg.LANs = []rules.LAN{{Device: "lan0", SubnetID: 1, From: []int{1, 2}}}
	return w
}

// A host that goes on with a prefix which its provider has taken back must hear so, by whatever uplink it would leave.
func TestWhatHasAWithdrawnPrefixIsRejectedAndTheAnswerReachesTheHost(t *testing.T) {
	old := netip.MustParsePrefix("2001:db8:c00:1::/64")
	for name, c := range map[string]struct {
		change   func(*world)
		rejected bool
		foreign  bool // the prefix is somebody else's now: no route of ours to the LAN
	}{
		"of a former delegation": {change: func(*world) {}, rejected: true},
		"while an uplink is down": {change: func(w *world) {
			w.verdicts[rules.Path{Uplink: 1, Family: rules.IPv6}] = rules.Verdict{Health: rules.Dead}
		}, rejected: true},
		"while all uplinks are down":       {change: func(w *world) { clear(w.verdicts) }, rejected: true},
		"by uplinks that translate others": {change: func(w *world) { w.cfg.Uplinks[0].IPv6.PrefixNAT, w.cfg.Uplinks[1].IPv6.PrefixNAT = true, true }, rejected: true},
		"by uplinks that masquerade all":   {change: func(w *world) { w.cfg.Uplinks[0].IPv6.Masquerade, w.cfg.Uplinks[1].IPv6.Masquerade = true, true }},
		"that is another LAN's now": {change: func(w *world) {
			w.plug(rules.Link{Name: "lan1", Up: true, Carrier: true, MTU: 1500})
			w.cfg.Uplinks[0].Delegations = append(w.cfg.Uplinks[0].Delegations, rules.Delegation{Prefix: netip.MustParsePrefix("2001:db8:c00::/56")})
			w.cfg.LANs[0].SubnetID = 2
			w.cfg.LANs = append(w.cfg.LANs, rules.LAN{Device: "lan1", SubnetID: 1, From: []int{1, 2}})
		}, foreign: true},
		"that somebody has put on a device": {change: func(w *world) { w.hold("lan0", "2001:db8:c00:1::5/64") }, foreign: true},
		"that somebody routes elsewhere": {change: func(w *world) {
			w.obs.Routes = append(w.obs.Routes, netcfg.Route{Family: rules.IPv6, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: netip.MustParsePrefix("2001:db8:c00::/60"), Metric: 1024,
				Protocol: protoStatic, Nexthops: []netcfg.Nexthop{{Device: "lan0", Gateway: netip.MustParseAddr("fe80::9"), Weight: 1}}})
		}, foreign: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := delegating()
			w.cfg.LANs[0].Withdrawn = []netip.Prefix{old}
			c.change(w)
			want, _ := w.plan()
			for _, device := range []string{"fiber", "lte"} {
				chain := chainText(want.Table, "foreign_"+device)
				if strings.Contains(chain, "ip6 saddr "+old.String()+" counter reject with icmpv6 type policy-fail") != c.rejected {
					t.Errorf("by %s: rejected is not %v:\n%s", device, c.rejected, chain)
				}
			}
			back := slices.ContainsFunc(want.Routes, func(r netcfg.Route) bool {
				return r.Table == netcfg.TableMain && r.Dst == old && r.Nexthops[0].Device == "lan0" && !r.Nexthops[0].Gateway.IsValid()
			})
			if c.rejected && !back {
				t.Error("the answer has no way back to the host")
			}
			if c.foreign && back {
				t.Error("a route to the LAN takes what is somebody else's")
			}
		})
	}
}

// RFC 8028: the router that is used now drops what has the prefix of another.
func TestAPrefixOfAnotherRouterIsNotUsed(t *testing.T) {
	w := delegating()
	w.cfg.Uplinks[0].Delegations[0].Elsewhere = true
	want, report := w.plan()
	chain := chainText(want.Table, "foreign_fiber")
	if !strings.Contains(chain, "ip6 saddr 2001:db8:a00::/56 counter reject") {
		t.Errorf("by its own uplink:\n%s", chain)
	}
	for _, s := range report.Subnets {
		if s.Usable != (s.Uplink == 2) {
			t.Errorf("%v of uplink %d: usable %v", s.Prefix, s.Uplink, s.Usable)
		}
	}
	if !slices.Contains(codes(report), "delegation-elsewhere") {
		t.Errorf("problems %v", codes(report))
	}
	w.cfg.Uplinks[1].Delegations = []rules.Delegation{{Prefix: netip.MustParsePrefix("2001:db8:a00::/56")}}
	_, report = w.plan()
	if i := slices.IndexFunc(report.Subnets, func(s rules.Subnet) bool { return s.Uplink == 2 && s.Usable }); i < 0 {
		t.Errorf("another uplink has the same prefix: %+v", report.Subnets)
	}
}
