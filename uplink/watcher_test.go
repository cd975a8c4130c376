package uplink

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
)

// network is an in-memory world of probes. answer says what becomes of a probe
// to a target that leaves a time after the beginning; a negative rtt is silence.
type network struct {
	began  time.Time
	answer func(target string, at time.Duration) (rtt time.Duration, err error)

	mu       sync.Mutex
	paths    []probe.Binding // of each probe, in order
	inFlight int
	most     int
}

var _ probe.Prober = (*network)(nil)

const silence = time.Duration(-1)

func (n *network) Probe(ctx context.Context, p probe.Binding, t probe.Target) (time.Duration, error) {
	n.mu.Lock()
	n.paths = append(n.paths, p)
	n.inFlight++
	n.most = max(n.most, n.inFlight)
	rtt, err := n.answer(t.String(), time.Since(n.began))
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		n.inFlight--
		n.mu.Unlock()
	}()
	if err != nil {
		return 0, err
	}
	var arrives <-chan time.Time
	if rtt >= 0 {
		arrives = time.After(rtt)
	}
	select {
	case <-arrives:
		return rtt, nil
	case <-ctx.Done():
		if ctx.Err() == context.Canceled {
			return 0, ctx.Err()
		}
		return 0, &probe.Error{Target: t.String(), Class: probe.ErrTimeout, Err: ctx.Err()}
	}
}

func targets(t testing.TB, n int) []probe.Target {
	all := make([]probe.Target, n)
	for i := range all {
		var err error
		if all[i], err = probe.ParseTarget(fmt.Sprintf("192.0.2.%d", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// bench is a Watcher running in a bubble.
type bench struct {
	*Watcher
	net    *network
	mu     sync.Mutex
	got    []string
	all    []Transition
	cancel func()
	done   chan error
}

var wholePath = PathInfo{Link: Link{Carrier: true, HasAddress: true, HasGateway: true}, Binding: probe.Binding{Device: "eth1", Mark: 1 << 24}}

// start runs a Watcher in the caller's bubble with a whole path.
func start(t testing.TB, cfg WatcherConfig, answer func(string, time.Duration) (time.Duration, error)) *bench {
	b := &bench{net: &network{began: time.Now(), answer: answer}, done: make(chan error, 1)}
	cfg.Uplink, cfg.Family, cfg.Prober = "fiber", rules.IPv4, b.net
	if cfg.Targets == nil {
		cfg.Targets = targets(t, 3)
	}
	cfg.OnChange = func(tr Transition) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.all = append(b.all, tr)
		b.got = append(b.got, fmt.Sprintf("%v %v>%v", tr.At.Sub(b.net.began), tr.From, tr.To))
		b.Verdict() // the lock is free
	}
	b.Watcher = NewWatcher(cfg)
	b.SetPath(wholePath)
	var ctx context.Context
	ctx, b.cancel = context.WithCancel(t.Context())
	go func() { b.done <- b.Run(ctx) }()
	return b
}

// until lets virtual time pass to a moment since the beginning.
func (b *bench) until(at time.Duration) {
	time.Sleep(at - time.Since(b.net.began)) // virtual: returns at once
	synctest.Wait()
}

// end stops the Watcher; the bubble fails the test when a goroutine is left.
func (b *bench) end(t testing.TB) {
	t.Helper()
	b.cancel()
	if err := <-b.done; err != nil {
		t.Errorf("Run: %v", err)
	}
	if b.net.inFlight != 0 {
		t.Errorf("%d probes outlive Run", b.net.inFlight)
	}
	if b.net.most > probe.MaxInFlight {
		t.Errorf("%d probes at once", b.net.most)
	}
}

func (b *bench) want(t testing.TB, want ...string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if diff := cmp.Diff(want, b.got); diff != "" {
		t.Errorf("transitions (-want +got):\n%s", diff)
	}
}

// quick answers after 20 ms.
func quick(string, time.Duration) (time.Duration, error) { return 20 * ms, nil }

// blackhole answers after 20 ms until from, and from to on.
func blackhole(from, to time.Duration) func(string, time.Duration) (time.Duration, error) {
	return func(_ string, at time.Duration) (time.Duration, error) {
		if at >= from && at < to {
			return silence, nil
		}
		return 20 * ms, nil
	}
}

func TestWatcherBlackhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, WatcherConfig{}, blackhole(30500*ms, 60*time.Second))
		b.until(2 * time.Minute)
		b.want(t,
			"20ms init>up",
			"31.6s up>suspect",    // 0.5 s to the next probe, 150 ms, 300 ms, 150 ms
			"32.24s suspect>down", // 640 ms
			"1m0.17s down>recovering",
			"1m10.17s recovering>up",
		)
		tr := b.all[1]
		if tr.Reason.Text != "4 of 4 probes to 3 targets unanswered for 450 ms" || tr.Uplink != "fiber" || tr.Family != rules.IPv4 {
			t.Errorf("%+v", tr)
		}
		wantEvidence := []string{
			"192.0.2.1: 13 sent, 11 answered, last RTT 20.0 ms",
			"192.0.2.2: 13 sent, 11 answered, last RTT 20.0 ms",
			"192.0.2.3: 13 sent, 11 answered, last RTT 20.0 ms",
		}
		if diff := cmp.Diff(wantEvidence, tr.Evidence); diff != "" {
			t.Errorf("evidence (-want +got):\n%s", diff)
		}
		v := b.Verdict()
		if v.State != Up || v.Loss != 0 || v.RTT != 20*ms || v.Requests == 0 || v.Replies == 0 || v.Bytes < 104*v.Replies || len(v.Targets) != 3 {
			t.Errorf("%+v", v)
		}
		b.end(t)
	})
}

