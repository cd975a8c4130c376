package probe

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// epoch0 is when every simulation begins.
var epoch0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// event is a signal at a time since the beginning.
type event struct {
	At     time.Duration
	Signal Signal
}

// sim drives a Detector through virtual time, as a watcher would.
type sim struct {
	d       *Detector
	now     time.Duration
	timeout time.Duration
	// network decides a probe to a target sent at a time: the answer's rtt,
	// or a negative one for silence, or a local fault.
	network func(target int, at time.Duration) (rtt time.Duration, err error)
	pending []landing // by time
	signals []event
	sent    []int // probes per target
	trace   func(target int, at time.Duration)
}

type landing struct {
	at, rtt time.Duration
	id      uint64
	err     error
}

func newSim(cfg DetectorConfig, network func(int, time.Duration) (time.Duration, error)) *sim {
	s := &sim{d: NewDetector(cfg), timeout: ListeningWindow(cfg.Timeout, cfg.complete().FastInterval), network: network, sent: make([]int, len(cfg.Targets))}
	s.d.Reset(epoch0)
	return s
}

// run advances to the given time. Events at one instant happen in the order
// answers, misses, sending.
func (s *sim) run(until time.Duration) {
	for {
		next := until
		for _, l := range s.pending {
			next = min(next, l.at)
		}
		if d := s.d.Deadline(); !d.IsZero() {
			next = min(next, d.Sub(epoch0))
		}
		if at, _, ok := s.d.Next(); ok {
			next = min(next, at.Sub(epoch0))
		}
		s.now = max(s.now, next)
		now := epoch0.Add(s.now)
		for i := 0; i < len(s.pending); {
			l := s.pending[i]
			if l.at > s.now {
				i++
				continue
			}
			s.pending = slices.Delete(s.pending, i, i+1)
			switch {
			case errors.Is(l.err, ErrLocal):
				s.note(s.d.Local(l.id, now, l.err, errors.Is(l.err, ErrNoPath)))
			case l.err != nil:
				s.note(s.d.Miss(l.id, now, l.err))
			default:
				s.note(s.d.Reply(l.id, now, l.rtt))
			}
		}
		s.note(s.d.Tick(now))
		for {
			at, index, ok := s.d.Next()
			if !ok || at.After(now) {
				break
			}
			s.send(index, now)
		}
		if s.now >= until {
			return
		}
	}
}

func (s *sim) send(index int, now time.Time) {
	if s.trace != nil {
		s.trace(index, s.now)
	}
	s.sent[index]++
	id := s.d.Sent(index, now)
	rtt, err := s.network(index, s.now)
	l := landing{id: id, at: s.now + rtt, rtt: rtt, err: err}
	switch {
	case err != nil:
		l.at = s.now + max(rtt, 0)
	case rtt < 0 || rtt > s.timeout:
		l.at, l.err = s.now+s.timeout, ErrTimeout
	}
	s.pending = append(s.pending, l)
}

func (s *sim) note(signal Signal) {
	if signal != None {
		s.signals = append(s.signals, event{s.now, signal})
	}
}

// first returns when a signal was first given, not before from.
func (s *sim) first(signal Signal, from time.Duration) (time.Duration, bool) {
	for _, e := range s.signals {
		if e.Signal == signal && e.At >= from {
			return e.At, true
		}
	}
	return 0, false
}

func (s *sim) count(signal Signal) int {
	n := 0
	for _, e := range s.signals {
		if e.Signal == signal {
			n++
		}
	}
	return n
}

func someTargets(n int) []Target {
	all := make([]Target, n)
	for i := range all {
		all[i], _ = ParseTarget(fmt.Sprintf("192.0.2.%d", i+1))
	}
	return all
}

const lost = time.Duration(-1)

// until is a path of 20 ms that is silent from a time on.
func until(blackhole time.Duration) func(int, time.Duration) (time.Duration, error) {
	return func(_ int, at time.Duration) (time.Duration, error) {
		if at >= blackhole {
			return lost, nil
		}
		return 20 * ms, nil
	}
}

