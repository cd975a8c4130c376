package uplink

import "time"

// oneWaySpan is how long nothing may come back for what was sent before that
// looks wrong, besides the time that an answer takes; oneWaySpanKnown on a link
// that is known to be silent now and then.
const (
	oneWaySpan      = 150 * time.Millisecond
	oneWaySpanKnown = 230 * time.Millisecond
)

// What neighbours on the line send, and not what is answered, are at most chatterRate packets a second and one more, where
// at least chatterShare times as many are sent.
const (
	chatterRate  = 20
	chatterShare = 16
)

// OneWayDetector watches a device's packet counters for the sign that traffic leaves
// and none comes back. It is a reason to probe at once, never a verdict: traffic
// may be one-way. The zero OneWayDetector is ready to use.
type OneWayDetector struct {
	latest  oneWayReading
	waiting bool          // sent since the latest answer
	since   oneWayReading // the first that has shown that
}

// oneWayReading is one of the counters; a zero time is none.
type oneWayReading struct {
	at     time.Time
	rx, tx uint64
}

// Observe takes the counters as they are now, and asks how long the uplink may be silent where that matters. It
// reports whether nothing has come back for so long for what was sent; it reports the same silence again after as long again.
func (s *OneWayDetector) Observe(now time.Time, rx, tx uint64, patience func() time.Duration) bool {
	before := s.latest
	s.latest = oneWayReading{now, rx, tx}
	switch {
	case before.at.IsZero():
	case !s.waiting:
		if s.waiting = tx != before.tx && !answered(before, s.latest); s.waiting {
			s.since = s.latest
		}
	case answered(s.since, s.latest):
		s.waiting = false
	case !now.Before(s.Due(patience)):
		// Whether it goes on is for what is sent from now on to show.
		s.waiting = false
		return true
	}
	return false
}

// answered reports whether more has come in between two readings than neighbours on the line send: they ask who has which address, and are
// asked.
func answered(from, to oneWayReading) bool {
	received, sent := to.rx-from.rx, to.tx-from.tx
	return received > 0 && (received*chatterShare > sent || float64(received) > 1+chatterRate*to.at.Sub(from.at).Seconds())
}

// Due is when silence will have lasted for so long: Observe tells no sooner. It is zero while nothing is waited for.
func (s *OneWayDetector) Due(patience func() time.Duration) time.Time {
	if !s.waiting {
		return time.Time{}
	}
	return s.since.at.Add(max(oneWaySpan, patience()))
}