func TestWatcherOneDeadTargetIsNotTheUplink(t *testing.T) {
	for _, dead := range [][]string{{"192.0.2.2"}, {"192.0.2.1", "192.0.2.3"}} {
		t.Run(fmt.Sprint(len(dead)), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, WatcherConfig{}, func(target string, _ time.Duration) (time.Duration, error) {
					if slices.Contains(dead, target) {
						return silence, nil
					}
					return 20 * ms, nil
				})
				b.until(time.Hour)
				if len(b.all) != 1 || b.all[0].To != Up {
					t.Errorf("transitions %q", b.got)
				}
				v := b.Verdict()
				for _, target := range v.Targets {
					if target.Up == slices.Contains(dead, target.Target) || target.Dead != slices.Contains(dead, target.Target) {
						t.Errorf("%+v", target)
					}
				}
				if v.Loss != 0 {
					t.Errorf("a dead target counts as loss: %v", v.Loss)
				}
				b.end(t)
			})
		})
	}
}

func TestWatcherLossIsDegradedAndNotDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(1, 2))
		b := start(t, WatcherConfig{}, func(_ string, at time.Duration) (time.Duration, error) {
			if at > 2*time.Minute && at < 12*time.Minute && rng.Float64() < 0.35 {
				return silence, nil
			}
			return 20 * ms, nil
		})
		b.until(15 * time.Minute)
		v := b.Verdict()
		if v.State != Up {
			t.Errorf("%v: %s", v.State, v.Reason)
		}
		entered := slices.ContainsFunc(b.all, func(tr Transition) bool { return tr.To == Degraded })
		if down := slices.ContainsFunc(b.all, func(tr Transition) bool { return tr.To == Down }); !entered || down {
			t.Errorf("degraded %v, down %v: %q", entered, down, b.got)
		}
		if n := len(b.all); n > 12 {
			t.Errorf("%d changes: it flaps: %q", n, b.got)
		}
		b.end(t)
	})
}

