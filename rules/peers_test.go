package rules_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
)

var phone = netip.MustParseAddr("10.9.0.2")

// sites is two providers, a tunnel that phones call (wg0), and one to another site (wg1), which phones may call too.
func sites() *world {
	w := dual()
	w.plug(rules.Link{Name: "wg0", Up: true, Carrier: true, PointToPoint: true, MTU: 1420})
	w.plug(rules.Link{Name: "wg1", Up: true, Carrier: true, PointToPoint: true, MTU: 1420})
	w.hold("wg0", "10.9.0.1/32")
	w.hold("wg1", "10.0.30.1/24")
	for id, peer := range map[int]string{3: "10.9.0.2/32", 4: "10.9.0.0/24"} {
		name := "wg" + string(rune('0'+id-3))
		w.cfg.Uplinks = append(w.cfg.Uplinks, rules.Uplink{ID: id, Name: name, Device: name, Tier: 1, Weight: 1, Site: true,
			IPv4: rules.Addressing{Enabled: true, Assign: &rules.Assignment{NoDefault: true, Peers: []rules.PeerNetwork{{Dst: netip.MustParsePrefix(peer), Alive: true}}}}})
		w.verdicts[rules.Path{Uplink: id, Family: rules.IPv4}] = rules.Verdict{Health: rules.Good}
	}
	slices.SortFunc(w.cfg.Uplinks, func(a, b rules.Uplink) int { return a.ID - b.ID })
	return w
}

func (w *world) setAlive(id int, alive bool) {
	w.uplinkByID(id).IPv4.Assign.Peers[0].Alive = alive
}

// goes says where a packet that came in by a device leaves.
func (w *world) goes(src, dst netip.Addr, iif string, conn *connection) string {
	ways := w.receive(packet{query: query{src: src, dst: dst, iif: iif}, conn: conn}, netip.Addr{})
	conn.fresh = false
	words := make([]string, len(ways))
	for i, d := range ways {
		words[i] = d.String()
	}
	return strings.Join(words, " or ")
}

func TestAPeersNetworkIsReachedWhereThePeerIs(t *testing.T) {
	w := sites()
	host := lanHost(1, rules.IPv4, 9)
	conn, back := &connection{fresh: true}, &connection{fresh: true}
	for _, step := range []struct {
		here   bool
		device string
	}{{true, "wg0"}, {false, "wg1"}, {true, "wg0"}} {
		w.setAlive(3, step.here)
		w.converge(t)
		if got := w.goes(host, phone, "lan0", conn); !strings.Contains(got, step.device) {
			t.Errorf("the peer is here: %v: the LAN's packet goes %s, want %s", step.here, got, step.device)
		}
		if got := w.goes(phone, host, step.device, back); !strings.Contains(got, "lan0") {
			t.Errorf("the peer is here: %v: its packet goes %s, want lan0", step.here, got)
		}
		if got := w.goes(host, phone, "lan0", back); !strings.Contains(got, step.device) {
			t.Errorf("the peer is here: %v: the answer to what it began goes %s, want %s", step.here, got, step.device)
		}
		// It moves, and is heard before main knows.
		other := map[string]string{"wg0": "wg1", "wg1": "wg0"}[step.device]
		if got := w.goes(phone, host, other, &connection{fresh: true}); !strings.Contains(got, "lan0") {
			t.Errorf("its packet by %s goes %s", other, got)
		}
	}
}

func TestAPeerUsesTheProvidersLikeALAN(t *testing.T) {
	w := sites()
	w.setVerdict(2, rules.Dead)
	w.converge(t)
	conn := &connection{fresh: true}
	far := internet[rules.IPv4]
	if got := w.goes(phone, far, "wg0", conn); !strings.Contains(got, "wan1") {
		t.Errorf("it goes %s", got)
	}
	ways := w.receive(packet{query: query{src: far, dst: netip.MustParseAddr("198.51.100.2"), iif: "wan1"}, conn: conn}, phone)
	if len(ways) != 1 || !strings.Contains(ways[0].String(), "wg0") {
		t.Errorf("the answer goes %v, want wg0", ways)
	}
}

func TestOfTwoTunnelsToANetworkTheBetterIsTaken(t *testing.T) {
	w := sites()
	w.uplinkByID(3).IPv4.Assign.Peers[0].Dst = netip.MustParsePrefix("10.9.0.0/24")
	w.uplinkByID(3).Tier = 2
	host := lanHost(1, rules.IPv4, 9)
	for _, step := range []struct {
		health rules.Health // of wg1, which has the lower tier
		alive  bool         // its peer
		device string
	}{{rules.Good, true, "wg1"}, {rules.Dead, true, "wg0"}, {rules.Good, false, "wg0"}, {rules.Good, true, "wg1"}} {
		w.setVerdict(4, step.health)
		w.setAlive(4, step.alive)
		w.converge(t)
		if got := w.goes(host, phone, "lan0", &connection{fresh: true}); !strings.Contains(got, step.device) {
			t.Errorf("%+v: it goes %s", step, got)
		}
	}
}

func TestTheTunnelOfAPeerLooksForItThoughItIsGone(t *testing.T) {
	w := sites()
	w.setAlive(3, false)
	w.converge(t)
	ways := w.send(packet{query: query{src: netip.MustParseAddr("10.9.0.1"), dst: phone, oif: "wg0", mark: numbers.Mark(3)}, conn: &connection{fresh: true}})
	if len(ways) != 1 || !strings.Contains(ways[0].String(), "wg0") {
		t.Errorf("the question goes %v", ways)
	}
}
