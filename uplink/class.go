package uplink

import (
	"cmp"
	"fmt"
	"time"

	"github.com/uplinkd/uplinkd/probe"
)

// Class says how good an uplink is that works. It is for choosing among uplinks
// that are otherwise alike, and changes no verdict by itself: latency may be our
// own queue, and moving our traffic would move the queue.
type Class uint8

// The classes, best first.
const (
	Good Class = iota
	Fair
	Poor
)

// String returns the class's name in the status.
func (c Class) String() string { return [...]string{"good", "fair", "poor"}[c] }

// Limits are the most that a class allows.
type Limits struct {
	RTT    time.Duration // smoothed, of the nearest target that answers
	Jitter time.Duration // of the same target
	Loss   float64       // 0..1
}

// Classes are the limits of good and fair; what is beyond is poor. Zero limits
// observe the defaults.
type Classes struct {
	Good, Fair Limits
}

// DefaultClasses are 150 ms, 30 ms, 1 % and 300 ms, 60 ms, 3 %: what calls sound
// good or tolerable over.
func DefaultClasses() Classes {
	return Classes{
		Good: Limits{150 * time.Millisecond, 30 * time.Millisecond, 0.01},
		Fair: Limits{300 * time.Millisecond, 60 * time.Millisecond, 0.03},
	}
}

func (c Classes) complete() Classes {
	d := DefaultClasses()
	c.Good, c.Fair = c.Good.or(d.Good), c.Fair.or(d.Fair)
	// A fair that allows less than good would make the classes swing.
	c.Fair.RTT, c.Fair.Jitter, c.Fair.Loss = max(c.Fair.RTT, c.Good.RTT), max(c.Fair.Jitter, c.Good.Jitter), max(c.Fair.Loss, c.Good.Loss)
	return c
}

func (l Limits) or(d Limits) Limits {
	return Limits{cmp.Or(max(l.RTT, 0), d.RTT), cmp.Or(max(l.Jitter, 0), d.Jitter), cmp.Or(max(l.Loss, 0), d.Loss)}
}

const (
	// A class gets worse when its limit was exceeded for worseAfter, and better
	// when times were below leaveShare of the limit for betterAfter.
	worseAfter  = 10 * time.Second
	betterAfter = 30 * time.Second
	leaveShare  = 0.8
)

// timeClass is the class of one time, with separate limits for entering and leaving.
type timeClass struct {
	class Class
	since time.Time // when the times began to ask for another class; zero for not
	worse bool      // for a worse one
}

// observe takes a time as it is now.
func (g *timeClass) observe(v, good, fair time.Duration, now time.Time) {
	wants := classOf(v, good, fair)
	leaves := classOf(time.Duration(float64(v)/leaveShare), good, fair)
	var after time.Duration
	switch {
	case wants > g.class:
		after = worseAfter
	case leaves < g.class:
		wants, after = leaves, betterAfter
	default:
		g.since = time.Time{}
		return
	}
	if worse := wants > g.class; g.since.IsZero() || worse != g.worse {
		g.since, g.worse = now, worse
	}
	if now.Sub(g.since) >= after {
		g.class, g.since = wants, time.Time{}
	}
}

func classOf(v, good, fair time.Duration) Class {
	switch {
	case v <= good:
		return Good
	case v <= fair:
		return Fair
	}
	return Poor
}

// Quality is what is known about how well an uplink works: its loss, and the
// class that loss and times make together. It is pure. Make one with [NewQuality].
type Quality struct {
	limits      Classes
	loss        Loss
	rtt, jitter timeClass
	congestion  Congestion
	lastRTT     time.Duration
	lastJitter  time.Duration
}

// NewQuality returns a Quality that is good until shown otherwise.
func NewQuality(c Classes) *Quality {
	c = c.complete()
	return &Quality{limits: c, loss: newLoss(c)}
}

// Times takes the times as they are now.
func (q *Quality) Times(nearest probe.Times, now time.Time) {
	rtt, jitter := nearest.RTT, nearest.Jitter
	q.lastRTT, q.lastJitter = rtt, jitter
	q.congestion.Times(rtt, nearest.Sent, now)
	q.rtt.observe(rtt, q.limits.Good.RTT, q.limits.Fair.RTT, now)
	q.jitter.observe(jitter, q.limits.Good.Jitter, q.limits.Fair.Jitter, now)
}

// Class returns the worst of the three classes.
func (q *Quality) Class() Class { return max(q.loss.Class(), q.rtt.class, q.jitter.class) }

// Reason says what makes the class, "" when it is good.
func (q *Quality) Reason() string {
	c := q.Class()
	switch {
	case c == Good:
		return ""
	case c == q.loss.Class():
		return fmt.Sprintf("%v: loss above %.3g %%", c, 100*q.limit(c).Loss)
	case c == q.rtt.class:
		return fmt.Sprintf("%v: RTT %d ms (limit %d ms)", c, q.lastRTT.Milliseconds(), q.limit(c).RTT.Milliseconds())
	default:
		return fmt.Sprintf("%v: jitter %d ms (limit %d ms)", c, q.lastJitter.Milliseconds(), q.limit(c).Jitter.Milliseconds())
	}
}

// limit returns the limits that a class is beyond.
func (q *Quality) limit(c Class) Limits {
	if c == Fair {
		return q.limits.Good
	}
	return q.limits.Fair
}

// forget begins anew with a path that came back.
func (q *Quality) forget() {
	q.loss.forget()
	q.rtt, q.jitter = timeClass{}, timeClass{}
}
