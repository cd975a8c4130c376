package tunnel

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var (
	local4, remote4 = netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("203.0.113.2")
	local6, remote6 = netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8:1::2")
)

func carrier(mtu int) func(netip.Addr) (int, bool) {
	return func(a netip.Addr) (int, bool) { return mtu, a == local4 || a == local6 }
}

func TestTheMTUIsWhatFitsTheCarrier(t *testing.T) {
	for _, tt := range []struct {
		name    string
		spec    Spec
		carrier int
		want    int
	}{
		{"GRETAP over IPv4", Spec{Params: Params{Kind: GRETAP, Local: local4}}, 1500, 1462},
		{"GRETAP with a key", Spec{Params: Params{Kind: GRETAP, Local: local4, HasKey: true}}, 1500, 1458},
		{"GRETAP over IPv6", Spec{Params: Params{Kind: GRETAP, Local: local6}}, 1500, 1442},
		{"GRETAP over WireGuard", Spec{Params: Params{Kind: GRETAP, Local: local4}}, 1420, 1382},
		{"VXLAN over IPv4", Spec{Params: Params{Kind: VXLAN, Local: local4}}, 1500, 1450},
		{"VXLAN over IPv6", Spec{Params: Params{Kind: VXLAN, Local: local6}}, 1500, 1430},
		{"WireGuard", Spec{Params: Params{Kind: WireGuard}}, 9000, 1420},
		{"what is configured", Spec{MTU: 1400, Params: Params{Kind: GRETAP, Local: local4}}, 1500, 1400},
		{"never less than IPv6 needs", Spec{Params: Params{Kind: GRETAP, Local: local4}}, 1300, 1280},
		{"the bridge's, in fragments", Spec{Bridge: "br0", Params: Params{Kind: GRETAP, Local: local4, Fragment: true}}, 1420, 1500},
		{"the carrier's, on a bridge that must not fragment", Spec{Bridge: "br0", Params: Params{Kind: GRETAP, Local: local6}}, 1500, 1442},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := tt.spec.mtu(&World{Links: []Link{{Device: "br0", MTU: 1500}}, Carrier: carrier(tt.carrier)})
			if !ok || got != tt.want {
				t.Errorf("got %d (%v), want %d", got, ok, tt.want)
			}
		})
	}
}

func TestWhatIsNotThereIsWaitedFor(t *testing.T) {
	for name, s := range map[string]Spec{
		"no device has":  {Device: "t", Params: Params{Kind: GRETAP, Local: remote4, Remote: local4}},
		"the bridge br1": {Device: "t", Bridge: "br1", Params: Params{Kind: GRETAP, Local: local4, Remote: remote4}},
	} {
		changes, problems := Decide([]Spec{s}, World{Carrier: carrier(1500)})
		if len(changes) > 0 || len(problems) != 1 || !problems[0].Waiting || !strings.Contains(problems[0].Message, name) {
			t.Errorf("%v, %+v", changes, problems)
		}
	}
}

