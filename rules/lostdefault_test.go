package rules_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
)

func TestADefaultRouteThatAnotherOneHasReplacedIsMissed(t *testing.T) {
	lost := func(device, gateway string, metric uint32) *world { // whose default is there alone
		w := box(rules.Link{}, "wan1", "wan2")
		w.hold("wan1", "198.51.100.2/26")
		w.hold("wan2", "203.0.113.2/26")
		w.addForeignRoute(static("0.0.0.0/0", device, netip.MustParseAddr(gateway), metric))
		return w
	}
	for _, c := range []struct {
		device, gateway string
		metric          uint32
		words           []string
	}{
		{"wan2", "203.0.113.1", 0, []string{"fiber (wan1) has 198.51.100.2", "that of lte has no metric"}},
		{"wan2", "203.0.113.1", 100, []string{"fiber (wan1)", "that of lte has metric 100"}},
		{"wan1", "198.51.100.1", 1024, []string{"lte (wan2) has 203.0.113.2", "that of fiber has metric 1024"}},
	} {
		_, report := lost(c.device, c.gateway, c.metric).converge(t)
		if !slices.Equal(codes(report), []string{"default-lost"}) {
			t.Errorf("%s, metric %d: %v", c.device, c.metric, report.Problems)
			continue
		}
		for _, words := range c.words {
			if !strings.Contains(report.Problems[0].Message, words) {
				t.Errorf("%s, metric %d: no %q in %q", c.device, c.metric, words, report.Problems[0].Message)
			}
		}
	}
	w := lost("wan2", "203.0.113.1", 20)
	w.obs.Routes[len(w.obs.Routes)-1].Protocol = 11
	_, report := w.converge(t)
	at := slices.IndexFunc(report.Problems, func(p rules.Problem) bool { return p.Code == "default-lost" })
	if at < 0 || !strings.Contains(report.Problems[at].Message, "fiber (wan1) has 198.51.100.2 but no default route: FRR (zebra) has put that of lte into table main") ||
		!strings.Contains(report.Problems[at].Fix, `in [uplink.ipv4] of fiber, method = "static" with address = "198.51.100.2/26" and gateway`) {
		t.Errorf("by a routing daemon: %v", report.Problems)
	}
	w = lost("wan2", "203.0.113.1", 100)
	learned := static("192.168.50.0/24", "wan2", netip.MustParseAddr("203.0.113.9"), 20)
	learned.Protocol = 186
	w.addForeignRoute(learned)
	_, report = w.converge(t)
	if !slices.ContainsFunc(report.Problems, func(p rules.Problem) bool {
		return p.Code == "default-lost" && strings.Contains(p.Message, "that of lte is in table main, and FRR (BGP), which has routes there, keeps to itself whatever is no better") && strings.Contains(p.Fix, "name the gateway here")
	}) {
		t.Errorf("beside a routing daemon: %v", report.Problems)
	}
	for name, change := range map[string]func(*world){
		"without carrier": func(w *world) { _ = w.changeLink("wan1", func(l *rules.Link) { l.Carrier = false }) },
		"without address": func(w *world) { _ = w.delAddr("wan1", netip.MustParsePrefix("198.51.100.2/26")) },
		"with a lease of ours": func(w *world) {
			w.cfg.Uplinks[0].IPv4.Managed = true
		},
		"with both": func(w *world) { w.lead("wan1", "198.51.100.1", 50) },
	} {
		w := lost("wan2", "203.0.113.1", 0)
		change(w)
		if _, report := w.converge(t); len(report.Problems) != 0 {
			t.Errorf("%s: %v", name, report.Problems)
		}
	}
}
