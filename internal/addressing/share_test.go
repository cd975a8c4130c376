package addressing

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/dhcp6"
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
		if u.IPv6.Share = config.Off; share {
			u.IPv6.Share = config.On
		}
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

// A line whose provider is asked for a delegation shares its own network when there is none, without a word in the configuration; that outlasts
// a restart, in which the provider is asked anew.
func TestALineWithoutADelegationSharesItsOwnNetwork(t *testing.T) {
	now := time.Now()
	own := netip.MustParsePrefix("2001:db8:b::9/64")
	u := config.DefaultUplink("lte", "wwan0")
	u.IPv6.Method, u.IPv6.Delegation = config.MethodRA, true
	off, on := u, u
	off.IPv6.Share, on.IPv6.Share = config.Off, config.On
	kernel, translated, routed := u, u, u
	kernel.IPv6.Method, translated.IPv6.Translate, routed.IPv6.Prefix = config.MethodAuto, true, netip.MustParsePrefix("2001:db8:4000::/48")
	lease := dhcp6.Lease{Prefixes: []dhcp6.Delegation{{Prefix: netip.MustParsePrefix("2001:db8:f000::/56"), Preferred: now.Add(time.Hour), Valid: now.Add(2 * time.Hour)}}}
	for name, c := range map[string]struct {
		uplink      config.Uplink
		undelegated bool
		held        bool
		shares      bool
	}{
		"nobody has said anything yet": {uplink: u},
		"there is none":                {uplink: u, undelegated: true, shares: true},
		"there is none, as expected":   {uplink: on, undelegated: true, shares: true},
		"there is one, after all":      {uplink: u, undelegated: true, held: true},
		"there is one":                 {uplink: u, held: true},
		"switched off":                 {uplink: off, undelegated: true},
		"the kernel has the network":   {uplink: kernel, undelegated: true},
		"hosts keep their addresses":   {uplink: translated, undelegated: true},
		"another one is routed here":   {uplink: routed, undelegated: true},
	} {
		for _, offline := range []bool{false, true} {
			saved := make(map[string]func() any)
			e := New(Options{Save: func(document string, read func() any) { saved[document] = read }, Changed: func() {}})
			e.delegations.undelegated["lte"] = c.undelegated
			if c.held {
				e.delegations.held["lte"] = lease
			}
			conf := &config.Config{Uplinks: []config.Uplink{c.uplink}}
			if !offline { // a plan beside the daemon has no clients
				e.Configure(conf, map[string]int{"lte": 1})
			}
			e.routers.views["lte"] = ndisc.View{Routers: []ndisc.Router{{Addr: netip.MustParseAddr("fe80::1"), Default: true}}, Addresses: []ndisc.Address{{Address: own, Heard: now, Preferred: now.Add(time.Hour), Valid: now.Add(time.Hour)}}}
			shares := false
			for _, d := range planinput.Build(conf, map[string]int{"lte": 1}, e.Learned(now), netip.Prefix{}).Uplinks[0].Delegations {
				shares = shares || d.Shared
			}
			if shares != c.shares {
				t.Errorf("%s: shares is %v, offline %v", name, shares, offline)
			}
			if read, changes := saved[docUndelegated], c.held && c.undelegated; changes != (read != nil) || changes && len(read().(map[string]bool)) > 0 {
				t.Errorf("%s: what is known is saved otherwise, offline %v", name, offline)
			}
		}
	}
}

// What is on the disk is used before a client has looked at it.
func TestADamagedLeaseGivesNoPrefix(t *testing.T) {
	now := time.Now()
	e := New(Options{Save: func(string, func() any) {}, Changed: func() {}})
	later := now.Add(time.Hour)
	good := netip.MustParsePrefix("2001:db8:f000::/56")
	e.delegations.held["fiber"] = dhcp6.Lease{Prefixes: []dhcp6.Delegation{{Preferred: later, Valid: later}, {Prefix: netip.MustParsePrefix("::/0"), Preferred: later, Valid: later},
		{Prefix: netip.MustParsePrefix("fe80::/64"), Preferred: later, Valid: later}, {Prefix: good, Exclude: netip.MustParsePrefix("2001:db8::/32"), Preferred: later, Valid: later}},
		Addresses: []dhcp6.Address{{Preferred: later, Valid: later}, {Address: netip.MustParseAddr("192.0.2.1"), Preferred: later, Valid: later}}}
	e.Restore(now)
	given := e.Learned(now).Of("fiber")
	if len(given.Delegations) != 1 || given.Delegations[0].Prefix != good || given.Delegations[0].Exclude.IsValid() || given.IPv6 != nil {
		t.Errorf("it gives %+v", given)
	}
}