func TestWatcherLateRepliesClearSuspicion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, WatcherConfig{}, func(_ string, at time.Duration) (time.Duration, error) {
			if at > 30500*ms {
				return 900 * ms, nil
			}
			return 20 * ms, nil
		})
		b.until(10 * time.Minute)
		for _, tr := range b.all {
			if tr.To == Down {
				t.Errorf("a slow path is down: %q", b.got)
			}
		}
		if len(b.got) < 3 || b.got[1] != "31.6s up>suspect" || b.got[2] != "31.9s suspect>up" {
			t.Errorf("%q", b.got)
		}
		b.end(t)
	})
}

func TestWatcherFlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// 3 s of silence in every 8 s: never ten answers in a row over 10 s.
		b := start(t, WatcherConfig{}, func(_ string, at time.Duration) (time.Duration, error) {
			if at > 30*time.Second && at%(8*time.Second) < 3*time.Second {
				return silence, nil
			}
			return 20 * ms, nil
		})
		b.until(5 * time.Minute)
		ups := 0
		for _, tr := range b.all {
			if tr.To == Up {
				ups++
			}
		}
		if ups != 1 {
			t.Errorf("trusted %d times: %q", ups, b.got)
		}
		b.end(t)
	})
}

func TestWatcherCarrierLossDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, WatcherConfig{}, quick)
		b.until(10500 * ms)
		lost := wholePath
		lost.Carrier = false
		if got := b.SetPath(lost); got != Down {
			t.Errorf("SetPath returns %v", got)
		}
		if v := b.Verdict(); v.State != Down || v.Reason != ReasonCarrier {
			t.Errorf("%v: %s", v.State, v.Reason)
		}
		sent := b.Verdict().Requests
		b.until(20 * time.Second)
		if n := b.Verdict().Requests - sent; n != 0 {
			t.Errorf("%d probes without a carrier", n)
		}
		if got := b.SetPath(wholePath); got != Down {
			t.Errorf("%v at once after the carrier is back", got)
		}
		b.until(time.Minute)
		b.want(t, "20ms init>up", "10.5s up>down", "22.02s down>recovering", "32.02s recovering>up")
		b.end(t)
	})
}

func TestWatcherCarrierLossCancelsWhatIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, WatcherConfig{}, func(string, time.Duration) (time.Duration, error) { return silence, nil })
		b.until(1500 * ms)
		if b.net.inFlight == 0 {
			t.Fatal("nothing in flight")
		}
		b.SetPath(PathInfo{})
		synctest.Wait()
		if b.net.inFlight != 0 {
			t.Errorf("%d still in flight", b.net.inFlight)
		}
		b.end(t)
	})
}

func TestWatcherProbesFollowThePath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		moved := wholePath
		moved.Binding.Device = "eth2"
		// The old path has been silent just before, the new one answers.
		b := start(t, WatcherConfig{}, func(_ string, at time.Duration) (time.Duration, error) {
			if at > 9500*ms && at < 10700*ms {
				return silence, nil
			}
			return 20 * ms, nil
		})
		b.until(10700 * ms)
		if got := b.SetPath(moved); got != Suspect {
			t.Errorf("a moved path changes the verdict to %v", got)
		}
		b.until(15 * time.Second)
		b.want(t, "20ms init>up", "10.6s up>suspect", "10.72s suspect>up")
		if last := b.net.paths[len(b.net.paths)-1]; last != moved.Binding {
			t.Errorf("the last probe left by %+v", last)
		}
		n := len(b.net.paths)
		for range 10 {
			b.SetPath(moved) // hints repeat themselves
		}
		synctest.Wait()
		if len(b.net.paths) != n {
			t.Error("the same facts send probes")
		}
		b.Renew()
		synctest.Wait()
		if len(b.net.paths) != n+1 {
			t.Error("Renew does not probe at once")
		}
		b.end(t)
	})
}

func TestWatcherLocalFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, WatcherConfig{}, func(target string, at time.Duration) (time.Duration, error) {
			switch {
			case at > 10*time.Second && at < 20*time.Second:
				return 0, &probe.Error{Target: target, Class: probe.ErrLocal, Err: fmt.Errorf("no buffers")}
			case at > 30500*ms && at < 40*time.Second:
				return 0, &probe.Error{Target: target, Class: probe.ErrNoPath}
			}
			return 20 * ms, nil
		})
		b.until(15500 * ms)
		if v := b.Verdict(); v.State != Up || v.LocalFault == "" {
			t.Errorf("%+v", v)
		}
		b.until(25 * time.Second)
		if v := b.Verdict(); v.LocalFault != "" {
			t.Errorf("local fault %q when all is well", v.LocalFault)
		}
		b.until(50 * time.Second)
		if len(b.all) < 2 || b.all[1].To != Down || b.all[1].Reason != ReasonRoute || b.all[1].At.Sub(b.net.began) > 32*time.Second {
			t.Errorf("%+v", b.all)
		}
		b.end(t)
	})
}

func TestWatcherCaptivePortal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		page, err := probe.ParseTarget("http://192.0.2.3/generate_204")
		if err != nil {
			t.Fatal(err)
		}
		b := start(t, WatcherConfig{Targets: append(targets(t, 1), page)}, func(target string, at time.Duration) (time.Duration, error) {
			if target == page.String() && at < 10*time.Second {
				return 0, &probe.Error{Target: target, Class: probe.ErrPortal}
			}
			return 20 * ms, nil
		})
		b.until(5 * time.Second)
		if v := b.Verdict(); !v.Portal || v.State != Up {
			t.Errorf("%+v", v)
		}
		b.until(time.Minute)
		if v := b.Verdict(); v.Portal {
			t.Error("the portal is gone and still told")
		}
		b.end(t)
	})
}

func TestWatcherRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{began: time.Now(), answer: quick}
		var got []Transition
		w := NewWatcher(WatcherConfig{
			Uplink: "fiber", Family: rules.IPv4, Targets: targets(t, 2), Prober: n,
			OnChange: func(tr Transition) { got = append(got, tr) },
		})
		since := time.Now().Add(-time.Hour)
		w.Restore(Down, since)
		if s := w.SetPath(wholePath); s != Down || w.Verdict().Since != since {
			t.Errorf("%v since %v", s, w.Verdict().Since)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Run(ctx) }()
		time.Sleep(30 * time.Second) // virtual
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(got) != 2 || got[0].To != Recovering || got[1].To != Up {
			t.Errorf("%+v", got)
		}
	})
}

func TestWatcherHintIsFasterThanTheCalmPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, WatcherConfig{}, blackhole(30050*ms, time.Hour))
		b.until(30250 * ms)
		b.Hint()
		b.until(35 * time.Second)
		b.want(t, "20ms init>up", "30.7s up>suspect", "31.34s suspect>down")
		b.end(t)
	})
}

func TestWatcherPaceCanBeChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, WatcherConfig{}, quick)
		b.until(10500 * ms)
		b.SetInterval(5 * time.Second)
		before := b.Verdict().Requests
		b.until(61 * time.Second)
		if n := b.Verdict().Requests - before; n < 10 || n > 12 {
			t.Errorf("%d probes in 50 s at one in 5 s", n)
		}
		b.SetInterval(250 * ms)
		before = b.Verdict().Requests
		b.until(71 * time.Second)
		if n := b.Verdict().Requests - before; n < 38 || n > 42 {
			t.Errorf("%d probes in 10 s at one in 250 ms", n)
		}
		b.end(t)
	})
}

func TestWatcherReceivingPutsOffDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, WatcherConfig{}, blackhole(30500*ms, 35*time.Second))
		for at := 10 * time.Second; at < 40*time.Second; at += 50 * ms {
			b.until(at)
			b.Received(time.Now())
		}
		b.want(t, "20ms init>up", "31.6s up>suspect", "35.17s suspect>up")
		if v := b.Verdict(); v.Suppressed || b.eval.fsm.damping.HoldDown() != 0 {
			t.Errorf("%+v", v)
		}
		b.end(t)
	})
}

func TestWatcherGrayLossIsFoundAndShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(1, 5))
		b := start(t, WatcherConfig{}, func(_ string, at time.Duration) (time.Duration, error) {
			if at > time.Minute && rng.Float64() < 0.5 {
				return silence, nil
			}
			return 20 * ms, nil
		})
		b.until(70 * time.Second)
		if v := b.Verdict(); v.State != Degraded || v.Class != Poor || b.eval.fsm.quality.Reason() != "poor: loss above 3 %" {
			t.Errorf("%v, %v (%s)", v.State, v.Class, b.eval.fsm.quality.Reason())
		}
		b.end(t)
		if tr := b.all[1]; tr.Class != Poor {
			t.Errorf("%+v", tr)
		}
	})
}

func TestWatcherTargetsThatDieMoveNothing(t *testing.T) {
	for _, together := range []bool{false, true} {
		for phase := time.Duration(0); phase < 3*time.Second; phase += 230 * ms {
			synctest.Test(t, func(t *testing.T) {
				dies := map[string]time.Duration{"192.0.2.1": time.Minute + phase, "192.0.2.3": 3*time.Minute + phase}
				if together {
					dies["192.0.2.3"] = time.Minute + phase
				}
				b := start(t, WatcherConfig{}, func(target string, at time.Duration) (time.Duration, error) {
					if from, mortal := dies[target]; mortal && at >= from {
						return silence, nil
					}
					return 20 * ms, nil
				})
				b.until(10 * time.Minute)
				b.want(t, "20ms init>up")
				if v := b.Verdict(); v.Class != Good {
					t.Errorf("class %v: %s", v.Class, b.eval.fsm.quality.Reason())
				}
				b.end(t)
			})
		}
	}
}

func TestWatcherAHoleOfASecondIsNoGrayLoss(t *testing.T) {
	for phase := time.Duration(0); phase < time.Second; phase += 130 * ms {
		synctest.Test(t, func(t *testing.T) {
			b := start(t, WatcherConfig{}, blackhole(30*time.Second+phase, 31200*ms+phase))
			b.until(2 * time.Minute)
			for _, tr := range b.all {
				if tr.To == Degraded {
					t.Errorf("degraded after a hole of 1.2 s: %q", b.got)
				}
			}
			b.end(t)
		})
	}
}

func TestWatcherWithoutProbes(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  WatcherConfig
		want []State // whole, lost, whole for 3 s
	}{
		{"targets of the other family only", WatcherConfig{Family: rules.IPv6}, []State{Up, Down, Up}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{began: time.Now(), answer: quick}
				test.cfg.Targets, test.cfg.Prober = targets(t, 2), n
				w := NewWatcher(test.cfg)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- w.Run(ctx) }()
				got := []State{w.SetPath(wholePath), w.SetPath(PathInfo{})}
				w.SetPath(wholePath)
				time.Sleep(3 * time.Second) // virtual
				got = append(got, w.Verdict().State)
				cancel()
				<-done
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if len(n.paths) != 0 {
					t.Errorf("%d probes", len(n.paths))
				}
			})
		})
	}
}

func TestWatcherTellsTransitionsFromBeforeRunAndAtItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []State
		w := NewWatcher(WatcherConfig{Targets: targets(t, 1), Family: rules.IPv4, Prober: &network{answer: quick}, OnChange: func(tr Transition) {
			time.Sleep(time.Second) // a slow listener
			got = append(got, tr.To)
		}})
		w.SetPath(PathInfo{})
		w.SetPath(wholePath)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Run(ctx) }()
		time.Sleep(10 * ms)
		w.SetPath(PathInfo{})
		cancel()
		<-done
		if diff := cmp.Diff([]State{Down, Init, Down}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestWatcherDetectionBound: at the defaults and on a path faster than 130 ms,
// total silence is suspect after 0.6 to 1.6 s and down 640 ms later.
func TestWatcherDetectionBound(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rtt := time.Duration(rapid.Int64Range(0, int64(125*ms)).Draw(rt, "rtt"))
		hole := time.Minute + time.Duration(rapid.Int64Range(0, int64(10*time.Second)).Draw(rt, "phase"))
		synctest.Test(t, func(t *testing.T) {
			b := start(t, WatcherConfig{}, func(_ string, at time.Duration) (time.Duration, error) {
				if at >= hole {
					return silence, nil
				}
				return rtt, nil
			})
			b.until(hole + 5*time.Second)
			if n := len(b.all); n != 3 || b.all[1].To != Suspect || b.all[2].To != Down {
				t.Fatalf("%q", b.got)
			}
			suspect := b.all[1].At.Sub(b.net.began) - hole
			down := b.all[2].At.Sub(b.all[1].At)
			if suspect < 600*ms || suspect > 1600*ms || down != DefaultConfirm {
				t.Errorf("suspect after %v, down %v later", suspect, down)
			}
			b.end(t)
		})
	})
}

