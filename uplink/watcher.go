package uplink

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
)

// WatcherConfig configures a Watcher. Zero durations and counts take the
// defaults of the configuration file.
type WatcherConfig struct {
	Uplink   string
	Family   rules.Family
	Disabled bool // the family is off: nothing is probed

	// Targets of the other family are left out. Without any, the path alone
	// decides the verdict.
	Targets      []probe.Target
	Interval     time.Duration
	FastInterval time.Duration
	Timeout      time.Duration
	Fall         int
	Rise         int
	MinTargetsUp int
	Beat         time.Time     // calm probes lie multiples of Interval after it; zero for any time
	Confirm      time.Duration // suspect to down; DefaultConfirm
	Hold         time.Duration // least span of Rise successes; DefaultHold
	Stable       time.Duration // least age of a regained path; DefaultStable
	Classes      Classes       // limits of the classes; DefaultClasses

	// Prober is required unless there are no targets. It is used by several
	// goroutines, and must return when its context ends.
	Prober probe.Prober

	// OnChange is told every transition, in order, on a goroutine of Run that
	// does nothing else, with no lock held: it may call any method of the
	// Watcher and may block without delaying probes or verdicts. It is never
	// called from inside SetPath or Restore, so a caller that holds a lock
	// which OnChange takes cannot deadlock; it learns the verdict of SetPath
	// from its result and hears of the transition a moment later. Transitions
	// from before Run are told when it begins, those from its end before it
	// returns. May be nil.
	OnChange func(Transition)

	// OnMiss is told, as OnChange is, that a probe went unanswered while the
	// verdict was good: whatever shares the line may ask for itself, see Hint.
	// May be nil.
	OnMiss func()

	// OnRTT is told the time of every answer, on the goroutine of its probe
	// and with no lock held, for a histogram. May be nil.
	OnRTT func(t probe.Target, rtt time.Duration)
}

// PathFacts is what the kernel says about the way out, and how probes take it.
type PathFacts struct {
	NoDevice   bool
	Carrier    bool
	HasAddress bool
	HasGateway bool
	Probe      probe.Path

	// Quiet keeps probes from being sent: the kernel does not route by Probe
	// yet, and they would leave by another uplink or not at all.
	Quiet bool
}

// Verdict is a snapshot of what is known about one uplink in one family.
type Verdict struct {
	State   State
	Reason  string
	Since   time.Time
	RTT     time.Duration // smoothed, of the nearest target that answers; 0 for none
	Jitter  time.Duration // of the same target
	Loss    float64       // 0..1, over the last probes of all targets that may vote
	Targets []TargetStatus

	Class       Class         // how well it works: for choosing among what works
	ClassReason string        // what makes the class; "" for good
	Congestion  string        // why it is slow through its own traffic; "" when it is not
	Confirm     time.Duration // how long silence is confirmed on this link before down
	Bursts      time.Duration // mean length of its bursts of loss, estimated

	// Suppressed: it went down too often lately, and carries new traffic only when
	// there is no other uplink. Which is for the caller to see.
	Suppressed       bool
	SuppressedUntil  time.Time     // unless it goes down again
	SuppressedReason string        // "" when it is not
	HoldDown         time.Duration // for how long answers are not trusted after the latest down

	Vetoes      uint64 // times that packets that arrived put off a down
	Requests    uint64 // probes begun
	Replies     uint64 // answers, late ones included
	LocalFaults uint64 // probes that did not leave for a reason of this machine
	Bytes       uint64 // moved by probes in both directions, estimated
	LocalFault  string // the latest probe's local fault; "" when it left
	Portal      bool   // the latest decided /generate_204 probe met a captive portal
}

// TargetStatus is what is known about one target.
type TargetStatus struct {
	Target   string
	Up       bool // answered its latest decided probe
	Dead     bool // silent while others answer, so without a vote
	RTT      time.Duration
	Loss     float64 // 0..1
	Sent     uint64
	Answered uint64
	Fault    string // what the latest failed probe said; "" after an answer
}

