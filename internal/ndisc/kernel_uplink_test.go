package ndisc

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
)

const (
	wanMAC = "02:00:00:00:00:01"
	ispMAC = "02:00:00:00:01:01"
)

// uplinkWorld is a router whose wan1 leads to a provider's isp1.
func uplinkWorld(t *testing.T) (router, isp *host, d *Discoverer, seen *views) {
	t.Helper()
	router, isp = newHost(t), newHost(t)
	connect(router, "wan1", wanMAC, isp, "isp1", ispMAC)
	isp.linkLocal("isp1")
	seen = &views{}
	d = NewDiscoverer(DiscovererConfig{Device: "wan1", Secret: secret, Log: testLog(t), OnChange: seen.deliver})
	router.run(d)
	d.SetLink(router.index("wan1"), true)
	return router, isp, d, seen
}

var secret = []byte("0123456789abcdef")

func TestARouterOfAProviderIsFoundByAsking(t *testing.T) {
	t.Parallel()
	_, isp, _, seen := uplinkWorld(t)
	stop := isp.radvd(`interface isp1 {
		AdvSendAdvert on; MinRtrAdvInterval 600; MaxRtrAdvInterval 1800; AdvDefaultLifetime 1900; AdvLinkMTU 1480;
		AdvDefaultPreference high;
		prefix 2001:db8:a:1::/64 { AdvValidLifetime 4000; AdvPreferredLifetime 3000; };
		route 2001:db8:f:10::/60 { AdvRouteLifetime 1000; AdvRoutePreference low; };
		RDNSS 2001:db8:a:1::53 { AdvRDNSSLifetime 1900; };
		DNSSL Example.net { AdvDNSSLLifetime 1900; };
	};`)
	eventually(t, "the router", func() bool { return len(seen.now().Routers) == 1 })
	v, now := seen.now(), time.Now()
	if r := v.Routers[0]; r.Addr != isp.linkLocal("isp1") || r.Preference != High {
		t.Errorf("router %+v", r)
	}
	near := func(what string, end time.Time, want time.Duration) {
		t.Helper()
		if d := end.Sub(now); d > want || d < want-25*time.Second {
			t.Errorf("%s ends in %v, want %v", what, d, want)
		}
	}
	near("the default", v.Routers[0].Expires, 1900*time.Second)
	if v.MTU != 1480 {
		t.Errorf("MTU %d", v.MTU)
	}
	want := stableAddress(netip.MustParsePrefix("2001:db8:a:1::/64"), "wan1", 0, secret)
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
		t.Errorf("a router's final advertisement takes its default only: %+v", v)
	}
}

func TestAPrefixThatCountsDownKeepsItsEndAndIsDeprecatedAtTheLast(t *testing.T) {
	t.Parallel()
	_, isp, _, seen := uplinkWorld(t)
	stop := isp.radvd(`interface isp1 {
		AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 60;
		prefix 2001:db8:a:1::/64 { AdvValidLifetime 60; AdvPreferredLifetime 30; DecrementLifetimes on; DeprecatePrefix on; };
	};`)
	eventually(t, "an address", func() bool { return len(seen.now().Addresses) == 1 })
	first, heard := seen.now(), seen.count()
	eventually(t, "two more advertisements", func() bool { return seen.count() >= heard+2 })
	then := seen.now()
	if d := then.Prefixes[0].Preferred.Sub(first.Prefixes[0].Preferred).Abs(); d > 2*time.Second {
		t.Errorf("the preferred lifetime's end moved by %v", d)
	}
	if d := then.Routers[0].Expires.Sub(first.Routers[0].Expires); d < 3*time.Second {
		t.Errorf("the router lifetime's end moved by %v only", d)
	}
	stop()
	eventually(t, "deprecation", func() bool { return over(seen.now().Addresses[0].Preferred, time.Now()) })
	if v := seen.now(); over(v.Addresses[0].Valid, time.Now()) || len(v.Routers) != 0 {
		t.Errorf("%+v", v)
	}
}

// segment connects hosts by a switch.
func segment(t *testing.T, hosts ...*host) *host {
	t.Helper()
	hub := newHost(t)
	hub.sh("ip link add br0 type bridge mcast_snooping 0; ip link set br0 up")
	for i, h := range hosts {
		port := "port" + string(rune('0'+i))
		connect(h, "eth0", "02:00:00:00:04:0"+string(rune('1'+i)), hub, port, "02:00:00:00:05:0"+string(rune('1'+i)))
		hub.sh("ip link set " + port + " master br0")
	}
	for _, h := range hosts {
		h.linkLocal("eth0")
	}
	return hub
}

