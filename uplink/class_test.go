package uplink

import (
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/probe"
)

func TestQualityClassesOfTimes(t *testing.T) {
	q := NewQuality(Classes{})
	now := begin
	for _, step := range []struct {
		rtt, jitter, span time.Duration
		want              Class
		reason            string
	}{
		{20 * ms, ms, time.Minute, Good, ""},
		{200 * ms, ms, 9 * time.Second, Good, ""}, // not for long enough
		{20 * ms, ms, time.Second, Good, ""},      // so it begins anew
		{200 * ms, ms, 11 * time.Second, Fair, "fair: RTT 200 ms (limit 150 ms)"},
		{140 * ms, ms, time.Minute, Fair, "fair: RTT 140 ms (limit 150 ms)"}, // leaving takes 120 ms
		{119 * ms, ms, 29 * time.Second, Fair, "fair: RTT 119 ms (limit 150 ms)"},
		{119 * ms, ms, 2 * time.Second, Good, ""},
		{20 * ms, 70 * ms, 11 * time.Second, Poor, "poor: jitter 70 ms (limit 60 ms)"},
		{400 * ms, 10 * ms, 31 * time.Second, Poor, "poor: RTT 400 ms (limit 300 ms)"},
	} {
		for end := now.Add(step.span); now.Before(end); now = now.Add(time.Second) {
			q.Times(probe.Times{RTT: step.rtt, Jitter: step.jitter, Sent: now}, now)
		}
		if q.Class() != step.want || step.want != Good && q.Reason() != step.reason {
			t.Errorf("after %v of %v and %v: %v, %q; want %v, %q", step.span, step.rtt, step.jitter, q.Class(), q.Reason(), step.want, step.reason)
		}
	}
}

func TestQualityConstantTimesChangeTheClassOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q, now := NewQuality(Classes{}), begin
		draw := func(what string) time.Duration {
			return time.Duration(rapid.Int64Range(0, int64(500*ms)).Draw(t, what))
		}
		for range 60 { // any past
			q.Times(probe.Times{RTT: draw("rtt"), Jitter: draw("jitter")}, now)
			now = now.Add(time.Second)
		}
		rtt, jitter := draw("constant rtt"), draw("constant jitter")
		was := [2]Class{q.rtt.class, q.jitter.class}
		changes := [2]int{}
		for range 300 {
			q.Times(probe.Times{RTT: rtt, Jitter: jitter}, now)
			now = now.Add(time.Second)
			for i, c := range [2]Class{q.rtt.class, q.jitter.class} {
				if c != was[i] {
					changes[i]++
					was[i] = c
				}
			}
		}
		if changes[0] > 1 || changes[1] > 1 {
			t.Fatalf("%v and %v change the classes %v times", rtt, jitter, changes)
		}
	})
}

func TestLossClassFollowsTheLoss(t *testing.T) {
	for _, test := range []struct {
		loss     float64
		want     Class
		degraded bool
		within   int // probes
	}{
		{0.05, Fair, false, 1500},
		{0.12, Poor, false, 400},
		{0.25, Poor, true, 300},
		{0.50, Poor, true, 60},
	} {
		rng := rand.New(rand.NewPCG(3, 4))
		l := newLoss(DefaultClasses())
		n := 0
		for ; n < test.within && (l.Class() != test.want || l.degraded != test.degraded); n++ {
			l.observe(drawOutcome(rng, n, test.loss))
		}
		if l.Class() != test.want || l.degraded != test.degraded {
			t.Errorf("%.0f %% loss: %v, degraded %v after %d probes", 100*test.loss, l.Class(), l.degraded, n)
		}
		for n = 0; n < 2000 && (l.Class() != Good || l.degraded); n++ {
			l.observe(drawOutcome(rng, n, 0))
		}
		if l.Class() != Good || l.degraded {
			t.Errorf("after %.0f %% loss: %v, degraded %v although all is well", 100*test.loss, l.Class(), l.degraded)
		}
	}
}

func drawOutcome(rng *rand.Rand, n int, loss float64) probe.Outcome {
	o := probe.Outcome{Target: n % 3, Voters: 3}
	if rng.Float64() < loss {
		o.Kind = probe.Lost
	}
	return o
}

func TestLossOneTargetAloneIsNotTheUplink(t *testing.T) {
	for voters := 2; voters <= 5; voters++ {
		l := newLoss(DefaultClasses())
		for n := range 1000 { // all but one are silent
			o := probe.Outcome{Target: n % voters, Voters: voters}
			if o.Target != 0 {
				o.Kind = probe.Lost
			}
			l.observe(o)
		}
		if l.degraded || l.Class() != Good {
			t.Errorf("%d of %d targets silent: %v, degraded %v", voters-1, voters, l.Class(), l.degraded)
		}
	}
}

func TestLossWhatComesLateOrFromADeadTargetIsTakenBack(t *testing.T) {
	l := newLoss(DefaultClasses())
	for n := range 1000 {
		l.observe(probe.Outcome{Target: n % 3, Voters: 3, Kind: probe.Lost})
		l.observe(probe.Outcome{Target: n % 3, Voters: 3, Kind: probe.Retracted})
		l.observe(probe.Outcome{Target: n % 3, Voters: 3, Kind: probe.Answered})
	}
	if l.degraded || l.Class() != Good || l.enter.sum > 1 {
		t.Errorf("late answers: %+v", l)
	}
	for range 2 {
		l.observe(probe.Outcome{Target: 1, Voters: 3, Kind: probe.Lost})
	}
	l.observe(probe.Outcome{Target: 1, Voters: 2, Kind: probe.Discarded})
	if l.enter.sum != 0 || l.worse[0].sum != 0 {
		t.Errorf("the losses of a dead target: %v, %v", l.enter.sum, l.worse[0].sum)
	}
}

func TestLossTestsHaveTheWeightsOfTheirDesign(t *testing.T) {
	got := newLoss(DefaultClasses()).worse[0]
	if got.perLost < 1.60 || got.perLost > 1.62 || got.perAnswered < -0.042 || got.perAnswered > -0.040 {
		t.Errorf("a loss weighs %.3f, an answer %.3f; want +1.61 and -0.041", got.perLost, got.perAnswered)
	}
}
