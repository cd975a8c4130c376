package rules_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// carried is two providers, and a tunnel that both may carry, fiber rather than lte.
func carried() *world {
	w := dual()
	w.plug(rules.Link{Name: "wg0", Up: true, Carrier: true, PointToPoint: true, MTU: 1420})
	w.hold("wg0", "10.0.31.2/24")
	w.cfg.Uplinks = append(w.cfg.Uplinks, rules.Uplink{ID: 3, Name: "vps", Device: "wg0", Tier: 1, Weight: 1,
		IPv4: rules.Addressing{Enabled: true, Assign: &rules.Assignment{}}})
	w.cfg.Uplinks[0].Tier, w.cfg.Uplinks[1].Tier = 2, 3
	w.verdicts[rules.Path{Uplink: 3, Family: rules.IPv4}] = rules.Verdict{Health: rules.Good, State: "up"}
	w.cfg.Underlays = []rules.Underlay{{ID: 9, Uplink: 3, Carriers: []int{1, 2}}}
	return w
}

func (w *world) setVerdict(uplink int, h rules.Health) {
	for _, f := range rules.Families {
		w.verdicts[rules.Path{Uplink: uplink, Family: f}] = rules.Verdict{Health: h}
	}
}

// encrypted sends what a tunnel has encrypted, with the connection that earlier packets have made.
func (w *world) encrypted(conn *connection) []departure {
	return w.send(packet{query: query{dst: internet[rules.IPv4], mark: numbers.Mark(9)}, conn: conn})
}

func TestATunnelsPacketsFollowItsCarriersThereAndBack(t *testing.T) {
	w := carried()
	conn := &connection{fresh: true}
	for _, step := range []struct {
		name   string
		health [3]rules.Health // of fiber, lte, vps
		device string
		by     int
	}{
		{"the first that works", [3]rules.Health{rules.Good, rules.Good, rules.Good}, "wan1", 1},
		{"the second when the first is doubted", [3]rules.Health{rules.Doubtful, rules.Good, rules.Good}, "wan2", 2},
		{"back when the first has returned", [3]rules.Health{rules.Good, rules.Good, rules.Good}, "wan1", 1},
		{"the first when nothing works", [3]rules.Health{rules.Dead, rules.Dead, rules.Dead}, "wan1", 1},
		{"the second though the tunnel itself is down", [3]rules.Health{rules.Dead, rules.Good, rules.Dead}, "wan2", 2},
	} {
		for i, h := range step.health {
			w.setVerdict(i+1, h)
		}
		_, report := w.converge(t)
		if by := report.Carrier(3, rules.IPv4); by != step.by {
			t.Errorf("%s: carried by %d, want %d", step.name, by, step.by)
		}
		ways := w.encrypted(conn)
		conn.fresh = false
		if len(ways) != 1 || !strings.Contains(ways[0].String(), step.device) {
			t.Errorf("%s: it left by %v, want %s", step.name, ways, step.device)
		}
	}
}

func TestATunnelStaysWhereItIsWhenItsFirstCarrierTakesNewFlowsOnly(t *testing.T) {
	w := carried()
	w.cfg.Uplinks[0].NewFlowsOnly = true
	for _, step := range []struct {
		name       string
		fiber, lte rules.Health
		by         int
	}{
		{"at the start the first", rules.Good, rules.Good, 1},
		{"the second when the first is dead", rules.Dead, rules.Good, 2},
		{"the second when the first has returned", rules.Good, rules.Good, 2},
		{"the first when the second is worse", rules.Good, rules.Impaired, 1},
		{"the first from then on", rules.Good, rules.Good, 1},
	} {
		w.setVerdict(1, step.fiber)
		w.setVerdict(2, step.lte)
		if _, report := w.converge(t); report.Carrier(3, rules.IPv4) != step.by {
			t.Errorf("%s: carried by %d, want %d", step.name, report.Carrier(3, rules.IPv4), step.by)
		}
	}
}

func TestATunnelNeverCarriesItself(t *testing.T) {
	w := carried()
	for _, h := range []rules.Health{rules.Good, rules.Dead} {
		w.setVerdict(1, h)
		w.setVerdict(2, h)
		want, report := w.plan()
		if choice := report.Defaults[rules.IPv4]; h == rules.Good && !choice.Has(3) {
			t.Fatalf("new traffic does not use the tunnel: %s", choice.Reason)
		}
		for _, r := range want.Routes {
			if r.Table == numbers.Table(9) && slices.ContainsFunc(r.Nexthops, func(n netcfg.Nexthop) bool { return n.Device == "wg0" }) {
				t.Errorf("its packets would enter it again: %s", r.String())
			}
		}
	}
}

func TestATunnelWithoutACarrierSendsNothing(t *testing.T) {
	w := carried()
	w.withdraw("wan1", rules.IPv4)
	w.withdraw("wan2", rules.IPv4)
	_, report := w.converge(t)
	if by := report.Carrier(3, rules.IPv4); by != 0 {
		t.Errorf("carried by %d", by)
	}
	for _, way := range w.encrypted(&connection{fresh: true}) {
		if strings.Contains(way.String(), "wan") || strings.Contains(way.String(), "wg0") {
			t.Errorf("it left: %v", way)
		}
	}
}

func TestSegmentsFitTheNarrowestUplinkOnly(t *testing.T) {
	w := carried()
	want, _ := w.plan()
	var lines []string
	for _, c := range want.Table.Chains {
		for _, r := range c.Rules {
			if strings.Contains(r.String(), "maxseg") {
				lines = append(lines, c.Name+": "+r.String())
			}
		}
	}
	const fit = ": tcp flags & (syn | rst) == syn meta nfproto ipv4 tcp option maxseg size set 1380"
	if want := []string{"egress_vps" + fit, "pinned_vps" + fit}; !slices.Equal(lines, want) {
		t.Errorf("got %q", lines)
	}
}
