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
	Optional bool // see [FSMConfig]

	// Targets of the other family are left out. Without any, the path alone
	// decides the verdict.
	Targets      []probe.Target
	Interval     time.Duration
	FastInterval time.Duration
	Timeout      time.Duration
	Fall         int
	Rise         int
	MinTargetsUp int
	Phase        time.Time     // idle probes follow it at whole multiples of Interval; zero for any time
	Confirm      time.Duration // suspect to down; DefaultConfirm
	Hold         time.Duration // least span of Rise successes; DefaultHold
	Stable       time.Duration // least age of a regained path; DefaultStable
	Classes      Classes       // limits of the classes; DefaultClasses

	// Prober is required unless there are no targets. It is used by several
	// goroutines, and must return when its context ends.
	Prober probe.Prober

	// OnChange gets every transition, in order, on a goroutine of Run that
	// does nothing else, with no lock held: it may call any method of the
	// Watcher and may block without delaying probes or verdicts. It is never
	// called from inside SetPath or Restore, so a caller that holds a lock
	// which OnChange takes cannot deadlock; it learns the verdict of SetPath
	// from its result and gets the transition a moment later. Transitions
	// from before Run come when it begins, those from its end before it
	// returns. May be nil.
	OnChange func(Transition)

	// OnMiss is called, as OnChange is, when a probe went unanswered while the
	// verdict was good: whatever shares the line may ask for itself, see Hint.
	// May be nil.
	OnMiss func()

	// OnRTT gets the time of every answer, on the goroutine of its probe
	// and with no lock held, for a histogram. May be nil.
	OnRTT func(t probe.Target, rtt time.Duration)
}

// PathInfo is what the kernel knows of a path, and how probes take it.
type PathInfo struct {
	Link
	Binding probe.Binding

	// Quiet keeps probes from being sent: the kernel does not route by Probe
	// yet, and they would leave by another uplink or not at all.
	Quiet bool
}

// Verdict is a snapshot of what is known about one uplink in one family.
type Verdict struct {
	State   State
	Reason  Reason
	Since   time.Time
	RTT     time.Duration // smoothed, of the nearest target that answers; 0 for none does
	Jitter  time.Duration // of the same target
	Loss    float64       // 0..1, over the last probes of all targets that may vote; 1 while it is down and none answers
	Targets []TargetStatus

	Class      Class  // how well it works: for choosing among what works
	Congestion string // why it is slow through its own traffic; "" when it is not

	// Suppressed: it went down too often lately, and carries new traffic only when
	// there is no other uplink. Which is for the caller to see.
	Suppressed bool

	Requests   uint64 // probes begun
	Replies    uint64 // answers, late ones included
	Bytes      uint64 // moved by probes in both directions, estimated
	LocalFault string // why the latest probe did not leave; "" when it did
	Portal     bool   // the latest decided /generate_204 probe met a captive portal
}

// TargetStatus is what is known about one target.
type TargetStatus struct {
	Target string
	Up     bool // answered its latest decided probe
	Dead   bool // silent while others answer, so without a vote
	RTT    time.Duration
}

// Watcher probes one uplink in one family and keeps its verdict. All methods may be
// called at any time by any goroutine, except that Run may be called once.
type Watcher struct {
	cfg  WatcherConfig
	wake chan struct{} // the schedule has changed
	news chan struct{} // changes has grown

	mu       sync.Mutex
	eval     *Evaluator
	binding  probe.Binding
	probing  bool // the path is complete and not quiet
	inFlight map[uint64]context.CancelFunc
	blocked  blockedSends
	timer    *time.Timer // wakes the scheduler; nil before Run
	armed    time.Time   // when it wakes by itself; zero for never
	changes  []Transition
	missed   bool // OnMiss is to be called
	counters counters
}

type counters struct {
	requests, replies, bytes uint64
	localFault               string
	portal                   bool
	decided                  time.Time // when the probe was sent that tells these two
}

