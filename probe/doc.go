// Package probe asks hosts beyond an uplink whether they can be reached, and
// turns the answers into signals about the uplink.
//
//	Target ──────────────┐
//	Binding (device,     ├─> Prober ──> rtt | error (ErrTimeout, ErrUnreachable,
//	  mark, source) ─────┘    (Net)       │          ErrAnswer, ErrLocal, ErrNoPath)
//	                                      v
//	    Next: when, which target <── Detector ──> Signal (Alive, Missed, Failing, NoPath)
//	                                  │    │
//	           round-trip times of ──┘    └── loss over the last 60 outcomes, Bursts
//	                  each target
//
// [Net] is the only part that touches the network: one probe, one socket, gone
// afterwards, unless it is an echo request in calm: those share one. [Detector] is pure: it starts no goroutine, owns no
// timer and takes the time as an argument, so a week of probing is simulated in a second.
//
// # How silence is found
//
// A probe leaves every Interval, to one target after the other. The first
// one that stays unanswered for its adaptive timeout, srtt + 4 rttvar within
// 150 ms and Timeout, starts a burst: a probe at once, then one every
// FastInterval, without waiting for the earlier ones, over all targets that may
// vote. Fall misses in the burst mean Failing. A reply, even a late one, means
// Alive and ends the burst. Total silence is thus reported after
//
//	U(0, Interval) + timeout + (Fall-1) FastInterval + timeout
//
// which at the defaults on a path faster than 130 ms is 0.6 s to 1.6 s, while
// independent loss p starts a false alarm once in p^-(1+Fall) probes. On a link
// that loses more than about 7 % more than Fall misses are needed, so that this
// stays once a week.
//
// A burst that is answered is followed up by a few probes at 150 ms: one loss is
// nothing, and whether it was one of many is known in seconds. [Bursts] learns how
// long the holes of a link last, and with that how long silence has to be
// confirmed before it is an outage.
//
// # Whose fault it is
//
// A target that keeps silent while others answer is dead by itself: it is probed
// ten times less often, beside the others, so that the arithmetic above
// stays true, and it loses its vote until it answers again. An error of our own
// stack (ErrLocal) is no miss. A probe that cannot leave because there is no
// route or no device (ErrNoPath) is no miss either, but when a whole burst
// meets it, the path is gone and the signal says so.
package probe
