package probe

import (
	"math/bits"
	"time"
)

const (
	// WindowSize is how many outcomes the loss ratio looks back on.
	WindowSize = 60
	// MinTimeout is the least adaptive timeout: below it, the scheduling of two
	// hosts and a busy queue would look like loss.
	MinTimeout = 150 * time.Millisecond
	// granularity is the G of RFC 6298 (2.3): on a long and steady path rttvar
	// tends to nothing, and without it every bit of jitter would be a miss.
	granularity = 20 * time.Millisecond
)

// Window keeps the running statistics of one target over one path. The zero
// Window is ready to use.
type Window struct {
	srtt, rttvar, jitter, last time.Duration
	replied                    bool
	lost                       uint64 // one bit an outcome, the latest lowest
	n                          int    // outcomes in lost, at most WindowSize
}

// Reply records an answer.
func (w *Window) Reply(rtt time.Duration) {
	w.push(0)
	w.sample(rtt)
}

// Miss records an adaptive timeout or a refusal.
func (w *Window) Miss() { w.push(1) }

// Late records the answer to a probe that was recorded as a miss before. It was
// slow, not lost: the latest miss is taken back.
func (w *Window) Late(rtt time.Duration) {
	w.lost &= w.lost - 1 // clears the lowest set bit
	w.sample(rtt)
}

func (w *Window) push(bit uint64) {
	w.lost = (w.lost<<1 | bit) & (1<<WindowSize - 1)
	w.n = min(w.n+1, WindowSize)
}

// sample is RFC 6298 (2.2) and (2.3), and the jitter of RFC 3550 (6.4.1).
func (w *Window) sample(rtt time.Duration) {
	rtt = max(rtt, 0)
	if !w.replied {
		w.replied = true
		w.srtt, w.rttvar, w.last = rtt, rtt/2, rtt
		return
	}
	w.rttvar += ((w.srtt - rtt).Abs() - w.rttvar) / 4
	w.srtt += (rtt - w.srtt) / 8
	w.jitter += ((rtt - w.last).Abs() - w.jitter) / 16
	w.last = rtt
}

// RTT returns the smoothed round-trip time; 0 before the first answer.
func (w *Window) RTT() time.Duration { return w.srtt }

// Last returns the latest round-trip time; 0 before the first answer.
func (w *Window) Last() time.Duration { return w.last }

// Jitter returns the smoothed difference between consecutive round-trip times.
func (w *Window) Jitter() time.Duration { return w.jitter }

// Loss returns the ratio of misses, 0..1, over the last outcomes and how many
// those are, at most [WindowSize].
func (w *Window) Loss() (ratio float64, outcomes int) {
	if w.n == 0 {
		return 0, 0
	}
	return float64(bits.OnesCount64(w.lost)) / float64(w.n), w.n
}

// Timeout returns how long to wait for the next answer before it counts as a
// miss: srtt + 4 rttvar, at least [MinTimeout], at most the configured limit.
// Before the first answer nothing is known, and it is the limit.
func (w *Window) Timeout(limit time.Duration) time.Duration {
	if !w.replied {
		return limit
	}
	return min(max(w.srtt+max(4*w.rttvar, granularity), MinTimeout), limit)
}
