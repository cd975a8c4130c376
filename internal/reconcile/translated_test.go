package reconcile_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
)

// A provider that renumbers leaves connections with the former translation: each of their packets keeps it alive.
func TestConnectionsBeginAnewWhenTheirTranslationChanges(t *testing.T) {
	cfg := config()
	cfg.Uplinks[0].IPv6 = rules.Addressing{Enabled: true, Managed: true, Translate: true, Assign: &rules.Assignment{Gateway: netip.MustParseAddr("fe80::1")}}
	cfg.LANs = []rules.LAN{{Device: "lan0", SubnetID: 1, From: []int{1}, ULA: netip.MustParsePrefix("fd00:77:0:1::/64")}}
	b := newBench(cfg)
	delegate := func(prefix string) {
		cfg.Uplinks = slices.Clone(cfg.Uplinks)
		cfg.Uplinks[0].Delegations = []rules.Delegation{{Prefix: netip.MustParsePrefix(prefix)}}
		b.SetConfig(cfg)
	}
	flushed := func() []string {
		return slices.DeleteFunc(b.kernel.Log(), func(line string) bool {
			return !strings.HasPrefix(line, "flush translated 0x1000000/0x3f000000 ipv6")
		})
	}
	flushes := func() int { return len(flushed()) }
	last := func() string { log := flushed(); return log[len(log)-1] }
	delegate("2001:db8:a00::/56")
	b.pass(t)
	if n := flushes(); n == 0 || !strings.Contains(last(), "2001:db8:a00:1::/64") {
		t.Errorf("after the start, %d times: %v", n, last())
	}
	b.pass(t) // the address of the uplink is there by now
	before := flushes()
	b.pass(t)
	if n := flushes(); n != before {
		t.Errorf("%d more times for nothing", n-before)
	}
	delegate("2001:db8:c00::/56")
	b.pass(t)
	if n := flushes(); n == before || !strings.Contains(last(), "2001:db8:c00:1::/64") || strings.Contains(last(), "2001:db8:a00") {
		t.Errorf("after the provider has renumbered, %d more times: %v", n-before, last())
	}
}
