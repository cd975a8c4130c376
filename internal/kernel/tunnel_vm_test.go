//go:build vm

package kernel_test

import (
	"encoding/base64"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/encap"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

func TestVMGoldensOfTunnelsDoWhatTheySay(t *testing.T) { checkGoldens(t, true) }

// With the module comes a tunnel of that kind in each network namespace, and there can be but one without addresses.
func TestVMTunnelsThatTheKernelCanDoAreNotMissed(t *testing.T) {
	namespace(t)
	sh(t, "modprobe -a ip_gre sit; ip link show dev gretap0; ip link show dev sit0")
	missing, err := kernel.MissingFeatures(numbers, encap.Kinds())
	if err != nil || len(missing) > 0 {
		t.Errorf("%+v, %v", missing, err)
	}
}

func TestVMAGRETAPIsMadeAndKept(t *testing.T) {
	checkTunnel(t, tunnelOf(encap.GRETAP, ends4), 1462, "gretap remote 203.0.113.9 local 198.51.100.2 ttl 64")
}

func TestVMAGRETAPWithAKeyIsMadeAndKept(t *testing.T) {
	s := tunnelOf(encap.GRETAP, ends4)
	s.Key, s.HasKey = 7, true
	checkTunnel(t, s, 1458, "gretap remote 203.0.113.9 local 198.51.100.2 ttl 64", "ikey 0.0.0.7 okey 0.0.0.7")
}

func TestVMAGRETAPOverIPv6IsMadeAndKept(t *testing.T) {
	checkTunnel(t, tunnelOf(encap.GRETAP, ends6), 1442, "ip6gretap remote 2001:db8:b::9 local 2001:db8:a::2", "encaplimit none")
}

func TestVMASITIsMadeAndKept(t *testing.T) {
	checkTunnel(t, tunnelOf(encap.SIT, ends4), 1480, "sit ip6ip remote 203.0.113.9 local 198.51.100.2 ttl 64")
}

func TestVMA6RDIsMadeAndKept(t *testing.T) {
	s := tunnelOf(encap.SixRD, ends4)
	s.Remote, s.Prefix6, s.Prefix4 = netip.Addr{}, netip.MustParsePrefix("2001:db8:9000::/36"), netip.MustParsePrefix("198.51.96.0/20")
	checkTunnel(t, s, 1480, "sit ip6ip remote any local 198.51.100.2 ttl 64", "6rd-prefix 2001:db8:9000::/36 6rd-relay_prefix 198.51.96.0/20")
}

func TestVMAGRETAPOnABridgeTakesWhatTheBridgeDoes(t *testing.T) {
	namespace(t)
	sh(t, carrierScript)
	k := open(t)
	s := tunnelOf(encap.GRETAP, ends4)
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
	s := tunnelOf(encap.GRETAP, ends4)
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
		_, problems := planTunnels(t, k, s)
		var got []string
		for _, p := range problems {
			got = append(got, p.Code)
		}
		if codes := strings.Join(got, " "); codes != step.want {
			t.Errorf("after %q: %q, want %q", step.script, codes, step.want)
		}
	}
}

// wgKey runs wg, whose answer is a key.
func wgKey(t *testing.T, script string) netcfg.Key {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(sh(t, script)))
	if err != nil || len(b) != 32 {
		t.Fatalf("%s: %v", script, err)
	}
	return netcfg.Key(b)
}

func TestVMAWireGuardDeviceIsWhatWgShows(t *testing.T) {
	namespace(t)
	k := open(t)
	cfg := rules.Config{Kernel: numbers, Tunnels: []rules.Tunnel{{Device: "wg0", For: "vps", Params: encap.Params{Kind: encap.WireGuard}}}}
	dir := t.TempDir()
	secret := func(name, make string) netcfg.Secret {
		file := filepath.Join(dir, name)
		return netcfg.Secret{Key: wgKey(t, "umask 077; "+make+" | tee "+file), File: file}
	}
	peer := wgKey(t, "wg genkey | wg pubkey")
	cfg.WireGuard = []netcfg.WireGuard{{Device: "wg0", PrivateKey: secret("key", "wg genkey"), ListenPort: 51820, FwMark: 0x9000000, Peers: []netcfg.WireGuardPeer{{PublicKey: peer,
		Preshared: secret("psk", "wg genpsk"), Endpoint: netip.MustParseAddrPort("[2001:db8::7]:51820"), Keepalive: 25 * time.Second,
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("2001:db8:7::/64")}}}}}
	missing := func() []netcfg.Op {
		t.Helper()
		obs := snapshot(t, k, cfg).Foresee(cfg)
		want, _ := rules.Plan(cfg, obs, nil)
		return netcfg.Diff(rules.Ours(numbers, obs), want)
	}
	apply := func(ops []netcfg.Op) {
		t.Helper()
		if err := k.Apply(ops); err != nil {
			t.Fatal(err)
		}
		if left := missing(); len(left) > 0 {
			t.Errorf("still to do: %s", lines(left))
		}
	}
	made := missing()
	apply(made)
	if out := sh(t, "ip -d link show dev wg0"); !strings.Contains(out, "mtu 1420 ") {
		t.Errorf("got %s", out)
	}
	dump := sh(t, "wg show wg0 dump")
	for _, want := range []string{"51820\t0x9000000", peer.String(), "[2001:db8::7]:51820", "0.0.0.0/0,2001:db8:7::/64", "\t25"} {
		if !strings.Contains(dump, want) {
			t.Errorf("%q is missing in\n%s", want, dump)
		}
	}
	// What is printed does the same.
	sh(t, "ip link delete dev wg0\n"+strings.ReplaceAll(lines(made), "; ", "\n"))
	if again := sh(t, "wg show wg0 dump"); again != dump {
		t.Errorf("the lines make another device (-want +got):\n%s", cmp.Diff(dump, again))
	}
	sh(t, "wg set wg0 fwmark 0")
	if got := lines(missing()); got != "wg set wg0 fwmark 0x9000000" {
		t.Errorf("a lost mark: %s", got)
	}
	apply(missing())
	cfg.WireGuard[0].Peers[0].Endpoint, cfg.WireGuard[0].Peers[0].ResetEndpoint = netip.MustParseAddrPort("198.51.100.9:1"), true
	if got := lines(missing()); got != "wg set wg0 peer "+peer.String()+" endpoint 198.51.100.9:1" {
		t.Errorf("a new endpoint: %s", got)
	}
	apply(missing())
	cfg.WireGuard[0].Peers[0].Preshared, cfg.WireGuard[0].Peers[0].Keepalive = netcfg.Secret{}, 0
	apply(missing())
	cfg.WireGuard[0].Peers = []netcfg.WireGuardPeer{}
	apply(missing())
	if out := sh(t, "wg show wg0 peers"); out != "" {
		t.Errorf("peers are left: %s", out)
	}
	if _, err := new(kernel.WireGuard).Device("wg1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a device that is not there: %v", err)
	}
}
