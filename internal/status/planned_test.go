package status

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// chained is a tap over WireGuard over one of two providers.
const chained = `
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
private_key_file = "/k"
addresses = ["10.0.31.2/24"]
peers = [ { public_key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", endpoint = "vps.example.net:51820", allowed_ips = ["10.0.31.0/24", "10.8.0.0/16"] } ]
[[uplink]]
name = "tap"
kind = "gretap"
device = "gre1"
over = "vps"
[uplink.gretap]
local = "10.0.31.2"
remote = "10.0.31.10"
`

func TestTheStatusShowsTheWholeChain(t *testing.T) {
	w, err := config.Parse("t.toml", []byte(chained))
	if err != nil {
		t.Fatal(err)
	}
	ids := make(map[string]int)
	if _, err := planinput.AssignIDs(w, ids); err != nil {
		t.Fatal(err)
	}
	cfg := planinput.Build(w, ids, planinput.Learned{}, netip.Prefix{})
	obs := &rules.Observed{Links: []rules.Link{{Name: "wwan0", Index: 2, Up: true, Carrier: true, MTU: 1500}},
		Addrs: []rules.Addr{{Device: "wwan0", Prefix: netip.MustParsePrefix("198.51.100.2/24")}},
		Routes: []netcfg.Route{{Family: rules.IPv4, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: rules.IPv4.Default(), Protocol: 16,
			Nexthops: []netcfg.Nexthop{{Device: "wwan0", Gateway: netip.MustParseAddr("198.51.100.1"), Weight: 1}}}}}
	_, report := rules.Plan(cfg, obs, nil)
	carried := make(map[string][]string)
	for _, u := range (Planned{Config: w, IDs: ids, Plan: &cfg, Report: &report}).Uplinks() {
		carried[u.Name] = u.CarriedBy
	}
	if diff := cmp.Diff(map[string][]string{"fiber": nil, "lte": nil, "vps": {"lte"}, "tap": {"vps", "lte"}}, carried); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
