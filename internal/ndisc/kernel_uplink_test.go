package ndisc

import (
	"net/netip"
	"testing"
	"time"
)

const (
	wanMAC  = "02:00:00:00:00:01"
	ispMAC  = "02:00:00:00:01:01"
	isp2MAC = "02:00:00:00:02:01"
)

// uplinkWorld is a router whose wan1 leads to a provider's isp1.
func uplinkWorld(t *testing.T) (router, isp *host, d *Discoverer, seen *views) {
	t.Helper()
	router, isp = newHost(t), newHost(t)
	connect(router, "wan1", wanMAC, isp, "isp1", ispMAC)
	isp.linkLocal("isp1")
	seen = &views{}
	d = NewDiscoverer(DiscovererConfig{Device: "wan1", Secret: secret, Log: testLog(t), OnChange: seen.hear})
	router.run(d)
	d.SetLink(router.index("wan1"), true)
	return router, isp, d, seen
}

var secret = []byte("0123456789abcdef")

func TestARouterOfAProviderIsFoundByAsking(t *testing.T) {
	router, isp, _, seen := uplinkWorld(t)
	stop := isp.radvd(`interface isp1 {
		AdvSendAdvert on; MinRtrAdvInterval 600; MaxRtrAdvInterval 1800; AdvDefaultLifetime 1900; AdvLinkMTU 1480;
		AdvDefaultPreference high; AdvOtherConfigFlag on; AdvCurHopLimit 61;
		prefix 2001:db8:a:1::/64 { AdvValidLifetime 4000; AdvPreferredLifetime 3000; };
		route 2001:db8:f:10::/60 { AdvRouteLifetime 1000; AdvRoutePreference low; };
		RDNSS 2001:db8:a:1::53 { AdvRDNSSLifetime 1900; };
		DNSSL Example.net { AdvDNSSLLifetime 1900; };
	};`)
	eventually(t, "the router", func() bool { return len(seen.now().Routers) == 1 })
	v, now := seen.now(), time.Now()
	if r := v.Routers[0]; r.Addr != isp.linkLocal("isp1") || r.Preference != High || r.HopLimit != 61 {
		t.Errorf("router %+v", r)
	}
	near := func(what string, end time.Time, want time.Duration) {
		t.Helper()
		if d := end.Sub(now); d > want || d < want-25*time.Second {
			t.Errorf("%s ends in %v, want %v", what, d, want)
		}
	}
	near("the default", v.Routers[0].Expires, 1900*time.Second)
	if v.MTU != 1480 || v.Managed || !v.Other {
		t.Errorf("MTU %d, managed %v, other %v", v.MTU, v.Managed, v.Other)
	}
	want := StableAddress(netip.MustParsePrefix("2001:db8:a:1::/64"), "wan1", 0, secret)
	if len(v.Addresses) != 1 || v.Addresses[0].Address != netip.PrefixFrom(want, 64) {
		t.Fatalf("addresses %+v, want %v", v.Addresses, want)
	}
	near("preference of the address", v.Addresses[0].Preferred, 3000*time.Second)
	near("the address", v.Addresses[0].Valid, 4000*time.Second)
	if len(v.Routes) != 1 || v.Routes[0].Prefix != netip.MustParsePrefix("2001:db8:f:10::/60") || v.Routes[0].Preference != Low {
		t.Fatalf("routes %+v", v.Routes)
	}
	near("the route", v.Routes[0].Expires, 1000*time.Second)
	if len(v.DNS) != 1 || v.DNS[0].Addr != netip.MustParseAddr("2001:db8:a:1::53") || len(v.Search) != 1 || v.Search[0].Name != "example.net" {
		t.Errorf("DNS %+v, search %+v", v.DNS, v.Search)
	}

	stop() // with router lifetime 0
	eventually(t, "the end of the default", func() bool { return len(seen.now().Routers) == 0 })
	if v := seen.now(); len(v.Addresses) != 1 || len(v.Prefixes) != 1 || len(v.State.Routers) != 1 {
		t.Errorf("a router's goodbye takes its default only: %+v", v)
	}
	_ = router
}
