package uplink

import "time"

// oneWaySpan is how long nothing may come back for what was sent before that
// looks wrong, besides the time that an answer takes.
const oneWaySpan = 200 * time.Millisecond

// OneWayDetector watches a device's packet counters for the sign that traffic leaves
// and none comes back. It is a reason to probe at once, never a verdict: traffic
// may be one-way. The zero OneWayDetector is ready to use.
type OneWayDetector struct {
	rx, tx  uint64
	seen    bool
	waiting bool // sent since the latest packet that came in
	since   time.Time
}

// Observe takes the counters as they are now, and asks for the round-trip time of
// the uplink where that matters. It reports whether for [oneWaySpan] and that time nothing has come
// back for what was sent; it reports the same silence again after as long again.
func (s *OneWayDetector) Observe(now time.Time, rx, tx uint64, rtt func() time.Duration) bool {
	before := *s
	s.rx, s.tx, s.seen = rx, tx, true
	switch {
	case !before.seen || rx != before.rx:
		s.waiting = false
	case !before.waiting && tx != before.tx:
		s.waiting, s.since = true, now
	case before.waiting && now.Sub(before.since) >= oneWaySpan && now.Sub(before.since) >= oneWaySpan+rtt():
		// Whether it goes on is for what is sent from now on to show.
		s.waiting = false
		return true
	}
	return false
}
