package main

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// typing opens a TCP connection and sends a line every 50 ms until the test ends or the connection does. What it returns tells how long
// ago the latest answer was.
func (r *router) typing(from, source string, to netip.AddrPort) (since func() time.Duration) {
	r.Helper()
	conn, err := r.Host(from).Dial(r.Context(), "tcp", source, to.String())
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = conn.Close() })
	var mu sync.Mutex
	latest := time.Now()
	go func() {
		for buffer := make([]byte, 128); ; time.Sleep(50 * time.Millisecond) {
			if _, err := fmt.Fprintln(conn, "x"); err != nil {
				return
			}
			if _, err := conn.Read(buffer); err != nil {
				return
			}
			mu.Lock()
			latest = time.Now()
			mu.Unlock()
		}
	}()
	return func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return time.Since(latest)
	}
}

// TestSilentTargetsEndNoConnectionThatGetsOn has the provider of fiber lose what goes to the targets, and nothing else.
func TestSilentTargetsEndNoConnectionThatGetsOn(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{DNAT: true}, dualWAN)
	r.serve()
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	v4, v6 := r.lanProbes()
	r.awaitFlow(v4, "fiber")
	r.awaitFlow(v6, "fiber")
	alive := make(map[string]func() time.Duration)
	for _, at := range r.addresses("fiber") {
		client := lab.Client4
		if at.Is6() {
			client = lab.Client6
		}
		for _, s := range services {
			if s.network == "tcp" {
				alive[fmt.Sprintf("%s at %v", s.name, at)] = r.typing("inet", client, netip.AddrPortFrom(at, s.port))
			}
		}
	}
	fiber := r.addresses("fiber")
	silence := func() {
		r.silence("192.0.2.1-192.0.2.53", "2001:db8:ffff::1-2001:db8:ffff::53", "ip saddr "+fiber[0].String(), "ip6 saddr "+fiber[1].String())
	}
	silence()
	r.awaitProblem("silent-targets", "fiber (IPv4) answers", "fiber (IPv6) answers")
	if u := r.status().Uplinks[0]; u.IPv4.State != uplink.Degraded || u.IPv6.Code != uplink.CodeConnected {
		t.Errorf("%s, %s", u.IPv4.State, u.IPv6.Code)
	}
	r.awaitFlow(v4, "lte")
	r.awaitFlow(v6, "lte")
	r.await("the connections to go on for some seconds", func() error {
		for name, since := range alive {
			if since() > 3*time.Second {
				t.Fatalf("%s ended", name)
			}
		}
		if changed := r.status().Uplinks[0].IPv4.Since; time.Since(changed.Time) < 4*time.Second {
			return fmt.Errorf("degraded since %v", changed)
		}
		return nil
	})
	r.unsilence()
	r.awaitState("fiber", uplink.Up)
	r.awaitProblem("silent-targets")
	r.awaitFlow(v4, "fiber")

	// Now the line itself is dead: no segment that is sent again keeps it.
	before := len(r.events(status.EventVerdict))
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitState("fiber", uplink.Down)
	for _, e := range r.events(status.EventVerdict)[before:] {
		if e.Code == string(uplink.CodeConnected) {
			t.Errorf("%+v", e)
		}
	}
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source", n)
	}
}

// TestAConnectionToAModemKeepsNoDeadLine has the LAN look at a page of the device in front of a line that is dead.
func TestAConnectionToAModemKeepsNoDeadLine(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, ipv4Only("", 2))
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	gateway := r.Uplink("fiber").Gateway4
	if err := r.Host("isp1").ServeTCPEcho(r.Context(), netip.AddrPortFrom(gateway, 7000)); err != nil {
		t.Fatal(err)
	}
	since := r.typing("lan", "", netip.AddrPortFrom(gateway, 7000))
	if err := r.Break(lab.Upstream, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitState("fiber", uplink.Down)
	if since() > 5*time.Second {
		t.Error("the page does not answer: this shows nothing")
	}
}