func TestDetectorBurstAtItsTimes(t *testing.T) {
	s := newSim(DetectorConfig{Targets: someTargets(3)}, until(9500*ms))
	type probe struct {
		target int
		at     time.Duration
	}
	var got []probe
	s.trace = func(target int, at time.Duration) {
		if at > 8*time.Second {
			got = append(got, probe{target, at})
		}
	}
	s.run(10550 * ms)
	// Each target is asked at once, 100 ms apart, then one a second in turn; the first miss is target 0's.
	want := []probe{
		{2, 9000 * ms},
		{0, 10000 * ms}, // unanswered at 10.15: the burst
		{1, 10150 * ms}, {2, 10250 * ms}, {0, 10350 * ms}, {1, 10450 * ms}, {2, 10550 * ms},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(probe{})); diff != "" {
		t.Errorf("probes (-want +got):\n%s", diff)
	}
	s.run(11 * time.Second)
	if at, ok := s.first(Failing, 0); !ok || at != 10600*ms {
		t.Errorf("failing at %v, %v; want 1.1 s after the silence", at, ok)
	}
	if got, want := s.d.Burst(epoch0.Add(10600*ms)).String(), "4 of 4 probes to 3 targets unanswered for 450 ms"; got != want {
		t.Errorf("report %q, want %q", got, want)
	}
}

func TestDetectorFindsTotalSilenceInTime(t *testing.T) {
	const settled = 30 * time.Second
	for _, test := range []struct {
		name        string
		cfg         DetectorConfig
		dead        []int // targets that never answer
		least, most time.Duration
	}{
		{name: "defaults", least: 600 * ms, most: 1600 * ms},
		{name: "interval 250 ms", cfg: DetectorConfig{Interval: 250 * ms}, least: 600 * ms, most: 850 * ms},
		{name: "one of three targets dead", dead: []int{1}, least: 600 * ms, most: 1600 * ms},
		{name: "all but one target dead", dead: []int{0, 2}, least: 600 * ms, most: 1600 * ms},
		{name: "fall 2", cfg: DetectorConfig{Fall: 2}, least: 400 * ms, most: 1400 * ms},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.cfg.Targets = someTargets(3)
			for phase := time.Duration(0); phase < time.Second; phase += 7 * ms {
				blackhole := settled + phase
				s := newSim(test.cfg, func(target int, at time.Duration) (time.Duration, error) {
					if at >= blackhole || slices.Contains(test.dead, target) {
						return lost, nil
					}
					return 20 * ms, nil
				})
				s.run(blackhole + 3*time.Second)
				at, ok := s.first(Failing, 0)
				if took := at - blackhole; !ok || took < test.least || took > test.most {
					t.Fatalf("silence at %v was found after %v (%v), want %v to %v", blackhole, took, ok, test.least, test.most)
				}
			}
		})
	}
}

func TestDetectorDetectionBoundHoldsForAnyPathAndPhase(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rtt := time.Duration(rapid.Int64Range(0, int64(125*ms)).Draw(t, "rtt"))
		blackhole := 2*time.Minute + time.Duration(rapid.Int64Range(0, int64(30*time.Second)).Draw(t, "phase"))
		n := rapid.IntRange(1, 6).Draw(t, "targets")
		s := newSim(DetectorConfig{Targets: someTargets(n)}, func(_ int, at time.Duration) (time.Duration, error) {
			if at >= blackhole {
				return lost, nil
			}
			return rtt, nil
		})
		s.run(blackhole + 3*time.Second)
		if at, ok := s.first(Failing, 0); !ok || at-blackhole > 1600*ms || at-blackhole < 600*ms {
			t.Fatalf("found after %v, %v", at-blackhole, ok)
		}
	})
}

func TestDetectorOneReplyClearsABurst(t *testing.T) {
	// One answer among silence from 10 s on, to the burst's third probe.
	s := newSim(DetectorConfig{Targets: someTargets(3)}, func(_ int, at time.Duration) (time.Duration, error) {
		if at >= 9500*ms && at < 10400*ms && at != 10350*ms {
			return lost, nil
		}
		return 20 * ms, nil
	})
	s.run(15 * time.Second)
	if n := s.count(Failing); n != 0 {
		t.Errorf("%d times failing", n)
	}
	if at, _ := s.first(Alive, 10*time.Second); at != 10370*ms {
		t.Errorf("alive at %v", at)
	}
}

