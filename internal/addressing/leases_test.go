package addressing

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/dhcp4"
	"github.com/uplinkd/uplinkd/internal/planinput"
)

func TestLeasesAreLearnedAsTheyAreAndNamedWhenTheyAreOfNoUse(t *testing.T) {
	l := newLeases(slog.New(slog.DiscardHandler), func(string, func() any) {}, func(string, *dhcp4.Lease) {})
	route := dhcp4.Route{Dst: netip.MustParsePrefix("10.77.0.0/16"), Gateway: netip.MustParseAddr("198.51.100.9")}
	l.held = map[string]dhcp4.Lease{
		"fiber": {Address: netip.MustParsePrefix("198.51.100.2/26"), Gateway: netip.MustParseAddr("198.51.100.1"), MTU: 1400},
		"tv":    {Address: netip.MustParsePrefix("198.51.100.66/26"), Routes: []dhcp4.Route{route}},
	}
	learned := make(planinput.Learned)
	l.learned(learned)
	if a := learned["fiber"].IPv4; a.NoDefault || a.Gateway != netip.MustParseAddr("198.51.100.1") || a.MTU != 1400 {
		t.Errorf("a lease with a router: %+v", a)
	}
	if a := learned["tv"].IPv4; !a.NoDefault || len(a.Routes) != 1 || a.Routes[0].Dst != route.Dst || a.Routes[0].Gateway != route.Gateway {
		t.Errorf("a lease without one: %+v", a)
	}
	if !l.routerless("tv") || l.routerless("fiber") || l.routerless("none") {
		t.Error("which leases name no router")
	}
	l.refused["lte"] = refusal{"it lasts 0 s", time.Now()}
	var codes []string
	for _, p := range l.problems(time.Now()) {
		codes = append(codes, p.Code)
	}
	if len(codes) != 1 || codes[0] != "lease-refused" {
		t.Errorf("problems: %q", codes)
	}
	if later := l.problems(time.Now().Add(refusalAge + time.Second)); len(later) != 0 {
		t.Errorf("a refusal that is not heard again: %v", later)
	}
}
