package probe

import (
	"slices"
	"time"
)

const (
	// A line has a queue while its latest answer took queueDelay longer than the least time of its target, or nearly the
	// configured timeout. Below that the adaptive timeout follows by itself.
	queueDelay = 300 * time.Millisecond
	// queuePace is how many probes an interval has while there is a queue: silence can only be as short as the distance
	// of answers allows.
	queuePace = 10
	// For queueSilence nothing at all may come back by a line with a queue, and queueMisses times the configured fall
	// of answers have to be due. A queue that grows doubles the distance of answers; one that is full loses what does not
	// fit. Both leave enough of them. With the confirmation span it is down after 1.5 s.
	queueSilence = 800 * time.Millisecond
	queueMisses  = 2
	// leastSpan is how fast the least time is forgotten: within one to two of these. It is long, since a queue may stand
	// for as long as an upload takes.
	leastSpan = time.Hour
	// queueMemory is how long a queue may be gone that comes back: connections that have lost much begin again together.
	queueMemory = 10 * time.Second
	// queueStood is how many late answers in a row are a queue, and no jitter.
	queueStood = 3
	// queueLossWeight is that of one probe in what a queue loses.
	queueLossWeight = 1. / 16
	// A TCP answer that came retransmitted later than its round-trip time explains answered another SYN than the
	// first: they follow each other after a second or more (RFC 6298 section 2.1).
	retransmitted = 500 * time.Millisecond
)

// queue is what late answers show of a queue on the line. A first-in, first-out queue answers late but steadily, and in
// the order of sending: so a probe is not lost because it is unanswered for longer than usual, and silence is not the age
// of a probe but the time since anything has come back.
type queue struct {
	at      time.Time     // when the latest answer came
	sent    time.Time     // when the latest probe was sent that is answered
	rtt     time.Duration // its time
	least   time.Duration // of its target
	late    int           // answers in a row that were late
	lateAt  time.Time     // when the latest of those came
	longest time.Duration // the longest time of those, lately
	loss    float64       // of probes while there was a queue, 0..1
	scratch []time.Time   // of expectedAll
	excuse  time.Time     // a stall of our own: silence is judged no sooner
}

// noteQueue takes an answer; missed says that its probe has counted as lost.
func (d *Detector) noteQueue(t *target, at time.Time, rtt time.Duration, missed bool) {
	t.least.add(rtt, at)
	if !missed {
		d.queue.count(d.Queued(), false)
	} else if d.Queued() {
		d.queue.loss = max((d.queue.loss-queueLossWeight)/(1-queueLossWeight), 0)
		d.queue.count(true, false)
	}
	d.queue.at, d.queue.excuse = at, time.Time{}
	// An answer that took several round trips tells of a queue as it was before.
	sent := at.Add(-rtt)
	if !sent.After(d.queue.sent) {
		return
	}
	d.queue.sent, d.queue.rtt, d.queue.least = sent, rtt, t.least.get()
	if d.Queued() {
		if d.queue.late++; d.queue.late >= queueStood {
			if at.Sub(d.queue.lateAt) >= queueMemory {
				d.queue.longest = 0
			}
			d.queue.lateAt, d.queue.longest = at, max(d.queue.longest, rtt)
		}
		for i := range d.inFlight {
			d.inFlight[i].queued = true
		}
		return
	}
	if d.queue.late >= queueStood {
		d.queueGone(rtt - t.least.get())
	}
	d.queue.late = 0
}

// queueGone has all times begin anew, with what is left of the delay. The estimate of RFC 6298 would follow the queue
// for a minute, and find nothing dead meanwhile.
func (d *Detector) queueGone(delay time.Duration) {
	for i := range d.targets {
		if t := &d.targets[i]; t.times.known {
			rtt := t.least.get() + max(delay, 0)
			t.times = rttEstimator{known: true, srtt: rtt, rttvar: rtt / 2, last: rtt}
		}
	}
}

// QueueDelay returns how late the latest answers of a queue were at most that is there, or was a moment ago; 0 for none.
func (d *Detector) QueueDelay(now time.Time) time.Duration {
	if now.Sub(d.queue.lateAt) >= queueMemory {
		return 0
	}
	return d.queue.longest
}

// count takes the outcome of a probe. Without a queue what was lost in one is forgotten.
func (q *queue) count(queued, lost bool) {
	switch {
	case !queued:
		q.loss = 0
	case lost:
		q.loss += (1 - q.loss) * queueLossWeight
	default:
		q.loss -= q.loss * queueLossWeight
	}
}

// QueuedLately reports whether the line has a queue, or had one a moment before its latest answer.
func (d *Detector) QueuedLately() bool {
	q := &d.queue
	return d.Queued() || !q.lateAt.IsZero() && q.at.Sub(q.lateAt) < queueMemory
}

// queuedInterval is the time to the next probe while there is a queue, or was a moment ago.
func (d *Detector) queuedInterval() time.Duration {
	return max(d.cfg.Interval/queuePace, d.cfg.FastInterval)
}

// Queued reports whether the line has a queue, as far as its latest answer tells.
func (d *Detector) Queued() bool {
	q := &d.queue
	return !q.at.IsZero() && (q.rtt >= q.least+queueDelay || q.rtt > d.cfg.Timeout*4/5)
}

