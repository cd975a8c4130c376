package daemon

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/monitor"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/tunnel"
	"github.com/uplinkd/uplinkd/rules"
)

const (
	someKey = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
	// chained is a tap over WireGuard over one of two providers.
	chained = `
[[uplink]]
name = "fiber"
device = "eth1"
[[uplink]]
name = "lte"
device = "wwan0"
tier = 2
[[uplink]]
name = "vps"
kind = "wireguard"
device = "wg0"
underlay = ["lte", "fiber"]
[uplink.probe]
targets = ["10.0.31.10"]
[uplink.wireguard]
private_key_file = "KEYFILE"
addresses = ["10.0.31.2/24"]
peers = [ { public_key = "` + someKey + `", endpoint = "vps.example.net:51820", allowed_ips = ["10.0.31.0/24", "10.8.0.0/16"] } ]
[[uplink]]
name = "tap"
kind = "gretap"
device = "gre1"
over = "vps"
[uplink.gretap]
local = "10.0.31.2"
remote = "10.0.31.10"
[[tunnel]]
kind = "gretap"
device = "far"
bridge = "br-wan"
local = "192.0.2.1"
remote = "192.0.2.2"
`
)

// keyFile writes a key that a mode lets others read, or does not.
func keyFile(t *testing.T, mode os.FileMode) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(someKey+"\n"), mode); err != nil {
		t.Fatal(err)
	}
	return file
}

func chain4(t *testing.T, file string) *config.Config {
	t.Helper()
	c, err := config.Parse("t.toml", []byte(strings.ReplaceAll(chained, "KEYFILE", file)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAKeyThatOthersMayReadIsRefusedAndChangesNothing(t *testing.T) {
	n := newTunnels(nil)
	ids := map[string]int{"fiber": 1, "lte": 2, "vps": 3, "tap": 4, "@underlay vps": 5}
	if err := n.configure(chain4(t, keyFile(t, 0o600)), ids); err != nil {
		t.Fatal(err)
	}
	before := n.wired["vps"]
	for name, file := range map[string]string{"others may read the key file": keyFile(t, 0o640), "no such file": filepath.Join(t.TempDir(), "absent")} {
		if err := n.configure(chain4(t, file), ids); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "uplink vps: ") {
			t.Errorf("got %v, want %q", err, name)
		}
	}
	if n.wired["vps"] != before || len(n.specs) != 3 {
		t.Error("a refused configuration has changed something")
	}
}

func TestDevicesAndUnderlaysAreThoseOfTheConfiguration(t *testing.T) {
	c := chain4(t, "/k")
	ids := make(map[string]int)
	if _, err := planinput.AssignIDs(c, ids); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]rules.Underlay{{ID: ids["@underlay vps"], Uplink: ids["vps"], Carriers: []int{ids["lte"], ids["fiber"]}}}, planinput.UnderlaysOf(c, ids, nil)); d != "" {
		t.Error(d)
	}
	a := netip.MustParseAddr
	want := []tunnel.Spec{
		{Device: "wg0", For: "vps", Params: tunnel.Params{Kind: tunnel.WireGuard}},
		{Device: "gre1", For: "tap", Params: tunnel.Params{Kind: tunnel.GRETAP, Local: a("10.0.31.2"), Remote: a("10.0.31.10"), TTL: 64}},
		{Device: "far", For: "tunnel far", Bridge: "br-wan", Params: tunnel.Params{Kind: tunnel.GRETAP, Local: a("192.0.2.1"), Remote: a("192.0.2.2"), TTL: 64, Fragment: true}},
	}
	if d := cmp.Diff(want, specsOf(c), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Error(d)
	}
}

func TestATunnelHasTheRoutesOfItsPeersAndNoDefaultUnlessAPeerHasOne(t *testing.T) {
	w := newWired(&chain4(t, "/k").Uplinks[2], 3, 9)
	a := w.assignment(true)
	if !a.NoDefault || !slices.Equal(a.Peers, []rules.PeerNetwork{{Dst: netip.MustParsePrefix("10.8.0.0/16"), Alive: true}}) {
		t.Errorf("got %+v", a)
	}
	w.peers[0].AllowedIPs = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	if a := w.assignment(true); a.NoDefault || len(a.Peers) > 0 {
		t.Errorf("with 0.0.0.0/0: %+v", a)
	}
	if a := w.assignment(false); !a.NoDefault {
		t.Errorf("0.0.0.0/0 says nothing of IPv6: %+v", a)
	}
}

func TestANameThatLeadsIntoItsOwnTunnelIsNotUsed(t *testing.T) {
	n := newTunnels(nil)
	w := newWired(&chain4(t, "/k").Uplinks[2], 3, 9)
	n.wired["vps"] = w
	for _, tt := range []struct {
		to    string
		loops bool
	}{{"198.51.100.7:51820", false}, {"10.0.31.10:51820", true}} {
		if !n.found("vps.example.net:51820", netip.MustParseAddrPort(tt.to)) {
			t.Fatalf("%s is nothing new", tt.to)
		}
		if loops := w.loops() != ""; loops != tt.loops || w.config().Peers[0].Endpoint.IsValid() == tt.loops {
			t.Errorf("%s: loops %v, the endpoint is %v", tt.to, loops, w.config().Peers[0].Endpoint)
		}
	}
	if n.found("vps.example.net:51820", netip.MustParseAddrPort("10.0.31.10:51820")) {
		t.Error("the same address is something new")
	}
}

func TestTheStatusShowsTheWholeChain(t *testing.T) {
	w := chain4(t, "/k")
	ids := make(map[string]int)
	if _, err := planinput.AssignIDs(w, ids); err != nil {
		t.Fatal(err)
	}
	cfg := planinput.Build(w, ids, planinput.Learned{}, netip.Prefix{})
	obs := &rules.Observed{Links: []rules.Link{{Name: "wwan0", Index: 2, Up: true, Carrier: true, MTU: 1500}},
		Addrs: []rules.Addr{{Device: "wwan0", Prefix: netip.MustParsePrefix("198.51.100.2/24")}},
		Routes: []rules.Route{{Family: rules.IPv4, Table: rules.TableMain, Type: rules.Unicast, Dst: rules.IPv4.Default(), Protocol: 16,
			Nexthops: []rules.Nexthop{{Device: "wwan0", Gateway: netip.MustParseAddr("198.51.100.1"), Weight: 1}}}}}
	_, report := rules.Plan(cfg, obs, nil)
	if got := monitor.CarrierChain(w, ids, &report, &w.Uplinks[3]); !slices.Equal(got, []string{"vps", "lte"}) {
		t.Errorf("tap is carried by %q", got)
	}
	if got := monitor.CarrierChain(w, ids, &report, &w.Uplinks[0]); len(got) > 0 {
		t.Errorf("fiber is carried by %q", got)
	}
}
