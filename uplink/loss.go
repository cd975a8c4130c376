package uplink

import (
	"fmt"
	"math"

	"github.com/uplinkd/uplinkd/probe"
)

const (
	// classAlarm is the threshold of the tests behind the loss class. Between 1 %
	// and 5 % loss it finds 5 % in 211 probes and 20 % in 33, and takes 1 % for 5 %
	// once in 4.8 days at one probe a second.
	classAlarm = 9
	// enterAlarm and leaveAlarm are those of the tests behind degraded, which moves
	// traffic.
	enterAlarm, leaveAlarm = 10, 12

	// Loss of enterBad is degraded when it could not be enterGood; loss of
	// leaveGood is so no more when it could not be leaveBad. What lies between
	// changes nothing.
	enterGood, enterBad = 0.05, 0.30
	leaveGood, leaveBad = 0.02, 0.15

	// Of losses in a row so many count. One hole of a second swallows as many
	// probes as are sent into it, and is still one hole.
	rowCap = 2

	// All targets but one together may bring a test to this share of its alarm: an
	// uplink loses what is sent to any of them.
	targetShare = 0.9
)

// lossTest is Page's CUSUM over the outcomes of probes: the logarithm of how much
// better one loss ratio explains them than another one, since that was least so.
// Beyond an alarm the other ratio is taken for true.
type lossTest struct {
	perLost, perAnswered float64
	alarm                float64
	sum                  float64
	byTarget             []float64 // by target: its losses' part of sum
	lost, outcomes       int       // since sum left zero
}

// newLossTest tests whether loss is of the first ratio rather than the second.
func newLossTest(isIt, orIsIt, alarm float64) lossTest {
	return lossTest{alarm: alarm, perLost: math.Log(isIt / orIsIt), perAnswered: math.Log((1 - isIt) / (1 - orIsIt))}
}

func (t *lossTest) reset() {
	t.sum, t.lost, t.outcomes = 0, 0, 0
	clear(t.byTarget)
}

// observe counts an outcome and reports whether that is an alarm; a loss that is
// capped counts for the ratio alone.
func (t *lossTest) observe(o probe.Outcome, capped bool) bool {
	for len(t.byTarget) <= o.Target {
		t.byTarget = append(t.byTarget, 0)
	}
	switch o.Kind {
	case probe.Answered:
		t.outcomes++
		t.answered()
	case probe.Lost:
		t.outcomes++
		t.lost++
		if !capped {
			t.addLoss(o)
		}
	case probe.Retracted:
		// An Answered for the same probe follows.
		t.outcomes, t.lost = max(t.outcomes-1, 0), max(t.lost-1, 0)
		t.takeBack(o.Target, t.perLost)
	case probe.Discarded:
		t.takeBack(o.Target, t.byTarget[o.Target])
	}
	if t.sum <= 0 {
		t.reset()
	}
	return t.sum > t.alarm
}

// answered counts an answer, which speaks against what every target's losses say.
func (t *lossTest) answered() {
	if t.perAnswered < 0 && t.sum > 0 {
		left := max(t.sum+t.perAnswered, 0) / t.sum
		for i := range t.byTarget {
			t.byTarget[i] *= left
		}
	}
	t.sum += t.perAnswered
}

// addLoss counts a loss, as far as one target may make the sum.
func (t *lossTest) addLoss(o probe.Outcome) {
	step := t.perLost
	if step > 0 {
		if o.Voters > 1 {
			step = max(min(step, targetShare*t.alarm/float64(o.Voters-1)-t.byTarget[o.Target]), 0)
		}
		t.byTarget[o.Target] += step
	}
	t.sum += step
}

// takeBack takes losses of a target back.
func (t *lossTest) takeBack(target int, most float64) {
	if back := min(t.byTarget[target], most); back > 0 {
		t.byTarget[target] -= back
		t.sum -= back
	}
}

// String is a clause for a reason: "14 of the last 23 probes lost (61 %)".
func (t *lossTest) String() string {
	return fmt.Sprintf("%d of the last %d probes lost (%.0f %%)", t.lost, t.outcomes, 100*float64(t.lost)/float64(max(t.outcomes, 1)))
}

// Loss finds out how much an uplink loses, from single outcomes: is it degraded, and
// of which class. Entering and leaving are separate tests with a gap between, so
// that loss near a threshold does not flap. It is pure. Make one with newLoss.
type Loss struct {
	enter, leave  lossTest
	worse, better [2]lossTest // at the bounds of good and of fair
	row           int         // lost since the latest answer

	degraded bool
	class    Class
	reason   string // of degraded
}

func newLoss(c Classes) Loss {
	l := Loss{enter: newLossTest(enterBad, enterGood, enterAlarm), leave: newLossTest(leaveGood, leaveBad, leaveAlarm)}
	for i, bound := range []float64{c.Good.Loss, c.Fair.Loss} {
		bound = min(max(bound, 0.0001), 0.19) // five times that is still a ratio
		l.worse[i] = newLossTest(5*bound, bound, classAlarm)
		l.better[i] = newLossTest(bound/2, 3*bound, classAlarm)
	}
	return l
}

// forget begins anew: what was lost while the uplink was down does not describe
// the one that came back.
func (l *Loss) forget() {
	l.degraded, l.class, l.reason, l.row = false, Good, "", 0
	l.enter.reset()
	l.leave.reset()
	for i := range l.worse {
		l.worse[i].reset()
		l.better[i].reset()
	}
}

// observe counts an outcome.
func (l *Loss) observe(o probe.Outcome) {
	capped := l.row >= rowCap
	switch o.Kind {
	case probe.Lost:
		l.row++
	case probe.Answered:
		l.row = 0
	}
	l.updateDegraded(o, capped)
	l.updateClass(o, capped)
}

// updateDegraded decides about degraded.
func (l *Loss) updateDegraded(o probe.Outcome, capped bool) {
	test := &l.enter
	if l.degraded {
		test = &l.leave
	}
	if test.observe(o, capped) {
		l.degraded, l.reason = !l.degraded, test.String()
		l.enter.reset()
		l.leave.reset()
	}
}

// updateClass decides about the class. Of each bound one test runs: for getting worse
// or for getting better, depending on which side the class is.
func (l *Loss) updateClass(o probe.Outcome, capped bool) {
	for i := range l.worse {
		next := Class(i + 1) // beyond this bound
		if l.class < next {
			if l.worse[i].observe(o, capped) {
				l.class = next
				l.worse[i].reset()
				l.better[i].reset()
			}
		} else if l.better[i].observe(o, capped) {
			l.class = Class(i)
			l.worse[i].reset()
			l.better[i].reset()
		}
	}
}

// Class returns the class of the loss; what is degraded is poor.
func (l *Loss) Class() Class {
	if l.degraded {
		return Poor
	}
	return l.class
}
