//go:build vm

package kernel_test

import (
	"encoding/base64"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/internal/tunnel"
)

func TestVMAGRETAPIsMadeAndKept(t *testing.T) {
	checkTunnel(t, ethernet(tunnel.GRETAP, ends4), 1462, "gretap remote 203.0.113.9 local 198.51.100.2 ttl 64")
}

func TestVMAGRETAPWithAKeyIsMadeAndKept(t *testing.T) {
	s := ethernet(tunnel.GRETAP, ends4)
	s.Key, s.HasKey = 7, true
	checkTunnel(t, s, 1458, "gretap remote 203.0.113.9 local 198.51.100.2 ttl 64", "ikey 0.0.0.7 okey 0.0.0.7")
}

func TestVMAGRETAPOverIPv6IsMadeAndKept(t *testing.T) {
	checkTunnel(t, ethernet(tunnel.GRETAP, ends6), 1442, "ip6gretap remote 2001:db8:b::9 local 2001:db8:a::2", "encaplimit none")
}

func TestVMAGRETAPOnABridgeTakesWhatTheBridgeDoes(t *testing.T) {
	namespace(t)
	sh(t, carrierScript)
	k := open(t)
	s := ethernet(tunnel.GRETAP, ends4)
	s.Bridge, s.Fragment = "br0", true
	settleTunnels(t, k, s)
	out := sh(t, "ip -d link show dev tap0")
	for _, want := range []string{"mtu 1500 ", "master br0", "nopmtudisc", "ignore-df"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}

func TestVMWhatBreaksABridgedTunnelIsSeen(t *testing.T) {
	namespace(t)
	sh(t, carrierScript)
	k := open(t)
	s := ethernet(tunnel.GRETAP, ends4)
	s.Bridge, s.Fragment = "br0", true
	settleTunnels(t, k, s)
	for _, step := range []struct{ script, want string }{
		{"true", ""},
		{"bridge link set dev tap0 mcast_flood off", "tunnel-multicast"},
		{"bridge link set dev tap0 mcast_flood on; ip link set dev tap0 multicast off", "tunnel-multicast"},
		{"ip link set dev tap0 multicast on; ip link set dev tap0 mtu 1400; ip link set dev br0 mtu 1500", "bridge-mtu"},
		{"ip link set dev tap0 mtu 1500; modprobe br_netfilter", "bridge-filter"},
		{"sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0", ""},
	} {
		sh(t, step.script)
		links, err := k.TunnelLinks()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range tunnel.Check([]tunnel.Spec{s}, links, k.BridgeFilters()) {
			got = append(got, f.Code)
		}
		if codes := strings.Join(got, " "); codes != step.want {
			t.Errorf("after %q: %q, want %q", step.script, codes, step.want)
		}
	}
}

// wgKey runs wg, whose answer is a key.
func wgKey(t *testing.T, script string) tunnel.Key {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(sh(t, script)))
	if err != nil || len(b) != 32 {
		t.Fatalf("%s: %v", script, err)
	}
	return tunnel.Key(b)
}

func TestVMAWireGuardDeviceIsWhatWgShows(t *testing.T) {
	namespace(t)
	k := open(t)
	settleTunnels(t, k, tunnel.Spec{Device: "wg0", For: "vps", Params: tunnel.Params{Kind: tunnel.WireGuard}})
	if out := sh(t, "ip -d link show dev wg0"); !strings.Contains(out, "mtu 1420 ") {
		t.Errorf("got %s", out)
	}
	w, err := kernel.OpenWireGuard()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	file := filepath.Join(t.TempDir(), "key")
	private := wgKey(t, "umask 077; wg genkey | tee "+file)
	peer := wgKey(t, "wg genkey | wg pubkey")
	c := tunnel.Config{PrivateKey: &private, ListenPort: 51820, FwMark: 0x9000000, Peers: []tunnel.Peer{{PublicKey: peer, Preshared: wgKey(t, "wg genpsk"),
		Endpoint: netip.MustParseAddrPort("[2001:db8::7]:51820"), Keepalive: 25 * time.Second,
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("2001:db8:7::/64")}}}}
	missing := func() bool {
		t.Helper()
		state, err := w.State("wg0")
		if err != nil {
			t.Fatal(err)
		}
		_, differs := c.Missing(state)
		return differs
	}
	if !missing() {
		t.Fatal("nothing is missing of a device without a key")
	}
	if err := w.Set("wg0", c); err != nil {
		t.Fatal(err)
	}
	if missing() {
		t.Error("something is missing after all was set")
	}
	out := sh(t, "wg show wg0 dump")
	key := base64.StdEncoding.EncodeToString(peer[:])
	for _, want := range []string{"51820\t0x9000000", key, "[2001:db8::7]:51820", "0.0.0.0/0,2001:db8:7::/64", "\t25"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	sh(t, "wg set wg0 fwmark 0")
	if !missing() {
		t.Error("a lost mark is not missed")
	}
	if err := w.SetEndpoint("wg0", peer, netip.MustParseAddrPort("198.51.100.9:1")); err != nil {
		t.Fatal(err)
	}
	state, err := w.State("wg0")
	if err != nil {
		t.Fatal(err)
	}
	got := state.Peers[0].Peer
	slices.SortFunc(got.AllowedIPs, netip.Prefix.Compare)
	want := c.Peers[0]
	want.Endpoint = netip.MustParseAddrPort("198.51.100.9:1")
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Error(d)
	}
	if _, err := w.State("wg1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a device that is not there: %v", err)
	}
}
