package probe

import "time"

type mode uint8

const (
	stopped mode = iota // no path: nothing is sent
	idle
	burst   // after a first miss, until Fall misses or an answer
	failing // after that, until an answer
)

// Detector decides when which target is probed and what the answers mean. It is
// pure: the caller passes the time, which must not run backwards, and does
// what Next says. It starts stopped; [Detector.Reset] sets it going.
// It is not safe for concurrent use.
type Detector struct {
	cfg      DetectorConfig
	targets  []target
	inFlight []inFlightProbe // oldest first
	recent   outcomes
	serial   uint64
	period   time.Duration // of the phase: the configured interval

	mode          mode
	cursor        int       // the target from which the next voter is looked for
	due           time.Time // when the next voter is to be probed
	lastSent      time.Time // when the last voter was probed
	fastUntil     time.Time // failing: the end of FastInterval
	epoch         uint64    // of the targets that answered since the last trouble
	hinted        time.Time
	initialProbes int  // targets still to be probed once at FastInterval, to learn their times
	followUps     int  // probes still to be sent at followUpInterval
	lossy         bool // see SetKnownLossy
	confirm       time.Duration
	bursts        Bursts
	queue         queue

	run round
}

// round is the running or last burst.
type round struct {
	serial                 uint64
	began                  time.Time
	fall                   int // misses that mean Failing
	sent, missed, answered int
	unsent                 int  // met ErrNoPath
	afterMiss              bool // began with a missed probe
	silent                 bool // traffic shows the same, see HintSilence
}

type target struct {
	Target
	times         rttEstimator
	up            bool
	dead          bool
	due           time.Time // dead: when to ask again
	missSent      time.Time // when the latest missed probe was sent
	missPending   bool      // that miss has not been held against the target yet
	falseSilences int
	epoch         uint64 // the epoch in which it answered last
	round         uint64 // the burst in which it was probed last
	streak        int    // answers in a row
	least         leastRTT
	answeredSent  time.Time // when the latest answered probe was sent

	sent, answered, late, missed, local uint64
	fault                               string
}

type inFlightProbe struct {
	id       uint64
	target   int
	sent     time.Time
	deadline time.Time // when silence becomes a miss
	round    uint64    // the burst it belongs to; 0 is none
	votes    bool
	counts   bool // for the loss ratio
	missed   bool // declared; still listened for
	settled  bool // counted for the bursts of loss
	queued   bool // the line had a queue while it was in flight
	extended bool
}

// NewDetector returns a stopped Detector.
func NewDetector(cfg DetectorConfig) *Detector {
	d := &Detector{cfg: cfg.complete(), targets: make([]target, len(cfg.Targets)), epoch: 1, bursts: newBursts()}
	d.confirm, d.period = d.cfg.Confirm, d.cfg.Interval
	for i, t := range cfg.Targets {
		d.targets[i].Target = t
	}
	return d
}

// Reset begins anew at now, on a path about which nothing is known. Counters
// stay. Probes in flight are forgotten.
func (d *Detector) Reset(now time.Time) {
	for i := range d.targets {
		t := &d.targets[i]
		t.times, t.least = rttEstimator{}, leastRTT{}
		t.up, t.dead, t.missPending, t.falseSilences, t.streak, t.fault = false, false, false, 0, 0, ""
	}
	d.recent = outcomes{}
	d.dropInFlight()
	d.followUps = 0
	d.epoch++
	d.mode, d.due = idle, now
	d.initialProbes = len(d.targets)
}

// Restart sends anew at now: the path has changed (another address), though not
// what is known about the uplink. Probes in flight are forgotten, a burst is
// abandoned, a failing uplink is probed fast again.
func (d *Detector) Restart(now time.Time) {
	if d.mode == stopped {
		d.Reset(now)
		return
	}
	d.dropInFlight()
	d.due, d.fastUntil = now, now.Add(d.confirm)
	if d.mode == burst {
		d.mode = idle
	}
}

// Stop ends all sending until Reset: there is no path. Probes in flight are
// forgotten.
func (d *Detector) Stop() {
	d.mode = stopped
	d.dropInFlight()
}

func (d *Detector) dropInFlight() {
	d.inFlight = d.inFlight[:0]
	d.bursts.forget()
	d.queue = queue{}
}

