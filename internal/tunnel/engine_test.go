package tunnel

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
)

const (
	someKey = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
	// chained is WireGuard over one of two providers.
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

// absent is a machine without WireGuard devices.
var absent = device(func() (*rules.WireGuardDevice, error) { return nil, os.ErrNotExist })

// Numbers by which the uplink vps has the id 3, and its underlay the id and mark 9.
var (
	someIDs     = map[string]int{"vps": 3, "@underlay vps": 9}
	someNumbers = rules.Kernel{MarkMask: 0xff}
)

func chainedUplink(t *testing.T) *wgUplink {
	t.Helper()
	return newWGUplink(&chain4(t, "/k").Uplinks[2], someIDs, someNumbers)
}

func TestAKeyThatOthersMayReadIsRefusedAndChangesNothing(t *testing.T) {
	n := New(Options{WireGuard: absent})
	ids := map[string]int{"fiber": 1, "lte": 2, "vps": 3, "tap": 4, "@underlay vps": 5}
	if err := n.Configure(chain4(t, keyFile(t, 0o600)), ids); err != nil {
		t.Fatal(err)
	}
	before := n.uplinks["vps"]
	for name, file := range map[string]string{"is readable by others": keyFile(t, 0o640), "no such file": filepath.Join(t.TempDir(), "absent")} {
		if err := n.Configure(chain4(t, file), ids); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "uplink vps: ") {
			t.Errorf("got %v, want %q", err, name)
		}
	}
	if n.uplinks["vps"] != before {
		t.Error("a refused configuration has changed something")
	}
}

func TestATunnelHasTheRoutesOfItsPeersAndNoDefaultUnlessAPeerHasOne(t *testing.T) {
	w := chainedUplink(t)
	a := w.assignment(rules.IPv4)
	if !a.NoDefault || !slices.Equal(a.Peers, []rules.PeerNetwork{{Dst: netip.MustParsePrefix("10.8.0.0/16"), Alive: true}}) {
		t.Errorf("got %+v", a)
	}
	w.peers[0].AllowedIPs = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	if a := w.assignment(rules.IPv4); a.NoDefault || len(a.Peers) > 0 {
		t.Errorf("with 0.0.0.0/0: %+v", a)
	}
	if a := w.assignment(rules.IPv6); !a.NoDefault {
		t.Errorf("0.0.0.0/0 says nothing of IPv6: %+v", a)
	}
}

func TestANameThatLeadsIntoItsOwnTunnelIsNotUsed(t *testing.T) {
	n := New(Options{WireGuard: absent})
	w := chainedUplink(t)
	n.uplinks["vps"] = w
	for _, tt := range []struct {
		to    string
		loops bool
	}{{"198.51.100.7:51820", false}, {"10.0.31.10:51820", true}} {
		if !n.found("vps.example.net:51820", netip.MustParseAddrPort(tt.to)) {
			t.Fatalf("%s is nothing new", tt.to)
		}
		if loops := w.endpointInTunnel() != ""; loops != tt.loops || w.config().Peers[0].Endpoint.IsValid() == tt.loops {
			t.Errorf("%s: loops %v, the endpoint is %v", tt.to, loops, w.config().Peers[0].Endpoint)
		}
	}
	if n.found("vps.example.net:51820", netip.MustParseAddrPort("10.0.31.10:51820")) {
		t.Error("the same address is something new")
	}
}
