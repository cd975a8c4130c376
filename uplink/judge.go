package uplink

import (
	"time"

	"github.com/uplinkd/uplinkd/probe"
)

// Judge is the pure half of a Watcher: a Machine and the Detector that feeds it.
// Like both it owns no clock and starts nothing; whoever has a network, a real
// one or a simulated one, does what Next says and tells what came of it. It is
// not safe for concurrent use. Make one with [NewJudge].
type Judge struct {
	machine  *Machine
	detector *probe.Detector

	changes []Transition
	missed  bool // a probe went unanswered while the verdict was good
}

// NewJudge returns a Judge that asks for no probe until Begin. The callbacks and
// the prober of the configuration are not used; its targets are of one family.
func NewJudge(cfg WatcherConfig, now time.Time) *Judge {
	j := &Judge{
		machine: NewMachine(MachineConfig{
			Uplink: cfg.Uplink, Family: cfg.Family, Disabled: cfg.Disabled, Unprobed: len(cfg.Targets) == 0,
			Rise: cfg.Rise, Hold: cfg.Hold, Confirm: cfg.Confirm, Stable: cfg.Stable, Classes: cfg.Classes,
		}, now),
	}
	j.detector = probe.NewDetector(probe.DetectorConfig{
		Targets: cfg.Targets, Interval: cfg.Interval, FastInterval: cfg.FastInterval, Timeout: cfg.Timeout,
		Confirm: cfg.Confirm, Fall: cfg.Fall, MinTargetsUp: cfg.MinTargetsUp, Beat: cfg.Beat, Tell: j.machine.Count,
	})
	return j
}

// State returns the verdict.
func (j *Judge) State() State { return j.machine.State() }

// SetPath tells what the kernel says. See [Machine.SetPath].
func (j *Judge) SetPath(p Path, now time.Time) { j.note(j.machine.SetPath(p, now)) }

// Begin probes anew, by a path about which nothing is known.
func (j *Judge) Begin(now time.Time) {
	j.detector.Reset(now)
	j.machine.Resumed(now)
}

// Renew probes anew by a path that has changed: silence so far is no evidence.
func (j *Judge) Renew(now time.Time) {
	j.detector.Restart(now)
	j.machine.Moved(now)
}

// End stops probing until Begin.
func (j *Judge) End() {
	j.detector.Stop()
	j.machine.Held()
}

// Next returns which target is to be asked next and when, maybe in the past; ok
// is false for none.
func (j *Judge) Next() (at time.Time, index int, ok bool) { return j.detector.Next() }

// Received tells that the device has just received a packet.
func (j *Judge) Received(now time.Time) { j.machine.Received(now) }

// Flooded tells that the device has just received a stream of packets.
func (j *Judge) Flooded(now time.Time) { j.machine.Flooded(now) }

// Load tells how much the device moves. See [Congestion.Load].
func (j *Judge) Load(bits float64, now time.Time) { j.machine.Load(bits, now) }

// Sent records that a target is asked, and returns the id to tell its outcome by.
func (j *Judge) Sent(index int, now time.Time) (id uint64) { return j.detector.Sent(index, now) }

// Reply tells an answer, late or not. Unknown ids are ignored here and below:
// they belong to a path that is gone.
func (j *Judge) Reply(id uint64, now time.Time, rtt time.Duration) {
	j.observe(j.detector.Reply(id, now, rtt), now)
}

// Miss tells that a probe was refused, or that nobody listens for its answer any
// more.
func (j *Judge) Miss(id uint64, now time.Time, err error) {
	j.observe(j.detector.Miss(id, now, err), now)
}

// Local tells that a probe did not leave for a reason of our own, noPath for want
// of a route.
func (j *Judge) Local(id uint64, now time.Time, err error, noPath bool) {
	j.observe(j.detector.Local(id, now, err, noPath), now)
}

// Drop tells that a probe was cancelled.
func (j *Judge) Drop(id uint64) { j.detector.Drop(id) }

// Hint asks for a burst of probes. See [probe.Detector.Hint].
func (j *Judge) Hint(now time.Time) { j.detector.Hint(now) }

// Tick tells the time.
func (j *Judge) Tick(now time.Time) {
	j.observe(j.detector.Tick(now), now)
	j.note(j.machine.Tick(now))
}

// Deadline returns when Tick has to be called or the next probe is to be sent,
// whichever is first; zero for never.
func (j *Judge) Deadline() time.Time {
	due := j.machine.Deadline()
	if d := j.detector.Deadline(); !d.IsZero() && (due.IsZero() || d.Before(due)) {
		due = d
	}
	if at, _, ok := j.detector.Next(); ok && (due.IsZero() || at.Before(due)) {
		due = at
	}
	return due
}

// Take returns the transitions since it was called last, in order.
func (j *Judge) Take() []Transition {
	changes := j.changes
	j.changes = nil
	return changes
}

// observe passes a signal on to the machine.
func (j *Judge) observe(signal probe.Signal, now time.Time) {
	if signal == probe.None {
		return
	}
	if signal == probe.Missed && j.machine.State().Health() == HealthGood {
		j.missed = true
	}
	if rtt, jitter := j.detector.Times(); signal == probe.Alive && rtt > 0 {
		j.machine.Times(rtt, jitter, now)
	}
	loss, outcomes := j.detector.Loss()
	t, changed := j.machine.Observe(Observation{
		Signal: signal, Report: j.detector.Report(now), Loss: loss, Outcomes: outcomes,
		Confirm: j.detector.Confirm(), Bursts: j.detector.Bursts().Mean(),
	}, now)
	j.note(t, changed)
	j.detector.SetKnownLossy(j.machine.quality.loss.degraded)
	if changed && t.To == Recovering {
		j.detector.ForgetLoss()
	}
}

func (j *Judge) note(t Transition, changed bool) {
	if changed {
		t.Evidence = evidence(j.detector.Stats())
		j.changes = append(j.changes, t)
	}
}
