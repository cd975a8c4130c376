package probe

import (
	"slices"
	"testing"
	"time"
)

// fifoNetwork has every probe wait in a queue whose length is a function of time. From hole on nothing comes back.
func fifoNetwork(queue func(at time.Duration) time.Duration, hole time.Duration) func(int, time.Duration) (time.Duration, error) {
	const base = 15 * ms
	return func(_ int, at time.Duration) (time.Duration, error) {
		if wait := queue(at); at+wait+base < hole {
			return wait + base, nil
		}
		return lost, nil
	}
}

// filling grows from 10 s on by so much a second, up to a length.
func filling(rate float64, length time.Duration) func(time.Duration) time.Duration {
	return func(at time.Duration) time.Duration {
		return min(max(time.Duration(rate*float64(at-10*time.Second)), 0), length)
	}
}

const never = 24 * time.Hour

func TestDetectorAQueueOfSecondsIsNoSilence(t *testing.T) {
	for _, length := range []time.Duration{time.Second, 2 * time.Second, 5 * time.Second} {
		s := newSim(DetectorConfig{Targets: someTargets(3)}, fifoNetwork(filling(0.5, length), never))
		s.run(2 * time.Minute)
		if n := s.count(Failing); n != 0 {
			t.Errorf("queue of %v: %d times failing", length, n)
		}
		for _, st := range s.d.Stats() {
			if st.Missed != 0 || st.RTT < length/2 {
				t.Errorf("queue of %v: %+v", length, st)
			}
		}
		if loss, _ := s.d.Loss(); loss != 0 {
			t.Errorf("queue of %v: loss %v", length, loss)
		}
		// Each is waited for as long as the queue is: no burst begins any more.
		before := s.count(Missed)
		if s.run(3 * time.Minute); s.count(Missed) != before {
			t.Errorf("queue of %v: %d misses although it stands", length, s.count(Missed)-before)
		}
	}
}

func TestDetectorABlackholeBehindAQueueIsTheTimeSinceTheLatestAnswer(t *testing.T) {
	for _, length := range []time.Duration{time.Second, 2 * time.Second, 5 * time.Second} {
		const hole = time.Minute
		s := newSim(DetectorConfig{Targets: someTargets(3)}, fifoNetwork(filling(0.5, length), hole))
		s.run(hole + 10*time.Second)
		at, ok := s.first(Failing, 0)
		if !ok || at < hole+queueSilence-200*ms || at > hole+queueSilence+100*ms {
			t.Errorf("queue of %v: failing %v, %v after the hole", length, ok, at-hole)
		}
	}
}

func TestDetectorAsksSeldomAgainOnceTheQueueIsGone(t *testing.T) {
	queue := func(at time.Duration) time.Duration {
		// It drains by itself from 20 s on.
		return max(min(filling(0.5, 2*time.Second)(at), 22*time.Second-at), 0)
	}
	s := newSim(DetectorConfig{Targets: someTargets(3)}, fifoNetwork(queue, never))
	s.run(24 * time.Second)
	for _, st := range s.d.Stats() {
		if st.RTT > queueDelay {
			t.Errorf("the times are still those of the queue: %+v", st)
		}
	}
	s.run(40 * time.Second)
	before := sum(s.sent)
	if s.run(70 * time.Second); sum(s.sent)-before > 31 {
		t.Errorf("%d probes in 30 s", sum(s.sent)-before)
	}
	if s.d.Queued() {
		t.Error("the queue is still there")
	}
}

func sum(list []int) (n int) {
	for _, v := range list {
		n += v
	}
	return n
}

// A far target's answers are late by its distance, and the first that is overtaken is not lost.
func TestDetectorTargetsOfDifferentDistanceShareAQueue(t *testing.T) {
	queue := filling(0.5, 2*time.Second)
	s := newSim(DetectorConfig{Targets: someTargets(3)}, func(target int, at time.Duration) (time.Duration, error) {
		return queue(at) + []time.Duration{10 * ms, 90 * ms, 400 * ms}[target], nil
	})
	s.run(time.Minute)
	before := s.count(Missed)
	if s.run(2 * time.Minute); s.count(Missed) != before || s.count(Failing) != 0 {
		t.Errorf("%d misses, %d times failing", s.count(Missed)-before, s.count(Failing))
	}
}

// What a queue loses is no property of the link: bursts of loss are learned from what is lost without one.
func TestDetectorLearnsNothingFromWhatAQueueLoses(t *testing.T) {
	n := 0
	fifo := fifoNetwork(filling(0.5, 2*time.Second), never)
	s := newSim(DetectorConfig{Targets: someTargets(3)}, func(target int, at time.Duration) (time.Duration, error) {
		if n++; at > 14*time.Second && n%5 == 0 {
			return lost, nil
		}
		return fifo(target, at)
	})
	s.run(2 * time.Minute)
	if m := s.d.Bursts().Learned(); m.Loss > priorLoss || m.Runs != 0 {
		t.Errorf("%+v", m)
	}
	if s.count(Failing) != 0 {
		t.Errorf("%d times failing", s.count(Failing))
	}
}

func TestDetectorARetransmissionThatIsAnsweredWasLost(t *testing.T) {
	for name, c := range map[string]struct {
		target string
		lost   bool
	}{
		"a SYN that the kernel has sent again": {"tcp://192.0.2.2:443", true},
		"a poll that was late":                 {"192.0.2.2", false},
	} {
		t.Run(name, func(t *testing.T) {
			target, err := ParseTarget(c.target)
			if err != nil {
				t.Fatal(err)
			}
			var got []OutcomeKind
			d := NewDetector(DetectorConfig{Targets: []Target{target}, OnOutcome: func(o Outcome) { got = append(got, o.Kind) }})
			d.Reset(epoch0)
			d.Reply(d.Sent(0, epoch0), epoch0.Add(20*ms), 20*ms)
			id := d.Sent(0, epoch0.Add(time.Second))
			d.Tick(epoch0.Add(1150 * ms))
			if s := d.Reply(id, epoch0.Add(2020*ms), 20*ms); s != Alive {
				t.Errorf("%v for a sign of life", s)
			}
			want := []OutcomeKind{Answered, Lost}
			if !c.lost {
				want = append(want, Retracted, Answered)
			}
			if st := d.Stats()[0]; !slices.Equal(got, want) || (st.Missed == 1) != c.lost || st.LastRTT != 20*ms {
				t.Errorf("outcomes %v, want %v; %+v", got, want, st)
			}
		})
	}
}

func TestListeningWindowIsBoundedByWhatIsInFlight(t *testing.T) {
	for _, c := range []struct{ timeout, fast, want time.Duration }{
		{0, 0, Listen},
		{100 * ms, 0, Listen},
		{30 * time.Second, 0, 30 * time.Second},
		{time.Second, 20 * ms, 2560 * ms},
		{time.Second, ms, time.Second},
	} {
		if got := ListeningWindow(c.timeout, c.fast); got != c.want {
			t.Errorf("timeout %v, a probe every %v: %v, want %v", c.timeout, c.fast, got, c.want)
		}
	}
}

func TestLeastRTTForgetsWithinTwoSpans(t *testing.T) {
	var l leastRTT
	l.add(10*ms, epoch0)
	for at := time.Minute; at <= 3*leastSpan; at += time.Minute {
		l.add(200*ms, epoch0.Add(at))
		if got, want := l.get(), map[bool]time.Duration{true: 10 * ms, false: 200 * ms}[at < 2*leastSpan]; got != want {
			t.Fatalf("%v after %v, want %v", got, at, want)
		}
	}
}
