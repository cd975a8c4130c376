package uplink

import (
	"time"

	"github.com/uplinkd/uplinkd/probe"
)

// Evaluator is the pure half of a Watcher: an [FSM] and the [probe.Detector] that feeds it.
// Like both it owns no clock and starts nothing; whoever has a network, a real
// one or a simulated one, does what Next says and reports what came of it. It is
// not safe for concurrent use. Make one with [NewEvaluator].
type Evaluator struct {
	fsm      *FSM
	detector *probe.Detector

	changes []Transition
	missed  bool // a probe went unanswered while the verdict was good
}

// NewEvaluator returns an Evaluator that asks for no probe until Begin. The callbacks and
// the prober of the configuration are not used; its targets are of one family.
func NewEvaluator(cfg WatcherConfig, now time.Time) *Evaluator {
	e := &Evaluator{
		fsm: NewFSM(FSMConfig{
			Uplink: cfg.Uplink, Family: cfg.Family, Optional: cfg.Optional, Unprobed: len(cfg.Targets) == 0,
			Rise: cfg.Rise, Hold: cfg.Hold, Confirm: cfg.Confirm, Stable: cfg.Stable, Classes: cfg.Classes,
		}, now),
	}
	e.detector = probe.NewDetector(probe.DetectorConfig{
		Targets: cfg.Targets, Interval: cfg.Interval, FastInterval: cfg.FastInterval, Timeout: cfg.Timeout,
		Confirm: cfg.Confirm, Fall: cfg.Fall, MinTargetsUp: cfg.MinTargetsUp, Phase: cfg.Phase, OnOutcome: e.count,
	})
	return e
}

// count passes an outcome on to the FSM. What is lost in a queue that our own load makes says nothing about the uplink,
// also in the seconds before that is called congestion: it is then that connections lose most.
func (e *Evaluator) count(o probe.Outcome) {
	if o.Kind == probe.Lost && e.detector.QueuedLately() && e.fsm.quality.congestion.Loaded() {
		return
	}
	e.fsm.Count(o)
}

// SetLink says what the kernel says. See [FSM.SetLink].
func (e *Evaluator) SetLink(p Link, now time.Time) { e.record(e.fsm.SetLink(p, now)) }

// Begin probes anew, by a path about which nothing is known.
func (e *Evaluator) Begin(now time.Time) {
	e.detector.Reset(now)
	e.fsm.Resumed(now)
}

// Renew probes anew by a path that has changed: silence so far is no evidence.
func (e *Evaluator) Renew(now time.Time) {
	e.detector.Restart(now)
	e.fsm.PathChanged(now)
}

// End stops probing until Begin.
func (e *Evaluator) End() {
	e.detector.Stop()
	e.fsm.Paused()
}

// Next returns which target is to be probed next and when, maybe in the past; ok
// is false for none.
func (e *Evaluator) Next() (at time.Time, index int, ok bool) { return e.detector.Next() }

// Received notes that the device has just received a packet.
func (e *Evaluator) Received(now time.Time) { e.fsm.Received(now) }

// InboundStream notes that the device receives a stream. See [FSM.InboundStream].
func (e *Evaluator) InboundStream(now time.Time) { e.fsm.InboundStream(now) }

// Connected notes that a connection got on. See [FSM.Connected].
func (e *Evaluator) Connected(now time.Time) { e.fsm.Connected(now) }

// Load notes how much the device moves. See [Congestion.Load].
func (e *Evaluator) Load(load Load, now time.Time) { e.fsm.Load(load, now) }

// LoadStep notes that the device has begun to send much more at a time. See [FSM.LoadStep]. Of a queue that is known
// already it is known how long it is.
func (e *Evaluator) LoadStep(at time.Time) {
	if !e.detector.Queued() && e.detector.QueueDelay(at) == 0 {
		e.fsm.LoadStep(at)
	}
}

// Congested reports whether the uplink is slow through its own traffic.
func (e *Evaluator) Congested() bool { return e.fsm.quality.congestion.Congested() }

