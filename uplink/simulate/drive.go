package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/uplink"
)

var (
	epoch      = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	errSilence = errors.New("no answer")
)

// settings are those of a configuration; the rest are the shipped defaults.
type settings struct {
	name     string
	interval time.Duration
	traffic  bool // there is traffic beside the probes
}

// run is one uplink on one link, from the beginning on.
type run struct {
	judge   *uplink.Judge
	link    *link
	rng     *rand.Rand
	now     time.Duration
	landing []landing
	probes  int
	traffic *traffic // nil for an idle line
	// hear is told every transition.
	hear func(uplink.Transition, time.Duration)
}

// traffic is other people's packets on the link, and the look at the device's
// counters that the daemon takes: one packet leaves before each look, and is
// answered if the link lets it.
type traffic struct {
	silence  uplink.Silence
	next     time.Duration
	sent     uint64
	received uint64
	answers  []time.Duration // when they come in
}

const look = 50 * ms

// watch is what the daemon does at each look.
func (r *run) watch(now time.Time) {
	t := r.traffic
	if t == nil || r.now < t.next {
		return
	}
	t.next += look
	before := t.received
	for len(t.answers) > 0 && t.answers[0] <= r.now {
		t.answers = t.answers[1:]
		t.received++
	}
	t.sent++
	if rtt := r.link.probe(r.now, r.rng); rtt >= 0 {
		t.answers = append(t.answers, r.now+rtt)
		slices.Sort(t.answers)
	}
	if t.received != before {
		r.judge.Received(now)
	}
	if t.silence.Observe(now, t.received, t.sent, func() time.Duration { return r.link.rtt }) {
		r.judge.Hint(now)
	}
}

// landing is an outcome on its way.
type landing struct {
	at, rtt time.Duration // rtt is negative for silence
	id      uint64
}

const targets = 3 // as many as the shipped defaults have

func newRun(s settings, l *link, seed uint64, hear func(uplink.Transition, time.Duration)) *run {
	cfg := uplink.WatcherConfig{Uplink: "simulated", Interval: s.interval}
	for i := range targets {
		t, err := probe.ParseTarget(fmt.Sprintf("192.0.2.%d", i+1))
		if err != nil {
			panic(err) // the text above is a target
		}
		cfg.Targets = append(cfg.Targets, t)
	}
	r := &run{judge: uplink.NewJudge(cfg, epoch), link: l, rng: rand.New(rand.NewPCG(117, seed)), hear: hear}
	if s.traffic {
		r.traffic = new(traffic)
	}
	r.judge.SetPath(uplink.Path{Carrier: true, HasAddress: true, HasGateway: true}, epoch)
	r.judge.Begin(epoch)
	return r
}

// until advances to a time. What falls on one instant happens in the order
// answers, deadlines, sending.
func (r *run) until(end time.Duration) {
	for {
		next := end
		for i := range r.landing {
			next = min(next, r.landing[i].at)
		}
		if due := r.judge.Deadline(); !due.IsZero() {
			next = min(next, due.Sub(epoch))
		}
		if r.traffic != nil {
			next = min(next, r.traffic.next)
		}
		r.now = max(r.now, next)
		now := epoch.Add(r.now)
		for i := 0; i < len(r.landing); {
			l := r.landing[i]
			if l.at > r.now {
				i++
				continue
			}
			r.landing = slices.Delete(r.landing, i, i+1)
			if l.rtt < 0 {
				r.judge.Miss(l.id, now, errSilence)
			} else {
				r.judge.Reply(l.id, now, l.rtt)
			}
		}
		r.watch(now)
		r.judge.Tick(now)
		for {
			at, index, ok := r.judge.Next()
			if !ok || at.After(now) {
				break
			}
			r.send(index, now)
		}
		for _, t := range r.judge.Take() {
			r.hear(t, r.now)
		}
		if r.now >= end {
			return
		}
	}
}

func (r *run) send(index int, now time.Time) {
	r.probes++
	l := landing{id: r.judge.Sent(index, now), rtt: r.link.probe(r.now, r.rng)}
	l.at = r.now + l.rtt
	if l.rtt < 0 || l.rtt > probe.DefaultTimeout {
		l.rtt, l.at = -1, r.now+probe.DefaultTimeout
	}
	r.landing = append(r.landing, l)
}