// TestWatcherDayOfRandomLoss is the whole of Watcher, Detector and FSM for a
// day at 1 %; probe simulates the week.
func TestWatcherDayOfRandomLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(117, 3))
		b := start(t, WatcherConfig{}, func(string, time.Duration) (time.Duration, error) {
			if rng.Float64() < 0.01 {
				return silence, nil
			}
			return 15*ms + time.Duration(rng.ExpFloat64()*float64(3*ms)), nil
		})
		b.until(24 * time.Hour)
		b.mu.Lock()
		if len(b.all) != 1 {
			t.Errorf("%q", b.got)
		}
		b.mu.Unlock()
		b.end(t)
	})
}

// Probes that wait in the queue of a download make nobody suspect; a download that ends with them does.
func TestWatcherAStreamPutsOffSuspicion(t *testing.T) {
	for name, c := range map[string]struct {
		silent, streams time.Duration // from 30.5 s on
		want            []string
	}{
		"a queue of a second and a half": {1800 * ms, time.Hour, []string{"20ms init>up"}},
		"a stream that ends":             {3 * time.Second, 0, []string{"20ms init>up", "31.6s up>suspect", "32.24s suspect>down"}},
		"a stream of the other family":   {6 * time.Second, time.Hour, []string{"20ms init>up", "33.7s up>suspect"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const hole = 30500 * ms
				b := start(t, WatcherConfig{}, blackhole(hole, hole+c.silent))
				for at := 10 * time.Second; at < 36*time.Second; at += 50 * ms {
					b.until(at)
					if at < hole+c.streams {
						b.Received(time.Now())
						b.InboundStream(time.Now())
					}
				}
				b.end(t)
				for i, want := range c.want {
					if i >= len(b.got) || b.got[i] != want {
						t.Errorf("got %q, want %q first", b.got, c.want)
						break
					}
				}
			})
		})
	}
}

// What was measured while the line lived is not what it is like now.
func TestFiguresOfADeadLineAreThoseOfADeadLine(t *testing.T) {
	for name, die := range map[string]func(*bench){
		"dark beyond the gateway": func(*bench) {},
		"without carrier":         func(b *bench) { b.SetPath(PathInfo{Link: Link{HasAddress: true, HasGateway: true}}) },
	} {
		synctest.Test(t, func(t *testing.T) {
			b := start(t, WatcherConfig{}, blackhole(30*time.Second, time.Hour))
			b.until(29 * time.Second)
			if v := b.Verdict(); v.RTT == 0 || v.Loss != 0 || !v.Targets[0].Up || v.Targets[0].RTT == 0 {
				t.Errorf("%s, alive: %+v", name, v)
			}
			b.until(30 * time.Second)
			die(b)
			b.until(40 * time.Second)
			v := b.Verdict()
			if v.State != Down || v.RTT != 0 || v.Jitter != 0 || v.Loss != 1 {
				t.Errorf("%s: %+v", name, v)
			}
			for _, target := range v.Targets {
				if target.Up || target.RTT != 0 {
					t.Errorf("%s: %+v", name, target)
				}
			}
			b.end(t)
		})
	}
}