func TestLinesAreWhatIPTakes(t *testing.T) {
	m := Made{Spec{Device: "gre1", For: "campus6", Params: Params{Kind: GRETAP, Local: local6, Remote: remote6, TTL: 64, Key: 7, HasKey: true}}, 1438}
	want := `ip link add name gre1 alias "uplinkd: campus6" mtu 1438 type ip6gretap local 2001:db8::2 remote 2001:db8:1::2 ttl 64 key 7 encaplimit none`
	if got := (Change{Make: &m}).Line(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// carryOut does to a list of links what the kernel would.
func carryOut(links []Link, changes []Change) []Link {
	find := func(device string) *Link {
		w := World{Links: links}
		return w.find(device)
	}
	for _, c := range changes {
		switch {
		case c.Make != nil:
			links = append(links, Link{Device: c.Make.Device, Params: c.Make.Params, MTU: c.Make.MTU, Alias: c.Make.Alias()})
		case c.Remove != "":
			for i := range links {
				if links[i].Device == c.Remove {
					links = append(links[:i:i], links[i+1:]...)
					break
				}
			}
		case c.MTU != nil:
			find(c.MTU.Device).MTU = c.MTU.MTU
		case c.Up != "":
			find(c.Up).Up = true
		case c.Join != nil:
			find(c.Join.Device).Bridge = c.Join.Bridge
		}
	}
	return links
}

func drawParams(t *rapid.T) Params {
	p := Params{Kind: rapid.SampledFrom([]string{GRETAP, VXLAN, WireGuard}).Draw(t, "kind")}
	if p.Kind == WireGuard {
		return p
	}
	p.Local, p.Remote, p.TTL = local4, remote4, uint8(rapid.IntRange(1, 3).Draw(t, "ttl"))
	if rapid.Bool().Draw(t, "v6") {
		p.Local, p.Remote = local6, remote6
	}
	return p
}

// Whatever is there, one round of changes is enough, and devices of others are as before.
func TestOneRoundIsEnoughAndOthersAreLeftAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		devices := []string{"a", "b", "c"}
		var wanted []Spec
		links := []Link{{Device: "br0", MTU: 1500, Params: Params{Kind: "bridge"}}}
		for _, device := range devices {
			if rapid.Bool().Draw(t, "there") {
				l := Link{Device: device, Params: drawParams(t), MTU: rapid.SampledFrom([]int{1400, 1500}).Draw(t, "mtu")}
				if rapid.Bool().Draw(t, "ours") {
					l.Alias = tag + "x"
				}
				links = append(links, l)
			}
			if rapid.Bool().Draw(t, "wanted") {
				s := Spec{Device: device, For: "x", Params: drawParams(t)}
				if rapid.Bool().Draw(t, "port") {
					s.Bridge = "br0"
				}
				wanted = append(wanted, s)
			}
		}
		w := World{Links: links, Carrier: carrier(1500)}
		changes, problems := Decide(wanted, w)
		after := World{Links: carryOut(append([]Link(nil), links...), changes), Carrier: w.Carrier}
		again, still := Decide(wanted, after)
		if len(again) > 0 || len(still) != len(problems) {
			t.Fatalf("a second round wants %v, problems %v then %v", again, problems, still)
		}
		for _, l := range links {
			now := after.find(l.Device)
			if !l.Ours() && (now == nil || now.Params != l.Params || now.MTU != l.MTU || now.Alias != l.Alias) {
				t.Fatalf("%+v of others has become %+v", l, now)
			}
		}
		for _, s := range wanted {
			if l := after.find(s.Device); len(problems) == 0 && (l == nil || l.Params != s.Params || s.Bridge != "" && l.Bridge != s.Bridge) {
				t.Fatalf("%+v is wanted, and there is %+v", s, l)
			}
		}
		if left, _ := Decide(nil, after); len(problems) == 0 && len(carryOut(after.Links, left)) > len(links) {
			t.Fatal("something of ours is left")
		}
	})
}

func TestAWireGuardPeerThatHasMovedIsLeftWhereItIs(t *testing.T) {
	private := Key{1}
	at := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	c := Config{PrivateKey: &private, FwMark: 9, Peers: []Peer{{PublicKey: Key{2}, Endpoint: at("192.0.2.1:1"), AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}}
	have := State{PrivateKey: private, FwMark: 9, Peers: []PeerState{{Peer: Peer{PublicKey: Key{2}, Endpoint: at("192.0.2.2:2"), AllowedIPs: c.Peers[0].AllowedIPs}}}}
	if set, differs := c.Missing(&have); differs {
		t.Errorf("nothing is missing, and yet %+v", set)
	}
	c.Peers = append(c.Peers, Peer{PublicKey: Key{3}})
	set, differs := c.Missing(&have)
	if !differs || len(set.Peers) != 2 || set.Peers[0].Endpoint != at("192.0.2.2:2") {
		t.Errorf("with a second peer: %v, %+v", differs, set)
	}
	have.Peers[0].Endpoint = netip.AddrPort{}
	c.Peers = c.Peers[:1]
	if set, differs := c.Missing(&have); !differs || set.Peers[0].Endpoint != at("192.0.2.1:1") {
		t.Errorf("a peer without an endpoint gets the configured one: %v, %+v", differs, set)
	}
	if !c.Peers[0].Endpoint.IsValid() || have.Reaches(true) {
		t.Error("10.0.0.0/8 is not the Internet")
	}
	have.Peers[0].AllowedIPs = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	if !have.Reaches(true) || have.Reaches(false) {
		t.Error("0.0.0.0/0 is the Internet, of IPv4 alone")
	}
}
