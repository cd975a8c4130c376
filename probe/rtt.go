package probe

import "time"

const (
	// MinTimeout is the least adaptive timeout: below it, the scheduling of two
	// hosts and a busy queue would look like loss.
	MinTimeout = 150 * time.Millisecond
	// granularity is the G of RFC 6298 (2.3): on a long and steady path rttvar
	// tends to nothing, and without it every bit of jitter would be a miss.
	granularity = 20 * time.Millisecond
)

// rttEstimator keeps the times of one target over one path. The zero value is ready to use.
type rttEstimator struct {
	srtt, rttvar, jitter, last time.Duration // 0 before the first answer
	known                      bool          // there was one
	single                     bool          // and no more
}

// add takes the time of an answer: RFC 6298 (2.2) and (2.3), and the jitter of RFC 3550 (6.4.1). The first packet of a path
// waits for neighbours to be resolved, at both ends: where the second answer takes less, all begins with that one.
func (e *rttEstimator) add(rtt time.Duration) {
	rtt = max(rtt, 0)
	if !e.known || e.single && rtt < e.srtt {
		*e = rttEstimator{srtt: rtt, rttvar: rtt / 2, last: rtt, known: true, single: !e.known}
		return
	}
	e.single = false
	e.rttvar += ((e.srtt - rtt).Abs() - e.rttvar) / 4
	e.srtt += (rtt - e.srtt) / 8
	e.jitter += ((rtt - e.last).Abs() - e.jitter) / 16
	e.last = rtt
}

// timeout returns how long to wait for the next answer before it counts as a
// miss: srtt + 4 rttvar, at least [MinTimeout], at most the configured limit.
// Before the first answer nothing is known, and it is the limit.
func (e *rttEstimator) timeout(limit time.Duration) time.Duration {
	if !e.known {
		return limit
	}
	return min(max(e.srtt+max(4*e.rttvar, granularity), MinTimeout), limit)
}
