package probe

import (
	"fmt"
	"time"
)

// BurstReport describes the running or last burst.
type BurstReport struct {
	Missed, Answered int           // probes of the burst that are decided
	Targets          int           // distinct targets probed
	Span             time.Duration // since its first probe
}

// String is a clause for a reason: "4 of 4 probes to 3 targets unanswered for 450 ms".
func (r BurstReport) String() string {
	return fmt.Sprintf("%d of %s to %s unanswered for %d ms", r.Missed, plural(r.Missed+r.Answered, "probe"),
		plural(r.Targets, "target"), r.Span.Milliseconds())
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Burst describes the running or last burst as of now.
func (d *Detector) Burst(now time.Time) BurstReport {
	r := BurstReport{Missed: d.run.missed, Answered: d.run.answered, Span: now.Sub(d.run.began)}
	for i := range d.targets {
		if d.run.serial != 0 && d.targets[i].round == d.run.serial {
			r.Targets++
		}
	}
	return r
}

// Loss returns the ratio of misses, 0..1, over the last outcomes of all targets
// that may vote, and how many those are, at most [LossWindow]. Only probes of
// outside bursts count: a burst asks most when most is lost, and would turn a
// second of silence into a minute of high loss.
func (d *Detector) Loss() (ratio float64, outcomes int) { return d.recent.loss() }

// ForgetLoss empties the loss window: what was lost while the uplink was down
// does not describe the uplink that came back.
func (d *Detector) ForgetLoss() { d.recent = outcomes{} }

// Times are those of one target.
type Times struct {
	RTT, Jitter time.Duration // smoothed
	Sent        time.Time     // when the latest probe was sent that is answered
}

// Times returns those of the nearest target that answered its latest probe; zero for none.
func (d *Detector) Times() (nearest Times) {
	for i := range d.targets {
		if t := &d.targets[i]; t.up && (nearest.RTT == 0 || t.times.srtt < nearest.RTT) {
			nearest = Times{t.times.srtt, t.times.jitter, t.answeredSent}
		}
	}
	return nearest
}

// Confirm returns how long silence has to go on after Failing to be an outage,
// on this link. Between Failing and the next answer it does not change.
func (d *Detector) Confirm() time.Duration {
	if d.mode == failing {
		return d.confirm
	}
	return d.bursts.Confirm(d.cfg.Confirm, d.cfg.Interval)
}

// RestoreBursts continues with what an earlier run has learned of the link's bursts of loss.
func (d *Detector) RestoreBursts(m LearnedBursts) { d.bursts.restore(m) }

// Bursts returns what is known about the loss of this link.
func (d *Detector) Bursts() *Bursts { return &d.bursts }

// TargetStats is what is known about one target.
type TargetStats struct {
	Target   Target
	Up       bool // the latest decided probe was answered
	Dead     bool // silent while others answer: has no vote
	Sent     uint64
	Answered uint64 // late answers included
	Late     uint64
	Missed   uint64 // without those answered late
	Local    uint64 // local faults
	RTT      time.Duration
	LastRTT  time.Duration
	Jitter   time.Duration
	Fault    string // of the latest probe; "" after an answer
}

// Stats returns what is known about each target, in their order.
func (d *Detector) Stats() []TargetStats {
	stats := make([]TargetStats, len(d.targets))
	for i := range d.targets {
		t := &d.targets[i]
		stats[i] = TargetStats{
			Target: t.Target, Up: t.up, Dead: t.dead,
			Sent: t.sent, Answered: t.answered, Late: t.late, Missed: t.missed, Local: t.local,
			RTT: t.times.srtt, LastRTT: t.times.last, Jitter: t.times.jitter,
			Fault: t.fault,
		}
	}
	return stats
}

// LossWindow is how many outcomes the loss ratio looks back on.
const LossWindow = 60

// outcomes are those of a path's voters, the latest last.
type outcomes struct {
	n    int
	list [LossWindow]outcome
}

type outcome struct {
	target int16
	lost   bool
}

func (h *outcomes) add(index int, lost bool) {
	if h.n == LossWindow {
		copy(h.list[:], h.list[1:])
		h.n--
	}
	h.list[h.n] = outcome{int16(index), lost}
	h.n++
}

// retract takes back the target's latest miss.
func (h *outcomes) retract(index int) {
	for i := h.n - 1; i >= 0; i-- {
		if o := &h.list[i]; o.lost && int(o.target) == index {
			o.lost = false
			return
		}
	}
}

// discard removes a target that has turned out to be dead.
func (h *outcomes) discard(index int) {
	kept := 0
	for _, o := range h.list[:h.n] {
		if int(o.target) != index {
			h.list[kept] = o
			kept++
		}
	}
	h.n = kept
}

func (h *outcomes) loss() (float64, int) {
	if h.n == 0 {
		return 0, 0
	}
	lost := 0
	for _, o := range h.list[:h.n] {
		if o.lost {
			lost++
		}
	}
	return float64(lost) / float64(h.n), h.n
}
