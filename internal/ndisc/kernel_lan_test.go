package ndisc

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	lanMAC  = "02:00:00:00:03:01"
	hostMAC = "02:00:00:00:03:02"
)

var (
	fiber = netip.MustParsePrefix("2001:db8:a:1::/64")
	lte   = netip.MustParsePrefix("2001:db8:b:1::/64")
	ula   = netip.MustParsePrefix("fd00:db8:1:1::/64")
	site  = netip.MustParsePrefix("fd00:db8:1::/48")
)

// both is a LAN with two providers.
func both(fiberUsable, lteUsable bool) Input {
	return Input{ULA: ula, Site: site, AnyUsable: fiberUsable || lteUsable, Prefixes: []LivePrefix{
		{Prefix: fiber, Uplink: "fiber", Delegation: netip.MustParsePrefix("2001:db8:a::/56"), Usable: fiberUsable},
		{Prefix: lte, Uplink: "lte", Delegation: netip.MustParsePrefix("2001:db8:b::/56"), Usable: lteUsable},
	}}
}

// lanWorld is a router whose lan0 has one Linux host that believes advertisements.
type lanWorld struct {
	t            *testing.T
	router, host *host
	advertiser   *Advertiser
	advertised   Advertised

	mu     sync.Mutex
	others []Other
}

func newLAN(t *testing.T) *lanWorld {
	t.Helper()
	w := &lanWorld{t: t, router: newHost(t), host: newHost(t)}
	w.host.sh("sysctl -qw net.ipv6.conf.default.accept_ra=1 net.ipv6.conf.default.accept_ra_rt_info_max_plen=64 net.ipv6.conf.default.router_solicitations=3")
	w.router.sh("sysctl -qw net.ipv6.conf.all.forwarding=1")
	connect(w.router, "lan0", lanMAC, w.host, "eth0", hostMAC)
	w.router.linkLocal("lan0")
	w.advertiser = NewAdvertiser(AdvertiserConfig{Device: "lan0", Log: testLog(t), OnOthers: func(others []Other) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.others = others
	}})
	w.router.run(w.advertiser)
	w.advertiser.SetLink(w.router.index("lan0"), true)
	return w
}

func (w *lanWorld) update(in Input) {
	w.t.Helper()
	if err := w.advertiser.SetContent(w.advertised.Update(in, time.Now())); err != nil {
		w.t.Fatal(err)
	}
}

func (w *lanWorld) otherRouters() []Other {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.others)
}

// state is one word for what the host makes of a prefix.
func (w *lanWorld) state(prefix netip.Prefix) string {
	switch found := w.host.addresses("eth0", prefix.String()); {
	case len(found) == 0:
		return "absent"
	case found[0].Deprecated || found[0].Preferred == 0:
		return "deprecated"
	default:
		return "preferred"
	}
}

func (w *lanWorld) want(fiberState, lteState, ulaState string) {
	w.t.Helper()
	want := []string{fiberState, lteState, ulaState}
	var got []string
	eventually(w.t, strings.Join(want, " "), func() bool {
		got = []string{w.state(fiber), w.state(lte), w.state(ula)}
		return slices.Equal(got, want)
	})
}

func (w *lanWorld) routes() string { return w.host.sh("ip -6 route show dev eth0") }

