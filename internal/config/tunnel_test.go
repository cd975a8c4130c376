package config

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/rules/encap"
)

const aKey = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="

// wholeTunnel is what the design shows, and the far end of another.
const wholeTunnel = `
[[uplink]]
name = "fiber"
device = "eth1"
tier = 2
[[uplink]]
name = "lte"
device = "wwan0"
[[uplink]]
name = "vps"
kind = "wireguard"
device = "wg0"
  [uplink.wireguard]
  private_key_file = "/etc/uplinkd/vps.key"
  addresses = ["10.0.31.2/24"]
  [[uplink.wireguard.peers]]
  public_key = "` + aKey + `"
  endpoint = "vps.example.net:51820"
  allowed_ips = ["0.0.0.0/0", "::/0"]
  keepalive = "25s"
[[uplink]]
name = "campus6"
kind = "gretap"
device = "gre1"
over = "vps"
  [uplink.gretap]
  local = "10.0.31.2"
  remote = "10.0.31.10"
  ttl = 255
  key = 7
[[tunnel]]
kind = "vxlan"
id = 42
device = "far"
bridge = "br-wan"
local = "2001:db8::1"
remote = "2001:db8::2"
`

func TestTunnelsAreReadAsTheDesignWritesThem(t *testing.T) {
	c, err := Parse("t.toml", []byte(wholeTunnel))
	if err != nil {
		t.Fatal(err)
	}
	key, msg := parseKey("public_key", aKey)
	if msg != "" {
		t.Fatal(msg)
	}
	vps, tap := &c.Uplinks[2], &c.Uplinks[3]
	want := &WireGuard{PrivateKeyFile: "/etc/uplinkd/vps.key", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.31.2/24")},
		Peers: []Peer{{PublicKey: key, Endpoint: "vps.example.net:51820", Keepalive: 25 * time.Second,
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}}}
	if d := cmp.Diff(want, vps.WireGuard, byPrefix); d != "" {
		t.Error(d)
	}
	if vps.IPv4.Method != MethodAuto || vps.IPv6.Method != MethodOff {
		t.Errorf("methods are %s and %s: a tunnel carries the families that it has addresses of", vps.IPv4.Method, vps.IPv6.Method)
	}
	gre := &Encap{Params: encap.Params{Kind: encap.GRETAP, Local: netip.MustParseAddr("10.0.31.2"), Remote: netip.MustParseAddr("10.0.31.10"), TTL: 255, Key: 7, HasKey: true}}
	if d := cmp.Diff(gre, tap.Encap, byValue, byPrefix); d != "" {
		t.Error(d)
	}
	far := []Tunnel{{Device: "far", Bridge: "br-wan", Encap: Encap{Params: encap.Params{Kind: encap.VXLAN, Local: netip.MustParseAddr("2001:db8::1"),
		Remote: netip.MustParseAddr("2001:db8::2"), TTL: 64, ID: 42, Port: 4789}}}}
	if d := cmp.Diff(far, c.Tunnels, byValue, byPrefix); d != "" {
		t.Error(d)
	}
	for _, tt := range []struct {
		uplink *Uplink
		want   []string
	}{{vps, []string{"lte", "fiber"}}, {tap, []string{"vps"}}, {&c.Uplinks[0], nil}} {
		if got := c.Carriers(tt.uplink); !slices.Equal(got, tt.want) {
			t.Errorf("%s is carried by %q, want %q", tt.uplink.Name, got, tt.want)
		}
	}
}