// NewWatcher returns a Watcher that does nothing until SetPath and Run. Its
// first verdict is init.
func NewWatcher(cfg WatcherConfig) *Watcher {
	var targets []probe.Target
	for _, t := range cfg.Targets {
		if rules.FamilyOf(t.Addr()) == cfg.Family {
			targets = append(targets, t)
		}
	}
	cfg.Targets = targets
	return &Watcher{
		cfg:      cfg,
		wake:     make(chan struct{}, 1),
		news:     make(chan struct{}, 1),
		eval:     NewEvaluator(cfg, time.Now()),
		inFlight: make(map[uint64]context.CancelFunc), blocked: make(blockedSends),
	}
}

// Run probes until ctx ends and returns nil when all its goroutines are gone:
// one for OnChange, one for each probe in flight, at most [probe.MaxInFlight].
func (w *Watcher) Run(ctx context.Context) error {
	var probes, notifier sync.WaitGroup
	notifying, stop := context.WithCancel(context.Background())
	notifier.Go(func() { w.notify(notifying) })
	defer func() {
		probes.Wait()
		stop()
		notifier.Wait()
	}()

	for {
		w.schedule(ctx, &probes)
		select {
		case <-ctx.Done():
			w.mu.Lock()
			defer w.mu.Unlock()
			w.arm(time.Time{})
			return nil
		case <-w.wake:
		}
	}
}

// schedule does what is due, and sets the timer for when something will be due again.
func (w *Watcher) schedule(ctx context.Context, probes *sync.WaitGroup) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	w.eval.Tick(now)
	w.collect()
	for ctx.Err() == nil {
		at, index, ok := w.eval.Next()
		if !ok || at.After(now) {
			break
		}
		w.launch(ctx, probes, index, now)
	}
	w.arm(w.eval.Deadline())
}

// arm sets the timer for a time; zero is never. The lock is held.
//
// Each answer puts off when silence would be noticed. A timer that is put off still wakes the processor when it was due
// before: Go's heap of timers learns of it then. It takes one out that was stopped as soon as another is put in.
func (w *Watcher) arm(at time.Time) {
	w.armed = at
	if w.timer != nil {
		w.timer.Stop()
	}
	if !at.IsZero() {
		w.timer = time.AfterFunc(time.Until(at), func() { signal(w.wake) })
	}
}

// launch begins one probe. The lock is held.
func (w *Watcher) launch(ctx context.Context, probes *sync.WaitGroup, index int, now time.Time) {
	id := w.eval.Sent(index, now)
	target, binding := w.cfg.Targets[index], w.binding
	window, cancel := context.WithTimeout(ctx, probe.ListeningWindow(w.cfg.Timeout, w.cfg.FastInterval))
	w.inFlight[id] = cancel
	w.counters.requests++
	probes.Go(func() {
		rtt, err := w.cfg.Prober.Probe(window, binding, target)
		w.probeDone(id, target, now, rtt, err)
		cancel()
	})
}

// probeDone takes the outcome of one probe.
func (w *Watcher) probeDone(id uint64, target probe.Target, sent time.Time, rtt time.Duration, err error) {
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
		w.blocked.record(target.Kind(), sent, now, err)
		w.counters.decide(target, sent, err)
	}
	switch {
	case err == nil:
		w.counters.replies++
		w.counters.bytes += uint64(target.Bytes())
		w.eval.Reply(id, now, rtt)
	case errors.Is(err, context.Canceled):
		w.eval.Cancel(id)
	case errors.Is(err, probe.ErrLocal):
		w.eval.Local(id, now, err, errors.Is(err, probe.ErrNoPath))
	default:
		w.counters.bytes += uint64(target.Bytes()) / 2
		w.eval.Miss(id, now, err)
	}
	w.collect()
	// The scheduler is woken only when it would otherwise sleep too long. Most
	// answers change nothing about the next probe, and let it sleep until then.
	switch due := w.eval.Deadline(); {
	case due.Equal(w.armed):
	case !due.IsZero() && (w.armed.IsZero() || due.Before(w.armed)):
		signal(w.wake)
	default:
		w.arm(due)
	}
}

