package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// A LAN host fills a line of 10 Mbit/s: probes are late, and lost, in the queue that it has made. That is no reason to
// leave the line, and the status says what it is. A short queue loses instead of delaying.
func TestASaturatedUplinkStaysAndIsCalledCongested(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, queue string
		reverse     bool
		congested   bool
	}{
		{name: "upload", queue: "latency 300ms", congested: true},
		{name: "download", queue: "latency 300ms", reverse: true, congested: true},
		{name: "upload by a short queue", queue: "limit 24kb"},
		{name: "download by a queue of seconds", queue: "latency 1500ms", reverse: true, congested: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRouter(t, lab.Options{}, dualWAN)
			r.sh("router", "tc qdisc add dev wan1 root tbf rate 10mbit burst 16kb "+c.queue)
			r.sh("isp1", "tc qdisc add dev cust1 root tbf rate 10mbit burst 16kb "+c.queue)
			r.start()
			r.awaitState("fiber", uplink.Up)
			r.awaitState("lte", uplink.Up)
			r.serveIperf(netip.MustParseAddr("192.0.2.1"))
			flood := []string{"-c", "192.0.2.1", "-t", "600", "-P", "8"}
			if c.reverse {
				flood = append(flood, "-R")
			}
			began := time.Now()
			_, _, stop := r.background("lan", "iperf3", flood...)
			if c.congested {
				r.await("fiber to be called congested", func() error {
					u, err := r.uplinkStatus("fiber")
					if err != nil {
						return err
					}
					if !u.IPv4.Congested || !strings.Contains(u.IPv4.Reason, "by its own traffic") {
						return fmt.Errorf("%s, %s, rtt %.0f ms", u.IPv4.State, u.IPv4.Reason, u.IPv4.RTTms)
					}
					return nil
				})
			}
			r.awaitElapsed(began, 12*time.Second)
			for _, e := range r.eventsSince(began) {
				if e.Kind == status.EventSwitch || e.Kind == status.EventVerdict && e.Uplink == "fiber" {
					t.Errorf("%s %s %s -> %s: %s", e.Kind, e.Family, e.From, e.To, e.Reason)
				}
			}
			stop()
			r.await("the congestion to end", func() error {
				if u, err := r.uplinkStatus("fiber"); err != nil || u.IPv4.Congested {
					return errors.Join(err, errors.New(u.IPv4.Reason))
				}
				return nil
			})
		})
	}
}

