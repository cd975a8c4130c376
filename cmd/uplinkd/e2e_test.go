package main

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

func TestNewTrafficLeavesADeadProviderAndComesBack(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{lab.Blackhole, lab.Upstream, lab.Gateway, lab.Carrier} {
		t.Run(kind, func(t *testing.T) {
			r := newRouter(t, lab.Options{}, dualWAN)
			r.start()
			v4 := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort("192.0.2.1:7")}
			v6 := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort("[2001:db8:ffff::1]:7")}
			r.probe(v4)
			r.probe(v6)
			r.awaitState("fiber", uplink.Up)
			r.awaitState("lte", uplink.Up)
			r.awaitFlow(v4, "fiber")
			r.awaitFlow(v6, "fiber")
			broken := time.Now()
			if err := r.Break(kind, "fiber"); err != nil {
				t.Fatal(err)
			}
			r.awaitFlow(v4, "lte")
			r.awaitFlow(v6, "lte")
			t.Logf("new flows stood still for %v (IPv4), %v (IPv6)", v4.Stall(broken), v6.Stall(broken))
			r.awaitState("fiber", uplink.Down)
			if err := r.Heal(); err != nil {
				t.Fatal(err)
			}
			r.awaitFlow(v4, "fiber")
			r.awaitFlow(v6, "fiber")
			if n := r.foreign(); n != 0 {
				t.Errorf("%d packets left with a foreign source", n)
			}
		})
	}
}

