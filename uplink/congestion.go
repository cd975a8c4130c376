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
	// sustained is how many loads make the mean that a line with a queue carries. As many as that before may fill it.
	sustained = 10
	// peakHalfLife is how fast the most is forgotten: providers slow lines down, radio gets worse.
	peakHalfLife = 10 * time.Minute
	// Times are inflated when they exceed the least of baselineSpan by their own half and by leastQueue. While the
	// uplink is loaded that span is loadedFactor times as long: a queue stands for as long as an upload takes.
	baselineSpan = 10 * time.Minute
	loadedFactor = 6
	leastQueue   = 20 * time.Millisecond
	// longestQueue is how many loads, of a second each, an answer may be late for and still tell of the one before its probe.
	longestQueue = 16
	// Both together for congestedAfter is congestion; it ends when they were not for relievedAfter.
	congestedAfter = 2 * time.Second
	relievedAfter  = 5 * time.Second
)

// Congestion tells whether an uplink is slow because of the traffic that it carries itself: a queue that is full
// makes probes late and loses some of them. Leaving the uplink would take the queue along, so it is labelled and
// not acted on. It is pure; the zero Congestion is ready to use.
type Congestion struct {
	received, sent direction
	loads          []timedLoad // of which no probe has told that was sent since, oldest first, and the one in which the latest was sent
	loadAt         time.Time
	asked          askedProbe

	rtt   time.Duration
	rttAt time.Time
	least [2]time.Duration // of this baselineSpan and of the one before; 0: none
	age   time.Duration    // of this one

	since, relieved time.Time // when it began to be, or not to be, so; zero: it is as it was
	congested       bool
	reason          string
}

// timedLoad is a load, and the window that it is the mean of.
type timedLoad struct {
	Load
	from, at time.Time
}

// askedProbe is the first probe that was sent in a window that has not ended when it was answered; zero for none.
type askedProbe struct {
	sent  time.Time
	queue bool // it met one
}

// direction is one of the two that a device moves packets in; most lines carry less in one than in the other.
type direction struct {
	load, peak float64 // bits a second
	// What a device sends is not what the line carries while that fills a queue of the modem's. So a load counts
	// towards the peak when a probe that was sent after it has met no queue, as a mean of the time until that was sent, in which
	// a queue may have drained. While probes meet one, the mean of sustained does.
	queued int     // loads since probes meet one
	sum    float64 // of the latest of them, up to sustained
}

func (d *direction) observe(bits, kept float64) { d.load, d.peak = bits, d.peak*kept }

// judge takes a load, the mean until a probe that was sent after it, and whether that has met a queue.
func (d *direction) judge(bits, mean float64, queue bool) {
	if !queue {
		d.peak, d.sum, d.queued = max(d.peak, mean), 0, 0
		return
	}
	d.sum, d.queued = d.sum+bits, d.queued+1
	if d.queued%sustained == 0 {
		if d.queued > sustained {
			d.peak = max(d.peak, d.sum/sustained)
		}
		d.sum = 0
	}
}

func (d *direction) loaded() bool { return d.load >= leastLoad && d.load >= loadShare*d.peak }

// Load takes how much the device moves.
func (c *Congestion) Load(load Load, now time.Time) {
	kept := 1.
	if !c.loadAt.IsZero() {
		kept = math.Exp2(-float64(now.Sub(c.loadAt)) / float64(peakHalfLife))
	}
	from := c.loadAt
	if oldest := now.Add(-2 * loadWindow); from.Before(oldest) { // there was none for a while
		from = now.Add(-loadWindow)
	}
	c.loadAt = now
	c.received.observe(load.Received, kept)
	c.sent.observe(load.Sent, kept)
	if len(c.loads) == longestQueue {
		c.loads = append(c.loads[:0], c.loads[1:]...)
	}
	c.loads = append(c.loads, timedLoad{load, from, now})
	if asked := c.asked; !asked.sent.IsZero() {
		c.asked = askedProbe{}
		c.judge(asked.sent, asked.queue)
	}
	c.update(now)
}

// Times takes the smoothed round-trip time as it is now, and when the probe was sent whose answer is the latest that it has in it.
func (c *Congestion) Times(rtt time.Duration, sent, now time.Time) {
	if !c.rttAt.IsZero() {
		aged := now.Sub(c.rttAt)
		if c.Loaded() {
			aged /= loadedFactor
		}
		c.age += aged
	}
	c.rttAt = now
	if c.age >= baselineSpan {
		c.least[1], c.least[0], c.age = c.least[0], 0, 0
	}
	if c.rtt = rtt; c.least[0] == 0 || rtt < c.least[0] {
		c.least[0] = rtt
	}
	c.judge(sent, c.inflated())
	c.update(now)
}

// judge has a probe tell of the load before the window that it was sent in. That window has to have ended, and the first probe in it tells.
func (c *Congestion) judge(sent time.Time, queue bool) {
	if !sent.Before(c.loadAt) {
		if c.asked.sent.IsZero() {
			c.asked = askedProbe{sent, queue}
		}
		return
	}
	in := 0
	for in < len(c.loads) && !sent.Before(c.loads[in].at) {
		in++
	}
	if in == 0 || in == len(c.loads) {
		return
	}
	before, during := c.loads[in-1], c.loads[in]
	whole, part, span := before.at.Sub(before.from).Seconds(), max(sent.Sub(during.from), 0).Seconds(), sent.Sub(before.from).Seconds()
	mean := func(before, during float64) float64 { return (before*whole + during*part) / span }
	c.received.judge(before.Received, mean(before.Received, during.Received), queue)
	c.sent.judge(before.Sent, mean(before.Sent, during.Sent), queue)
	c.loads = append(c.loads[:0], c.loads[in:]...)
}

func (c *Congestion) inflated() bool {
	base := c.baseline()
	return base > 0 && c.rtt >= base+max(leastQueue, base/2)
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
	load, loaded := 0., false
	for _, d := range []*direction{&c.received, &c.sent} {
		if d.loaded() {
			load, loaded = max(load, d.load), true
		}
	}
	inflated := c.inflated()
	if loaded && inflated {
		c.reason = fmt.Sprintf("congested by its own traffic: RTT %v at %.3g Mbit/s, %v when idle", c.rtt.Round(time.Millisecond), load/1e6, base.Round(100*time.Microsecond))
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

// Loaded reports whether the uplink moves as much as makes a queue.
func (c *Congestion) Loaded() bool { return c.received.loaded() || c.sent.loaded() }

// Congested reports whether it is so.
func (c *Congestion) Congested() bool { return c.congested }

// Reason says what shows it, "" when it is not so.
func (c *Congestion) Reason() string {
	if !c.congested {
		return ""
	}
	return c.reason
}
