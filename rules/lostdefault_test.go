package rules_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
)

func TestADefaultRouteThatAnotherOneHasReplacedIsMissed(t *testing.T) {
	lost := func(metric uint32) *world {
		w := box(rules.Link{}, "wan1", "wan2")
		w.hold("wan1", "198.51.100.2/26")
		w.hold("wan2", "203.0.113.2/26")
		w.addForeignRoute(rules.Route{Family: rules.IPv4, Table: rules.TableMain, Type: rules.Unicast, Dst: rules.IPv4.Default(), Metric: metric, Protocol: protoDHCP,
			Nexthops: []rules.Nexthop{{Device: "wan2", Gateway: netip.MustParseAddr("203.0.113.1"), Weight: 1}}})
		return w
	}
	for metric, words := range map[uint32]string{0: "that of lte has no metric", 100: "that of lte has the metric 100"} {
		w := lost(metric)
		_, report := w.converge(t)
		if len(report.Problems) != 1 || report.Problems[0].Code != "default-lost" || !strings.Contains(report.Problems[0].Message, words) {
			t.Errorf("metric %d: %v", metric, report.Problems)
		}
	}
	for name, change := range map[string]func(*world){
		"without carrier": func(w *world) { _ = w.changeLink("wan1", func(l *rules.Link) { l.Carrier = false }) },
		"without address": func(w *world) { _ = w.delAddr("wan1", netip.MustParsePrefix("198.51.100.2/26")) },
		"with a lease of ours": func(w *world) {
			w.cfg.Uplinks[0].IPv4.Managed = true
		},
		"with both": func(w *world) { w.lead("wan1", "198.51.100.1", 50) },
	} {
		w := lost(0)
		change(w)
		if _, report := w.converge(t); len(report.Problems) != 0 {
			t.Errorf("%s: %v", name, report.Problems)
		}
	}
}
