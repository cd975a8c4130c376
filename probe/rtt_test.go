package probe

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

const ms = time.Millisecond

func TestTimesFollowRFC6298(t *testing.T) {
	var e rttEstimator
	for i, step := range []struct {
		sample, srtt, rttvar time.Duration
	}{
		{100 * ms, 100 * ms, 50 * ms},
		{100 * ms, 100 * ms, 37500 * time.Microsecond},
		{180 * ms, 110 * ms, 48125 * time.Microsecond},
	} {
		e.add(step.sample)
		if e.srtt != step.srtt || e.rttvar != step.rttvar {
			t.Errorf("after sample %d: srtt %v, rttvar %v; want %v, %v", i, e.srtt, e.rttvar, step.srtt, step.rttvar)
		}
	}
	if got, want := e.timeout(time.Second), 110*ms+4*48125*time.Microsecond; got != want {
		t.Errorf("timeout %v, want %v", got, want)
	}
}

func TestTheFirstAnswerMayHaveWaitedForNeighbours(t *testing.T) {
	for name, c := range map[string]struct {
		samples []time.Duration
		srtt    time.Duration
		timeout time.Duration
	}{
		"the second takes less":   {[]time.Duration{101 * ms, 2 * ms}, 2 * ms, MinTimeout},
		"the second takes longer": {[]time.Duration{2 * ms, 82 * ms}, 12 * ms, MinTimeout},
		"the third takes less":    {[]time.Duration{80 * ms, 80 * ms, 8 * ms}, 71 * ms, 71*ms + 4*40500*time.Microsecond},
		"each takes less":         {[]time.Duration{240 * ms, 160 * ms, 80 * ms}, 150 * ms, 150*ms + 4*80*ms},
	} {
		var e rttEstimator
		for _, rtt := range c.samples {
			e.add(rtt)
		}
		if got := e.timeout(time.Second); e.srtt != c.srtt || got != c.timeout {
			t.Errorf("%s: srtt %v, timeout %v; want %v, %v", name, e.srtt, got, c.srtt, c.timeout)
		}
	}
}

func TestTimeoutIsBounded(t *testing.T) {
	var e rttEstimator
	if got := e.timeout(time.Second); got != time.Second {
		t.Errorf("with no sample: %v, want the limit", got)
	}
	for range 100 {
		e.add(10 * ms)
	}
	if got := e.timeout(time.Second); got != MinTimeout {
		t.Errorf("on a fast path: %v, want %v", got, MinTimeout)
	}
	if got := e.timeout(100 * ms); got != 100*ms {
		t.Errorf("with a limit below the least: %v, want the limit", got)
	}
	for range 100 {
		e.add(600 * ms)
	}
	if got := e.timeout(time.Second); got < 615*ms || got > 625*ms {
		t.Errorf("on a long and steady path: %v, want srtt and some room", got)
	}
}

func TestLossIgnoresWhatIsOldOrLate(t *testing.T) {
	var o outcomes
	add := func(n int, lost bool) {
		for range n {
			o.add(0, lost)
		}
	}
	add(30, true)
	add(30, false)
	if loss, n := o.loss(); loss != 0.5 || n != LossWindow {
		t.Errorf("loss %v over %d", loss, n)
	}
	add(1, true)
	o.retract(0)
	if loss, n := o.loss(); loss != 29./60 || n != LossWindow {
		t.Errorf("loss %v over %d after a late answer", loss, n)
	}
	add(LossWindow, false)
	if loss, _ := o.loss(); loss != 0 {
		t.Errorf("loss %v after %d answers", loss, LossWindow)
	}
}

func TestTimesAndLossProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var e rttEstimator
		var o outcomes
		var all []bool
		limit := time.Duration(rapid.Int64Range(int64(ms), int64(10*time.Second)).Draw(t, "limit"))
		for range rapid.IntRange(0, 200).Draw(t, "n") {
			rtt := time.Duration(rapid.Int64Range(-int64(ms), int64(20*time.Second)).Draw(t, "rtt"))
			missed := rapid.Bool().Draw(t, "lost")
			if o.add(0, missed); !missed {
				e.add(rtt)
			}
			all = append(all, missed)
			recent := all[max(0, len(all)-LossWindow):]
			lost := 0
			for _, o := range recent {
				if o {
					lost++
				}
			}
			loss, n := o.loss()
			if n != len(recent) || loss != float64(lost)/float64(n) {
				t.Fatalf("loss %v over %d, want %d of %d", loss, n, lost, len(recent))
			}
			if got := e.timeout(limit); got > limit || got < min(limit, MinTimeout) {
				t.Fatalf("timeout %v beyond %v..%v", got, MinTimeout, limit)
			}
			if e.srtt < 0 || e.rttvar < 0 || e.jitter < 0 {
				t.Fatalf("negative statistics %v, %v, %v", e.srtt, e.rttvar, e.jitter)
			}
		}
	})
}
