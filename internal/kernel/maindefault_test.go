package kernel_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Each change of our default in main is done in one go: the kernel deletes the first of the routes that a request fits,
// which must not be the new one.
func TestEveryChangeOfMainsDefaultIsDoneAtOnce(t *testing.T) {
	namespace(t)
	sh(t, router)
	k := open(t)
	gateway, source := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")
	var states []netcfg.Route
	for n := range 16 {
		r := netcfg.Route{Family: rules.IPv4, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: rules.IPv4.Default(), Metric: 1, Protocol: numbers.Protocol,
			Nexthops: []netcfg.Nexthop{{Device: "wan1", Gateway: gateway, Weight: 1, Onlink: n&1 != 0}}}
		if n&2 != 0 {
			r.Src = source
		}
		if n&4 != 0 {
			r.MTU = 1400
		}
		if n&8 != 0 {
			r.Nexthops[0].Device, r.Nexthops[0].Gateway, r.Src = "wan2", netip.MustParseAddr("203.0.113.1"), netip.Addr{}
		}
		states = append(states, r)
	}
	ours := func() []netcfg.Route {
		obs, err := k.Snapshot(rules.Query{})
		if err != nil {
			t.Fatal(err)
		}
		return rules.Ours(numbers, obs).Routes
	}
	ours() // the kernel is asked for its devices
	for _, have := range states {
		for _, want := range states {
			if err := k.Apply([]netcfg.Op{netcfg.PutRoute{Route: have, Prepend: true}}); err != nil {
				t.Fatal(err)
			}
			if err := k.Apply(netcfg.Diff(netcfg.State{Routes: ours()}, netcfg.State{Routes: []netcfg.Route{want}})); err != nil {
				t.Fatalf("from %s to %s: %v", have.String(), want.String(), err)
			}
			if got := ours(); !slices.EqualFunc(got, []netcfg.Route{want}, netcfg.Route.Equal) {
				t.Errorf("from %s (onlink %v)\n  to %s (onlink %v): there is %v", have.String(), have.Nexthops[0].Onlink, want.String(), want.Nexthops[0].Onlink, got)
			}
			sh(t, "ip route flush table main proto 117")
		}
	}
}