// TestEstablishedFlowsMoveWhenTheirUplinkDiesAndStayAtFailback watches a UDP flow that is stuck on a dead
// provider, a TCP connection of the router's own there, and a TCP connection that began elsewhere meanwhile.
func TestEstablishedFlowsMoveWhenTheirUplinkDiesAndStayAtFailback(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	streams := []*lab.Stream{
		{From: r.Host("lan"), Target: addrPort("192.0.2.1:7")},
		{From: r.Host("lan"), Target: addrPort("[2001:db8:ffff::1]:7")},
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, s := range streams {
		running.Go(func() {
			if err := s.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		r.await("the stream to use fiber", over(s, "fiber"))
	}
	own := r.echoConnection(t, "router", "192.0.2.1:7")

	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	for _, s := range streams {
		r.await("the stream to move to lte", over(s, "fiber", "lte"))
	}
	if err := own(); err == nil {
		t.Error("the router's own connection by the dead provider still pretends to work")
	}
	meanwhile := r.echoConnection(t, "lan", "192.0.2.1:7")

	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	probe := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort("192.0.2.1:7")}
	defer r.probe(probe)()
	r.awaitFlow(probe, "fiber")
	if err := meanwhile(); err != nil {
		t.Errorf("a connection that began by lte was cut at failback: %v", err)
	}
	cancel()
	running.Wait()
	for _, s := range streams {
		if got := s.Over(); !slices.Equal(got, []string{"fiber", "lte"}) {
			t.Errorf("the stream to %v used %v: failback moved it", s.Target, got)
		}
	}
}

// over checks that a stream has used exactly these uplinks, in order.
func over(s *lab.Stream, uplinks ...string) func() error {
	return func() error {
		if got := s.Over(); !slices.Equal(got, uplinks) {
			return fmt.Errorf("it has used %v", got)
		}
		return nil
	}
}

// echoConnection opens a TCP connection to an echo server; the returned function asks on it once more.
func (r *router) echoConnection(t *testing.T, from, to string) func() error {
	t.Helper()
	conn, err := r.Host(from).Dial(t.Context(), "tcp", "", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	lines := bufio.NewReader(conn)
	ask := func() error {
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := fmt.Fprintln(conn, "hello"); err != nil {
			return err
		}
		answer, err := lines.ReadString('\n')
		if err == nil && answer != "hello\n" {
			err = fmt.Errorf("echoed %q", answer)
		}
		return err
	}
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	return ask
}

func TestWhenEveryProviderIsDeadNothingIsTornDownAndTheFirstToReturnIsUsed(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	for _, name := range []string{"lte", "fiber"} {
		if err := r.Break(lab.Blackhole, name); err != nil {
			t.Fatal(err)
		}
		r.awaitState(name, uplink.Down)
	}
	if out := r.sh("router", "ip route show table 11700; ip -6 route show table 11700"); strings.Count(out, "default") != 2 {
		t.Errorf("the weighted default with every provider dead:\n%s", out)
	}
	probe := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort("192.0.2.1:7")}
	defer r.probe(probe)()
	if err := r.HealOne("lte"); err != nil {
		t.Fatal(err)
	}
	r.awaitFlow(probe, "lte")
}

// expectShare opens 400 flows from the LAN host, and checks which part of them the fiber has.
func (r *router) expectShare(target string, want float64) {
	r.Helper()
	r.expectShareBut(target, want, 0)
}

// expectShareBut is expectShare where a full line may lose some.
func (r *router) expectShareBut(target string, want float64, lost int) {
	r.Helper()
	probe := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort(target), Interval: time.Millisecond}
	stop := r.probe(probe)
	r.await("400 flows", func() error {
		if n := len(probe.Flows()); n < 400 {
			return fmt.Errorf("%d so far", n)
		}
		return nil
	})
	stop()
	count := make(map[string]int)
	for _, f := range probe.Flows() {
		if f.Err != nil {
			if lost--; lost < 0 {
				r.Errorf("a flow failed: %v", f.Err)
			}
			continue
		}
		count[r.UplinkOf(f.Source.Addr())]++
	}
	// Give or take six standard deviations of 400 flows.
	if share := float64(count["fiber"]) / float64(count["fiber"]+count["lte"]); math.Abs(share-want) > 0.13 {
		r.Errorf("flows to %s: %v, of which fiber should have %v", target, count, want)
	}
}

// TestWeightsOfAPolicyAreItsOwn has a policy share the lines the other way round than the default.
func TestWeightsOfAPolicyAreItsOwn(t *testing.T) {
	t.Parallel()
	balanced := strings.Replace(strings.Replace(dualWAN, "tier = 2", "", 1), `device = "wan1"`, "device = \"wan1\"\nweight = 3", 1)
	r := newRouter(t, lab.Options{}, balanced+`
[[policy]]
name = "other-way-round"
to = ["192.0.2.2", "2001:db8:ffff::2"]
uplinks = [["fiber:1", "lte:3"]]
`)
	for _, target := range []string{selected4, selected6} {
		if err := r.Host("inet").ServeUDPEcho(context.Background(), addrPort(target)); err != nil {
			t.Fatal(err)
		}
	}
	r.up()
	for target, want := range map[string]float64{selected4: 0.25, selected6: 0.25, other4: 0.75, other6: 0.75} {
		r.expectShare(target, want)
	}
	s := r.status()
	for _, p := range s.PolicyList() {
		want := map[string]float64{"fiber": 0.25, "lte": 0.75}
		if !maps.Equal(p.IPv4.Shares, want) || !maps.Equal(p.IPv6.Shares, want) {
			t.Errorf("%s: shares %v and %v in the status, want %v", p.Name, p.IPv4.Shares, p.IPv6.Shares, want)
		}
	}
}

func TestWeightsShareNewFlows(t *testing.T) {
	t.Parallel()
	balanced := strings.Replace(strings.Replace(dualWAN, "tier = 2", "", 1), `device = "wan1"`, "device = \"wan1\"\nweight = 3", 1)
	r := newRouter(t, lab.Options{}, balanced)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	r.expectShare("192.0.2.1:7", 0.75)
	r.expectShare("[2001:db8:ffff::1]:7", 0.75)
	for _, u := range r.status().Uplinks {
		want := map[string]float64{"fiber": 0.75, "lte": 0.25}[u.Name]
		if u.IPv4.Share != want || u.IPv6.Share != want {
			t.Errorf("%s: shares %v and %v in the status, want %v", u.Name, u.IPv4.Share, u.IPv6.Share, want)
		}
	}
	// All of them are between two hosts, which takes a parameter that is given back.
	r.stop()
	r.command("clean", "-c", r.config)
	for _, family := range []string{"ipv4", "ipv6"} {
		if v, err := r.Host("router").Sysctl("net/" + family + "/fib_multipath_hash_policy"); err != nil || v != "0" {
			t.Errorf("the hash policy of %s is left at %q, %v", family, v, err)
		}
	}
}