// SlowestRTT returns the smoothed round-trip time of the slowest target.
func (e *Evaluator) SlowestRTT() (slowest time.Duration) {
	for _, s := range e.detector.Stats() {
		slowest = max(slowest, s.RTT)
	}
	return slowest
}

// Sent records that a target is probed, and returns the id for its outcome.
func (e *Evaluator) Sent(index int, now time.Time) (id uint64) { return e.detector.Sent(index, now) }

// Reply takes an answer, late or not. Unknown ids are ignored here and below:
// they belong to a path that is gone.
func (e *Evaluator) Reply(id uint64, now time.Time, rtt time.Duration) {
	e.fsm.Answered(now.Add(-rtt))
	e.apply(e.detector.Reply(id, now, rtt), now)
}

// Miss takes a probe that was refused, or for whose answer nobody listens any more.
func (e *Evaluator) Miss(id uint64, now time.Time, err error) {
	e.apply(e.detector.Miss(id, now, err), now)
}

// Local takes a probe that did not leave for a reason of our own, noPath for want
// of a route.
func (e *Evaluator) Local(id uint64, now time.Time, err error, noPath bool) {
	e.apply(e.detector.Local(id, now, err, noPath), now)
}

// Cancel takes a probe that was cancelled.
func (e *Evaluator) Cancel(id uint64) { e.detector.Cancel(id) }

// Hint asks for a burst of probes. See [probe.Detector.Hint].
func (e *Evaluator) Hint(now time.Time) { e.detector.Hint(now) }

// HintSilence asks for a burst of probes because traffic is not answered. See [probe.Detector.HintSilence].
func (e *Evaluator) HintSilence(now time.Time) { e.detector.HintSilence(now) }

// Patience is how long traffic may go without an answer before that looks wrong.
func (e *Evaluator) Patience() time.Duration {
	if e.detector.KnownSilent() {
		return oneWaySpanKnown + e.SlowestRTT()
	}
	return oneWaySpan + e.SlowestRTT()
}

// Tick does what is due.
func (e *Evaluator) Tick(now time.Time) {
	e.apply(e.detector.Tick(now), now)
	e.record(e.fsm.Tick(now))
}

// Deadline returns when Tick has to be called or the next probe is to be sent,
// whichever is first; zero for never.
func (e *Evaluator) Deadline() time.Time {
	due := e.fsm.Deadline()
	if d := e.detector.Deadline(); !d.IsZero() && (due.IsZero() || d.Before(due)) {
		due = d
	}
	if at, _, ok := e.detector.Next(); ok && (due.IsZero() || at.Before(due)) {
		due = at
	}
	return due
}

// Take returns the transitions since it was called last, in order.
func (e *Evaluator) Take() []Transition {
	changes := e.changes
	e.changes = nil
	return changes
}

// apply passes a signal on to the FSM.
func (e *Evaluator) apply(signal probe.Signal, now time.Time) {
	if signal == probe.None {
		return
	}
	if signal == probe.Missed && e.fsm.State().Health() == HealthGood {
		e.missed = true
	}
	if times := e.detector.Times(); signal == probe.Alive && times.RTT > 0 {
		e.fsm.Times(times, now)
	}
	loss, outcomes := e.detector.Loss()
	t, changed := e.fsm.Observe(ProbeEvent{
		Signal: signal, Burst: e.detector.Burst(now), Loss: loss, Outcomes: outcomes,
		Confirm: e.detector.Confirm(), Bursts: e.detector.Bursts().Mean(), Queue: e.detector.QueueDelay(now),
	}, now)
	e.record(t, changed)
	e.detector.SetKnownLossy(e.fsm.quality.loss.degraded)
	if changed && (t.To == Recovering || t.Reason.Code == CodeSteady) {
		e.detector.ForgetLoss()
	}
}

func (e *Evaluator) record(t Transition, changed bool) {
	if changed {
		t.Evidence = evidence(e.detector.Stats())
		e.changes = append(e.changes, t)
	}
}
