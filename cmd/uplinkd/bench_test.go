package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// tries is how often each benchmark breaks an uplink. Each try has a world of its own.
const tries = 20

// BenchmarkFailover measures how long new flows of a LAN host stand still, IPv4 and IPv6 alike, from the
// moment an uplink breaks.
func BenchmarkFailover(b *testing.B) {
	for _, c := range []struct{ name, kind, config string }{
		{"blackhole", lab.Blackhole, dualWAN},
		{"blackhole_250ms", lab.Blackhole, strings.ReplaceAll(dualWAN, "[uplink.probe]", "[uplink.probe]\n  interval = \"250ms\"")},
		{"far", lab.Upstream, dualWAN},
		{"carrier", lab.Carrier, dualWAN},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				var stalls distribution
				for range tries {
					inNewWorld(b, c.config, func(r *router) {
						r.start()
						// At a random phase of the probing.
						stalls = append(stalls, r.stalledBy(c.kind, func() { rest(b.Context(), time.Second+rand.N(time.Second)) }))
					})
				}
				stalls.report(b)
			}
		})
	}
}

// inNewWorld does something in a world of its own, which is gone afterwards.
func inNewWorld(b *testing.B, config string, do func(r *router)) {
	r := newRouter(b, lab.Options{}, config)
	defer func() {
		r.kill()
		if err := r.Close(); err != nil {
			b.Error(err)
		}
	}()
	do(r)
}

// stalledBy breaks the fiber of a router that runs, and returns the longer of both families' stalls. It waits before it does.
func (r *router) stalledBy(kind string, wait func()) time.Duration {
	r.Helper()
	var interval time.Duration // as usual
	if kind == lab.Carrier {   // the bar is as fine as that is
		interval = 2 * time.Millisecond
	}
	var probes []*lab.FlowProbe
	for _, target := range []string{"192.0.2.1:7", "[2001:db8:ffff::1]:7"} {
		p := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort(target), Interval: interval}
		defer r.probe(p)()
		probes = append(probes, p)
	}
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	for _, p := range probes {
		r.awaitFlow(p, "fiber")
	}
	wait()
	if err := r.Break(kind, "fiber"); err != nil {
		r.Fatal(err)
	}
	since := r.brokenSince()
	longest := time.Duration(0)
	for _, p := range probes {
		r.awaitFlow(p, "lte")
		longest = max(longest, p.Stall(since))
	}
	return longest
}

// brokenSince is when the latest break was asked for.
func (r *router) brokenSince() (since time.Time) {
	for _, u := range r.World.Status() {
		for _, broken := range u.Breaks {
			since = broken.Asked
		}
	}
	return since
}

// BenchmarkStart measures how long a LAN host's first packets wait, of both families, from the moment that the daemon is started on a
// machine that it has left nothing on, as after a boot. It has 62 uplinks, two of which lead to the Internet. The bar is 150 ms.
func BenchmarkStart(b *testing.B) {
	devices, config := deadUplinks(rules.MaxUplinks - 2)
	r := newRouter(b, lab.Options{}, dualWAN+config)
	r.sh("router", devices)
	for b.Loop() {
		var waits distribution
		for range tries {
			waits = append(waits, r.firstAnswer())
			r.kill()
			r.command("clean", "-c", r.config)
			if err := os.RemoveAll(filepath.Join(r.dir, "state")); err != nil {
				b.Fatal(err)
			}
		}
		waits.report(b)
	}
}

// firstAnswer starts the daemon, and returns how long it was until a new flow of a LAN host was answered, in the slower family.
func (r *router) firstAnswer() time.Duration {
	r.Helper()
	var probes []*lab.FlowProbe
	for _, target := range []string{"192.0.2.1:7", "[2001:db8:ffff::1]:7"} {
		p := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort(target), Interval: 5 * time.Millisecond}
		defer r.probe(p)()
		probes = append(probes, p)
	}
	rest(context.Background(), 100*time.Millisecond)
	began, slower := time.Now(), time.Duration(0)
	r.launch()
	for _, p := range probes {
		r.awaitFlow(p, "fiber")
		first := time.Time{}
		for _, f := range p.Flows() {
			switch {
			case f.Err != nil:
			case f.Start.Before(began):
				r.Fatal("a LAN host had an answer before the daemon was started")
			case first.IsZero() || f.End().Before(first):
				first = f.End()
			}
		}
		slower = max(slower, first.Sub(began))
	}
	return slower
}

// distribution is a set of measured times.
type distribution []time.Duration

// median wants sorted values.
func (d distribution) median() time.Duration { return d[len(d)/2] }

// report prints every value, and gives the median, the 99th percentile and the maximum as metrics in
// milliseconds. With few values the 99th percentile is the maximum.
func (d distribution) report(b *testing.B) {
	slices.Sort(d)
	var list []string
	for _, v := range d {
		list = append(list, fmt.Sprint(v.Round(time.Millisecond).Milliseconds()))
	}
	b.Logf("%d tries, ms: %s", len(d), strings.Join(list, " "))
	ms := func(v time.Duration) float64 { return float64(v) / float64(time.Millisecond) }
	b.ReportMetric(ms(d.median()), "p50-ms")
	b.ReportMetric(ms(d[min(len(d)*99/100, len(d)-1)]), "p99-ms")
	b.ReportMetric(ms(d[len(d)-1]), "max-ms")
	b.ReportMetric(0, "ns/op")
}
