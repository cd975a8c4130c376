package uplink

import "time"

// oneWaySpan is how long nothing may come back for what was sent before that
// looks wrong, besides the time that an answer takes; oneWaySpanKnown on a link
// that is known to be silent now and then.
const (
	oneWaySpan      = 150 * time.Millisecond
	oneWaySpanKnown = 230 * time.Millisecond
)

// OneWayDetector watches a device's packet counters for the sign that traffic leaves
// and none comes back. It is a reason to probe at once, never a verdict: traffic
// may be one-way. The zero OneWayDetector is ready to use.
type OneWayDetector struct {
	rx, tx  uint64
	seen    bool
	waiting bool // sent since the latest packet that came in
	since   time.Time
}

// Observe takes the counters as they are now, and asks how long the uplink may be silent where that matters. It
// reports whether nothing has come back for so long for what was sent; it reports the same silence again after as long again.
func (s *OneWayDetector) Observe(now time.Time, rx, tx uint64, patience func() time.Duration) bool {
	before := *s
	s.rx, s.tx, s.seen = rx, tx, true
	switch {
	case !before.seen || rx != before.rx:
		s.waiting = false
	case !before.waiting && tx != before.tx:
		s.waiting, s.since = true, now
	case before.waiting && !now.Before(before.Due(patience)):
		// Whether it goes on is for what is sent from now on to show.
		s.waiting = false
		return true
	}
	return false
}

// Due is when silence will have lasted for so long: Observe tells no sooner. It is zero while nothing is waited for.
func (s *OneWayDetector) Due(patience func() time.Duration) time.Time {
	if !s.waiting {
		return time.Time{}
	}
	return s.since.Add(max(oneWaySpan, patience()))
}
