package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// A service that the Internet reaches by every address of the router.
type service struct {
	name, network string
	port          uint16
}

var services = []service{
	{"TCP on the router", "tcp", 7000},
	{"UDP on the router", "udp", 7001},
	{"TCP forwarded to the LAN", "tcp", lab.ForwardedTCP},
	{"UDP forwarded to the LAN", "udp", lab.ForwardedUDP},
}

// serve starts the services on the router and on the LAN host.
func (r *router) serve() {
	r.Helper()
	v4 := func(s service) netip.AddrPort { return netip.AddrPortFrom(netip.IPv4Unspecified(), s.port) }
	v6 := func(s service) netip.AddrPort { return netip.AddrPortFrom(netip.IPv6Unspecified(), s.port) } // TCP: both families
	err := errors.Join(
		r.Host("router").ServeTCPEcho(context.Background(), v6(services[0])),
		r.Host("router").ServeUDPEcho(context.Background(), v4(services[1])),
		r.Host("router").ServeUDPEcho(context.Background(), v6(services[1])),
		r.Host("lan").ServeTCPEcho(context.Background(), v6(services[2])),
		r.Host("lan").ServeUDPEcho(context.Background(), v4(services[3])),
		r.Host("lan").ServeUDPEcho(context.Background(), v6(services[3])))
	if err != nil {
		r.Fatal(err)
	}
}

// ask opens a connection from a host to a service at an address and waits for its answer, which a
// connected socket takes from that very address only.
func (r *router) ask(from string, s service, at netip.Addr, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	source := ""
	if from == "inet" {
		source = lab.Client4
		if at.Is6() {
			source = lab.Client6
		}
	}
	conn, err := r.Host(from).Dial(ctx, s.network, source, netip.AddrPortFrom(at, s.port).String())
	if err != nil {
		return fmt.Errorf("%s at %v: %w", s.name, at, err)
	}
	defer conn.Close()
	if s.network == "tcp" {
		_, err = lab.AskTCP(ctx, conn)
	} else {
		_, err = lab.AskUDP(ctx, conn, []byte("anybody there?"))
	}
	if err != nil {
		return fmt.Errorf("%s at %v: %w", s.name, at, err)
	}
	return nil
}

// addresses are those of an uplink on the router.
func (r *router) addresses(uplink string) []netip.Addr {
	u := r.Uplink(uplink)
	return []netip.Addr{u.Address4.Addr(), u.Address6.Addr()}
}

// answersEverywhere asks every service at every address of the uplinks.
func (r *router) answersEverywhere(from string, uplinks ...string) {
	r.Helper()
	for _, name := range uplinks {
		for _, at := range r.addresses(name) {
			for _, s := range services {
				if err := r.ask(from, s, at, 5*time.Second); err != nil {
					r.Errorf("asked from %s: %v", from, err)
				}
			}
		}
	}
}

func TestRepliesLeaveByTheUplinkOfTheirArrival(t *testing.T) {
	r := newRouter(t, lab.Options{DNAT: true}, dualWAN)
	r.serve()
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)

	r.answersEverywhere("inet", "fiber", "lte")
	r.answersEverywhere("lan", "fiber", "lte") // hairpin

	for _, target := range []string{"192.0.2.1:7", "[2001:db8:ffff::1]:7"} {
		for range 50 {
			probe := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort(target), Timeout: unhurried}
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // one flow
			if err := probe.Run(ctx); err != nil {
				t.Fatal(err)
			}
			flow := probe.Flows()[0]
			if flow.Err != nil || r.UplinkOf(flow.Source.Addr()) != "fiber" {
				t.Fatalf("new traffic to %s: %+v", target, flow)
			}
		}
	}
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source", n)
	}
}

