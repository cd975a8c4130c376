package ndisc

import (
	"net/netip"
	"time"
)

// When to advertise (RFC 4861 section 6.2 and 10).
const (
	// MaxRtrAdvInterval: lifetimes of 2700 s and 1800 s survive the loss of two advertisements in a row.
	maxInterval = 600 * time.Second
	// MinRtrAdvInterval is the greatest share of it that is allowed. So there are seven an hour on average, as
	// RFC 7772 asks for the batteries of hosts.
	minIntervalShare = 0.75
	// Short lifetimes make advertisements come more often: three within the shortest, but no more often than
	// at the start.
	perLifetime = 3

	initialAdverts     = 3
	initialMax         = 16 * time.Second
	initialMin         = 12 * time.Second // apart from other routers that start with us
	burstAdverts       = 3
	minDelay           = 3 * time.Second // MIN_DELAY_BETWEEN_RAS
	maxAnswerDelay     = 500 * time.Millisecond
	sendAgain          = time.Second // after a failure
	maxSolicitors      = 32          // answered one by one
	finalAdverts       = 3           // MAX_FINAL_RTR_ADVERTISEMENTS
	urgentAdvertsInRow = 6           // at a start: a few leases, one after the other, and then a failure
)

// schedule is the pure part of an Advertiser that knows when.
type schedule struct {
	rand func() float64 // uniform in [0, 1)

	up      bool
	content bool // there is something to say

	initial int       // still to be sent soon after the start
	burst   int       // still to be sent soon after a change
	last    time.Time // of the latest multicast one
	next    time.Time // of the next multicast one; zero: none is due
	// tokens grows by one each minDelay up to urgentAdvertsInRow, and each multicast advertisement costs one.
	// RFC 4861 section 6.2.6 wants minDelay between any two of them. That a prefix is dead cannot wait for
	// it: each second costs every host's connections. So a change goes out at once while there are tokens,
	// which keeps to that rate in the long run, also when changes come without an end.
	tokens     float64
	refilledAt time.Time
	pending    map[netip.Addr]time.Time // answers to single hosts
}

func newSchedule(random func() float64) *schedule {
	return &schedule{rand: random, tokens: urgentAdvertsInRow, pending: map[netip.Addr]time.Time{}}
}

func (s *schedule) between(from, to time.Duration) time.Duration {
	return from + time.Duration(s.rand()*float64(to-from))
}

// linkUp begins anew: hosts that were cut off may have missed anything.
func (s *schedule) linkUp(now time.Time) {
	s.up, s.initial = true, initialAdverts
	if s.content {
		s.next = s.soonest(now)
	}
}

func (s *schedule) linkDown() {
	s.up, s.burst, s.next = false, 0, time.Time{}
	clear(s.pending)
}

// begin is told that there is something to say, stop that there is nothing any more.
func (s *schedule) begin(now time.Time) {
	s.content, s.initial = true, initialAdverts
	if s.up {
		s.next = s.soonest(now)
	}
}

func (s *schedule) stop() {
	s.content, s.next, s.burst = false, time.Time{}, 0
	clear(s.pending)
}

// soonest is when the rate allows another multicast advertisement.
func (s *schedule) soonest(now time.Time) time.Time {
	if t := s.last.Add(minDelay); !s.last.IsZero() && now.Before(t) {
		return t
	}
	return now
}

// changed is told of a change of the content.
func (s *schedule) changed(c change, now time.Time) {
	if !s.up || c == same {
		return // linkUp sends the content of then
	}
	when := s.soonest(now)
	if c == urgent {
		s.burst = burstAdverts
		s.refill(now)
		if s.tokens >= 1 {
			when = now
		}
	}
	s.next = earlier(s.next, when)
}

func (s *schedule) refill(now time.Time) {
	if !s.refilledAt.IsZero() {
		s.tokens = min(urgentAdvertsInRow, s.tokens+max(float64(now.Sub(s.refilledAt)), 0)/float64(minDelay))
	}
	s.refilledAt = now
}

// solicited is told of a solicitation. A host that has a link-local address is answered alone, so that the
// others may sleep on (RFC 7772); a wider source says nothing about how to reach it on this link.
func (s *schedule) solicited(from netip.Addr, now time.Time) {
	if !s.up || !s.content {
		return
	}
	when := now.Add(s.between(0, maxAnswerDelay))
	if _, waiting := s.pending[from]; from.IsLinkLocalUnicast() && (waiting || len(s.pending) < maxSolicitors) {
		if !waiting {
			s.pending[from] = when
		}
		return
	}
	if t := s.soonest(now); t.After(now) {
		when = t.Add(when.Sub(now)) // RFC 4861 section 6.2.6
	}
	s.next = earlier(s.next, when)
}

// deadline is when due has something to do; zero for never.
func (s *schedule) deadline() time.Time {
	d := s.next
	for _, t := range s.pending {
		d = earlier(d, t)
	}
	return d
}

// due returns to whom to advertise now. One to all answers everybody who waits.
func (s *schedule) due(now time.Time) []netip.Addr {
	if !s.next.IsZero() && !now.Before(s.next) {
		clear(s.pending)
		return []netip.Addr{allNodes}
	}
	var to []netip.Addr
	for host, t := range s.pending {
		if !now.Before(t) {
			to = append(to, host)
			delete(s.pending, host)
		}
	}
	return to
}

// sent is told that an advertisement to all went out; least is the shortest lifetime in it.
func (s *schedule) sent(least time.Duration, now time.Time) {
	s.last = now
	s.refill(now)
	s.tokens = max(s.tokens-1, 0)
	longest := min(maxInterval, max(least/perLifetime, initialMax))
	wait := s.between(time.Duration(minIntervalShare*float64(longest)), longest)
	if s.initial > 0 {
		s.initial--
	}
	if s.initial > 0 {
		wait = min(wait, s.between(initialMin, initialMax))
	}
	if s.burst > 0 {
		s.burst--
	}
	if s.burst > 0 {
		wait = minDelay
	}
	s.next = now.Add(wait)
}

// failed is told that an advertisement to all did not go out.
func (s *schedule) failed(now time.Time) { s.next = now.Add(sendAgain) }

// finalRA makes the last advertisements due.
func (s *schedule) finalRA(now time.Time) {
	s.content, s.initial, s.burst = true, 0, finalAdverts
	clear(s.pending)
	if s.up {
		s.next = now
	}
}