// SetInterval changes the interval outside bursts, beginning with the next probe.
func (d *Detector) SetInterval(interval time.Duration) {
	d.cfg.Interval = max(orDefault(interval, DefaultInterval), d.cfg.FastInterval)
	if next := d.lastSent.Add(d.cfg.Interval); d.mode == idle && !d.lastSent.IsZero() && next.Before(d.due) {
		d.due = next
	}
}

// Hint starts a burst at now without a miss, since something else looks wrong:
// traffic is sent and none is received. It is ignored unless the Detector is
// idle, and more often than once an interval. The burst alone decides.
func (d *Detector) Hint(now time.Time) {
	if d.mode == idle && (d.hinted.IsZero() || now.Sub(d.hinted) >= d.cfg.Interval) {
		d.hinted = now
		d.startBurst(now, false)
	}
}

// HintSilence is Hint when traffic has been sent for longer than answers to it take, and nothing was received. Then a
// burst asks the targets one soon after the other, also one that has begun already: that silence lasts is known, and
// what is asked is whether anything at all is answered. Where silence is [Detector.KnownSilent] that would show nothing.
func (d *Detector) HintSilence(now time.Time) {
	d.Hint(now)
	if d.mode != burst || d.run.silent {
		return
	}
	d.run.silent = true
	if d.run.sent > 0 && d.run.sent < d.run.fall {
		d.due = later(d.lastSent.Add(d.burstInterval()), now)
	}
}

// KnownSilent reports whether the link is silent for a moment now and then, as far as is known: it has a queue, or loses in bursts.
func (d *Detector) KnownSilent() bool { return d.QueuedLately() || d.bursts.long(d.cfg.Interval) }

// burstInterval is the time to the next probe of a burst.
func (d *Detector) burstInterval() time.Duration {
	if d.run.silent && d.run.sent < d.run.fall && !d.KnownSilent() {
		return d.cfg.FastInterval / silentPace
	}
	return d.cfg.FastInterval
}

// Next returns which target is to be probed next and when, maybe in the past.
// ok is false when nothing is to be sent: the Detector is stopped, has no
// targets, or has too many probes in flight.
func (d *Detector) Next() (at time.Time, index int, ok bool) {
	if d.mode == stopped || len(d.targets) == 0 || len(d.inFlight) >= MaxInFlight {
		return time.Time{}, 0, false
	}
	at, index = d.due, d.voter()
	for i := range d.targets {
		if t := &d.targets[i]; t.dead && t.due.Before(at) {
			at, index = t.due, i
		}
	}
	return at, index, true
}

// Sent records that the target is probed at the given time, and returns the id
// with which its outcome is to be reported by Reply, Miss, Local or Cancel.
func (d *Detector) Sent(index int, at time.Time) (id uint64) {
	t := &d.targets[index]
	t.sent++
	d.serial++
	d.settle(at)
	f := inFlightProbe{
		id: d.serial, target: index, sent: at, votes: !t.dead, queued: d.Queued(),
		deadline: at.Add(d.timeout(t)),
	}
	if t.dead {
		t.due = at.Add(deadFactor * d.cfg.Interval)
	} else {
		d.cursor, d.lastSent = (index+1)%len(d.targets), at
		wait := d.cfg.Interval
		switch d.mode {
		case idle:
			f.counts = true
			if d.followUps > 0 {
				d.followUps--
				wait = d.followInterval()
			}
			if d.QueuedLately() {
				wait = min(wait, d.queuedInterval())
			}
			if d.initialProbes--; d.initialProbes > 0 {
				wait = d.cfg.FastInterval
			} else if d.initialProbes == 0 {
				wait = max(d.cfg.Interval-time.Duration(len(d.targets)-1)*d.cfg.FastInterval, d.cfg.FastInterval)
			}
		case burst:
			f.round, t.round = d.run.serial, d.run.serial
			// Twice as many probes as are needed are enough to decide; a timeout
			// much longer than FastInterval must not make a burst a flood.
			if d.run.sent++; d.run.sent < 2*d.run.fall {
				wait = d.burstInterval()
			}
		case failing:
			if !at.Add(d.cfg.FastInterval).After(d.fastUntil) {
				wait = d.cfg.FastInterval
			} else {
				f.counts = true
			}
		}
		d.due = at.Add(wait)
		if wait == d.cfg.Interval && wait >= d.period && !d.cfg.Phase.IsZero() {
			// The probe that falls into phase again comes early, never late.
			d.due = d.due.Add(-(d.due.Sub(d.cfg.Phase) % d.period))
		}
		d.bursts.sent(f.id, at, d.mode == idle)
	}
	d.inFlight = append(d.inFlight, f)
	return f.id
}