// decide takes what the outcome of a probe says about this machine and about portals. One that nobody has answered is
// told long after it was sent, and says nothing about now.
func (c *counters) decide(t probe.Target, sent time.Time, err error) {
	if sent.Before(c.decided) {
		return
	}
	c.decided, c.localFault = sent, ""
	switch {
	case errors.Is(err, probe.ErrLocal):
		c.localFault = err.Error()
	case t.Wants204():
		c.portal = errors.Is(err, probe.ErrPortal)
	}
}

// collect queues what has changed for notify. The lock is held.
func (w *Watcher) collect() {
	changes := w.eval.Take()
	if w.cfg.OnChange != nil && len(changes) > 0 {
		w.changes = append(w.changes, changes...)
		signal(w.news)
	}
	if w.eval.missed && w.cfg.OnMiss != nil {
		w.missed = true
		signal(w.news)
	}
	w.eval.missed = false
}

// notify calls OnChange and OnMiss until ctx ends and nothing is queued.
func (w *Watcher) notify(ctx context.Context) {
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
		case <-w.news:
		case <-ctx.Done():
			// Nothing is added any more, unless by a late SetPath.
			if w.drained() {
				return
			}
		}
	}
}

func (w *Watcher) drained() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.changes) == 0
}

// SetPath takes what is known of the path and returns the verdict that
// follows from it. It is synchronous: a lost carrier has made the uplink down
// when it returns, and no probe is begun any more; those in flight are
// cancelled and count for nothing. When only the binding of probes has changed, the
// verdict stays, and probes leave by the new path from now on. What
// every hint brings may be passed on; the same again changes nothing.
//
// A device that was deleted and made anew under its name is a new path although
// it looks the same; pass its absence in between, or call Renew.
func (w *Watcher) SetPath(f PathInfo) State {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	was, moved := w.probing, w.binding != f.Binding
	w.probing, w.binding = f.Link.Complete() && !f.Quiet, f.Binding
	w.eval.SetLink(f.Link, now)
	switch {
	case was && !w.probing:
		w.cancel()
		w.eval.End()
	case !was && w.probing:
		w.eval.Begin(now)
	case was && moved:
		w.renew(now)
	}
	w.collect()
	signal(w.wake)
	return w.eval.fsm.State()
}

// Renew sends anew by the path as it is: probes in flight count for nothing.
func (w *Watcher) Renew() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.probing {
		w.renew(time.Now())
		signal(w.wake)
	}
}

func (w *Watcher) renew(now time.Time) {
	w.cancel()
	w.eval.Renew(now)
}

// cancel ends the probes in flight. The lock is held.
func (w *Watcher) cancel() {
	for id, cancel := range w.inFlight {
		cancel()
		delete(w.inFlight, id)
	}
}

// Restore continues from a verdict of an earlier run, before the first SetPath.
// See [FSM.Restore].
func (w *Watcher) Restore(s State, since time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.eval.fsm.Restore(s, since)
}

// Learned is what a Watcher has learned of an uplink, to be kept over a restart.
type Learned struct {
	Bursts  probe.LearnedBursts `json:"bursts"`
	Damping DampingState        `json:"damping"`
}

// Learned returns what was learned so far.
func (w *Watcher) Learned() Learned {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Learned{Bursts: w.eval.detector.Bursts().Learned(), Damping: w.eval.fsm.damping.State()}
}

// RestoreLearned continues with what an earlier run has learned.
func (w *Watcher) RestoreLearned(m Learned) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.eval.detector.RestoreBursts(m.Bursts)
	w.eval.fsm.damping.Restore(m.Damping, time.Now())
}

// Hint asks for a burst of probes now, because a neighbour has failed or another uplink was not answered. The probes
// alone decide. It is cheap to call too often.
func (w *Watcher) Hint() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.eval.Hint(time.Now())
	signal(w.wake)
}

