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

	// maxPenalty is more than one down each second adds up to.
	maxPenalty = 1e6

	// The second down within quietAfter is held down for firstHoldDown, each further
	// one for twice the time.
	firstHoldDown = 30 * time.Second
	maxHoldDown   = 15 * time.Minute
	quietAfter    = time.Hour
)

// Damping counts how often an uplink went down. Two times it suffices that it
// works again; beyond that an uplink has to show for how long. It is pure, and the
// zero Damping is ready to use.
type Damping struct{ s DampingState }

// DampingState is what a Damping knows, to be kept over a restart.
type DampingState struct {
	Penalty float64   `json:"penalty"`
	At      time.Time `json:"at"` // when the penalty was that
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until"`   // of the suppression; zero for never suppressed
	Downs   int       `json:"downs"`   // that the hold-down counts
	Touched time.Time `json:"touched"` // the latest down, or the end of it
}

// Down counts a down.
func (d *Damping) Down(now time.Time) {
	penalty := d.Penalty(now)
	suppressed := now.Before(d.s.Until)
	if !suppressed && !d.s.Until.IsZero() {
		// Where the longest suppression ended it, the rest is forgiven.
		penalty, d.s.Until = min(penalty, reuseBelow), time.Time{}
	}
	d.s.Penalty, d.s.At = penalty+downPenalty, now
	if !suppressed && d.s.Penalty > suppressAbove {
		suppressed, d.s.Since = true, now
	}
	if suppressed {
		d.s.Until = now.Add(time.Duration(float64(halfLife) * math.Log2(d.s.Penalty/reuseBelow)))
		if last := d.s.Since.Add(maxSuppression); d.s.Until.After(last) {
			d.s.Until = last
		}
	}
	if now.Sub(d.s.Touched) > quietAfter {
		d.s.Downs = 0
	}
	d.s.Downs, d.s.Touched = d.s.Downs+1, now
}

// Up notes that the uplink is trusted again: the quiet hour begins.
func (d *Damping) Up(now time.Time) { d.s.Touched = now }

// Penalty returns what is left of the points.
func (d *Damping) Penalty(now time.Time) float64 {
	if d.s.Penalty == 0 {
		return 0
	}
	return d.s.Penalty * math.Exp2(-max(0, now.Sub(d.s.At)).Seconds()/halfLife.Seconds())
}

// Suppressed reports whether the uplink has gone down too often to carry traffic
// while there is another one, and until when. A further down puts that off, but
// never to more than half an hour from the beginning.
func (d *Damping) Suppressed(now time.Time) (until time.Time, suppressed bool) {
	return d.s.Until, now.Before(d.s.Until)
}

// HoldDown returns for how long an uplink that answers again is not trusted yet: 0
// after the first down in a quiet hour, then 30 s, doubling to 15 min.
func (d *Damping) HoldDown() time.Duration {
	if d.s.Downs < 2 {
		return 0
	}
	hold := firstHoldDown
	for range d.s.Downs - 2 {
		if hold *= 2; hold >= maxHoldDown {
			return maxHoldDown
		}
	}
	return hold
}

// State returns what is known.
func (d *Damping) State() DampingState { return d.s }

// Restore continues from a saved state. What lies in the future, because the clock was wrong then or is now, would
// suppress for as long: it is forgotten.
func (d *Damping) Restore(s DampingState, now time.Time) {
	if s.Penalty < 0 || s.Penalty > maxPenalty || s.Downs < 0 || s.Downs > maxPenalty || s.At.After(now) || s.Since.After(now) || s.Touched.After(now) || s.Until.After(now.Add(maxSuppression)) {
		return
	}
	for _, at := range []*time.Time{&s.At, &s.Since, &s.Touched, &s.Until} {
		if !at.IsZero() {
			*at = now.Add(at.Sub(now)) // from here on by the monotonic clock, whatever the other is set to
		}
	}
	d.s = s
}
