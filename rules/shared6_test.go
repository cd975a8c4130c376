package rules_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// A server that knows a customer by DUID alone delegates the same prefix on both lines, and routes it to either.
func TestAPrefixOfTwoUplinksIsCarriedByTheBestOfThem(t *testing.T) {
	shared := netip.MustParsePrefix("2001:db8:a00::/56")
	for name, c := range map[string]struct {
		second  string // the prefix of the second uplink
		change  func(*world)
		carrier int // that source rules lead the shared prefix to
		usable  bool
		rejects []string
	}{
		"both work": {second: shared.String(), change: func(*world) {}, carrier: 1, usable: true},
		"the first is down": {second: shared.String(), change: func(w *world) {
			w.verdicts[rules.Path{Uplink: 1, Family: rules.IPv6}] = rules.Verdict{Health: rules.Dead}
		}, carrier: 2},
		"both are down": {second: shared.String(), change: func(w *world) { clear(w.verdicts) }, carrier: 1},
		"the first is drained": {second: shared.String(), change: func(w *world) {
			w.verdicts[rules.Path{Uplink: 1, Family: rules.IPv6}] = rules.Verdict{Health: rules.Good, Drained: true}
		}, carrier: 2},
		"the second has more": {second: "2001:db8:a00::/48", change: func(w *world) {
			w.verdicts[rules.Path{Uplink: 1, Family: rules.IPv6}] = rules.Verdict{Health: rules.Dead}
		}, carrier: 2, rejects: []string{"fiber"}},
		"the second has another": {second: "2001:db8:b00::/56", change: func(*world) {}, carrier: 1, usable: true, rejects: []string{"fiber", "lte"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := delegating()
			w.cfg.Uplinks[1].Tier = 2
			w.cfg.Uplinks[0].Delegations = []rules.Delegation{{Prefix: shared}}
			w.cfg.Uplinks[1].Delegations = []rules.Delegation{{Prefix: netip.MustParsePrefix(c.second), Deprecated: true}} // lifetimes differ by seconds
			c.change(w)
			want, report := w.plan()
			host := netip.MustParseAddr("2001:db8:a00:1::99")
			// The first that matches decides.
			i := slices.IndexFunc(want.Rules, func(r netcfg.Rule) bool {
				return r.Family == rules.IPv6 && r.From.IsValid() && !r.From.IsSingleIP() && r.From.Contains(host)
			})
			if i < 0 || want.Rules[i].Table != numbers.Table(c.carrier) {
				t.Errorf("rule %d of %v does not lead to uplink %d", i, want.Rules, c.carrier)
			}
			for _, uplink := range []string{"fiber", "lte"} {
				rejects := strings.Contains(chainText(want.Table, "foreign_"+uplink), "reject")
				if rejects != slices.Contains(c.rejects, uplink) {
					t.Errorf("%s rejects: %v\n%s", uplink, rejects, chainText(want.Table, "foreign_"+uplink))
				}
			}
			i = slices.IndexFunc(want.Addrs, func(a netcfg.AddrAssignment) bool { return a.Device == "lan0" && a.Prefix.Masked().Contains(host) })
			if i < 0 || c.usable && want.Addrs[i].Deprecated {
				t.Errorf("address %d of %+v: hosts may use it %v; subnets %+v", i, want.Addrs, c.usable, report.Subnets)
			}
		})
	}
}

func TestUplinksThatShareAPrefixHaveAddressesOfTheirOwn(t *testing.T) {
	w := delegating()
	w.obs.Addrs = slices.DeleteFunc(w.obs.Addrs, func(a rules.Addr) bool { return a.Prefix.Addr().Is6() })
	for i := range w.cfg.Uplinks {
		w.cfg.Uplinks[i].Delegations = []rules.Delegation{{Prefix: netip.MustParsePrefix("2001:db8:a00::/56")}}
	}
	want, _ := w.plan()
	var own []netip.Prefix
	for _, a := range want.Addrs {
		if strings.HasPrefix(a.Device, "wan") && a.Prefix.Addr().Is6() {
			own = append(own, a.Prefix)
		}
	}
	if len(own) != 2 || own[0] == own[1] {
		t.Errorf("addresses of the uplinks: %v", own)
	}
}
