package main

import (
	"math"
	"math/rand/v2"
	"time"
)

// forever is a time that no run reaches.
const forever = time.Duration(math.MaxInt64)

// link is a path to the targets and back. Times count from the run's beginning.
type link struct {
	rtt    time.Duration // without jitter
	jitter time.Duration // mean of what is added, exponentially distributed
	there  direction
	back   direction
}

// direction is one half of a link.
type direction struct {
	loss   float64 // independent, 0..1
	bursts *bursts // nil for none
	queue  *fifo   // at its beginning; nil for none
	from   time.Duration
	hole   hole
}

// hole says where a direction ends from its time on.
type hole uint8

const (
	none hole = iota
	near      // at our end: what is under way is lost too
	far       // in the middle
)

// probe returns what becomes of a probe that leaves at a time: its answer's rtt,
// negative for none.
func (l *link) probe(at time.Duration, rng *rand.Rand) time.Duration {
	rtt := l.rtt + time.Duration(rng.ExpFloat64()*float64(l.jitter))
	wait := time.Duration(0)
	if l.there.queue != nil {
		if wait = l.there.queue.wait(at, rng); wait < 0 {
			return -1
		}
	}
	sent := at + wait
	if l.there.loses(at, at, sent+rtt/4, rng) || l.back.loses(sent+rtt/2, sent+rtt, sent+rtt*3/4, rng) {
		return -1
	}
	return wait + rtt
}

// passes reports whether what leaves the queue at a time comes back.
func (l *link) passes(at time.Duration, rng *rand.Rand) bool {
	return !l.there.loses(at, at, at+l.rtt/4, rng) && !l.back.loses(at+l.rtt/2, at+l.rtt, at+l.rtt*3/4, rng)
}

// loses reports whether a packet is lost that enters a direction at one time and
// passes its near end and its middle at others.
func (d *direction) loses(enters, nearEnd, middle time.Duration, rng *rand.Rand) bool {
	lost := d.loss > 0 && rng.Float64() < d.loss
	if d.bursts != nil && d.bursts.lose(enters, rng) {
		lost = true
	}
	switch d.hole {
	case near:
		return lost || nearEnd >= d.from
	case far:
		return lost || middle >= d.from
	}
	return lost
}

// bursts is the model of Gilbert and Elliott in continuous time: the link is good
// or bad for spans that are exponentially distributed, and bad loses everything.
type bursts struct {
	good, bad time.Duration // means
	isBad     bool
	until     time.Duration
}

// newBursts returns a model that loses a share of all packets, in bursts of a
// mean length.
func newBursts(share float64, mean time.Duration) *bursts {
	return &bursts{good: time.Duration(float64(mean) * (1 - share) / share), bad: mean, isBad: true}
}

func (b *bursts) lose(at time.Duration, rng *rand.Rand) bool {
	for at >= b.until {
		b.isBad = !b.isBad
		mean := b.good
		if b.isBad {
			mean = b.bad
		}
		b.until += 1 + time.Duration(rng.ExpFloat64()*float64(mean))
	}
	return b.isBad
}
