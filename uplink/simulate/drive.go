package main

import (
	"errors"
	"fmt"
	"math"
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
	eval    *uplink.Evaluator
	link    *link
	rng     *rand.Rand
	now     time.Duration
	pending []pending
	probes  int
	traffic *traffic // nil for an idle line
	// onChange gets every transition.
	onChange func(uplink.Transition, time.Duration)
}

// traffic is other people's packets on the link, and the reading of the device's
// counters: one packet leaves before each, and is answered if the link lets it; or an upload goes on.
type traffic struct {
	oneWay   uplink.OneWayDetector
	load     uplink.LoadMeter
	stream   uplink.StreamDetector
	step     uplink.StepDetector
	next     time.Duration
	late     time.Duration         // when an answer that is waited for will be late, or never
	device   uplink.DeviceCounters // as they were read last
	received uint64                // packets, by now
	answers  []time.Duration       // when they come in
	queue    *fifo                 // of an upload; nil for none
}

// The monitor reads counters more often while a device is used.
const (
	readingInterval     = 50 * ms
	idleReadingInterval = 500 * ms
	never               = time.Duration(math.MaxInt64)
)

// upload goes on until the next reading: it fills its queue at what our device sends, so that the queue is another
// one's, and what leaves the queue is acknowledged where it is TCP, every second packet.
func (t *traffic) upload(r *run, from, to time.Duration) {
	f := t.queue
	for at := from; at < to; at += 10 * ms {
		if at < f.from {
			continue
		}
		f.advance(at)
		sent := f.rate * lineRate * (10 * ms).Seconds()
		t.device.SentBytes += uint64(sent)
		t.device.Sent += uint64(sent / packetBytes)
		if every := time.Duration(2 * packetBytes / lineRate * float64(time.Second)); f.tcp && at/every != (at+10*ms)/every && r.link.passes(at, r.rng) {
			t.answers = append(t.answers, at+r.link.rtt)
		}
	}
}

// readCounters is what the monitor does at each reading.
func (r *run) readCounters(now time.Time) {
	t := r.traffic
	if t == nil || r.now < min(t.next, t.late) {
		return
	}
	for len(t.answers) > 0 && t.answers[0] <= r.now {
		t.answers = t.answers[1:]
		t.received++
	}
	if r.now >= t.next {
		t.next += readingInterval
		t.read(r, now)
	}
	if t.oneWay.Observe(now, t.received, t.device.Sent, r.eval.Patience) {
		r.eval.HintSilence(now)
	}
	t.late = never
	if due := t.oneWay.Due(r.eval.Patience); !due.IsZero() {
		t.late = due.Sub(epoch)
	}
}

// read is a reading that is not made for a late answer alone.
func (t *traffic) read(r *run, now time.Time) {
	if t.queue != nil {
		t.upload(r, max(t.device.At.Sub(epoch), 0), r.now)
		if t.device.SentBytes == 0 {
			t.next += idleReadingInterval - readingInterval
		}
	} else {
		t.device.Sent++
		if rtt := r.link.probe(r.now, r.rng); rtt >= 0 {
			t.answers = append(t.answers, r.now+rtt)
			slices.Sort(t.answers)
		}
	}
	inbound := t.device.Received != t.received
	t.device.At, t.device.Received = now, t.received
	if inbound {
		r.eval.Received(now)
	}
	if t.stream.Observe(t.device) {
		r.eval.InboundStream(now)
	}
	if load, ok := t.load.Observe(t.device); ok {
		r.eval.Load(load, now)
	}
	if began, ok := t.step.Observe(t.device); ok {
		r.eval.LoadStep(began)
	}
}

// pending is an outcome that is still to come.
type pending struct {
	at, rtt time.Duration // rtt is negative for silence
	id      uint64
}

const targets = 3 // as many as the shipped defaults have

func newRun(s settings, l *link, seed uint64, onChange func(uplink.Transition, time.Duration)) *run {
	cfg := uplink.WatcherConfig{Uplink: "simulated", Interval: s.interval}
	for i := range targets {
		t, err := probe.ParseTarget(fmt.Sprintf("192.0.2.%d", i+1))
		if err != nil {
			panic(err) // the text above is a target
		}
		cfg.Targets = append(cfg.Targets, t)
	}
	r := &run{eval: uplink.NewEvaluator(cfg, epoch), link: l, rng: rand.New(rand.NewPCG(117, seed)), onChange: onChange}
	if s.traffic {
		r.traffic = &traffic{late: never}
	}
	r.eval.SetLink(uplink.Link{Carrier: true, HasAddress: true, HasGateway: true}, epoch)
	r.eval.Begin(epoch)
	return r
}

// until advances to a time. What falls on one instant happens in the order
// answers, deadlines, sending.
func (r *run) until(end time.Duration) {
	for {
		next := end
		for i := range r.pending {
			next = min(next, r.pending[i].at)
		}
		if due := r.eval.Deadline(); !due.IsZero() {
			next = min(next, due.Sub(epoch))
		}
		if r.traffic != nil {
			next = min(next, r.traffic.next, r.traffic.late)
		}
		r.now = max(r.now, next)
		now := epoch.Add(r.now)
		for i := 0; i < len(r.pending); {
			l := r.pending[i]
			if l.at > r.now {
				i++
				continue
			}
			r.pending = slices.Delete(r.pending, i, i+1)
			if l.rtt < 0 {
				r.eval.Miss(l.id, now, errSilence)
			} else {
				r.eval.Reply(l.id, now, l.rtt)
			}
		}
		r.readCounters(now)
		r.eval.Tick(now)
		for {
			at, index, ok := r.eval.Next()
			if !ok || at.After(now) {
				break
			}
			r.send(index, now)
		}
		for _, t := range r.eval.Take() {
			r.onChange(t, r.now)
		}
		if r.now >= end {
			return
		}
	}
}

func (r *run) send(index int, now time.Time) {
	r.probes++
	l := pending{id: r.eval.Sent(index, now), rtt: r.link.probe(r.now, r.rng)}
	l.at = r.now + l.rtt
	if window := probe.ListeningWindow(0, 0); l.rtt < 0 || l.rtt > window {
		l.rtt, l.at = -1, r.now+window
	}
	r.pending = append(r.pending, l)
}