// timeout returns when silence of a target becomes a miss. One that has never answered is given twice
// the time of the slowest that has: a path that dies young is noticed as fast as any other.
func (d *Detector) timeout(t *target) time.Duration {
	own := t.times.timeout(d.cfg.Timeout)
	if t.times.known {
		return own
	}
	slowest := time.Duration(0)
	for i := range d.targets {
		if e := &d.targets[i].times; e.known {
			slowest = max(slowest, e.timeout(d.cfg.Timeout))
		}
	}
	if slowest == 0 {
		return own
	}
	return min(2*slowest, own)
}

// Reply records an answer, late or not. Unknown ids are ignored here and below:
// they belong to a path that is gone.
func (d *Detector) Reply(id uint64, at time.Time, rtt time.Duration) Signal {
	outcome := wasAnswered
	retransmitted := d.retransmitted(id, at, rtt)
	if retransmitted {
		outcome = wasLost
	}
	f, ok := d.finish(id, outcome)
	if !ok {
		return None
	}
	t := &d.targets[f.target]
	t.answered++
	t.streak++
	t.up, t.missPending, t.falseSilences, t.fault = true, false, 0, ""
	t.times.add(rtt)
	t.answeredSent = f.sent
	switch {
	case retransmitted && !f.missed:
		if f.counts {
			d.recent.add(f.target, true)
		}
		d.report(f, Lost)
	case f.missed && !retransmitted:
		t.late++
		t.missed--
		if f.counts {
			d.recent.retract(f.target)
		}
		d.report(f, Retracted)
	case f.counts && !retransmitted:
		d.recent.add(f.target, false)
	}
	if !retransmitted {
		d.report(f, Answered)
	}
	t.dead = false
	t.epoch = d.epoch
	if f.round == d.run.serial && f.round != 0 {
		d.run.answered++
	}
	d.countFalseSilences(f)
	d.noteQueue(t, at, rtt, f.missed || retransmitted)
	d.settle(at)
	if d.answering() < d.cfg.MinTargetsUp {
		return None
	}
	if d.mode != idle {
		switch {
		case d.lossy || d.mode == failing && at.After(d.fastUntil): // known, or an outage and no loss
			d.followUps = 0
		case d.run.missed > 0 || d.run.afterMiss:
			d.followUps = followUps
		}
		d.mode = idle
		d.due = later(d.lastSent.Add(d.idleInterval()), at)
	} else if d.QueuedLately() && d.initialProbes <= 0 {
		if next := later(d.lastSent.Add(d.queuedInterval()), at); next.Before(d.due) {
			d.due = next
		}
	}
	return Alive
}

// idleInterval is the time to the next probe outside bursts.
func (d *Detector) idleInterval() time.Duration {
	wait := d.cfg.Interval
	if d.followUps > 0 {
		wait = d.followInterval()
	}
	if d.QueuedLately() {
		wait = min(wait, d.queuedInterval())
	}
	return wait
}

// SetKnownLossy says whether it is known already that this link loses much: then
// a loss is not followed up.
func (d *Detector) SetKnownLossy(known bool) { d.lossy = known }

func (d *Detector) followInterval() time.Duration {
	return min(max(followUpInterval, d.cfg.FastInterval), d.cfg.Interval)
}

func (d *Detector) report(f inFlightProbe, kind OutcomeKind) {
	if d.cfg.OnOutcome != nil && f.votes && !d.targets[f.target].dead {
		d.cfg.OnOutcome(Outcome{f.target, d.voters(), kind})
	}
}

// Miss records the end of a probe without an answer: its listening window has
// closed, or it was refused with err. It is a miss unless Tick has declared it.
func (d *Detector) Miss(id uint64, at time.Time, err error) Signal {
	f, ok := d.finish(id, wasLost)
	if !ok {
		return None
	}
	if t := &d.targets[f.target]; err != nil && !f.sent.Before(t.answeredSent) {
		t.fault = faultOf(err)
	}
	if f.missed {
		return None
	}
	return d.miss(f, at)
}