func TestTheBestOfSeveralRoutersIsFirst(t *testing.T) {
	t.Parallel()
	router, one, two := newHost(t), newHost(t), newHost(t)
	segment(t, router, one, two)
	seen := &views{}
	d := NewDiscoverer(DiscovererConfig{Device: "eth0", Secret: secret, Log: testLog(t), OnChange: seen.deliver})
	router.run(d)
	const config = `interface eth0 { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 60; `
	one.radvd(config + `AdvDefaultPreference low; prefix 2001:db8:a:1::/64 {}; };`)
	stop := two.radvd(config + `AdvDefaultPreference high; prefix 2001:db8:b:1::/64 {}; };`)
	d.SetLink(router.index("eth0"), true)
	eventually(t, "both routers", func() bool { return len(seen.now().Routers) == 2 })
	first, second := two.linkLocal("eth0"), one.linkLocal("eth0")
	if got := order(seen.now()); got[0] != first || got[1] != second {
		t.Errorf("order %v", got)
	}
	if v := seen.now(); len(v.Addresses) != 1 || !netip.MustParsePrefix("2001:db8:b:1::/64").Contains(v.Addresses[0].Address.Addr()) {
		t.Errorf("addresses of another router than the one in use: %+v", v.Addresses)
	}
	stop()
	eventually(t, "one router", func() bool { return len(seen.now().Routers) == 1 })
	if v := seen.now(); v.Routers[0].Addr != second || len(v.Addresses) != 1 || !netip.MustParsePrefix("2001:db8:a:1::/64").Contains(v.Addresses[0].Address.Addr()) {
		t.Errorf("%+v", v)
	}
}

func TestAnUplinkThatIsMadeAnewIsHeardAgain(t *testing.T) {
	t.Parallel()
	router, isp, d, seen := uplinkWorld(t)
	isp.radvd(`interface isp1 { AdvSendAdvert on; IgnoreIfMissing on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 1800;
		prefix 2001:db8:a:1::/64 {}; };`)
	eventually(t, "the router", func() bool { return len(seen.now().Routers) == 1 })
	router.sh("ip link delete wan1")
	d.SetLink(0, false)
	connect(router, "wan1", wanMAC, isp, "isp1", ispMAC)
	isp.linkLocal("isp1")
	before := seen.now()
	if len(before.Routers) != 1 || len(before.Addresses) != 1 {
		t.Errorf("what was learned went with the device: %+v", before)
	}
	d.SetLink(router.index("wan1"), true)
	eventually(t, "a new advertisement", func() bool {
		v := seen.now()
		return len(v.Routers) == 1 && v.Routers[0].Heard.After(before.Routers[0].Heard)
	})
	if got := seen.now().Addresses; len(got) != 1 || got[0].Address != before.Addresses[0].Address {
		t.Errorf("another address on the same device: %+v", got)
	}
}

func TestRubbishOnTheLinkRemovesNoRouter(t *testing.T) {
	t.Parallel()
	_, isp, _, seen := uplinkWorld(t)
	var conn Conn
	var err error
	isp.inside(func() { conn, err = openUplink("isp1") })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	send := func(b []byte) {
		t.Helper()
		if err := conn.Send(b, allNodes); err != nil {
			t.Fatal(err)
		}
	}
	good := says{lifetime: time.Hour, options: []ndp.Option{pio("2001:db8:a:1::/64", time.Hour, time.Hour)}}.packet(gateway).Data
	eventually(t, "the router", func() bool { send(good); return len(seen.now().Routers) == 1 })

	finalAdvert := says{options: []ndp.Option{pio("2001:db8:a:1::/64", 0, 0)}}.packet(gateway).Data
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		b := append([]byte(nil), finalAdvert...)
		for range r.IntN(40) {
			b = append(b, byte(r.Uint32()))
		}
		for i := advertHeader; i < len(b); i++ {
			if r.IntN(3) == 0 {
				b[i] = byte(r.Uint32())
			}
		}
		send(append(b[:advertHeader:advertHeader], append([]byte{200, 0, 0, 0, 0, 0, 0, 0}, b[advertHeader:]...)...)) // option of length zero
		b[1] = 1                                                                                                      // code
		send(b)
		send(b[:4+r.IntN(advertHeader-4)]) // the kernel itself sends none below four bytes
	}
	raw := conn.(*rawConn)
	if err := raw.SetMulticastHopLimit(254); err != nil {
		t.Fatal(err)
	}
	send(finalAdvert)
	if err := raw.SetMulticastHopLimit(hopLimit); err != nil {
		t.Fatal(err)
	}
	longer := says{lifetime: 2 * time.Hour, options: []ndp.Option{&ndp.RawOption{Type: optPrefix, Length: 1, Value: make([]byte, 6)},
		pio("2001:db8:a:2::/64", time.Hour, time.Hour)}}.packet(gateway).Data
	eventually(t, "that Run lives and reads around a bad option", func() bool { send(longer); return len(seen.now().Addresses) == 2 })
	for _, a := range seen.now().Addresses {
		if remaining(a.Preferred, time.Now()) == 0 {
			t.Errorf("the rubbish deprecated %+v", a)
		}
	}
	if v := seen.now(); len(v.Routers) != 1 || len(v.State.Routers) != 1 {
		t.Errorf("after the rubbish: %+v", v)
	}
}

func TestAnUplinkThatBlipsUnnoticedIsHeardAgain(t *testing.T) {
	t.Parallel()
	router, isp, _, seen := uplinkWorld(t)
	isp.radvd(`interface isp1 { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 1800; };`)
	eventually(t, "the router", func() bool { return len(seen.now().Routers) == 1 })
	for _, script := range []string{"ip link set wan1 down; sleep 0.1; ip link set wan1 up", "ip -6 address flush dev wan1"} {
		router.sh(script)
		before := seen.now().Routers[0].Heard
		eventually(t, "an advertisement after "+script, func() bool { return seen.now().Routers[0].Heard.After(before) })
	}
}