// Watcher probes one uplink in one family and judges it. All methods may be
// called at any time by any goroutine, except that Run may be called once.
type Watcher struct {
	cfg  WatcherConfig
	wake chan struct{} // the schedule has changed
	told chan struct{} // changes has grown

	mu       sync.Mutex
	judge    *Judge
	path     probe.Path
	whole    bool
	inFlight map[uint64]context.CancelFunc
	blocked  blockedSends
	timer    *time.Timer // of the scheduler; nil before Run
	armed    time.Time   // when it wakes by itself; zero for never
	changes  []Transition
	missed   bool // OnMiss is to be told
	counters counters
}

type counters struct {
	requests, replies, localFaults, bytes uint64
	localFault                            string
	portal                                bool
}

// NewWatcher returns a Watcher that does nothing until SetPath and Run. Its
// first verdict is init.
func NewWatcher(cfg WatcherConfig) *Watcher {
	var targets []probe.Target
	for _, t := range cfg.Targets {
		if rules.FamilyOf(t.Addr()) == cfg.Family && !cfg.Disabled {
			targets = append(targets, t)
		}
	}
	cfg.Targets = targets
	if cfg.Timeout <= 0 {
		cfg.Timeout = probe.DefaultTimeout
	}
	return &Watcher{
		cfg:      cfg,
		wake:     make(chan struct{}, 1),
		told:     make(chan struct{}, 1),
		judge:    NewJudge(cfg, time.Now()),
		inFlight: make(map[uint64]context.CancelFunc), blocked: make(blockedSends),
	}
}

// Run probes until ctx ends and returns nil when all its goroutines are gone:
// one for OnChange, one for each probe in flight, at most [probe.MaxInFlight].
func (w *Watcher) Run(ctx context.Context) error {
	var probes, teller sync.WaitGroup
	told, hush := context.WithCancel(context.Background())
	teller.Go(func() { w.tell(told) })
	defer func() {
		probes.Wait()
		hush()
		teller.Wait()
	}()

	timer := time.NewTimer(0)
	defer timer.Stop()
	w.mu.Lock()
	w.timer = timer
	w.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
		case <-timer.C:
		}
		w.schedule(ctx, &probes)
	}
}

// schedule does what is due, and sets the timer for when something will be due again.
func (w *Watcher) schedule(ctx context.Context, probes *sync.WaitGroup) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	w.judge.Tick(now)
	w.collect()
	for ctx.Err() == nil {
		at, index, ok := w.judge.Next()
		if !ok || at.After(now) {
			break
		}
		w.launch(ctx, probes, index, now)
	}
	w.arm(w.judge.Deadline())
}

// arm sets the timer for a time; zero is never. The lock is held.
func (w *Watcher) arm(at time.Time) {
	w.armed = at
	if at.IsZero() {
		w.timer.Stop()
	} else {
		w.timer.Reset(time.Until(at))
	}
}

// launch begins one probe. The lock is held.
func (w *Watcher) launch(ctx context.Context, probes *sync.WaitGroup, index int, now time.Time) {
	id := w.judge.Sent(index, now)
	target, path := w.cfg.Targets[index], w.path
	window, cancel := context.WithTimeout(ctx, w.cfg.Timeout)
	w.inFlight[id] = cancel
	w.counters.requests++
	probes.Go(func() {
		rtt, err := w.cfg.Prober.Probe(window, path, target)
		w.landed(id, target, rtt, err)
		cancel()
	})
}

