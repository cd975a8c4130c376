package uplink

import (
	"math"
	"time"
)

// The figures of flap damping, in the terms of RFC 2439.
const (
	downPenalty    = 1000. // for each down, none for a suspect
	suppressAbove  = 2000.
	reuseBelow     = 750.
	halfLife       = 5 * time.Minute
	maxSuppression = 30 * time.Minute

	// The second down within quietAfter is held down for firstHoldDown, each further
	// one for twice the time.
	firstHoldDown = 30 * time.Second
	maxHoldDown   = 15 * time.Minute
	quietAfter    = time.Hour
)

// Damping counts how often an uplink went down. Two times it suffices that it
// works again; beyond that an uplink has to show for how long. It is pure, and the
// zero Damping is ready to use.
type Damping struct {
	penalty float64
	at      time.Time // when the penalty was that

	since, until time.Time // of the suppression; until is zero for never suppressed

	downs   int // that the hold-down counts
	touched time.Time
}

// Down counts a down.
func (d *Damping) Down(now time.Time) {
	penalty := d.Penalty(now)
	suppressed := now.Before(d.until)
	if !suppressed && !d.until.IsZero() {
		// Where the longest suppression ended it, the rest is forgiven.
		penalty, d.until = min(penalty, reuseBelow), time.Time{}
	}
	d.penalty, d.at = penalty+downPenalty, now
	if !suppressed && d.penalty > suppressAbove {
		suppressed, d.since = true, now
	}
	if suppressed {
		d.until = now.Add(time.Duration(float64(halfLife) * math.Log2(d.penalty/reuseBelow)))
		if last := d.since.Add(maxSuppression); d.until.After(last) {
			d.until = last
		}
	}
	if now.Sub(d.touched) > quietAfter {
		d.downs = 0
	}
	d.downs, d.touched = d.downs+1, now
}

// Up notes that the uplink is trusted again: the quiet hour begins.
func (d *Damping) Up(now time.Time) { d.touched = now }

// Penalty returns what is left of the points.
func (d *Damping) Penalty(now time.Time) float64 {
	if d.penalty == 0 {
		return 0
	}
	return d.penalty * math.Exp2(-now.Sub(d.at).Seconds()/halfLife.Seconds())
}

// Suppressed reports whether the uplink has gone down too often to carry traffic
// while there is another one, and until when. A further down puts that off, but
// never to more than half an hour from the beginning.
func (d *Damping) Suppressed(now time.Time) (until time.Time, suppressed bool) {
	return d.until, now.Before(d.until)
}

// HoldDown returns for how long an uplink that answers again is not trusted yet: 0
// after the first down in a quiet hour, then 30 s, doubling to 15 min.
func (d *Damping) HoldDown() time.Duration {
	if d.downs < 2 {
		return 0
	}
	hold := firstHoldDown
	for range d.downs - 2 {
		if hold *= 2; hold >= maxHoldDown {
			return maxHoldDown
		}
	}
	return hold
}

// DampingState is what is known of an uplink's downs, to be kept over a restart.
type DampingState struct {
	Penalty float64   `json:"penalty"`
	At      time.Time `json:"at"` // when the penalty was that
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until"` // of the suppression
	Downs   int       `json:"downs"`
	Touched time.Time `json:"touched"` // the latest down, or the end of it
}

// State returns what is known.
func (d *Damping) State() DampingState {
	return DampingState{Penalty: d.penalty, At: d.at, Since: d.since, Until: d.until, Downs: d.downs, Touched: d.touched}
}

// Restore continues from a saved state. What lies in the future, because the clock was wrong then or is now, would
// suppress for as long: it is forgotten.
func (d *Damping) Restore(s DampingState, now time.Time) {
	if s.Penalty < 0 || s.Downs < 0 || s.At.After(now) || s.Since.After(now) || s.Touched.After(now) || s.Until.After(now.Add(maxSuppression)) {
		return
	}
	*d = Damping{penalty: s.Penalty, at: s.At, since: s.Since, until: s.Until, downs: s.Downs, touched: s.Touched}
}
