package uplink

import (
	"math"
	"time"
)

const (
	// loadMemory is the time constant of the mean of the load: a page that loads fills no line for long.
	loadMemory = 5 * time.Second
	// A line that is full has room again when the mean was below roomShare of the limit for leastHold. When it is full again within
	// refillSpan that doubles, up to longestHold; else it halves.
	roomShare   = 0.75
	leastHold   = 30 * time.Second
	longestHold = 16 * time.Minute
	refillSpan  = 10 * time.Minute
)

// Bandwidth is what a line carries, in bits a second; 0: not known, and no limit.
type Bandwidth struct{ Received, Sent float64 }

// Share returns the part of the bandwidth that a load is, in the direction where that is more.
func (b Bandwidth) Share(l Load) float64 {
	share := 0.
	if b.Received > 0 {
		share = l.Received / b.Received
	}
	if b.Sent > 0 {
		share = max(share, l.Sent/b.Sent)
	}
	return share
}

// Overflow tells whether a line is so full that new flows use others too. It is pure; the zero Overflow is ready to use.
type Overflow struct {
	mean float64
	at   time.Time
	full bool
	room time.Time     // since when there is room
	hold time.Duration // how long there must be
	left time.Time     // when it was full last
}

// Observe takes the part of the bandwidth that the line carries now, of which limit is too much; 0: no part is.
func (o *Overflow) Observe(share, limit float64, now time.Time) {
	if o.at.IsZero() || now.Before(o.at) {
		o.mean = 0
	} else {
		elapsed := min(now.Sub(o.at), loadMemory) // of one reading after a suspend, nothing follows for all that time
		o.mean += (share - o.mean) * (1 - math.Exp(-float64(elapsed)/float64(loadMemory)))
	}
	o.at = now
	switch {
	case limit <= 0:
		o.full = false
	case !o.full && o.mean >= limit:
		switch {
		case o.hold == 0:
			o.hold = leastHold
		case now.Sub(o.left) < refillSpan:
			o.hold = min(2*o.hold, longestHold)
		default:
			o.hold = max(o.hold/2, leastHold)
		}
		o.full, o.room = true, time.Time{}
	case o.full && o.mean >= roomShare*limit:
		o.room = time.Time{}
	case o.full && o.room.IsZero():
		o.room = now
	case o.full && now.Sub(o.room) >= o.hold:
		o.full, o.left = false, now
	}
}

// Full reports whether new flows are to use others too.
func (o *Overflow) Full() bool { return o.full }

// Mean returns the part of the bandwidth that the line carries, over some seconds.
func (o *Overflow) Mean() float64 { return o.mean }