// landed takes in the outcome of one probe.
func (w *Watcher) landed(id uint64, target probe.Target, rtt time.Duration, err error) {
	if err == nil && w.cfg.OnRTT != nil {
		w.cfg.OnRTT(target, rtt)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, current := w.inFlight[id]; !current {
		return // it left by a path that is gone
	}
	delete(w.inFlight, id)
	now := time.Now()
	if !errors.Is(err, context.Canceled) {
		w.blocked.landed(target.Kind(), now, err)
	}
	switch {
	case err == nil:
		w.counters.replies++
		w.counters.bytes += uint64(target.Bytes())
		w.counters.localFault = ""
		if target.Wants204() {
			w.counters.portal = false
		}
		w.judge.Reply(id, now, rtt)
	case errors.Is(err, context.Canceled):
		w.judge.Drop(id)
	case errors.Is(err, probe.ErrLocal):
		w.counters.localFaults++
		w.counters.localFault = err.Error()
		w.judge.Local(id, now, err, errors.Is(err, probe.ErrNoPath))
	default:
		w.counters.bytes += uint64(target.Bytes()) / 2
		w.counters.localFault = ""
		if target.Wants204() {
			w.counters.portal = errors.Is(err, probe.ErrPortal)
		}
		w.judge.Miss(id, now, err)
	}
	w.collect()
	// The scheduler is woken only when it would otherwise sleep too long. Most
	// answers change nothing about the next probe, and let it sleep until then.
	switch due := w.judge.Deadline(); {
	case due.Equal(w.armed):
	case !due.IsZero() && (w.armed.IsZero() || due.Before(w.armed)):
		notify(w.wake)
	default:
		w.arm(due)
	}
}

// collect queues what there is to tell for the teller. The lock is held.
func (w *Watcher) collect() {
	changes := w.judge.Take()
	if w.cfg.OnChange != nil && len(changes) > 0 {
		w.changes = append(w.changes, changes...)
		notify(w.told)
	}
	if w.judge.missed && w.cfg.OnMiss != nil {
		w.missed = true
		notify(w.told)
	}
	w.judge.missed = false
}

// tell calls OnChange until ctx ends and nothing is left to tell.
func (w *Watcher) tell(ctx context.Context) {
	for {
		w.mu.Lock()
		changes, missed := w.changes, w.missed
		w.changes, w.missed = nil, false
		w.mu.Unlock()
		if missed {
			w.cfg.OnMiss()
		}
		for _, t := range changes {
			w.cfg.OnChange(t)
		}
		if len(changes) > 0 {
			continue
		}
		select {
		case <-w.told:
		case <-ctx.Done():
			// Nothing is added any more, unless by a late SetPath.
			if w.quiet() {
				return
			}
		}
	}
}

func (w *Watcher) quiet() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.changes) == 0
}

// SetPath tells the facts about the way out and returns the verdict that
// follows from them. It is synchronous: a lost carrier has made the uplink down
// when it returns, and no probe is begun any more; those in flight are
// cancelled and count for nothing. When only the way of probing has changed, the
// verdict stays, and probes leave by the new path from now on. The facts of
// every hint may be passed on; the same ones again change nothing.
//
// A device that was deleted and made anew under its name is a new path although
// it looks the same; tell its absence in between, or call Renew.
func (w *Watcher) SetPath(f PathFacts) State {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	path := Path{NoDevice: f.NoDevice, Carrier: f.Carrier, HasAddress: f.HasAddress, HasGateway: f.HasGateway}
	was, moved := w.whole, w.path != f.Probe
	w.whole, w.path = path.Whole() && !w.cfg.Disabled && !f.Quiet, f.Probe
	w.judge.SetPath(path, now)
	switch {
	case was && !w.whole:
		w.cancel()
		w.judge.End()
	case !was && w.whole:
		w.judge.Begin(now)
	case was && moved:
		w.renew(now)
	}
	w.collect()
	notify(w.wake)
	return w.judge.State()
}

// Renew sends anew by the path as it is: probes in flight count for nothing.
func (w *Watcher) Renew() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.whole {
		w.renew(time.Now())
		notify(w.wake)
	}
}

func (w *Watcher) renew(now time.Time) {
	w.cancel()
	w.judge.Renew(now)
}

// cancel ends the probes in flight. The lock is held.
func (w *Watcher) cancel() {
	for id, cancel := range w.inFlight {
		cancel()
		delete(w.inFlight, id)
	}
}

// Restore continues from a verdict of an earlier run, before the first SetPath.
// See [Machine.Restore].
func (w *Watcher) Restore(s State, since time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.judge.machine.Restore(s, since)
}

// Memory is what was learned of an uplink, to be kept over a restart.
type Memory struct {
	Bursts  probe.BurstMemory `json:"bursts"`
	Damping DampingMemory     `json:"damping"`
}