func TestDetectorTakesALateReplyForALifeSign(t *testing.T) {
	// The path's time jumps from 20 ms to 500 ms: every probe is a miss first.
	s := newSim(DetectorConfig{Targets: someTargets(1)}, func(_ int, at time.Duration) (time.Duration, error) {
		if at >= 9500*ms {
			return 500 * ms, nil
		}
		return 20 * ms, nil
	})
	s.run(14 * time.Second)
	if n := s.count(Failing); n != 0 {
		t.Errorf("%d times failing", n)
	}
	stats := s.d.Stats()[0]
	if stats.Late == 0 || stats.Missed != 0 {
		t.Errorf("late answers count as lost: %+v", stats)
	}
	if loss, _ := s.d.Loss(); loss != 0 {
		t.Errorf("loss %v", loss)
	}
	if n := s.count(Missed); n > 10 {
		t.Errorf("the timeout did not adapt: %d misses", n)
	}
}

func TestDetectorALateReplyEndsFailing(t *testing.T) {
	s := newSim(DetectorConfig{Targets: someTargets(2)}, func(_ int, at time.Duration) (time.Duration, error) {
		if at >= 9500*ms {
			return 800 * ms, nil
		}
		return 20 * ms, nil
	})
	s.run(20 * time.Second)
	if at, ok := s.first(Failing, 0); !ok || at != 10600*ms {
		t.Errorf("failing at %v, %v", at, ok)
	}
	if at, _ := s.first(Alive, 10*time.Second); at != 10800*ms {
		t.Errorf("alive at %v", at)
	}
	if n := s.count(Failing); n != 1 {
		t.Errorf("%d times failing; the timeout should have adapted", n)
	}
}

func TestDetectorADeadTargetLosesItsVote(t *testing.T) {
	var probes []time.Duration
	back := 10 * time.Minute
	s := newSim(DetectorConfig{Targets: someTargets(3)}, func(target int, at time.Duration) (time.Duration, error) {
		if target == 1 && at < back {
			return lost, nil
		}
		return 20 * ms, nil
	})
	s.trace = func(target int, at time.Duration) {
		if target == 1 {
			probes = append(probes, at)
		}
	}
	s.run(time.Minute)
	if !s.d.Stats()[1].Dead {
		t.Fatal("not known to be dead after a minute")
	}
	if loss, _ := s.d.Loss(); loss != 0 {
		t.Errorf("its misses count as the uplink's loss: %v", loss)
	}
	missed := s.count(Missed)
	probes = nil
	s.run(back)
	if n := s.count(Missed) - missed; n != 0 {
		t.Errorf("%d bursts because of a dead target", n)
	}
	if n := len(probes); n < 50 || n > 58 {
		t.Errorf("asked %d times in 9 minutes, want once in 10 s", n)
	}
	s.run(back + 15*time.Second)
	if st := s.d.Stats()[1]; st.Dead || !st.Up {
		t.Errorf("did not come back: %+v", st)
	}
	if n := s.count(Failing); n != 0 {
		t.Errorf("%d times failing", n)
	}
}

func TestDetectorAnOutageMakesNoTargetDead(t *testing.T) {
	s := newSim(DetectorConfig{Targets: someTargets(3)}, func(_ int, at time.Duration) (time.Duration, error) {
		if at%(2*time.Minute) > time.Minute {
			return lost, nil
		}
		return 20 * ms, nil
	})
	for i := range 19 {
		s.run(time.Duration(i) * 30 * time.Second)
		for _, st := range s.d.Stats() {
			if st.Dead {
				t.Fatalf("%v is dead at %v", st.Target, s.now)
			}
		}
	}
	if n := s.count(Failing); n != 4 {
		t.Errorf("%d times failing, want one an outage", n)
	}
}

func TestDetectorNeedsAsManyTargetsAsConfigured(t *testing.T) {
	network := func(dead int) func(int, time.Duration) (time.Duration, error) {
		return func(target int, at time.Duration) (time.Duration, error) {
			if at >= 30*time.Second && at < 60*time.Second && target < dead {
				return lost, nil
			}
			return 20 * ms, nil
		}
	}
	for dead, wantFailing := range []int{0, 0, 1, 1} {
		s := newSim(DetectorConfig{Targets: someTargets(3), MinTargetsUp: 2}, network(dead))
		s.run(90 * time.Second)
		if n := s.count(Failing); n != wantFailing {
			t.Errorf("%d of 3 targets dead: %d times failing, want %d", dead, n, wantFailing)
		}
		if _, ok := s.first(Alive, 75*time.Second); !ok {
			t.Errorf("%d of 3 targets dead: not alive after they came back", dead)
		}
	}
}

