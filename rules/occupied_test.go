package rules_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
)

// A provider numbers the line out of what it delegates, and does not say so by PD-Exclude.
func TestTheNetworkOfTheLineIsNeverGivenToALAN(t *testing.T) {
	for name, c := range map[string]struct {
		delegation string
		number     int // subnet_id of lan0
		change     func(*world)
		want       string // of lan0, "" for none
		code       string
		fix        string
	}{
		"the line is elsewhere":       {delegation: "2001:db8:a00::/56", change: func(w *world) { w.hold("wan1", "2001:db8:a::2/64") }, want: "2001:db8:a00::/64"},
		"the line has the first part": {delegation: "2001:db8:a00::/56", change: func(w *world) { w.hold("wan1", "2001:db8:a00::2/64") }, want: "2001:db8:a00:ff::/64", code: "subnet-occupied"},
		"an address alone of it":      {delegation: "2001:db8:a00::/56", change: func(w *world) { w.hold("wan1", "2001:db8:a00::2/128") }, want: "2001:db8:a00:ff::/64", code: "subnet-occupied"},
		"our own discovery has it": {delegation: "2001:db8:a00::/56", change: func(w *world) {
			w.cfg.Uplinks[0].IPv6.Assign = &rules.Assignment{Gateway: netip.MustParseAddr("fe80::1"), Addresses: []rules.Address{{Prefix: netip.MustParsePrefix("2001:db8:a00::7/64")}}}
		}, want: "2001:db8:a00:ff::/64", code: "subnet-occupied"},
		"another line has it": {delegation: "2001:db8:a00::/56", change: func(w *world) { w.hold("wan2", "2001:db8:a00::2/64") }, want: "2001:db8:a00:ff::/64", code: "subnet-occupied"},
		"somebody's bridge has it": {delegation: "2001:db8:a00::/56", change: func(w *world) {
			w.plug(rules.Link{Name: "docker0", Up: true, Carrier: true, MTU: 1500})
			w.hold("docker0", "2001:db8:a00::1/64")
		}, want: "2001:db8:a00:ff::/64", code: "subnet-occupied"},
		"another LAN has the last": {delegation: "2001:db8:a00::/62", change: func(w *world) {
			w.hold("wan1", "2001:db8:a00::2/64")
			w.plug(rules.Link{Name: "lan1", Up: true, Carrier: true, MTU: 1500})
			w.cfg.LANs = append(w.cfg.LANs, rules.LAN{Device: "lan1", SubnetID: 3, From: []int{1}})
		}, want: "2001:db8:a00:2::/64", code: "subnet-occupied"},
		"the line has another number":          {delegation: "2001:db8:a00::/56", number: 1, change: func(w *world) { w.hold("wan1", "2001:db8:a00::2/64") }, want: "2001:db8:a00:1::/64"},
		"the line has that number of a /60":    {delegation: "2001:db8:a00:10::/60", number: 3, change: func(w *world) { w.hold("wan1", "2001:db8:a00:13::2/64") }, want: "2001:db8:a00:1f::/64", code: "subnet-occupied"},
		"the line has a quarter of a /48":      {delegation: "2001:db8:a00::/48", number: 5, change: func(w *world) { w.hold("wan1", "2001:db8:a00::2/50") }, want: "2001:db8:a00:ffff::/64", code: "subnet-occupied"},
		"the line has the number and the last": {delegation: "2001:db8:a00::/62", number: 1, change: func(w *world) { w.hold("wan1", "2001:db8:a00:1::2/64", "2001:db8:a00:3::2/64") }, want: "2001:db8:a00:2::/64", code: "subnet-occupied"},
		"the LAN itself has it":                {delegation: "2001:db8:a00::/56", change: func(w *world) { w.hold("lan0", "2001:db8:a00::5/64") }, want: "2001:db8:a00::/64"},
		"the line has all of it":               {delegation: "2001:db8:a00::/64", change: func(w *world) { w.hold("wan1", "2001:db8:a00::2/64") }, code: "subnet-unavailable", fix: "prefix_hint"},
		"the line's network is larger":         {delegation: "2001:db8:a00::/60", change: func(w *world) { w.hold("wan1", "2001:db8:a00::2/56") }, code: "subnet-unavailable", fix: "prefix_hint"},
	} {
		t.Run(name, func(t *testing.T) {
			w := delegating()
			w.obs.Addrs = slices.DeleteFunc(w.obs.Addrs, func(a rules.Addr) bool { return a.Prefix.Addr().Is6() })
			w.cfg.Uplinks[0].Delegations = []rules.Delegation{{Prefix: netip.MustParsePrefix(c.delegation)}}
			w.cfg.Uplinks[1].Delegations = nil
			w.cfg.LANs[0].SubnetID = c.number
			c.change(w)
			_, report := w.plan()
			got := ""
			for _, s := range report.Subnets {
				if s.Device == "lan0" {
					got = s.Prefix.String()
				}
			}
			if got != c.want {
				t.Errorf("lan0 has %q, want %q", got, c.want)
			}
			i := slices.IndexFunc(report.Problems, func(p rules.Problem) bool { return strings.HasPrefix(p.Code, "subnet-") })
			switch {
			case i < 0 && c.code != "":
				t.Errorf("no problem %s", c.code)
			case i >= 0 && (report.Problems[i].Code != c.code || !strings.Contains(report.Problems[i].Fix, c.fix)):
				t.Errorf("problem %+v, want %q", report.Problems[i], c.code)
			}
		})
	}
}
