package addressing

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/dhcp6"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/rules"
)

func TestARoutedPrefixIsADelegationThatNeverEnds(t *testing.T) {
	routed, leased := netip.MustParsePrefix("2001:db8:4000::/48"), netip.MustParsePrefix("2001:db8:b00::/56")
	lease := []rules.Delegation{{Prefix: leased, Deprecated: true}, {Prefix: routed, Deprecated: true}}
	for name, c := range map[string]struct {
		ip   config.IP
		want []rules.Delegation
	}{
		"neither":             {},
		"delegated":           {config.IP{Delegation: true}, lease},
		"routed":              {config.IP{Prefix: routed}, []rules.Delegation{{Prefix: routed, Configured: true}}},
		"routed and the same": {config.IP{Delegation: true, Prefix: routed}, []rules.Delegation{{Prefix: routed, Configured: true}, lease[0]}},
	} {
		u := config.Uplink{Name: "fiber", IPv6: c.ip}
		if diff := cmp.Diff(c.want, planinput.DelegationsOf(&u, &planinput.LearnedUplink{Delegations: lease}), cmp.Comparer(func(a, b rules.Delegation) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	e := New(Options{})
	u := &config.Uplink{Name: "fiber", IPv6: config.IP{Prefix: routed}}
	if preferred, valid, brief, ok := e.lanSource(u, 0).lifetimes(routed); !ok || brief || !preferred.IsZero() || !valid.IsZero() {
		t.Errorf("hosts: preferred until %v, valid until %v, brief %v, known %v", preferred, valid, brief, ok)
	}
	for _, leased := range [][]dhcp6.Delegation{nil, {{Prefix: routed, Valid: time.Now().Add(time.Hour)}}} {
		e.delegations.held["fiber"] = dhcp6.Lease{Prefixes: leased}
		if shown := e.Delegated(u, time.Now()); len(shown) != 1 || shown[0].Prefix != routed || shown[0].ValidS != infiniteSeconds {
			t.Errorf("status, %v leased: %+v", leased, shown)
		}
	}
}