func TestDetectorLocalFaultsAreNoMisses(t *testing.T) {
	fault := &Error{Target: "x", Class: ErrLocal}
	s := newSim(DetectorConfig{Targets: someTargets(2)}, func(_ int, at time.Duration) (time.Duration, error) {
		if at >= 10*time.Second && at < 40*time.Second {
			return 0, fault
		}
		return 20 * ms, nil
	})
	s.run(time.Minute)
	for _, e := range s.signals {
		if e.Signal != Alive {
			t.Errorf("%v at %v", e.Signal, e.At)
		}
	}
	if st := s.d.Stats(); st[0].Local+st[1].Local != 30 {
		t.Errorf("%d and %d local faults, want 30", st[0].Local, st[1].Local)
	}
}

func TestDetectorLocalFaultsInABurstEndIt(t *testing.T) {
	fault := &Error{Target: "x", Class: ErrLocal}
	s := newSim(DetectorConfig{Targets: someTargets(2)}, func(_ int, at time.Duration) (time.Duration, error) {
		switch {
		case at == 10*time.Second:
			return lost, nil
		case at > 10*time.Second && at < 13*time.Second:
			return 0, fault
		}
		return 20 * ms, nil
	})
	s.run(30 * time.Second)
	if n := s.count(Failing) + s.count(NoPath); n != 0 {
		t.Errorf("%d verdicts from our own faults", n)
	}
	if got := s.sent[0] + s.sent[1]; got < 35 || got > 40 {
		t.Errorf("%d probes in 30 s: the burst did not end", got)
	}
}

func TestDetectorTellsALostRoute(t *testing.T) {
	gone := &Error{Target: "x", Class: ErrNoPath}
	s := newSim(DetectorConfig{Targets: someTargets(2)}, func(_ int, at time.Duration) (time.Duration, error) {
		if at >= 9500*ms && at < 20*time.Second {
			return 0, gone
		}
		return 20 * ms, nil
	})
	s.run(30 * time.Second)
	if at, ok := s.first(NoPath, 0); !ok || at != 10300*ms {
		t.Errorf("no path at %v, %v; want at the fourth probe of the burst", at, ok)
	}
	if n := s.count(NoPath); n < 5 {
		t.Errorf("told %d times in 10 s, want it repeated", n)
	}
	if s.count(Failing)+s.count(Missed) != 0 {
		t.Error("unsent probes were held against the uplink")
	}
	if _, ok := s.first(Alive, 20*time.Second); !ok {
		t.Error("not alive when the route is back")
	}
}

func TestDetectorARefusalNeedNotBeWaitedFor(t *testing.T) {
	s := newSim(DetectorConfig{Targets: someTargets(2)}, func(_ int, at time.Duration) (time.Duration, error) {
		if at >= 9500*ms {
			return 30 * ms, ErrUnreachable
		}
		return 20 * ms, nil
	})
	s.run(15 * time.Second)
	if at, ok := s.first(Failing, 0); !ok || at != 10360*ms {
		t.Errorf("failing at %v, %v", at, ok)
	}
}

func TestDetectorHint(t *testing.T) {
	for _, silent := range []bool{false, true} {
		s := newSim(DetectorConfig{Targets: someTargets(2)}, func(_ int, at time.Duration) (time.Duration, error) {
			if silent && at > 10*time.Second {
				return lost, nil
			}
			return 20 * ms, nil
		})
		s.run(10100 * ms)
		sent := s.sent[0] + s.sent[1]
		for range 8 {
			s.d.Hint(epoch0.Add(s.now))
			s.run(s.now + 50*ms)
		}
		s.run(11 * time.Second)
		at, failing := s.first(Failing, 0)
		if failing != silent || silent && at != 10550*ms {
			t.Errorf("silent %v: failing %v at %v", silent, failing, at)
		}
		if n := s.sent[0] + s.sent[1] - sent; !silent && n > 2 {
			t.Errorf("%d probes for hints about a good path", n)
		}
	}
}

