package main

import (
	"context"
	"errors"
	"fmt"
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
			r.background("inet", "iperf3", "-s", "-B", "192.0.2.1")
			r.await("iperf3 to listen", func() error {
				conn, err := r.Host("inet").Dial(context.Background(), "tcp", "", "192.0.2.1:5201")
				if err == nil {
					_ = conn.Close()
				}
				return err
			})
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
