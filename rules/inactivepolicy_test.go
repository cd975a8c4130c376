package rules_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

func TestAPolicyThatNoneOfItsUplinksCarriesIsNamed(t *testing.T) {
	gone := func(device string) func(w *world) {
		return func(w *world) {
			w.obs.Routes = slices.DeleteFunc(w.obs.Routes, func(r netcfg.Route) bool {
				return r.IsDefault() && slices.ContainsFunc(r.Nexthops, func(n netcfg.Nexthop) bool { return n.Device == device })
			})
		}
	}
	for name, c := range map[string]struct {
		change     func(w *world)
		killSwitch bool
		want       []string
	}{
		"its uplink works":                 {func(*world) {}, false, nil},
		"its uplink has no default":        {gone("wan2"), false, []string{"policy work", "lte", "IPv4 and IPv6", "leaves as if"}},
		"its uplink has none, kill switch": {gone("wan2"), true, []string{"policy work", "is refused"}},
		"another uplink has none":          {gone("wan1"), false, nil},
		"its provider has no IPv6": {func(w *world) {
			_ = w.delAddr("wan2", netip.MustParsePrefix("2001:db8:b::2/64"))
			w.obs.Routes = slices.DeleteFunc(w.obs.Routes, func(r netcfg.Route) bool {
				return r.Family == rules.IPv6 && slices.ContainsFunc(r.Nexthops, func(n netcfg.Nexthop) bool { return n.Device == "wan2" })
			})
		}, false, nil},
		"its uplink has no IPv6":            {func(w *world) { w.cfg.Uplinks[1].IPv6.Enabled = false }, true, nil},
		"its uplink has no IPv6 and is off": {func(w *world) { w.cfg.Uplinks[1].IPv6.Enabled = false; gone("wan2")(w) }, true, []string{"IPv4,"}},
	} {
		w := dual()
		w.cfg.Groups = []rules.Group{{ID: 3, Tiers: [][]int{{2, 9}}, KillSwitch: c.killSwitch}} // 9 is an uplink that was removed
		w.cfg.Policies = []rules.Policy{{Name: "work", Group: 3, Select: rules.Selector{rules.SelectProtocols{6}}}}
		c.change(w)
		_, report := w.plan()
		i := slices.IndexFunc(report.Problems, func(p rules.Problem) bool { return p.Code == "policy-inactive" })
		if (i >= 0) != (c.want != nil) {
			t.Errorf("%s: %+v", name, report.Problems)
			continue
		}
		for _, word := range c.want {
			if message := report.Problems[i].Message; !strings.Contains(message, word) {
				t.Errorf("%s: %q says nothing of %q", name, message, word)
			}
		}
	}
}