func TestALinuxHostFollowsTheAdvertisements(t *testing.T) {
	t.Parallel()
	w := newLAN(t)
	w.update(both(true, true))
	w.want("preferred", "preferred", "preferred")
	if routes := w.routes(); !strings.Contains(routes, "default via fe80::ff:fe00:301") || !strings.Contains(routes, "2001:db8:a::/56 via") ||
		!strings.Contains(routes, "fd00:db8:1::/48 via") {
		t.Errorf("routes of the host:\n%s", routes)
	}
	if a := w.host.addresses("eth0", fiber.String())[0]; a.Preferred > 2700 || a.Valid > 5400 || a.Valid < 5000 {
		t.Errorf("lifetimes on the host: %+v", a)
	}

	began := time.Now()
	w.update(both(false, true))
	w.want("deprecated", "preferred", "preferred")
	t.Logf("deprecated on the host after %v", time.Since(began))
	w.update(both(true, true))
	w.want("preferred", "preferred", "preferred")

	w.update(both(false, false))
	eventually(t, "no default route", func() bool { return !strings.Contains(w.routes(), "default") })
	w.want("preferred", "preferred", "preferred") // RFC 7084 G-5: the addresses stay

	changed := both(true, true)
	changed.Prefixes[0].Prefix = netip.MustParsePrefix("2001:db8:a:f1::/64")
	w.update(changed)
	w.want("deprecated", "preferred", "preferred")
	eventually(t, "the new prefix", func() bool { return len(w.host.addresses("eth0", "2001:db8:a:f1::/64")) == 1 })
	eventually(t, "the default route again", func() bool { return strings.Contains(w.routes(), "default") })
}

func TestWithdrawingLeavesTheHostWithoutARouter(t *testing.T) {
	t.Parallel()
	w := newLAN(t)
	w.update(both(true, true))
	w.want("preferred", "preferred", "preferred")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := w.advertiser.Withdraw(ctx, w.advertised.Content()); err != nil {
		t.Fatal(err)
	}
	w.want("deprecated", "deprecated", "deprecated")
	if routes := w.routes(); strings.Contains(routes, "default") || strings.Contains(routes, "via") {
		t.Errorf("routes of the host:\n%s", routes)
	}
}

func TestAHostThatComesUpIsAnsweredAtOnce(t *testing.T) {
	t.Parallel()
	w := newLAN(t)
	w.update(both(true, true))
	w.want("preferred", "preferred", "preferred")
	w.host.sh("ip link set eth0 down")
	w.want("absent", "absent", "absent")
	w.advertiser.SetLink(w.router.index("lan0"), true) // the carrier's blip was not even noticed
	began := time.Now()
	w.host.sh("ip link set eth0 up")
	w.want("preferred", "preferred", "preferred")
	// The kernel asks up to a second after it is up; the next advertisement to all is minutes away.
	if d := time.Since(began); d > 30*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestALANThatIsMadeAnewIsAdvertisedOnAgain(t *testing.T) {
	t.Parallel()
	w := newLAN(t)
	w.update(both(true, true))
	w.want("preferred", "preferred", "preferred")
	w.router.sh("ip link delete lan0")
	w.advertiser.SetLink(0, false)
	connect(w.router, "lan0", lanMAC, w.host, "eth0", hostMAC)
	w.router.linkLocal("lan0")
	w.advertiser.SetLink(w.router.index("lan0"), true)
	w.want("preferred", "preferred", "preferred")
}

func TestARouterThatNobodyToldUsOfIsNoticed(t *testing.T) {
	t.Parallel()
	w := newLAN(t)
	w.update(both(true, true))
	w.want("preferred", "preferred", "preferred")
	const config = `interface eth0 { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 5; AdvManagedFlag on;
		prefix 2001:db8:a:1::/64 { AdvValidLifetime 86400; AdvPreferredLifetime 14400; }; };`
	stop := w.host.radvd(config)
	eventually(t, "the other router", func() bool { return len(w.otherRouters()) == 1 })
	o := w.otherRouters()[0]
	if o.Router != w.host.linkLocal("eth0") || o.Lifetime != 5*time.Second || !slices.Equal(o.Prefixes, []netip.Prefix{fiber}) || len(o.Conflicts) != 3 {
		t.Errorf("%+v", o)
	}
	stop()
	t.Logf("conflicts: %q", o.Conflicts)
}

func TestALANThatBlipsUnnoticedIsAdvertisedOnAgain(t *testing.T) {
	t.Parallel()
	w := newLAN(t)
	w.update(both(true, true))
	w.want("preferred", "preferred", "preferred")
	w.router.sh("ip link set lan0 down")
	w.update(both(false, true)) // ENETDOWN, or EINVAL for want of an address
	w.want("preferred", "preferred", "preferred")
	w.router.sh("ip link set lan0 up")
	w.want("deprecated", "preferred", "preferred")
}