// Local records a probe that did not leave for a reason of our own (ErrLocal),
// noPath for ErrNoPath. It is no miss, but without a path a burst finds out
// whether that lasts.
func (d *Detector) Local(id uint64, at time.Time, err error, noPath bool) Signal {
	f, ok := d.finish(id, wasCancelled)
	if !ok {
		return None
	}
	t := &d.targets[f.target]
	t.local++
	if err != nil {
		t.fault = faultOf(err)
	}
	if f.missed || !f.votes {
		return None
	}
	if noPath {
		switch {
		case d.mode == idle:
			d.startBurst(at, false)
		case d.mode == failing:
			// Fall such probes in a row are reported again, so that the reason
			// of a path that vanishes while it fails is the right one.
			if d.run.unsent++; d.run.unsent >= d.cfg.Fall {
				d.run.unsent = 0
				return NoPath
			}
		case f.round == d.run.serial:
			if d.run.unsent++; d.run.unsent >= d.cfg.Fall {
				d.mode = idle
				d.due = later(d.lastSent.Add(d.cfg.Interval), at)
				return NoPath
			}
		}
	}
	d.endFruitless(at)
	return None
}

// Cancel forgets a probe that was cancelled.
func (d *Detector) Cancel(id uint64) { d.finish(id, wasCancelled) }

// Deadline returns when Tick has to be called next; zero for never.
func (d *Detector) Deadline() time.Time {
	first := d.silenceDue()
	for i := range d.inFlight {
		if f := &d.inFlight[i]; !f.missed {
			if at := d.missAt(f); first.IsZero() || at.Before(first) {
				first = at
			}
		}
	}
	return first
}

// Tick declares the misses that are due at now and returns the gravest signal.
func (d *Detector) Tick(now time.Time) Signal {
	d.settle(now)
	worst := None
	for i := range d.inFlight {
		f := &d.inFlight[i]
		at := d.missAt(f)
		if f.missed || now.Before(at) {
			continue
		}
		if !f.extended && now.Sub(at) > lagLimit {
			f.extended, f.deadline = true, now.Add(lagGrace)
			continue
		}
		f.missed = true
		worst = max(worst, d.miss(*f, now))
	}
	return max(worst, d.silence(now))
}

func (d *Detector) miss(f inFlightProbe, now time.Time) Signal {
	t := &d.targets[f.target]
	t.missed++
	t.up, t.streak = false, 0
	t.missPending, t.missSent = true, f.sent
	if !f.votes || t.dead {
		return None
	}
	if f.counts {
		d.recent.add(f.target, true)
	}
	d.queue.count(d.Queued(), true)
	d.report(f, Lost)
	switch {
	case d.mode == idle:
		d.startBurst(now, true)
	case d.mode == burst && f.round == d.run.serial:
		d.run.missed++
		if d.run.missed >= d.run.fall && d.answering() < d.cfg.MinTargetsUp {
			// A queue that was gone for a moment may be back.
			d.fail(max(d.bursts.Confirm(d.cfg.Confirm, d.cfg.Interval), min(d.QueueDelay(now), MaxConfirm)), now)
			return Failing
		}
		d.endFruitless(now)
	case d.mode == failing:
		d.run.unsent = 0
	}
	return Missed
}

// fail goes on at FastInterval for a confirmation span.
func (d *Detector) fail(confirm time.Duration, now time.Time) {
	d.mode = failing
	d.confirm, d.fastUntil = confirm, now.Add(confirm)
	d.epoch++
	d.run.unsent = 0
}

// startBurst begins a burst, because a probe was missed or for another reason.
func (d *Detector) startBurst(now time.Time, missed bool) {
	d.mode = burst
	d.epoch++
	d.run = round{serial: d.run.serial + 1, began: now, afterMiss: missed, fall: d.bursts.fall(d.cfg.Fall, d.cfg.Interval)}
	d.due = now
	for i := range d.targets {
		d.targets[i].due = now // of the dead ones: any answer clears
	}
}

// endFruitless ends a burst that has sent all it may and could not decide,
// which only local faults bring about.
func (d *Detector) endFruitless(now time.Time) {
	if d.mode != burst || d.run.sent < 2*d.run.fall {
		return
	}
	for i := range d.inFlight {
		if f := &d.inFlight[i]; f.round == d.run.serial && !f.missed {
			return
		}
	}
	d.mode = idle
	d.due = later(d.lastSent.Add(d.cfg.Interval), now)
}

// finish removes a probe in flight.
func (d *Detector) finish(id uint64, outcome byte) (inFlightProbe, bool) {
	for i := range d.inFlight {
		if f := d.inFlight[i]; f.id == id {
			d.bursts.decided(id, f.taught(outcome))
			d.inFlight = append(d.inFlight[:i], d.inFlight[i+1:]...)
			return f, true
		}
	}
	return inFlightProbe{}, false
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
