package uplink

import (
	"slices"
	"time"
)

const (
	// wellFor is how long a line has to be well for its next outage to be another one.
	wellFor = time.Hour
	// boundedSpan is the span in which runs are bounded, and keptRuns how many are kept of it.
	boundedSpan = 24 * time.Hour
	keptRuns    = 200
)

// RecoveryHold says what keeps a dead line from being helped.
type RecoveryHold string

// What may keep it.
const (
	HoldNothing  RecoveryHold = ""
	HoldCommon   RecoveryHold = "common-cause"  // all uplinks are silent: this line is not the cause
	HoldCutsRest RecoveryHold = "cuts-the-rest" // what still works by it is all that works
	HoldBound    RecoveryHold = "daily-bound"   // it was helped as often as it may be in a day
	HoldOperator RecoveryHold = "operator"      // it is drained: somebody works on it
	HoldPause    RecoveryHold = "pause"         // the last try is not long enough ago, or the outage is not long enough
)

// RecoveryPolicy says when a dead line is helped.
type RecoveryPolicy struct {
	After     time.Duration // of an outage; the pauses between tries are twice this, four times, ...
	MaxPerDay int
}

// RecoveryInput is how a line is.
type RecoveryInput struct {
	Since                      time.Time // since when a family of it is down; zero: none is, or that is not known
	Common, CutsRest, Operator bool
}

// Recovery decides when a line that stays dead is helped. It is pure; the zero Recovery is ready to use, and its exported fields are what is
// to be kept over restarts.
type Recovery struct {
	Runs   []time.Time `json:"runs"`   // of the last day, the latest last
	Streak int         `json:"streak"` // runs since the line was well for an hour

	well time.Time // since when it is
}

// Decide returns whether the line is to be helped now, or what keeps it from that; and when that may be next, zero for not in sight. The
// caller calls Started before it helps.
func (r *Recovery) Decide(p RecoveryPolicy, in RecoveryInput, now time.Time) (run bool, hold RecoveryHold, next time.Time) {
	if in.Since.IsZero() {
		if r.well.IsZero() {
			r.well = now
		}
		if now.Sub(r.well) >= wellFor {
			r.Streak = 0
		}
		return false, HoldNothing, time.Time{}
	}
	r.well = time.Time{}
	r.forget(now)
	next = in.Since.Add(p.After)
	if n := len(r.Runs); n > 0 {
		if again := r.Runs[n-1].Add(p.pause(r.Streak)); again.After(next) {
			next = again
		}
	}
	switch {
	case in.Operator:
		return false, HoldOperator, time.Time{}
	case in.Common:
		return false, HoldCommon, time.Time{}
	case in.CutsRest:
		return false, HoldCutsRest, time.Time{}
	case len(r.Runs) >= p.MaxPerDay:
		free := r.Runs[len(r.Runs)-p.MaxPerDay].Add(boundedSpan)
		if free.After(next) {
			next = free
		}
		return false, HoldBound, next
	case now.Before(next):
		return false, HoldPause, next
	}
	return true, HoldNothing, now
}

// pause returns how long after a try the next one may be.
func (p RecoveryPolicy) pause(streak int) time.Duration {
	pause := p.After
	for range min(streak, 20) {
		if pause *= 2; pause >= boundedSpan {
			return boundedSpan
		}
	}
	return pause
}

// Started notes that the line is helped now.
func (r *Recovery) Started(now time.Time) {
	r.forget(now)
	r.Runs = append(r.Runs, now.Round(0))
	if len(r.Runs) > keptRuns {
		r.Runs = r.Runs[len(r.Runs)-keptRuns:]
	}
	r.Streak = min(r.Streak+1, keptRuns)
}

// forget drops runs that are a day old, and those to come, which a clock that was wrong has left.
func (r *Recovery) forget(now time.Time) {
	r.Runs = slices.DeleteFunc(r.Runs, func(at time.Time) bool { return now.Sub(at) >= boundedSpan || at.Sub(now) > boundedSpan })
	r.Streak = max(r.Streak, 0)
}