// A LAN host fills a queue of seconds: every probe is answered later than the timeout, and some are lost. The line stays,
// connections by it live, and the status says what it is. When nothing comes through the full line any more, that is
// found as fast as on an idle one.
func TestAFullLineIsNotADeadLine(t *testing.T) {
	t.Parallel()
	pings := strings.NewReplacer("tcp://192.0.2.2:443", "192.0.2.2", "http://192.0.2.3/generate_204", "192.0.2.3",
		"tcp://[2001:db8:ffff::2]:443", "2001:db8:ffff::2", "http://[2001:db8:ffff::3]/generate_204", "2001:db8:ffff::3").Replace(dualWAN)
	const own, modem = "router wan1", "isp1 up0" // whose the queue is
	for _, c := range []struct {
		name, config, queue string
		length              time.Duration
		target              string
		blast               bool // UDP that fills the queue before anything comes back
	}{
		{name: "upload by a queue of 2 s", config: pings, queue: own, length: 2 * time.Second, target: "192.0.2.1"},
		{name: "upload by a modem with a queue of 5 s", config: pings, queue: modem, length: 5 * time.Second, target: "192.0.2.1"},
		{name: "IPv6, and probes of all kinds", config: dualWAN, queue: modem, length: 2 * time.Second, target: "2001:db8:ffff::1"},
		{name: "all at once", config: pings, queue: modem, length: 2 * time.Second, target: "192.0.2.1", blast: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			const rate = 250_000 // bytes a second
			r := newRouter(t, lab.Options{}, c.config)
			host, device, _ := strings.Cut(c.queue, " ")
			r.sh(host, fmt.Sprintf("tc qdisc add dev %s root tbf rate %dbps burst 8kb limit %d", device, rate, int(rate*c.length.Seconds())))
			r.start()
			r.awaitState("fiber", uplink.Up)
			r.awaitState("lte", uplink.Up)
			target := netip.MustParseAddr(c.target)
			echo := r.echoConnection(t, "lan", netip.AddrPortFrom(target, 7).String())
			r.serveIperf(target)
			r.awaitElapsed(time.Now(), 3*time.Second) // what an idle line does is known
			began := time.Now()
			if c.blast {
				r.blast(netip.AddrPortFrom(target, 9), rate, int(rate*c.length.Seconds()))
			} else {
				r.background("lan", "iperf3", "-c", c.target, "-t", "600", "-P", "4")
			}
			longest := 0.
			r.await("fiber to be called congested with a full queue", func() error {
				u, err := r.uplinkStatus("fiber")
				if err != nil {
					return err
				}
				path := u.IPv4
				if target.Is6() {
					path = u.IPv6
				}
				longest = max(longest, float64(path.RTTms))
				if time.Since(began) < 12*time.Second || longest < float64(c.length.Milliseconds())*0.4 || !path.Congested {
					return fmt.Errorf("%s, %s, rtt %.0f ms", path.State, path.Reason, path.RTTms)
				}
				return nil
			})
			for _, e := range r.eventsSince(began) {
				suspected := c.blast && (e.Kind == status.EventSwitch || e.To != string(uplink.Down))
				if (e.Kind == status.EventSwitch || e.Kind == status.EventVerdict && e.Uplink == "fiber") && !suspected {
					t.Errorf("%s %s %s -> %s: %s", e.Kind, e.Family, e.From, e.To, e.Reason)
				}
			}
			if err := echo(); err != nil {
				t.Errorf("a connection by the full line: %v", err)
			}

			broken := time.Now()
			if err := r.Break(lab.Blackhole, "fiber"); err != nil {
				t.Fatal(err)
			}
			r.awaitState("fiber", uplink.Down)
			for _, e := range r.eventsSince(broken) {
				if e.Kind == status.EventVerdict && e.Uplink == "fiber" {
					after := e.Time.Sub(broken).Round(time.Millisecond)
					t.Logf("rtt of %.0f ms, then a blackhole: %s %s after %v: %s", longest, e.Family, e.To, after, e.Reason)
					if e.To == string(uplink.Suspect) && after > 6*time.Second { // 1.5 s on a machine that is idle
						t.Errorf("suspect after %v", after)
					}
				}
			}
		})
	}
}

// serveIperf has a host of the Internet receive and send what iperf3 wants.
func (r *router) serveIperf(at netip.Addr) {
	r.Helper()
	r.background("inet", "iperf3", "-s", "-B", at.String())
	r.await("iperf3 to listen", func() error {
		conn, err := r.Host("inet").Dial(context.Background(), "tcp", "", netip.AddrPortFrom(at, 5201).String())
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
}

// blast has a LAN host send UDP that nobody answers: so many bytes within half a second, and then a little less than a
// rate, in bytes a second, until the test ends.
func (r *router) blast(to netip.AddrPort, rate, first int) {
	r.Helper()
	r.sh("inet", fmt.Sprintf("nft 'add table inet deaf; add chain inet deaf input { type filter hook input priority 0; }; add rule inet deaf input udp dport %d drop'", to.Port()))
	conn, err := r.Host("lan").Dial(context.Background(), "udp", "", to.String())
	if err != nil {
		r.Fatal(err)
	}
	ended := make(chan struct{})
	stop := make(chan struct{})
	r.Cleanup(func() { close(stop); <-ended; _ = conn.Close() })
	go func() {
		defer close(ended)
		const size, headers = 1200, 28
		began, sent := time.Now(), 0
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			elapsed := time.Since(began).Seconds()
			due := int(0.98*float64(rate)*elapsed + float64(first)*min(1, 2*elapsed))
			for ; sent < due; sent += size + headers {
				_, _ = conn.Write(make([]byte, size)) // what fails is sent again with the next
			}
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
}

// awaitElapsed lets what is going on go on for some time.
func (r *router) awaitElapsed(since time.Time, d time.Duration) {
	r.Helper()
	r.await("time to pass", func() error {
		if time.Since(since) < d {
			return errors.New("not yet")
		}
		return nil
	})
}

// eventsSince returns the decision log from a time on.
func (r *router) eventsSince(since time.Time) []status.Event {
	r.Helper()
	list, err := r.eventsAfter(since)
	if err != nil {
		r.Fatal(err)
	}
	return list
}

func (r *router) eventsAfter(since time.Time) (list []status.Event, err error) {
	err = r.client.Events(context.Background(), 0, false, func(e status.Event) error {
		if e.Time.After(since) {
			list = append(list, e)
		}
		return nil
	})
	return list, err
}
