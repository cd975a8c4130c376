package uplink

import (
	"fmt"
	"math"
	"time"
)

const (
	// An uplink is loaded while it moves at least loadShare of the most that it was seen to move lately, and
	// leastLoad: below that no line of today has a queue.
	loadShare = 0.7
	leastLoad = 200e3 // bits a second
	// peakHalfLife is how fast the most is forgotten: providers slow lines down, radio gets worse.
	peakHalfLife = 10 * time.Minute
	// Times are inflated when they exceed the least of baselineSpan by their own half and by leastQueue.
	baselineSpan = 10 * time.Minute
	leastQueue   = 20 * time.Millisecond
	// Both together for congestedAfter is congestion; it ends when they were not for relievedAfter.
	congestedAfter = 2 * time.Second
	relievedAfter  = 5 * time.Second
)

// Congestion tells whether an uplink is slow because of the traffic that it carries itself: a queue that is full
// makes probes late and loses some of them. Leaving the uplink would take the queue along, so it is labelled and
// not acted on. It is pure; the zero Congestion is ready to use.
type Congestion struct {
	load, peak float64 // bits a second, in the busier direction
	loadAt     time.Time

	rtt    time.Duration
	least  [2]time.Duration // of this baselineSpan and of the one before; 0: none
	spanAt time.Time        // when this one began

	since, relieved time.Time // when it began to be, or not to be, so; zero: it is as it was
	congested       bool
	reason          string
}

// Load takes how much the device moves, in bits a second, in the direction that moves more.
func (c *Congestion) Load(bits float64, now time.Time) {
	if !c.loadAt.IsZero() {
		c.peak *= math.Exp2(-float64(now.Sub(c.loadAt)) / float64(peakHalfLife))
	}
	c.load, c.loadAt = bits, now
	c.peak = max(c.peak, bits)
	c.update(now)
}

// Times takes the smoothed round-trip time as it is now.
func (c *Congestion) Times(rtt time.Duration, now time.Time) {
	if c.spanAt.IsZero() || now.Sub(c.spanAt) >= baselineSpan {
		c.least[1], c.least[0], c.spanAt = c.least[0], 0, now
	}
	if c.rtt = rtt; c.least[0] == 0 || rtt < c.least[0] {
		c.least[0] = rtt
	}
	c.update(now)
}

// baseline is the least time lately.
func (c *Congestion) baseline() time.Duration {
	if c.least[1] > 0 {
		return min(c.least[0], c.least[1])
	}
	return c.least[0]
}

func (c *Congestion) update(now time.Time) {
	base := c.baseline()
	loaded := c.load >= leastLoad && c.load >= loadShare*c.peak
	inflated := base > 0 && c.rtt >= base+max(leastQueue, base/2)
	if loaded && inflated {
		c.reason = fmt.Sprintf("congested by its own traffic: rtt of %v instead of %v at %.3g Mbit/s", c.rtt.Round(time.Millisecond), base.Round(100*time.Microsecond), c.load/1e6)
	}
	begin, after := &c.since, congestedAfter
	if c.congested {
		begin, after = &c.relieved, relievedAfter
	}
	if (loaded && inflated) == c.congested {
		*begin = time.Time{}
		return
	}
	if begin.IsZero() {
		*begin = now
	}
	if now.Sub(*begin) >= after {
		c.congested = !c.congested
		c.since, c.relieved = time.Time{}, time.Time{}
	}
}

// Congested reports whether it is so.
func (c *Congestion) Congested() bool { return c.congested }

// Reason says what shows it, "" when it is not so.
func (c *Congestion) Reason() string {
	if !c.congested {
		return ""
	}
	return c.reason
}
