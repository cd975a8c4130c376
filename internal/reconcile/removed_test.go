package reconcile_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
)

// A connection on an address that is gone gets no answer for ever: it hears so at once. One that has only another prefix
// length now goes on.
func TestConnectionsOnRemovedAddressesAreAborted(t *testing.T) {
	cfg := config()
	assign := func(addresses ...string) {
		a := &rules.Assignment{Gateway: netip.MustParseAddr("fe80::1")}
		for _, text := range addresses {
			a.Addresses = append(a.Addresses, rules.Address{Prefix: netip.MustParsePrefix(text)})
		}
		cfg.Uplinks = slices.Clone(cfg.Uplinks)
		cfg.Uplinks[0].IPv6 = rules.Addressing{Enabled: true, Managed: true, Assign: a}
	}
	assign("2001:db8:a::2/64", "2001:db8:a::3/64")
	b := newBench(cfg)
	b.pass(t)
	b.pass(t)
	assign("2001:db8:a::3/128", "2001:db8:c::2/64")
	b.SetConfig(cfg)
	b.pass(t)
	const want = "destroy [2001:db8:a::2]"
	if log := b.kernel.Log(); !slices.Contains(log, want) || slices.ContainsFunc(log, func(l string) bool { return l != want && len(l) > 7 && l[:7] == "destroy" }) {
		t.Errorf("%q", log)
	}
}
