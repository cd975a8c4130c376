package probe

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// burstyNetwork loses a share of the probes in bursts of a mean length.
func burstyNetwork(seed uint64, share float64, mean time.Duration) func(int, time.Duration) (time.Duration, error) {
	rng := rand.New(rand.NewPCG(117, seed))
	bad, until := true, time.Duration(0)
	return func(_ int, at time.Duration) (time.Duration, error) {
		for at >= until {
			bad = !bad
			span := float64(mean) * (1 - share) / share
			if bad {
				span = float64(mean)
			}
			until += 1 + time.Duration(rng.ExpFloat64()*span)
		}
		if bad {
			return lost, nil
		}
		return 20 * ms, nil
	}
}

func TestBurstsLearnTheLengthOfBursts(t *testing.T) {
	for _, mean := range []time.Duration{100 * ms, 200 * ms, 500 * ms} {
		s := newSim(DetectorConfig{Targets: someTargets(3)}, burstyNetwork(1, 0.01, mean))
		s.run(6 * time.Hour)
		b := s.d.Bursts()
		if got := b.Mean(); got < mean*6/10 || got > mean*15/10 {
			t.Errorf("bursts of %v are taken for %v", mean, got)
		}
		if got := b.learned.Loss; got < 0.003 || got > 0.03 {
			t.Errorf("loss %v, want about 0.01", got)
		}
	}
}

func TestBurstsConfirmFollowsTheLink(t *testing.T) {
	for _, test := range []struct {
		name        string
		network     func(int, time.Duration) (time.Duration, error)
		least, most time.Duration
	}{
		{"no loss: the default", until(1 << 62), DefaultConfirm, DefaultConfirm},
		{"single losses need the least", func() func(int, time.Duration) (time.Duration, error) {
			rng := rand.New(rand.NewPCG(117, 9))
			return func(int, time.Duration) (time.Duration, error) {
				if rng.Float64() < 0.01 {
					return lost, nil
				}
				return 20 * ms, nil
			}
		}(), MinConfirm, 500 * ms},
		{"bursts of 200 ms", burstyNetwork(2, 0.01, 200*ms), 1200 * ms, 2400 * ms},
		{"bursts of a second need the most", burstyNetwork(3, 0.01, time.Second), MaxConfirm, MaxConfirm},
	} {
		s := newSim(DetectorConfig{Targets: someTargets(3)}, test.network)
		s.run(4 * time.Hour)
		if got := s.d.Confirm(); got < test.least || got > test.most {
			t.Errorf("%s: %v, want %v to %v", test.name, got, test.least, test.most)
		}
	}
}

func TestBurstsAnOutageIsNoBurst(t *testing.T) {
	s := newSim(DetectorConfig{Targets: someTargets(3)}, func(_ int, at time.Duration) (time.Duration, error) {
		if at%(10*time.Minute) > 9*time.Minute {
			return lost, nil
		}
		return 20 * ms, nil
	})
	s.run(3 * time.Hour)
	if got := s.d.Confirm(); got != DefaultConfirm {
		t.Errorf("%v after outages of a minute, want the default", got)
	}
}

func TestBurstsHeavyLossAsksForMoreMisses(t *testing.T) {
	b := newBursts()
	if got := b.fall(4, time.Second); got != 4 {
		t.Errorf("an unknown link: %d misses, want 4", got)
	}
	b.recent = 0.05
	if got := b.fall(4, time.Second); got != 4 {
		t.Errorf("5 %% loss: %d misses, want 4", got)
	}
	b.recent = 0.15
	if got := b.fall(4, time.Second); got != 7 {
		t.Errorf("15 %% loss: %d misses, want 7", got)
	}
	b.recent = 1
	if got := b.fall(4, time.Second); got != 12 {
		t.Errorf("total loss: %d misses, want no more than 12", got)
	}
}

func TestBurstsPropertiesOfAnyOutcomes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, now := newBursts(), epoch0
		var open []uint64
		for id := uint64(1); id < 300; id++ {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(2*time.Second)).Draw(t, "dt")))
			b.sent(id, now, rapid.Bool().Draw(t, "calm"))
			open = append(open, id)
			for len(open) > 0 && (len(open) > 20 || rapid.Bool().Draw(t, "decide")) {
				i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
				b.decided(open[i], byte(rapid.IntRange(int(wasLost), int(wasCancelled)).Draw(t, "outcome")))
				open = append(open[:i], open[i+1:]...)
			}
			if rapid.IntRange(0, 50).Draw(t, "forget") == 0 {
				b.forget()
				open = nil
			}
			span := b.Confirm(DefaultConfirm, time.Second)
			if span < MinConfirm || span > MaxConfirm || b.learned.Loss < 0 || b.learned.Loss > 1 || b.Mean() < 0 {
				t.Fatalf("span %v, loss %v, mean %v", span, b.learned.Loss, b.Mean())
			}
		}
	})
}

func TestWhatWasLearnedOfBurstsOutlastsARestart(t *testing.T) {
	learned := newBursts()
	at := epoch0
	for id := uint64(1); id < 4000; id++ { // bursts of some 400 ms, ten an hour or so
		at = at.Add(100 * ms)
		learned.sent(id, at, true)
		outcome := wasAnswered
		if id%400 < 4 {
			outcome = wasLost
		}
		learned.decided(id, outcome)
	}
	fresh := newBursts()
	fresh.restore(learned.Learned())
	if got, want := fresh.Confirm(640*ms, time.Second), learned.Confirm(640*ms, time.Second); got != want || want == 640*ms {
		t.Errorf("confirmed for %v, %v before the restart", got, want)
	}
	for _, m := range []LearnedBursts{{}, {Loss: 2, Lost: 1, Answered: 1, Spacing: 1}, {Loss: 0.1, Lost: -1, Answered: 1, Spacing: 1}, {Loss: 0.1, Lost: 1, Answered: math.NaN(), Spacing: 1}} {
		b := newBursts()
		b.restore(m)
		if got := b.Confirm(640*ms, time.Second); got != 640*ms {
			t.Errorf("%+v is believed: %v", m, got)
		}
	}
}
