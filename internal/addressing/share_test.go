package addressing

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/ndisc"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/rules"
)

// A line that was dialed again announces another network. The former was announced for ever, and is gone.
func TestALineSharesTheNetworkOfItsLatestAdvertisement(t *testing.T) {
	now := time.Now()
	before, latest := netip.MustParsePrefix("2001:db8:b::9/64"), netip.MustParsePrefix("2001:db8:b:7::9/64")
	e := New(Options{})
	e.routers.views["lte"] = ndisc.View{Routers: []ndisc.Router{{Addr: netip.MustParseAddr("fe80::1"), Default: true}}, Addresses: []ndisc.Address{
		{Address: before, Heard: now.Add(-time.Minute)}, {Address: latest, Heard: now, Preferred: now.Add(time.Hour), Valid: now.Add(2 * time.Hour)}}}
	u := config.DefaultUplink("lte", "wwan0")
	u.IPv6.Method = config.MethodRA
	for _, share := range []bool{true, false} {
		u.IPv6.Share = share
		var delegations []rules.Delegation
		addresses := []netip.Prefix{netip.PrefixFrom(before.Addr(), 128), netip.PrefixFrom(latest.Addr(), 128)}
		if share {
			delegations = []rules.Delegation{{Prefix: latest.Masked(), Shared: true}}
			addresses = addresses[1:]
		}
		planned := planinput.Build(&config.Config{Uplinks: []config.Uplink{u}}, map[string]int{"lte": 1}, e.Learned(now), netip.Prefix{}).Uplinks[0]
		var got []netip.Prefix
		for _, a := range planned.IPv6.Assign.Addresses {
			got = append(got, a.Prefix)
		}
		equal := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
		if diff := cmp.Diff(delegations, planned.Delegations, equal); diff != "" {
			t.Errorf("share %v (-want +got):\n%s", share, diff)
		}
		if diff := cmp.Diff(addresses, got, equal); diff != "" {
			t.Errorf("share %v (-want +got):\n%s", share, diff)
		}
		preferred, valid, _, ok := e.lanSource(&u, 0).lifetimes(latest.Masked())
		if ok != share || share && (!preferred.Equal(now.Add(time.Hour)) || !valid.Equal(now.Add(2*time.Hour))) {
			t.Errorf("share %v: hosts may have it until %v and %v, %v", share, preferred, valid, ok)
		}
		if shown := e.Delegated(&u, now); share != (len(shown) == 1) || share && (shown[0].Prefix != latest.Masked() || shown[0].ValidS < 7000) {
			t.Errorf("share %v: status %+v", share, shown)
		}
	}
}
