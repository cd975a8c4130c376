package lab

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// newWorld builds a world of its own for a test, with the Internet served, and checks that nothing of it remains.
func newWorld(t *testing.T, o Options) *World {
	t.Helper()
	if o.Prefix == "" {
		o.Prefix = strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()) + "-"
	}
	w, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		for _, name := range namespaces(t) {
			if strings.HasPrefix(name, o.Prefix) {
				t.Errorf("namespace %s is left behind", name)
			}
		}
	})
	if err := w.ServeInternet(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

func namespaces(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/run/netns")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// within is the patience of the tests: far beyond what anything needs on an idle machine.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// pings fails the test unless a host reaches a target, repeating lost requests.
func pings(t *testing.T, h *Host, target string) {
	t.Helper()
	ctx := within(t)
	err := Until(ctx, h.Name()+" to reach "+target, func() error { return pingOnce(ctx, h, target, time.Second) })
	if err != nil {
		t.Error(err)
	}
}

// cannotPing fails the test if a host reaches a target at the moment.
func cannotPing(t *testing.T, h *Host, target string) {
	t.Helper()
	if err := pingOnce(within(t), h, target, 150*time.Millisecond); err == nil {
		t.Errorf("%s reaches %s", h.Name(), target)
	}
}

func pingOnce(ctx context.Context, h *Host, target string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := h.Ping(ctx, netip.MustParseAddr(target))
	return err
}

// asks sends one UDP request from a source, and returns the uplink that carried it, "" if none did.
func asks(t *testing.T, h *Host, source, target string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(within(t), 150*time.Millisecond)
	defer cancel()
	conn, err := h.Dial(ctx, "udp", source, netip.AddrPortFrom(netip.MustParseAddr(target), EchoPort).String())
	if err != nil {
		return ""
	}
	defer func() { _ = conn.Close() }()
	seen, err := AskUDP(ctx, conn, []byte("hello"))
	if err != nil {
		return ""
	}
	return h.world.UplinkOf(seen.Addr())
}

func TestWithoutUplinkdTheRouterUsesTheDefaultRouteOfMain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	router := w.Host(Router)
	for _, target := range []string{Echo4, Echo6, TCP4, HTTP6, DNS4, Client6, "198.51.100.1", "203.0.113.1", "2001:db8:b::1", "fe80::1%wan2", LANHost4, LANHost6} {
		pings(t, router, target)
	}
	for _, target := range []string{Echo4, Echo6} {
		if got := asks(t, router, "", target); got != Fiber {
			t.Errorf("the router reaches %s over %q, want fiber", target, got)
		}
	}
	for _, dev := range []string{"all", "default", "lan0", "wan1", "wan2"} {
		if got, err := router.Sysctl("net/ipv4/conf/" + dev + "/rp_filter"); err != nil || got != "1" {
			t.Errorf("rp_filter of %s is %q, %v", dev, got, err)
		}
	}
}

func TestForeignSourcesAreCountedAndDroppedByTheISP(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	for _, target := range []string{Echo4, Echo6} {
		if got := asks(t, w.Host(LAN), "", target); got != "" {
			t.Errorf("the LAN's own source reached %s over %s", target, got)
		}
		if got := asks(t, w.Host(Router), "", target); got != Fiber {
			t.Errorf("the router reaches %s over %q", target, got)
		}
	}
	// lte's address over fiber, as without policy routing
	if got := asks(t, w.Host(Router), "203.0.113.2", Echo4); got != "" {
		t.Errorf("lte's source left over %s", got)
	}
	if got := asks(t, w.Host(Router), "2001:db8:b::2", Echo6); got != "" {
		t.Errorf("lte's source left over %s", got)
	}
	got, err := w.Counters(Fiber)
	if want := (Counters{ForeignV4: 2, ForeignV6: 2, PassedV4: 1, PassedV6: 1}); err != nil || got != want {
		t.Errorf("fiber counts %+v, %v, want %+v", got, err, want)
	}
	if got, err := w.Counters(LTE); err != nil || got != (Counters{}) {
		t.Errorf("lte counts %+v, %v, want nothing", got, err)
	}
}

func TestFurtherUplinksAreWorldsOfTheirOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{Uplinks: 4, RPFilter: "off"})
	if diff := cmp.Diff([]string{"lan", "router", "isp1", "isp2", "isp3", "isp4", "inet"}, w.Hosts()); diff != "" {
		t.Error(diff)
	}
	for _, u := range w.Uplinks() {
		carries(t, w, u)
		if got, err := w.Counters(u.Name); err != nil || got.PassedV4 == 0 || got.PassedV6 == 0 || got.ForeignV4+got.ForeignV6 != 0 {
			t.Errorf("%s counts %+v, %v", u.Name, got, err)
		}
	}
}