// Memory returns what was learned so far.
func (w *Watcher) Memory() Memory {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Memory{Bursts: w.judge.detector.Bursts().Memory(), Damping: w.judge.machine.damping.Memory()}
}

// Remember continues with what an earlier run has learned.
func (w *Watcher) Remember(m Memory) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.judge.detector.Remember(m.Bursts)
	w.judge.machine.damping.Restore(m.Damping, time.Now())
}

// Hint asks for a burst of probes now, because traffic is sent and none comes
// back, or a neighbour has failed. The probes alone decide. It is cheap to call
// too often.
func (w *Watcher) Hint() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.judge.Hint(time.Now())
	notify(w.wake)
}

// Received tells that the device received packets at a time, for both families
// alike. While it did so within the last 200 ms a suspect uplink does not become
// down, for 10 s at most. It is cheap to call often.
func (w *Watcher) Received(at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.judge.Received(at)
}

// Flooded tells that the device received a stream of packets up to a time, more than neighbours on the line send:
// probes that are silent meanwhile may wait in a queue. For 2 s they do not make the uplink suspect.
func (w *Watcher) Flooded(at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.judge.Flooded(at)
}

// Load tells how many bits a second the device moves, in the direction that moves more. It is to be called
// every second or so.
func (w *Watcher) Load(bits float64, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.judge.Load(bits, at)
}

// SetInterval changes the calm pace, for an uplink that becomes active or
// standby; 0 is the default.
func (w *Watcher) SetInterval(interval time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.judge.detector.SetInterval(interval)
	notify(w.wake)
}

// RTT returns the smoothed round-trip time of the slowest target that answers.
func (w *Watcher) RTT() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	slowest := time.Duration(0)
	for _, s := range w.judge.detector.Stats() {
		slowest = max(slowest, s.RTT)
	}
	return slowest
}

// Verdict returns a snapshot.
func (w *Watcher) Verdict() Verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.counters
	v := Verdict{
		State: w.judge.machine.State(), Reason: w.judge.machine.Reason(), Since: w.judge.machine.Since(),
		Requests: c.requests, Replies: c.replies, LocalFaults: c.localFaults, Bytes: c.bytes,
		LocalFault: c.localFault, Portal: c.portal,
	}
	v.Loss, _ = w.judge.detector.Loss()
	v.Class, v.ClassReason = w.judge.machine.quality.Class(), w.judge.machine.quality.Reason()
	v.Congestion = w.judge.machine.quality.congestion.Reason()
	now, damping := time.Now(), w.judge.machine.Damping()
	v.SuppressedUntil, v.Suppressed = damping.Suppressed(now)
	if !v.Suppressed {
		v.SuppressedUntil = time.Time{}
	}
	v.SuppressedReason, v.HoldDown = damping.Reason(now), damping.HoldDown()
	v.Vetoes = uint64(w.judge.machine.vetoes)
	v.Confirm, v.Bursts = w.judge.detector.Confirm(), w.judge.detector.Bursts().Mean()
	for _, s := range w.judge.detector.Stats() {
		v.Targets = append(v.Targets, TargetStatus{
			Target: s.Target.String(), Up: s.Up, Dead: s.Dead, RTT: s.RTT, Loss: s.Loss,
			Sent: s.Sent, Answered: s.Answered, Fault: s.Fault,
		})
		if s.Up && (v.RTT == 0 || s.RTT < v.RTT) {
			v.RTT, v.Jitter = s.RTT, s.Jitter
		}
	}
	return v
}

// evidence has a line per target: what it was asked and what it answered.
func evidence(stats []probe.TargetStats) []string {
	lines := make([]string, 0, len(stats))
	for _, s := range stats {
		line := fmt.Sprintf("%v: %d sent, %d answered", s.Target, s.Sent, s.Answered)
		if s.Answered > 0 {
			line += fmt.Sprintf(", last rtt %.1f ms", float64(s.LastRTT)/float64(time.Millisecond))
		}
		if s.Dead {
			line += ", dead while others answer"
		}
		if s.Fault != "" {
			line += ", " + s.Fault
		}
		lines = append(lines, line)
	}
	return lines
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
