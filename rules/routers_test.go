package rules_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// The kernel keeps the default of each router until its lifetime ends, and knows no prefix that belongs to one of them.
func TestOfTheRoutersThatTheKernelFollowsOneThatAnswersIsUsed(t *testing.T) {
	addr := func(texts ...string) (list []netip.Addr) {
		for _, text := range texts {
			list = append(list, netip.MustParseAddr(text))
		}
		return list
	}
	type route struct {
		gateway string
		metric  uint32
	}
	two := []route{{"fe80::1", 1024}, {"fe80::2", 1024}}
	for name, c := range map[string]struct {
		defaults    []route
		watched     *rules.WatchedRouters
		gateway     string
		source      string
		namesSource bool
	}{
		"nothing is known":                       {defaults: two, gateway: "fe80::1", source: "2001:db8:a::2"},
		"the first is silent":                    {defaults: two, watched: &rules.WatchedRouters{Use: addr("fe80::2")[0], Silent: addr("fe80::1")}, gateway: "fe80::2", source: "2001:db8:a::2"},
		"the better one is silent":               {defaults: []route{{"fe80::1", 100}, {"fe80::2", 1024}}, watched: &rules.WatchedRouters{Silent: addr("fe80::1")}, gateway: "fe80::2", source: "2001:db8:a::2"},
		"all are silent":                         {defaults: two, watched: &rules.WatchedRouters{Silent: addr("fe80::1", "fe80::2")}, gateway: "fe80::1", source: "2001:db8:a::2"},
		"another one is used":                    {defaults: two, watched: &rules.WatchedRouters{Use: addr("fe80::2")[0]}, gateway: "fe80::2", source: "2001:db8:a::2"},
		"others say by metric which":             {defaults: []route{{"fe80::1", 100}, {"fe80::2", 1024}}, watched: &rules.WatchedRouters{Use: addr("fe80::2")[0]}, gateway: "fe80::1", source: "2001:db8:a::2"},
		"its prefix is not the first address's":  {defaults: two, watched: &rules.WatchedRouters{Use: addr("fe80::2")[0], Foreign: []netip.Prefix{netip.MustParsePrefix("2001:db8:a::/64")}}, gateway: "fe80::2", source: "2001:db8:c::2", namesSource: true},
		"foreign to a router that is not in use": {defaults: []route{{"fe80::1", 100}, {"fe80::2", 1024}}, watched: &rules.WatchedRouters{Use: addr("fe80::2")[0], Foreign: []netip.Prefix{netip.MustParsePrefix("2001:db8:a::/64")}}, gateway: "fe80::1", source: "2001:db8:a::2"},
		"all addresses are foreign":              {defaults: two, watched: &rules.WatchedRouters{Use: addr("fe80::1")[0], Foreign: []netip.Prefix{netip.MustParsePrefix("2001:db8::/32")}}, gateway: "fe80::1", source: "2001:db8:a::2"},
	} {
		t.Run(name, func(t *testing.T) {
			w := box(rules.Link{}, "wan1")
			w.hold("wan1", "2001:db8:a::2/64", "2001:db8:c::2/64")
			for _, d := range c.defaults {
				w.obs.Routes = append(w.obs.Routes, netcfg.Route{Family: rules.IPv6, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: rules.IPv6.Default(),
					Metric: d.metric, Protocol: protoRA, Nexthops: []netcfg.Nexthop{{Device: "wan1", Gateway: netip.MustParseAddr(d.gateway), Weight: 1}}})
			}
			w.cfg.Uplinks[0].IPv6.Watched = c.watched
			want, report := w.plan()
			info := report.Paths[rules.Path{Uplink: 1, Family: rules.IPv6}]
			if info.Gateway.String() != c.gateway || info.Source().String() != c.source {
				t.Errorf("by %v with source %v, want %s with %s", info.Gateway, info.Source(), c.gateway, c.source)
			}
			for _, table := range []uint32{numbers.TableBase, numbers.Table(1)} {
				r, ok := defaultRoute(want.Routes, rules.IPv6, table)
				if !ok {
					t.Fatalf("table %d has no default", table)
				}
				if r.Nexthops[0].Gateway.String() != c.gateway || r.Src.IsValid() != c.namesSource || c.namesSource && r.Src.String() != c.source {
					t.Errorf("table %d: %v", table, r.String())
				}
			}
		})
	}
}

// A provider that stops announcing its prefix deprecates it first: what begins until its end must not get the address of
// another provider.
func TestASourceThatIsDeprecatedIsNamedInTheRoutes(t *testing.T) {
	for name, c := range map[string]struct {
		deprecated []string
		want       string // the source in the uplink's default; "" for none
	}{
		"none is":  {},
		"one of 2": {deprecated: []string{"2001:db8:a::2"}},
		"all are":  {deprecated: []string{"2001:db8:a::2", "2001:db8:a::3"}, want: "2001:db8:a::2"},
	} {
		t.Run(name, func(t *testing.T) {
			w := dual()
			w.cfg.Uplinks[1].Tier = 2
			w.hold("wan1", "2001:db8:a::3/64")
			for i := range w.obs.Addrs {
				a := &w.obs.Addrs[i]
				a.Deprecated = a.Device == "wan1" && slices.Contains(c.deprecated, a.Prefix.Addr().String())
			}
			want, _ := w.plan()
			for _, table := range []uint32{numbers.TableBase, numbers.Table(1)} {
				r, ok := defaultRoute(want.Routes, rules.IPv6, table)
				if !ok || text(r.Src) != c.want {
					t.Errorf("table %d: a default %v: %s", table, ok, r.String())
				}
			}
		})
	}
}