// HintSilence is Hint because traffic was sent and for as long as [Watcher.Patience] none came back.
func (w *Watcher) HintSilence() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.eval.HintSilence(time.Now())
	signal(w.wake)
}

// Patience returns how long traffic may go without an answer before that looks wrong.
func (w *Watcher) Patience() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.eval.Patience()
}

// Received notes that the device received packets at a time, for both families
// alike. While it did so within the last 200 ms a suspect uplink does not become
// down, for 10 s at most. It is cheap to call often.
func (w *Watcher) Received(at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.eval.fsm.Received(at)
}

// Silent reports whether the targets are silent while the uplink is not down for it.
func (w *Watcher) Silent() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.eval.fsm.Silent()
}

// Connected notes that a TCP connection by the uplink got on at a time, in both directions, while it was Silent: then it is
// not down, and nothing is cut.
func (w *Watcher) Connected(at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.eval.Connected(at)
}

// InboundStream notes that the device received a stream of packets up to a time, more than neighbours on the line send:
// probes that are silent meanwhile may wait in a queue. For 2 s they do not make the uplink suspect.
func (w *Watcher) InboundStream(at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.eval.fsm.InboundStream(at)
}

// Load takes how much the device moves. It is to be called every second or so.
func (w *Watcher) Load(load Load, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.eval.Load(load, at)
}

// LoadStep notes that the device began at a time to send much more than before: it may be filling a queue on the line.
// Until a probe tells how long that is, or no queue is so long, the uplink does not become down.
func (w *Watcher) LoadStep(at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.eval.LoadStep(at)
}

// SetInterval changes the interval outside bursts, for an uplink that becomes active or
// standby; 0 is the default.
func (w *Watcher) SetInterval(interval time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.eval.detector.SetInterval(interval)
	signal(w.wake)
}

// RTT returns the smoothed round-trip time of the slowest target that answers.
func (w *Watcher) RTT() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.eval.SlowestRTT()
}

// Verdict returns a snapshot.
func (w *Watcher) Verdict() Verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.counters
	v := Verdict{
		State: w.eval.fsm.State(), Reason: w.eval.fsm.Reason(), Since: w.eval.fsm.Since(),
		Class: w.eval.fsm.quality.Class(), Congestion: w.eval.fsm.quality.congestion.Reason(),
		Requests: c.requests, Replies: c.replies, Bytes: c.bytes, LocalFault: c.localFault, Portal: c.portal,
	}
	v.Loss, _ = w.eval.detector.Loss()
	_, v.Suppressed = w.eval.fsm.damping.Suppressed(time.Now())
	alive := false
	for _, s := range w.eval.detector.Stats() {
		t := TargetStatus{Target: s.Target.String(), Dead: s.Dead}
		if s.Up && w.eval.fsm.link.Complete() { // what was measured before is not known now
			t.Up, t.RTT, alive = true, s.RTT, true
			if v.RTT == 0 || s.RTT < v.RTT {
				v.RTT, v.Jitter = s.RTT, s.Jitter
			}
		}
		v.Targets = append(v.Targets, t)
	}
	if v.State == Down && !alive && len(v.Targets) > 0 {
		v.Loss = 1
	}
	return v
}

// evidence has a line per target: how often it was probed and has answered.
func evidence(stats []probe.TargetStats) []string {
	lines := make([]string, 0, len(stats))
	for _, s := range stats {
		line := fmt.Sprintf("%v: %d sent, %d answered", s.Target, s.Sent, s.Answered)
		if s.Answered > 0 {
			line += fmt.Sprintf(", last RTT %.1f ms", float64(s.LastRTT)/float64(time.Millisecond))
		}
		if s.Dead {
			line += ", silent while others answer"
		}
		if s.Fault != "" {
			line += ", " + s.Fault
		}
		lines = append(lines, line)
	}
	return lines
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
