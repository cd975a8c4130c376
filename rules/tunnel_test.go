package rules_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/encap"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

var (
	local4, remote4 = netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("203.0.113.2")
	local6, remote6 = netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8:1::2")
)

// carrying is a machine with a device that has both local ends, and a bridge.
func carrying(mtu int, tunnels ...rules.Tunnel) *world {
	w := newWorld()
	w.plug(rules.Link{Name: "wan1", Up: true, Carrier: true, MTU: mtu})
	w.plug(rules.Link{Name: "br0", Up: true, Carrier: true, MTU: 1500})
	w.hold("wan1", local4.String()+"/24", local6.String()+"/64")
	w.cfg.Tunnels = tunnels
	return w
}

func TestTheMTUIsWhatFitsTheCarrier(t *testing.T) {
	for _, tt := range []struct {
		name    string
		tunnel  rules.Tunnel
		carrier int
		want    int
	}{
		{"GRETAP over IPv4", rules.Tunnel{Params: encap.Params{Kind: encap.GRETAP, Local: local4}}, 1500, 1462},
		{"GRETAP with a key", rules.Tunnel{Params: encap.Params{Kind: encap.GRETAP, Local: local4, HasKey: true}}, 1500, 1458},
		{"GRETAP over IPv6", rules.Tunnel{Params: encap.Params{Kind: encap.GRETAP, Local: local6}}, 1500, 1442},
		{"GRETAP over WireGuard", rules.Tunnel{Params: encap.Params{Kind: encap.GRETAP, Local: local4}}, 1420, 1382},
		{"VXLAN over IPv4", rules.Tunnel{Params: encap.Params{Kind: encap.VXLAN, Local: local4}}, 1500, 1450},
		{"VXLAN over IPv6", rules.Tunnel{Params: encap.Params{Kind: encap.VXLAN, Local: local6}}, 1500, 1430},
		{"WireGuard", rules.Tunnel{Params: encap.Params{Kind: encap.WireGuard}}, 9000, 1420},
		{"what is configured", rules.Tunnel{MTU: 1400, Params: encap.Params{Kind: encap.GRETAP, Local: local4}}, 1500, 1400},
		{"never less than IPv6 needs", rules.Tunnel{Params: encap.Params{Kind: encap.GRETAP, Local: local4}}, 1300, 1280},
		{"the bridge's, in fragments", rules.Tunnel{Bridge: "br0", Params: encap.Params{Kind: encap.GRETAP, Local: local4, Fragment: true}}, 1420, 1500},
		{"the carrier's, on a bridge that must not fragment", rules.Tunnel{Bridge: "br0", Params: encap.Params{Kind: encap.GRETAP, Local: local6}}, 1500, 1442},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.tunnel.Device = "t"
			want, _ := carrying(tt.carrier, tt.tunnel).plan()
			if len(want.Tunnels) != 1 || want.Tunnels[0].MTU != tt.want {
				t.Errorf("got %+v, want %d", want.Tunnels, tt.want)
			}
		})
	}
}

func TestWhatIsNotThereIsWaitedFor(t *testing.T) {
	for name, s := range map[string]rules.Tunnel{
		"no device has":  {Device: "t", Params: encap.Params{Kind: encap.GRETAP, Local: remote4, Remote: local4}},
		"the bridge br1": {Device: "t", Bridge: "br1", Params: encap.Params{Kind: encap.GRETAP, Local: local4, Remote: remote4}},
	} {
		w := carrying(1500, s)
		want, report := w.plan()
		if len(want.Tunnels) > 0 || len(report.Problems) != 1 || report.Problems[0].Severity != "warning" || !strings.Contains(report.Problems[0].Message, name) {
			t.Errorf("%v, %+v", want.Tunnels, report.Problems)
		}
	}
}

// A device of others in the place of one that is wanted is left alone, and the plan is not taken for carried out.
func TestADeviceOfOthersInTheWayIsTriedInVain(t *testing.T) {
	tunnel := rules.Tunnel{Device: "t", For: "x", Bridge: "br0", Params: encap.Params{Kind: encap.VXLAN, Local: local4, Remote: remote4, ID: 1, Port: 4789, TTL: 64}}
	w := carrying(1500, tunnel)
	w.plug(rules.Link{Name: "t", Up: true, Carrier: true, MTU: 1500})
	want, report := w.plan()
	ops := netcfg.Diff(rules.Ours(numbers, w.foreseen()), want)
	if len(ops) != 1 || !strings.HasPrefix(ops[0].Command(), "ip link add name t ") || len(report.Problems) != 1 || !strings.Contains(report.Problems[0].Message, "already exists and is not") {
		t.Errorf("%s%+v", commands(ops), report.Problems)
	}
}