// carries checks an uplink in both families by a host route of the test's own.
func carries(t *testing.T, w *World, u Uplink) {
	t.Helper()
	router := w.Host(Router)
	route := func(verb string) {
		err := router.ip(t.Context(), []string{
			"route " + verb + " " + Client4 + " via " + u.Gateway4.String() + " dev " + u.Device + " src " + u.Address4.Addr().String(),
			"route " + verb + " " + Client6 + " via " + u.Gateway6.String() + " dev " + u.Device + " src " + u.Address6.Addr().String(),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	route("add")
	defer route("delete")
	for _, target := range []string{Client4, Client6} {
		pings(t, router, target)
		if got := asks(t, router, "", target); got != u.Name {
			t.Errorf("%s is reached over %q, want %s", target, got, u.Name)
		}
	}
}

func TestTwoDevicesInTheSameSubnet(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{SameSubnet: true, RPFilter: "off"})
	if diff := cmp.Diff([]string{"lan", "router", "isp1", "inet"}, w.Hosts()); diff != "" {
		t.Error(diff)
	}
	// Without arp_ignore either device answers ARP for both addresses, and the answers to one may come to the other.
	for _, dev := range []string{"all", "wan1", "wan2"} {
		for key, value := range map[string]string{"arp_ignore": "1", "arp_announce": "2"} {
			if err := w.Host(Router).SetSysctl("net/ipv4/conf/"+dev+"/"+key, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, u := range w.Uplinks() {
		carries(t, w, u)
	}
	fiber, lte := w.Uplink(Fiber), w.Uplink(LTE)
	if fiber.Address4.Masked() != lte.Address4.Masked() || fiber.Gateway4 != lte.Gateway4 || fiber.Address4 == lte.Address4 {
		t.Errorf("not the same subnet: %v and %v", fiber, lte)
	}
	// One customer's address at the other's port is foreign, though it is of the subnet.
	before, err := w.Counters(Fiber)
	if err != nil {
		t.Fatal(err)
	}
	if got := asks(t, w.Host(Router), lte.Address4.Addr().String(), Echo4); got != "" {
		t.Errorf("lte's address passed fiber's port")
	}
	if after, err := w.Counters(Fiber); err != nil || after.ForeignV4 == before.ForeignV4 {
		t.Errorf("fiber's port counted no foreign source: %+v, then %+v, %v", before, after, err)
	}
}

func TestTwinsHaveTheSameAddressAndAreToldApartByTheInternet(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{Twins: true, RPFilter: "off"})
	fiber, lte := w.Uplink(Fiber), w.Uplink(LTE)
	if fiber.Address4 != lte.Address4 || fiber.Gateway4 != lte.Gateway4 {
		t.Errorf("not twins: %v and %v", fiber, lte)
	}
	for _, u := range w.Uplinks() {
		carries(t, w, u)
	}
}

func TestPortForwardingsLeadToTheLANHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{DNAT: true})
	lan := w.Host(LAN)
	for _, addr := range []string{LANHost4, LANHost6} {
		ip := netip.MustParseAddr(addr)
		if err := errors.Join(
			lan.ServeTCPEcho(t.Context(), netip.AddrPortFrom(ip, ForwardedTCP)),
			lan.ServeUDPEcho(t.Context(), netip.AddrPortFrom(ip, ForwardedUDP))); err != nil {
			t.Fatal(err)
		}
	}
	// Without uplinkd only fiber's forwardings can be answered; from the LAN, both families and every address work.
	for _, c := range []struct{ from, source, address, seen string }{
		{Internet, Client4, "198.51.100.2", Client4},
		{Internet, Client6, "2001:db8:a::2", Client6},
		{LAN, "", "198.51.100.2", LANRouter4},
		{LAN, "", "203.0.113.2", LANRouter4},
		{LAN, "", "2001:db8:a::2", LANRouter6},
		{LAN, "", "2001:db8:b::2", LANRouter6},
	} {
		address := netip.MustParseAddr(c.address)
		ctx := within(t)
		conn, err := w.Host(c.from).Dial(ctx, "tcp", c.source, netip.AddrPortFrom(address, ForwardedTCP).String())
		if err != nil {
			t.Error(err)
			continue
		}
		if seen, err := AskTCP(ctx, conn); err != nil || seen.Addr().String() != c.seen {
			t.Errorf("%s asked %s by TCP and was seen as %v, %v", c.from, address, seen, err)
		}
		_ = conn.Close()
		conn, err = w.Host(c.from).Dial(ctx, "udp", c.source, netip.AddrPortFrom(address, ForwardedUDP).String())
		if err != nil {
			t.Error(err)
			continue
		}
		if seen, err := AskUDP(ctx, conn, []byte("x")); err != nil || seen.Addr().String() != c.seen {
			t.Errorf("%s asked %s by UDP and was seen as %v, %v", c.from, address, seen, err)
		}
		_ = conn.Close()
	}
}

func TestCommandsRunInTheNamespaceAndEndWithTheWorld(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	out, err := w.Host(Router).Run("ls", "/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"lan0", "lo", "wan1", "wan2"}, strings.Fields(out)); diff != "" {
		t.Errorf("the router's /sys: %s", diff)
	}
	_, err = w.Host(LAN).Run("sh", "-c", "echo so it goes >&2; exit 3")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(err.Error(), "so it goes") {
		t.Errorf("a failing command: %v", err)
	}
	cmd := w.Host(LAN).Command(context.Background(), "sh", "-c", "sleep 1000 & echo $!; wait")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the command ended with %v, want a kill", err)
	}
}

func TestMistakesInOptionsAreNamed(t *testing.T) {
	t.Parallel()
	_, err := New(t.Context(), Options{Uplinks: 5, RPFilter: "on", Twins: true, SameSubnet: true})
	want := strings.Join([]string{
		"a world has 2 to 4 uplinks, not 5",
		`rp_filter is strict, loose or off, not "on"`,
		"a world has either two devices in the same subnet or twins, not both",
	}, "\n")
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestAHalfBuiltWorldIsRemoved(t *testing.T) {
	t.Parallel()
	const prefix = "half-"
	w, err := New(t.Context(), Options{Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(t.Context(), Options{Prefix: prefix}); err == nil {
		t.Error("a second world of the same names was built")
	}
	pings(t, w.Host(Router), "198.51.100.1")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range namespaces(t) {
		if strings.HasPrefix(name, prefix) {
			t.Errorf("namespace %s is left behind", name)
		}
	}
}
