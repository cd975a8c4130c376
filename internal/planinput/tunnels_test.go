package planinput

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/encap"
)

// chained is a tap over WireGuard over one of two providers, and the far end of another one.
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
[[tunnel]]
kind = "gretap"
device = "far"
bridge = "br-wan"
local = "192.0.2.1"
remote = "192.0.2.2"
`

func TestDevicesAndUnderlaysAreThoseOfTheConfiguration(t *testing.T) {
	c, err := config.Parse("t.toml", []byte(chained))
	if err != nil {
		t.Fatal(err)
	}
	ids := make(map[string]int)
	if _, err := AssignIDs(c, ids); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]rules.Underlay{{ID: ids["@underlay vps"], Uplink: ids["vps"], Carriers: []int{ids["lte"], ids["fiber"]}}}, underlaysOf(c, ids, nil)); d != "" {
		t.Error(d)
	}
	a := netip.MustParseAddr
	want := []rules.Tunnel{
		{Device: "wg0", For: "vps", Params: encap.Params{Kind: encap.WireGuard}},
		{Device: "gre1", For: "tap", Params: encap.Params{Kind: encap.GRETAP, Local: a("10.0.31.2"), Remote: a("10.0.31.10"), TTL: 64}},
		{Device: "far", For: "tunnel far", Bridge: "br-wan", Params: encap.Params{Kind: encap.GRETAP, Local: a("192.0.2.1"), Remote: a("192.0.2.2"), TTL: 64, Fragment: true}},
	}
	if d := cmp.Diff(want, tunnelsOf(c, nil), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Error(d)
	}
}

// What leads to peers alone is like a LAN; masquerading is for ways to the Internet.
func TestWhatLeadsToPeersAloneIsMasqueradedWhereThatWasAskedFor(t *testing.T) {
	peersAlone, internet := &rules.Assignment{NoDefault: true}, &rules.Assignment{}
	from := []netip.Prefix{netip.MustParsePrefix("10.7.0.0/24")}
	for name, c := range map[string]struct {
		kind  string
		given *rules.Assignment
		ip    config.IP
		want  bool
	}{
		"peers alone":                       {config.KindWireGuard, peersAlone, config.IP{Masquerade: config.Automatic}, false},
		"peers alone, asked for":            {config.KindWireGuard, peersAlone, config.IP{Masquerade: config.On}, true},
		"the Internet":                      {config.KindWireGuard, internet, config.IP{Masquerade: config.Automatic}, true},
		"the Internet, some sources hidden": {config.KindWireGuard, internet, config.IP{Masquerade: config.Automatic, MasqueradeFrom: from}, false},
		"the Internet, turned off":          {config.KindWireGuard, internet, config.IP{Masquerade: config.Off}, false},
		"a provider":                        {config.KindISP, nil, config.IP{Masquerade: config.Automatic}, true},
		"a provider, turned off":            {config.KindISP, nil, config.IP{Masquerade: config.Off}, false},
	} {
		cfg := named("x")
		c.ip.Method = config.MethodAuto
		cfg.Uplinks[0].Kind, cfg.Uplinks[0].IPv4 = c.kind, c.ip
		out := Build(cfg, each("x"), Learned{"x": {IPv4: c.given, IPv6: c.given}}, netip.Prefix{})
		if got := out.Uplinks[0].IPv4.Masquerade; got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