func TestADeviceThatOthersMakeNeedsNoSection(t *testing.T) {
	c, err := Parse("t.toml", []byte("[[uplink]]\nname = \"vps\"\nkind = \"wireguard\"\ndevice = \"wg0\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if u := c.Uplinks[0]; u.WireGuard != nil || u.IPv4.Method != MethodAuto {
		t.Errorf("%+v", u)
	}
}

// TestATunnelAsksNobodyWhomItDoesNotLeadTo is about the targets by default.
func TestATunnelAsksNobodyWhomItDoesNotLeadTo(t *testing.T) {
	for _, tt := range []struct {
		addresses, allowed string
		want               int
	}{
		{`"10.0.31.1/24"`, `"10.0.31.2/32", "192.168.35.0/24"`, 0},
		{`"10.0.31.1/24", "fd00:31::1/64"`, `"10.0.31.2/32", "fd00:31::2/128"`, 0},
		{`"10.0.31.1/24"`, `"0.0.0.0/0"`, 3},
		{`"10.0.31.1/24"`, `"1.0.0.0/8"`, 1},
		{`"10.0.31.1/24", "fd00:31::1/64"`, `"0.0.0.0/0", "::/0"`, 6},
	} {
		c, err := Parse("t.toml", fmt.Appendf(nil, "[[uplink]]\nname = \"site\"\nkind = \"wireguard\"\ndevice = \"wg0\"\n[uplink.wireguard]\nprivate_key_file = \"/srv/key\"\n"+
			"addresses = [%s]\npeers = [ { public_key = %q, allowed_ips = [%s] } ]\n", tt.addresses, aKey, tt.allowed))
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Uplinks[0].Probe.Targets; len(got) != tt.want {
			t.Errorf("allowed_ips = [%s]: %v, want %d", tt.allowed, got, tt.want)
		}
	}
}

// everyTunnelKey is the part of everyKey that is about tunnels.
const everyTunnelKey = `
[[uplink]]
name = "wg"
id = 5
kind = "wireguard"
device = "wg0"
underlay = ["office"]
peer_routes = true
[uplink.probe]
targets = ["10.0.31.1", "handshake://10.0.31.1"]
[uplink.wireguard]
private_key_file = "/srv/key"
listen_port = 51820
addresses = ["10.0.31.2/32"]
mtu = 1400
[[uplink.wireguard.peers]]
public_key = "` + aKey + `"
preshared_key_file = "/srv/psk"
endpoint = "[2001:db8::7]:51820"
allowed_ips = ["10.0.31.0/24"]
keepalive = "25s"

[[uplink]]
name = "tap"
id = 6
kind = "gretap"
device = "gre2"
over = "wg"
[uplink.ipv6]
masquerade_from = ["fd00:7::/64"]
[uplink.gretap]
local = "10.0.31.2"
remote = "10.0.31.10"
ttl = 255
mtu = 1300
key = 0

[[uplink]]
name = "vx"
id = 7
kind = "vxlan"
device = "vx0"
[uplink.vxlan]
local = "10.0.31.2"
remote = "10.0.31.10"
id = 16777215
port = 8472

[[uplink]]
name = "broker"
id = 8
kind = "sit"
device = "he0"
over = "office"
[uplink.sit]
local = "198.51.100.2"
remote = "203.0.113.9"

[[uplink]]
name = "rapid"
id = 11
kind = "6rd"
device = "6rd1"
over = "office"
[uplink.6rd]
prefix = "2001:db8::/32"
ipv4_mask_length = 8
border_relay = "192.0.2.1"

[[tunnel]]
device = "far"
kind = "gretap"
bridge = "br-wan"
local = "2001:db8::1"
remote = "2001:db8::2"
`

func everyWireGuard() Uplink {
	key, _ := parseKey("", aKey)
	u := DefaultUplink("wg", "wg0")
	u.ID = 5
	u.Kind, u.Underlay, u.PeerRoutes, u.IPv6.Method, u.Probe.Targets = KindWireGuard, []string{"office"}, true, MethodOff, targets("10.0.31.1", "handshake://10.0.31.1")
	u.WireGuard = &WireGuard{PrivateKeyFile: "/srv/key", ListenPort: 51820, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.31.2/32")}, MTU: 1400,
		Peers: []Peer{{PublicKey: key, PresharedKeyFile: "/srv/psk", Endpoint: "[2001:db8::7]:51820",
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.31.0/24")}, Keepalive: 25 * time.Second}}}
	return u
}

func everyGRETAP() Uplink {
	u := DefaultUplink("tap", "gre2")
	u.ID = 6
	u.Kind, u.Over, u.IPv6.MasqueradeFrom = encap.GRETAP, "wg", nets("fd00:7::/64")
	u.Encap = &Encap{MTU: 1300, Params: encap.Params{Kind: encap.GRETAP, Local: netip.MustParseAddr("10.0.31.2"), Remote: netip.MustParseAddr("10.0.31.10"), TTL: 255, HasKey: true}}
	return u
}

func everyVXLAN() Uplink {
	u := DefaultUplink("vx", "vx0")
	u.ID = 7
	u.Kind = encap.VXLAN
	u.Encap = &Encap{Params: encap.Params{Kind: encap.VXLAN, Local: netip.MustParseAddr("10.0.31.2"), Remote: netip.MustParseAddr("10.0.31.10"), TTL: 64, ID: 16777215, Port: 8472}}
	return u
}

func everySIT() Uplink {
	u := DefaultUplink("broker", "he0")
	u.ID = 8
	u.Kind, u.Over, u.IPv4.Method = encap.SIT, "office", MethodOff
	u.Encap = &Encap{Params: encap.Params{Kind: encap.SIT, Local: netip.MustParseAddr("198.51.100.2"), Remote: netip.MustParseAddr("203.0.113.9"), TTL: 64}}
	return u
}

func every6RD() Uplink {
	u := DefaultUplink("rapid", "6rd1")
	u.ID = 11
	u.Kind, u.Over, u.IPv4.Method = KindSixRD, "office", MethodOff
	u.IPv6.SixRD = &SixRD{Prefix: netip.MustParsePrefix("2001:db8::/32"), MaskLength: 8, Relay: netip.MustParseAddr("192.0.2.1")}
	return u
}

var everyTunnel = []Tunnel{{Device: "far", Bridge: "br-wan", Encap: Encap{Params: encap.Params{Kind: encap.GRETAP, Local: netip.MustParseAddr("2001:db8::1"),
	Remote: netip.MustParseAddr("2001:db8::2"), TTL: 64}}}}

// keepsTunnelPromises checks what the types say of an uplink's tunnel, for any text that is accepted.
func keepsTunnelPromises(c *Config, u *Uplink) bool {
	index := slices.IndexFunc(c.Uplinks, func(o Uplink) bool { return o.Name == u.Name })
	ok := !slices.Contains(c.carriedBy(index, make(map[int]bool)), u.Name) &&
		(u.Over == "" || u.Kind != KindISP && u.Kind != KindWireGuard) && (len(u.Underlay) == 0 || u.Kind == KindWireGuard)
	if e := u.Encap; e != nil {
		ok = ok && e.Kind == u.Kind && e.Local.Is4() == e.Remote.Is4() && e.Local != e.Remote && e.TTL > 0 && (e.ID > 0) == (e.Kind == encap.VXLAN)
	}
	if w := u.WireGuard; w != nil {
		ok = ok && u.Kind == KindWireGuard && w.PrivateKeyFile != "" && len(w.Addresses) > 0 && len(w.Peers) > 0
	}
	return ok
}