// missAt returns when silence of a probe becomes a miss: at its own deadline or, where the line has a queue, when it is
// later by queueSilence than the latest answer was.
func (d *Detector) missAt(f *inFlightProbe) time.Time {
	if !d.Queued() {
		return f.deadline
	}
	return later(f.deadline, d.expected(f).Add(queueSilence))
}

// expected returns when a probe is answered if the queue is as long as it was for the latest answers.
func (d *Detector) expected(f *inFlightProbe) time.Time {
	return f.sent.Add(max(d.queue.rtt, d.targets[f.target].times.last))
}

// expectedAll returns when the probes are expected to be answered that no answer has overtaken, in order. It is valid
// until the next call.
func (d *Detector) expectedAll() []time.Time {
	all := d.queue.scratch[:0]
	for i := range d.inFlight {
		if f := &d.inFlight[i]; f.votes && f.sent.After(d.queue.sent) {
			all = append(all, d.expected(f))
		}
	}
	if !slices.IsSortedFunc(all, time.Time.Compare) {
		slices.SortFunc(all, time.Time.Compare)
	}
	d.queue.scratch = all
	return all
}

// silenceDue returns when the silence of a line that had a queue lately is Failing: nothing has come back for queueSilence, in
// which as many answers were due as are misses needed. Zero is never, as things are.
func (d *Detector) silenceDue() time.Time {
	if d.mode != idle && d.mode != burst || !d.QueuedLately() {
		return time.Time{}
	}
	due, need := d.expectedAll(), queueMisses*d.cfg.Fall
	if len(due) < need {
		return time.Time{}
	}
	return later(later(d.queue.at.Add(queueSilence), due[need-1]), d.queue.excuse)
}

// silence reports Failing when that is due.
func (d *Detector) silence(now time.Time) Signal {
	if now.Sub(d.queue.at) < queueSilence {
		return None // the usual case, and cheap
	}
	at := d.silenceDue()
	if at.IsZero() || now.Before(at) {
		return None
	}
	q := &d.queue
	if q.excuse.IsZero() && now.Sub(at) > lagLimit {
		q.excuse = now.Add(lagGrace)
		return None
	}
	d.run = round{serial: d.run.serial + 1, began: q.at}
	for i := range d.inFlight {
		if f := &d.inFlight[i]; f.votes && f.sent.After(q.sent) && !d.expected(f).After(now) {
			d.run.missed++
			d.targets[f.target].round = d.run.serial
		}
	}
	d.fail(d.confirmQueued(now), now)
	d.due = now
	return Failing
}

// confirmQueued returns the confirmation span of a line with a queue. As many answers again have to be due in it; what
// drops most of what it is sent lets one through now and then, and more are waited for.
func (d *Detector) confirmQueued(now time.Time) time.Duration {
	confirm := d.bursts.Confirm(d.cfg.Confirm, d.cfg.Interval)
	if !d.Queued() {
		return max(confirm, min(d.QueueDelay(now), MaxConfirm)) // it may be back
	}
	answers := max(missesAWeek(d.queue.loss, d.cfg.Interval)-d.run.missed, d.cfg.Fall)
	span := d.queue.rtt // for those that are sent from now on
	for _, at := range d.expectedAll() {
		if answers == 0 {
			break
		}
		if at.After(now) {
			span = at.Sub(now)
			answers--
		}
	}
	return max(confirm, min(span+time.Duration(answers)*d.cfg.FastInterval, MaxConfirm))
}

// settle counts probes as lost, for the bursts of loss of this link, that are unanswered for Timeout although one that
// was sent later is answered. They are listened for on.
func (d *Detector) settle(now time.Time) {
	for i := range d.inFlight {
		f := &d.inFlight[i]
		if !f.settled && f.missed && f.sent.Before(d.queue.sent) && !now.Before(f.sent.Add(d.cfg.Timeout)) {
			f.settled = true
			d.bursts.decided(f.id, f.taught(wasLost))
		}
	}
}

// taught returns what an outcome says about the loss of the link: what is lost in a queue says nothing.
func (f *inFlightProbe) taught(outcome byte) byte {
	if f.queued {
		return wasCancelled
	}
	return outcome
}

// retransmitted reports whether the answer to a probe is that to a segment which the kernel has sent again: the probe
// itself was lost.
func (d *Detector) retransmitted(id uint64, at time.Time, rtt time.Duration) bool {
	for i := range d.inFlight {
		if f := &d.inFlight[i]; f.id == id {
			return d.targets[f.target].retransmits() && at.Sub(f.sent)-rtt >= retransmitted
		}
	}
	return false
}

// leastRTT is the least time of a target in the last one to two hours. The zero leastRTT is ready to use.
type leastRTT struct {
	spans [2]time.Duration // of this leastSpan and of the one before; negative: none
	since time.Time        // when this one began
}

func (l *leastRTT) add(rtt time.Duration, now time.Time) {
	switch {
	case l.since.IsZero():
		l.spans, l.since = [2]time.Duration{rtt, -1}, now
	case now.Sub(l.since) >= leastSpan:
		l.spans, l.since = [2]time.Duration{rtt, l.spans[0]}, now
	}
	l.spans[0] = min(l.spans[0], rtt)
}

func (l *leastRTT) get() time.Duration {
	if l.spans[1] >= 0 {
		return min(l.spans[0], l.spans[1])
	}
	return l.spans[0]
}
