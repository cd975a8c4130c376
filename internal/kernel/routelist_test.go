package kernel_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// changesOfRoutes are what may change the routes of uplinks, one after the other, some without a word about the routes.
var changesOfRoutes = []string{
	"ip route add 192.0.2.0/26 via 203.0.113.1 dev wan2",
	"ip route replace default via 198.51.100.7 dev wan1 metric 100",
	"ip route add default proto 117 table 11701 via 198.51.100.1 dev wan1; ip route add unreachable default proto 117 table 11702 metric 9",
	"ip route add 192.0.2.64/26 nexthop via 198.51.100.1 dev wan1 nexthop via 203.0.113.1 dev wan2",
	"ip route del 192.0.2.128/25; ip route del default table 11701",
	"ip -6 route add 2001:db8:77::/48 via fe80::9 dev wan2",
	"ip address add 198.51.100.9/26 dev wan1",
	"ip route add 192.0.2.96/27 nexthop via 203.0.113.130 dev lan0 nexthop via 203.0.113.1 dev wan2",
	"ip nexthop add id 5 via 203.0.113.1 dev wan2; ip route add 192.0.2.200/32 nhid 5",
	"ip route add 192.0.2.201/32 proto 117 via 203.0.113.130 dev lan0",
	"ip route add 192.0.2.202/32 dev wan1 src 198.51.100.9",
	"ip address del 198.51.100.9/26 dev wan1",
	"ip address add 10.9.9.9/32 dev lo; ip route add 192.0.2.203/32 dev wan1 src 10.9.9.9",
	"ip address del 10.9.9.9/32 dev lo",
	"ip link set wan2 down; ip link set wan2 up",
	"sysctl -qw net.ipv6.conf.wan2.disable_ipv6=1; ip route add default via 203.0.113.1 dev wan2",
	"ip link set wan2 down",
	"ip link set wan1 group 0; ip link set lan0 group 117", // which planning looks at as at an uplink
	"ip link set lan0 group 0; ip link set wan1 group 117",
	"ip link set lan0 down",
	"ip link del wan1; ip link add wan1 type veth peer name peer-wan1; ip link set wan1 up; ip route add 192.0.2.0/26 dev wan1",
}

// With a great many routes of others most are not listed anew each time. What is ours, and what leads by uplinks, always is.
func TestOfManyRoutesThoseByUplinksAreAlwaysRead(t *testing.T) {
	namespace(t)
	sh(t, router)
	addRoutes(t, 2500)
	cfg, k := config(), open(t)
	snapshot(t, k, cfg)
	for _, change := range changesOfRoutes {
		sh(t, change)
		got, want := text(snapshot(t, k, cfg)), text(snapshot(t, open(t), cfg))
		if !slices.Equal(got, want) {
			t.Errorf("after %s:\ngot  %d routes\nwant %d\nmissing %q\nof old %q", change, len(got), len(want), missing(want, got), missing(got, want))
		}
	}
}

// What is listed seldom is listed beside everything else, and then taken.
func TestManyRoutesAreListedAnewNowAndThen(t *testing.T) {
	namespace(t)
	sh(t, router)
	addRoutes(t, 2500)
	cfg, k := config(), open(t)
	before := text(snapshot(t, k, cfg))
	sh(t, "ip route del 20.0.7.0/24; ip route replace 20.0.8.0/24 via 203.0.113.131 dev lan0; ip route add 10.0.0.0/8 via 203.0.113.131 dev lan0; ip route add blackhole 10.9.0.0/16")
	want := text(snapshot(t, open(t), cfg))
	k.ExpireRoutes()
	if got := text(snapshot(t, k, cfg)); !slices.Equal(got, before) {
		t.Errorf("a snapshot waits for a new list of all routes")
	}
	k.AwaitRoutes()
	if got := text(snapshot(t, k, cfg)); !slices.Equal(got, want) {
		t.Errorf("got  %d routes\nwant %d\nmissing %q\nof old %q", len(got), len(want), missing(want, got), missing(got, want))
	}
	sh(t, "ip route flush proto boot table main root 20.0.0.0/8") // there are few now
	want = text(snapshot(t, open(t), cfg))
	k.ExpireRoutes()
	snapshot(t, k, cfg)
	k.AwaitRoutes()
	sh(t, "ip route del 10.0.0.0/8")
	want = slices.DeleteFunc(want, func(r string) bool { return strings.HasPrefix(r, "10.0.0.0/8") })
	if got := text(snapshot(t, k, cfg)); !slices.Equal(got, want) {
		t.Errorf("with few:\ngot  %d routes\nwant %d\nmissing %q\nof old %q", len(got), len(want), missing(want, got), missing(got, want))
	}
}

// addRoutes has that many routes lead behind the LAN.
func addRoutes(t testing.TB, n int) {
	t.Helper()
	var batch strings.Builder
	for i := range n {
		fmt.Fprintf(&batch, "route add %d.%d.%d.0/24 via 203.0.113.130 dev lan0\n", 20+i>>16, i>>8&255, i&255)
	}
	file := filepath.Join(t.TempDir(), "routes")
	if err := os.WriteFile(file, []byte(batch.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	sh(t, "ip -batch "+file)
}

func BenchmarkSnapshotOfManyRoutes(b *testing.B) {
	namespace(b)
	sh(b, router)
	addRoutes(b, 100_000)
	cfg, k := config(), open(b)
	snapshot(b, k, cfg)
	b.ReportAllocs()
	for b.Loop() {
		snapshot(b, k, cfg)
	}
}

func text(obs *rules.Observed) []string {
	var list []string
	add := func(r *netcfg.Route) { list = append(list, r.String()+fmt.Sprint(r.Family)) }
	for i := range obs.Routes {
		add(&obs.Routes[i])
	}
	for _, routed := range obs.Routed {
		for r := range routed.Routes() {
			add(r)
		}
	}
	slices.Sort(list)
	return list
}

func missing(from, in []string) []string {
	return slices.DeleteFunc(slices.Clone(from), func(s string) bool { _, found := slices.BinarySearch(in, s); return found })
}
