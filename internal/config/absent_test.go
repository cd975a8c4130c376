package config

import (
	"slices"
	"testing"
)

func TestDevicesThatAreNotThereAreNamedWithThoseLikeThem(t *testing.T) {
	c := &Config{Uplinks: []Uplink{{Name: "fiber", Device: "enp3so"}, {Name: "lte", Device: "wwan0"}, {Name: "cable", Device: "eth1"}, {Name: "tv", Device: "eth0.20"}, {Name: "dsl", Device: "PPPoE-WAN"},
		{Name: "vps", Device: "wg0", WireGuard: &WireGuard{}}, {Name: "campus", Device: "gre1", Encap: &Encap{}}}, LANs: []LAN{{Device: "br-lan"}}}
	var got []string
	for _, a := range c.AbsentDevices([]string{"lo", "eth1", "enp3s0", "eth0.2", "pppoe-wan"}) {
		got = append(got, a.String())
	}
	want := []string{"uplink fiber: there is no device enp3so (there are enp3s0, eth0.2, eth1, pppoe-wan); did you mean enp3s0?", "uplink lte: there is no device wwan0 (there are enp3s0, eth0.2, eth1, pppoe-wan)",
		"uplink tv: there is no device eth0.20 (there are enp3s0, eth0.2, eth1, pppoe-wan); did you mean eth0.2?", "uplink dsl: there is no device PPPoE-WAN (there are enp3s0, eth0.2, eth1, pppoe-wan); did you mean pppoe-wan?", "lan br-lan: there is no device br-lan (there are enp3s0, eth0.2, eth1, pppoe-wan)"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestDevicesOfPoliciesThatAreNotThereAreNamed(t *testing.T) {
	c := &Config{Policies: []Policy{
		{Name: "tight", Match: Match{IIF: []string{"br-lan", "lna0", "guest*"}}, Fallback: FallbackUnreachable},
		{Name: "video", Match: Match{IIF: []string{"lan*", "tv0"}}},
	}}
	var got []string
	for _, a := range c.AbsentPolicyDevices([]string{"lan0", "br-lan"}) {
		got = append(got, a.String())
	}
	want := []string{
		"policy tight: there is no device lna0 (there are br-lan, lan0): its kill switch blocks nothing; did you mean lan0?",
		"policy tight: there is no device guest* (there are br-lan, lan0): its kill switch blocks nothing",
		"policy video: there is no device tv0 (there are br-lan, lan0)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
