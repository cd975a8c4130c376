package rules

import (
	"net/netip"
	"testing"
)

func TestAFamilyThatNobodyUsesOrTheKernelLacksGetsNothing(t *testing.T) {
	obs := Observed{Links: []Link{{Index: 2, Name: "wan1", Up: true, Carrier: true}},
		Addrs: []Addr{{Device: "wan1", Prefix: netip.MustParsePrefix("198.51.100.2/26")}}}
	cfg := Config{Kernel: Kernel{Protocol: 117, RulePriority: 10000, TableBase: 11700, MarkMask: 0x3f000000, LinkGroup: 117},
		Uplinks: []Uplink{{ID: 1, Name: "fiber", Device: "wan1", Tier: 1, Weight: 1, IPv4: Addressing{Enabled: true}, IPv6: Addressing{Enabled: true}}}}
	count := func(family Family) (n int) {
		state, _ := Plan(cfg, &obs, nil)
		for _, r := range state.Rules {
			if r.Family == family {
				n++
			}
		}
		for _, r := range state.Routes {
			if r.Family == family {
				n++
			}
		}
		return n
	}
	if count(IPv4) == 0 || count(IPv6) == 0 {
		t.Fatal("an enabled family has no rules")
	}
	obs.NoIPv6 = true
	if count(IPv4) == 0 || count(IPv6) != 0 {
		t.Errorf("without IPv6 in the kernel: %d rules and routes of IPv4, %d of IPv6", count(IPv4), count(IPv6))
	}
	obs.NoIPv6, cfg.Uplinks[0].IPv4.Enabled = false, false
	if count(IPv4) != 0 || count(IPv6) == 0 {
		t.Errorf("with IPv4 off: %d rules and routes of IPv4, %d of IPv6", count(IPv4), count(IPv6))
	}
}
