package probe

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

const ms = time.Millisecond

func TestWindowFollowsRFC6298(t *testing.T) {
	var w Window
	for i, step := range []struct {
		sample, srtt, rttvar time.Duration
	}{
		{100 * ms, 100 * ms, 50 * ms},
		{100 * ms, 100 * ms, 37500 * time.Microsecond},
		{180 * ms, 110 * ms, 48125 * time.Microsecond},
	} {
		w.Reply(step.sample)
		if w.RTT() != step.srtt || w.rttvar != step.rttvar {
			t.Errorf("after sample %d: srtt %v, rttvar %v; want %v, %v", i, w.RTT(), w.rttvar, step.srtt, step.rttvar)
		}
	}
	if got, want := w.Timeout(time.Second), 110*ms+4*48125*time.Microsecond; got != want {
		t.Errorf("timeout %v, want %v", got, want)
	}
}

func TestWindowTimeoutIsBounded(t *testing.T) {
	var w Window
	if got := w.Timeout(time.Second); got != time.Second {
		t.Errorf("with no sample: %v, want the limit", got)
	}
	for range 100 {
		w.Reply(10 * ms)
	}
	if got := w.Timeout(time.Second); got != MinTimeout {
		t.Errorf("on a fast path: %v, want %v", got, MinTimeout)
	}
	if got := w.Timeout(100 * ms); got != 100*ms {
		t.Errorf("with a limit below the least: %v, want the limit", got)
	}
	for range 100 {
		w.Reply(600 * ms)
	}
	if got := w.Timeout(time.Second); got < 615*ms || got > 625*ms {
		t.Errorf("on a long and steady path: %v, want srtt and some room", got)
	}
}

func TestWindowLossIgnoresWhatIsOldOrLate(t *testing.T) {
	var w Window
	for range 30 {
		w.Miss()
	}
	for range 30 {
		w.Reply(ms)
	}
	if loss, n := w.Loss(); loss != 0.5 || n != WindowSize {
		t.Errorf("loss %v over %d", loss, n)
	}
	w.Miss()
	w.Late(200 * ms)
	if loss, n := w.Loss(); loss != 29./60 || n != WindowSize {
		t.Errorf("loss %v over %d after a late answer", loss, n)
	}
	for range WindowSize {
		w.Reply(ms)
	}
	if loss, _ := w.Loss(); loss != 0 {
		t.Errorf("loss %v after %d answers", loss, WindowSize)
	}
}

func TestWindowProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w Window
		var outcomes []bool
		limit := time.Duration(rapid.Int64Range(int64(ms), int64(10*time.Second)).Draw(t, "limit"))
		for range rapid.IntRange(0, 200).Draw(t, "n") {
			rtt := time.Duration(rapid.Int64Range(-int64(ms), int64(20*time.Second)).Draw(t, "rtt"))
			if rapid.Bool().Draw(t, "lost") {
				w.Miss()
				outcomes = append(outcomes, true)
			} else {
				w.Reply(rtt)
				outcomes = append(outcomes, false)
			}
			recent := outcomes[max(0, len(outcomes)-WindowSize):]
			lost := 0
			for _, o := range recent {
				if o {
					lost++
				}
			}
			loss, n := w.Loss()
			if n != len(recent) || loss != float64(lost)/float64(n) {
				t.Fatalf("loss %v over %d, want %d of %d", loss, n, lost, len(recent))
			}
			if got := w.Timeout(limit); got > limit || got < min(limit, MinTimeout) {
				t.Fatalf("timeout %v beyond %v..%v", got, MinTimeout, limit)
			}
			if w.RTT() < 0 || w.rttvar < 0 || w.Jitter() < 0 {
				t.Fatalf("negative statistics %v, %v, %v", w.RTT(), w.rttvar, w.Jitter())
			}
		}
	})
}