// TestRepliesKeepTheirUplinkWhileEverythingFlaps asks all the time at the addresses of an uplink that
// stays alive, and keeps a connection open there, while the other one flaps and the daemon is killed
// and started again.
func TestRepliesKeepTheirUplinkWhileEverythingFlaps(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{DNAT: true}, dualWAN)
	r.serve()
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	for _, c := range []struct{ steady, flapping string }{{"lte", "fiber"}, {"fiber", "lte"}} {
		t.Run(c.flapping+" flaps", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			var asking sync.WaitGroup
			asked := make([]int, 2*len(services))
			for i, at := range r.addresses(c.steady) {
				for j, s := range services {
					asking.Go(func() {
						pace := time.NewTicker(20 * time.Millisecond)
						defer pace.Stop()
						for ctx.Err() == nil {
							<-pace.C
							if err := r.ask("inet", s, at, 5*time.Second); err != nil {
								t.Errorf("while %s flaps: %v", c.flapping, err)
								return
							}
							asked[i*len(services)+j]++
						}
					})
				}
			}
			old := r.longLived(t, netip.AddrPortFrom(r.addresses(c.steady)[0], services[2].port))
			for _, kind := range []string{lab.Blackhole, lab.Carrier} {
				if err := r.Break(kind, c.flapping); err != nil {
					t.Fatal(err)
				}
				r.awaitState(c.flapping, uplink.Down)
				r.kill()
				if err := r.Heal(); err != nil {
					t.Fatal(err)
				}
				r.start()
				r.awaitState(c.flapping, uplink.Up)
				old()
			}
			cancel()
			asking.Wait()
			for i, n := range asked {
				if n < 10 {
					t.Errorf("asker %d was answered %d times only", i, n)
				}
			}
		})
	}
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source", n)
	}
}

// longLived opens a TCP connection from the Internet; the returned function fails the test unless the
// service still echoes on it.
func (r *router) longLived(t *testing.T, to netip.AddrPort) func() {
	t.Helper()
	source := lab.Client4
	if to.Addr().Is6() {
		source = lab.Client6
	}
	conn, err := r.Host("inet").Dial(t.Context(), "tcp", source, to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	lines := bufio.NewReader(conn)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := fmt.Fprintln(conn, "still there?"); err != nil {
			t.Errorf("the long-lived connection to %v: %v", to, err)
		} else if answer, err := lines.ReadString('\n'); err != nil || answer != "still there?\n" {
			t.Errorf("the long-lived connection to %v: %q, %v", to, answer, err)
		}
	}
}

// countPackets sends streams until finish is called, which waits for late answers; sent waits until the first has sent so many packets more.
func (r *router) countPackets(streams []*lab.Stream) (sent func(more int), finish func()) {
	r.Helper()
	ctx, cancel := context.WithCancel(r.Context())
	var sending sync.WaitGroup
	for _, s := range streams {
		sending.Go(func() {
			if err := s.Run(ctx); err != nil {
				r.Error(err)
			}
		})
	}
	sent = func(more int) {
		r.Helper()
		n := streams[0].Stats().Sent + more
		r.await("packets to be sent", func() error {
			if streams[0].Stats().Sent < n {
				return errors.New("not enough")
			}
			return nil
		})
	}
	return sent, func() { cancel(); sending.Wait() }
}

// TestAKillAndARestartLoseNoForwardedPacket sends 1000 packets a second through the router.
func TestAKillAndARestartLoseNoForwardedPacket(t *testing.T) {
	r := newRouter(t, lab.Options{}, dualWAN)
	r.start()
	r.awaitState("fiber", uplink.Up)
	streams := []*lab.Stream{
		{From: r.Host("lan"), Target: addrPort("192.0.2.1:7"), Rate: 1000},
		{From: r.Host("lan"), Target: addrPort("[2001:db8:ffff::1]:7"), Rate: 1000},
	}
	sent, finish := r.countPackets(streams)
	for range 3 {
		sent(500)
		r.kill()
		sent(500)
		r.start()
	}
	sent(500)
	finish()
	for _, s := range streams {
		st := s.Stats()
		t.Logf("%v: %v", s.Target, st)
		if st.Answered != st.Sent || len(st.Moves) != 1 {
			t.Errorf("%v: %v, moves %v", s.Target, st, st.Moves)
		}
	}
}
