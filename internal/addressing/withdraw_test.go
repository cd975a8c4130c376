package addressing

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/ndisc"
	"github.com/uplinkd/uplinkd/rules"
)

// What leaves with a prefix that has just been taken away must be refused in the very plan that no longer routes it.
func TestAPrefixThatIsTakenAwayIsWithdrawnInTheSamePlan(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	old, site := netip.MustParsePrefix("2001:db8:a00::/56"), netip.MustParsePrefix("fd00:77::/48")
	subnet := netip.MustParsePrefix("2001:db8:a00:1::/64")
	e := New(Options{})
	adv := new(ndisc.Advertised)
	e.lans.advertised["lan0"] = adv
	in := ndisc.Input{AnyUsable: true, ULA: netip.MustParsePrefix("fd00:77:0:1::/64"), Site: site,
		Prefixes: []ndisc.LivePrefix{{Prefix: subnet, Uplink: "fiber", Delegation: old, Usable: true, Valid: now.Add(24 * time.Hour)}}}
	adv.Update(in, now)
	plan := func(now time.Time, delegations ...rules.Delegation) []netip.Prefix {
		out := rules.Config{Uplinks: []rules.Uplink{{ID: 1, Delegations: delegations}}, LANs: []rules.LAN{{Device: "lan0"}, {Device: "lan1"}}}
		e.addWithdrawn(&out, now)
		if other := out.LANs[1].Withdrawn; other != nil {
			t.Errorf("of a LAN that never had it: %v", other)
		}
		return out.LANs[0].Withdrawn
	}
	if got := plan(now, rules.Delegation{Prefix: old}); got != nil {
		t.Errorf("withdrawn while it is delegated: %v", got)
	}
	if got := plan(now); !slices.Equal(got, []netip.Prefix{subnet}) {
		t.Errorf("before the hosts are told: %v", got)
	}
	in.Prefixes = nil
	adv.Update(in, now)
	if got := plan(now); !slices.Equal(got, []netip.Prefix{subnet}) {
		t.Errorf("when the hosts are told: %v", got)
	}
	if got := plan(now.Add(3 * time.Hour)); got != nil {
		t.Errorf("when no host can hold it any more: %v", got)
	}
}