func TestATunnelThatIsRefusedIsNamedAndNotCountedOn(t *testing.T) {
	w := dual()
	w.cfg.Tunnels = []rules.Tunnel{{Device: "wan2", For: "lte", Params: encap.Params{Kind: encap.WireGuard}}}
	w.unplug("wan2")
	add, _ := netcfg.Diff(netcfg.State{}, netcfg.State{Tunnels: []netcfg.TunnelLink{{Device: "wan2"}}})[0].(netcfg.AddTunnel)
	w.obs.RefusedDevices = []*netcfg.Refusal{{Op: add, Err: errors.New("operation not supported")}}
	want, report := w.plan()
	at := slices.IndexFunc(report.Problems, func(p rules.Problem) bool { return p.Code == "tunnel" })
	if at < 0 || report.Problems[at].Severity != "error" || !strings.Contains(report.Problems[at].Message, "not supported") {
		t.Errorf("%+v", report.Problems)
	}
	if len(want.Tunnels) != 1 || slices.ContainsFunc(want.Groups, func(g netcfg.LinkGroup) bool { return g.Device == "wan2" }) {
		t.Errorf("it is not wanted, or counted on: %+v", want)
	}
}

func TestLinesAreWhatIPTakes(t *testing.T) {
	m := netcfg.AddTunnel{TunnelLink: netcfg.TunnelLink{Device: "gre1", Alias: "uplinkd: campus6", MTU: 1438,
		Params: encap.Params{Kind: encap.GRETAP, Local: local6, Remote: remote6, TTL: 64, Key: 7, HasKey: true}}}
	want := "ip link add name gre1 mtu 1438 type ip6gretap local 2001:db8::2 remote 2001:db8:1::2 ttl 64 key 7 encaplimit none\n" +
		`ip link set dev gre1 alias "uplinkd: campus6"`
	if got := m.Command(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestWhatBreaksATunnelWithoutAWordIsFound(t *testing.T) {
	sound := netcfg.TunnelLink{Device: "t", MTU: 1500, Bridge: "br0", Multicast: true, Floods: true, Up: true,
		Params: encap.Params{Kind: encap.GRETAP, Local: local4}}
	spec := rules.Tunnel{Device: "t", Bridge: "br0", Params: sound.Params}
	for _, tt := range []struct {
		name    string
		alter   func(device *netcfg.TunnelLink)
		spec    func(*rules.Tunnel)
		filters []string
		want    []string
	}{
		{name: "nothing"},
		{name: "a device without multicast", alter: func(l *netcfg.TunnelLink) { l.Multicast = false }, want: []string{"tunnel-multicast"}},
		{name: "a port that gets none", alter: func(l *netcfg.TunnelLink) { l.Floods = false }, want: []string{"tunnel-multicast"}},
		{name: "a port that is narrower than its bridge", alter: func(l *netcfg.TunnelLink) { l.MTU = 1462 }, want: []string{"bridge-mtu"}},
		{name: "a firewall in the bridge", filters: []string{"net/bridge/bridge-nf-call-iptables"}, want: []string{"bridge-filter"}},
		{name: "an uplink is on no bridge", spec: func(s *rules.Tunnel) { s.Bridge = "" }, alter: func(l *netcfg.TunnelLink) { l.Bridge, l.MTU, l.Floods = "", 1382, false },
			filters: []string{"net/bridge/bridge-nf-call-iptables"}},
		{name: "an uplink without multicast", spec: func(s *rules.Tunnel) { s.Bridge = "" }, alter: func(l *netcfg.TunnelLink) { l.Bridge, l.Multicast = "", false }, want: []string{"tunnel-multicast"}},
		{name: "WireGuard carries none", spec: func(s *rules.Tunnel) {
			*s = rules.Tunnel{Device: "t", Params: encap.Params{Kind: encap.WireGuard}}
		},
			alter: func(l *netcfg.TunnelLink) {
				l.Params, l.Bridge, l.Multicast = encap.Params{Kind: encap.WireGuard}, "", false
			}},
		{name: "a device that is not there", spec: func(s *rules.Tunnel) { s.Device = "u" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			link, s := sound, spec
			if tt.alter != nil {
				tt.alter(&link)
			}
			if tt.spec != nil {
				tt.spec(&s)
			}
			w := carrying(1500, s)
			w.obs.Tunnels = []netcfg.TunnelLink{link}
			w.plug(rules.Link{Name: "t", Up: true, Carrier: true, MTU: link.MTU})
			for _, f := range tt.filters {
				w.obs.Sysctls[f] = "1"
			}
			_, report := w.plan()
			var got []string
			for _, p := range report.Problems {
				got = append(got, p.Code)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAWireGuardPeerThatHasMovedIsLeftWhereItIs(t *testing.T) {
	private := netcfg.Secret{Key: netcfg.Key{1}, File: "/k"}
	at := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	c := netcfg.WireGuard{PrivateKey: private, FwMark: 9, Peers: []netcfg.WireGuardPeer{{PublicKey: netcfg.Key{2}, Endpoint: at("192.0.2.1:1"), AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}}
	have := netcfg.WireGuard{PrivateKey: netcfg.Secret{Key: netcfg.Key{1}}, FwMark: 9, Peers: []netcfg.WireGuardPeer{{PublicKey: netcfg.Key{2}, Endpoint: at("192.0.2.2:2"), AllowedIPs: c.Peers[0].AllowedIPs}}}
	if set, differs := c.Diff(&have); differs {
		t.Errorf("nothing is missing, and yet %+v", set)
	}
	c.Peers = append(c.Peers, netcfg.WireGuardPeer{PublicKey: netcfg.Key{3}})
	if set, differs := c.Diff(&have); !differs || len(set.Peers) != 1 || set.Peers[0].PublicKey != (netcfg.Key{3}) {
		t.Errorf("with a second peer: %v, %+v", differs, set)
	}
	c.Peers = c.Peers[:1]
	c.Peers[0].ResetEndpoint = true
	if set, differs := c.Diff(&have); !differs || !set.Peers[0].EndpointOnly || set.Peers[0].Endpoint != at("192.0.2.1:1") {
		t.Errorf("its name has a new address: %v, %+v", differs, set)
	}
	c.Peers[0].ResetEndpoint = false
	have.Peers[0].Endpoint = netip.AddrPort{}
	if set, differs := c.Diff(&have); !differs || set.Peers[0].Endpoint != at("192.0.2.1:1") {
		t.Errorf("a peer without an endpoint gets the configured one: %v, %+v", differs, set)
	}
	device := rules.WireGuardDevice{Peers: []rules.WireGuardPeerState{{WireGuardPeer: have.Peers[0]}}}
	if device.Reaches(rules.IPv4) {
		t.Error("10.0.0.0/8 is not the Internet")
	}
	device.Peers[0].AllowedIPs = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	if !device.Reaches(rules.IPv4) || device.Reaches(rules.IPv6) {
		t.Error("0.0.0.0/0 is the Internet, of IPv4 alone")
	}
}

// What is printed may be pasted into a report of a mistake.
func TestKeysAreNeverWritten(t *testing.T) {
	secret := netcfg.Secret{Key: netcfg.Key{0xaa, 0xbb}, File: "/etc/uplinkd/wg.key"}
	c := netcfg.WireGuard{Device: "wg0", PrivateKey: secret, ListenPort: 51820, FwMark: 0x9000000, Peers: []netcfg.WireGuardPeer{{PublicKey: netcfg.Key{2},
		Preshared: secret, Endpoint: netip.MustParseAddrPort("[2001:db8::7]:51820"), AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::/0")}}}}
	set, _ := c.Diff(nil)
	want := `wg set wg0 listen-port 51820 fwmark 0x9000000 private-key /etc/uplinkd/wg.key peer AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= ` +
		`endpoint [2001:db8::7]:51820 preshared-key /etc/uplinkd/wg.key persistent-keepalive 0 allowed-ips "10.0.0.0/8,::/0"`
	if got := set.Command(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	gone := netcfg.WireGuard{Device: "wg0", Peers: []netcfg.WireGuardPeer{}}
	have := netcfg.WireGuard{Device: "wg0", FwMark: 9, Peers: c.Peers}
	if set, _ := gone.Diff(&have); set.Command() != "wg set wg0 fwmark 0x0 peer AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= remove" {
		t.Errorf("got %s", set.Command())
	}
}