// Where traffic shows silence, every target is asked within 75 ms; where silence comes and goes by itself, at the usual pace.
func TestDetectorSilenceOfTraffic(t *testing.T) {
	dark := func(_ int, at time.Duration) (time.Duration, error) {
		if at > 10*time.Second {
			return lost, nil
		}
		return 20 * ms, nil
	}
	for name, c := range map[string]struct {
		hinted time.Duration // idle probes leave at whole seconds
		known  *LearnedBursts
		want   time.Duration // Failing
	}{
		"while idle":                     {10220 * ms, nil, 10445 * ms},
		"after a miss":                   {11200 * ms, nil, 11400 * ms},
		"a link without loss, as learnt": {10220 * ms, &LearnedBursts{Loss: 0.001, Lost: 0.1, Answered: 30, Spacing: 3, Runs: 30}, 10445 * ms},
		"a link that loses in bursts":    {10220 * ms, &LearnedBursts{Loss: 0.01, Lost: 30, Answered: 15, Spacing: 4.5, Runs: 30}, 10670 * ms},
	} {
		s := newSim(DetectorConfig{Targets: someTargets(4)}, dark)
		if c.known != nil {
			s.d.RestoreBursts(*c.known)
		}
		s.run(c.hinted)
		s.d.HintSilence(epoch0.Add(s.now))
		s.run(s.now + 10*ms)
		s.d.HintSilence(epoch0.Add(s.now)) // twice is once
		s.run(13 * time.Second)
		if at, ok := s.first(Failing, 10*time.Second); !ok || at != c.want {
			t.Errorf("%s: failing at %v, want %v", name, at, c.want)
		}
	}
	// A line whose answers wait in a queue is not asked faster either.
	s := newSim(DetectorConfig{Targets: someTargets(4)}, func(_ int, at time.Duration) (time.Duration, error) {
		return 20*ms + min(at/10, time.Second), nil
	})
	s.run(20 * time.Second)
	sent := s.sent[0] + s.sent[1] + s.sent[2] + s.sent[3]
	s.d.HintSilence(epoch0.Add(s.now))
	s.run(s.now + 80*ms)
	if n := s.sent[0] + s.sent[1] + s.sent[2] + s.sent[3] - sent; !s.d.KnownSilent() || n > 1 {
		t.Errorf("a queue: %d probes in 80 ms", n)
	}
}

func TestDetectorAStallIsNotHeldAgainstTheUplink(t *testing.T) {
	d := NewDetector(DetectorConfig{Targets: someTargets(1)})
	d.Reset(epoch0)
	id := d.Sent(0, epoch0)
	late := epoch0.Add(5 * time.Second)
	if s := d.Tick(late); s != None {
		t.Errorf("%v right after a stall", s)
	}
	if s := d.Reply(id, late.Add(ms), 20*ms); s != Alive {
		t.Errorf("%v for the answer that waited", s)
	}
	if st := d.Stats()[0]; st.Late != 0 || st.Missed != 0 {
		t.Errorf("%+v", st)
	}
}

func TestDetectorStoppedSendsNothingAndForgetsFlights(t *testing.T) {
	d := NewDetector(DetectorConfig{Targets: someTargets(1)})
	if _, _, ok := d.Next(); ok {
		t.Error("a new Detector sends")
	}
	d.Reset(epoch0)
	id := d.Sent(0, epoch0)
	d.Stop()
	if _, _, ok := d.Next(); ok || !d.Deadline().IsZero() || len(d.inFlight) != 0 {
		t.Error("a stopped Detector goes on")
	}
	if s := d.Reply(id, epoch0, ms); s != None {
		t.Errorf("%v for a forgotten probe", s)
	}
}

func TestDetectorBoundsWhatIsInFlight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := DetectorConfig{
			Targets:      someTargets(rapid.IntRange(1, 5).Draw(t, "targets")),
			Interval:     time.Duration(rapid.Int64Range(int64(100*ms), int64(5*time.Second)).Draw(t, "interval")),
			FastInterval: time.Duration(rapid.Int64Range(int64(20*ms), int64(time.Second)).Draw(t, "fast")),
			Timeout:      time.Duration(rapid.Int64Range(int64(10*ms), int64(10*time.Second)).Draw(t, "timeout")),
			Fall:         rapid.IntRange(1, 12).Draw(t, "fall"),
			MinTargetsUp: rapid.IntRange(0, 6).Draw(t, "min"),
		}
		loss := rapid.Float64Range(0, 1).Draw(t, "loss")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		s := newSim(cfg, func(int, time.Duration) (time.Duration, error) {
			if rng.Float64() < loss {
				return lost, nil
			}
			return time.Duration(rng.IntN(400)) * ms, nil
		})
		var last time.Duration
		for range 40 {
			s.run(s.now + 500*ms)
			if n := len(s.d.inFlight); n > MaxInFlight {
				t.Fatalf("%d in flight", n)
			}
			voting := 0
			for _, st := range s.d.Stats() {
				if !st.Dead {
					voting++
				}
			}
			if voting < s.d.cfg.MinTargetsUp {
				t.Fatalf("%d targets may vote, %d are needed", voting, s.d.cfg.MinTargetsUp)
			}
			if s.now < last {
				t.Fatal("time ran backwards")
			}
			last = s.now
		}
		failing := false
		for _, e := range s.signals {
			if e.Signal == Failing && failing {
				t.Fatal("failing twice without a life sign in between")
			}
			if e.Signal == Failing || e.Signal == Alive {
				failing = e.Signal == Failing
			}
		}
	})
}

func TestDetectorWeekOfRandomLossIsNoAlarm(t *testing.T) {
	for _, test := range []struct {
		loss float64
		span time.Duration
	}{
		{0.01, 7 * 24 * time.Hour},
		{0.04, 24 * time.Hour}, // 2 % each way
	} {
		rng := rand.New(rand.NewPCG(117, 1))
		s := newSim(DetectorConfig{Targets: someTargets(3)}, func(int, time.Duration) (time.Duration, error) {
			if rng.Float64() < test.loss {
				return lost, nil
			}
			return 15*ms + time.Duration(rng.ExpFloat64()*float64(3*ms)), nil
		})
		for s.now < test.span {
			s.run(s.now + time.Hour)
			for _, e := range s.signals {
				if e.Signal == Failing {
					t.Errorf("at %.0f %% loss: failing at %v", 100*test.loss, e.At)
				}
			}
			s.signals = s.signals[:0]
		}
		if n := s.sent[0] + s.sent[1] + s.sent[2]; n < int(test.span.Seconds()) {
			t.Errorf("only %d probes", n)
		}
	}
}

// BenchmarkDetector is the cost of one idle probe, from Next to its Reply.
func BenchmarkDetector(b *testing.B) {
	d := NewDetector(DetectorConfig{Targets: someTargets(3)})
	d.Reset(epoch0)
	b.ReportAllocs()
	for b.Loop() {
		at, index, _ := d.Next()
		d.Tick(at)
		id := d.Sent(index, at)
		_ = d.Deadline()
		d.Reply(id, at.Add(20*ms), 20*ms)
	}
}

// BenchmarkDetectorOutage is the cost of a simulated second of silence.
func BenchmarkDetectorOutage(b *testing.B) {
	s := newSim(DetectorConfig{Targets: someTargets(3)}, until(0))
	b.ReportAllocs()
	for b.Loop() {
		s.run(s.now + time.Second)
	}
}

func TestAPathThatDiesYoungIsNoticedAsFastAsAnyOther(t *testing.T) {
	s := newSim(DetectorConfig{Targets: someTargets(4)}, until(1500*ms))
	s.run(5 * time.Second)
	if at, ok := s.first(Failing, 0); !ok || at > 1500*ms+1600*ms {
		t.Errorf("failing at %v (%v), want at most 1.6 s after the silence began at 1.5 s", at, ok)
	}
}

func TestDetectorFollowsUpASingleLoss(t *testing.T) {
	for name, c := range map[string]struct {
		lossy, hint bool
		want        int // probes from 10 s to 13 s, the lost one and the burst's included
	}{
		"ten probes at 150 ms":           {want: 14},
		"not where loss is known":        {lossy: true, want: 4},
		"a hint does not end the series": {hint: true, want: 15},
	} {
		s := newSim(DetectorConfig{Targets: someTargets(3)}, func(_ int, at time.Duration) (time.Duration, error) {
			if at == 10*time.Second {
				return lost, nil
			}
			return 20 * ms, nil
		})
		s.d.SetKnownLossy(c.lossy)
		s.run(9990 * ms)
		before := s.sent[0] + s.sent[1] + s.sent[2]
		s.run(10500 * ms)
		if c.hint {
			s.d.Hint(epoch0.Add(s.now))
		}
		s.run(12990 * ms)
		if got := s.sent[0] + s.sent[1] + s.sent[2] - before; got != c.want {
			t.Errorf("%s: %d probes, want %d", name, got, c.want)
		}
	}
}
