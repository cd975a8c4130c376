package probe

import (
	"math"
	"time"
)

const (
	// MinConfirm and MaxConfirm bound the confirmation span, however short or
	// long the loss bursts of a link are.
	MinConfirm = 400 * time.Millisecond
	MaxConfirm = 5 * time.Second

	// falseDowns is the F of the span: false downs a day that are aimed at.
	falseDowns = 0.1
	// sparse is the distance beyond which two probes say nothing about whether
	// one burst swallowed both; outage is how long silence is taken for a burst.
	sparse = 500 * time.Millisecond
	outage = MaxConfirm

	// What is assumed of a link before it is known, and with how much weight:
	// one probe in 200 is lost, and one in four that follow a lost one closely.
	priorLoss                             = 0.005
	priorLost, priorAnswered              = 1, 3
	leastLoss                             = 0.001
	recentWeight, lossWeight, burstWeight = 1. / 32, 1. / 512, 1. / 64
	priorSpacing, minLostSpacing          = 0.12, 0.01 // seconds
)

// Bursts learns from the outcomes of probes how much a link loses and how long
// its bursts of loss last. Only probes that follow a lost one within half a
// second say something of bursts: what is shorter than the interval of a burst of probes
// looks like independent loss, and is as harmless.
//
// Outcomes may come in any order; they are counted in the order of sending. The
// zero Bursts is not ready; use newBursts.
type Bursts struct {
	learned LearnedBursts
	recent  float64 // as learned.Loss, over a shorter span

	undecided []probeStep // sent and not counted yet, oldest first
	last      probeStep   // counted last
	run       run         // of lost probes, at the end of what was counted
}

// LearnedBursts is what was learned of a link, to be kept over a restart.
type LearnedBursts struct {
	Loss     float64 `json:"loss"`     // share of probes outside bursts, 0..1, over about a thousand of them
	Lost     float64 `json:"lost"`     // probes closely after a lost one that were lost too, of late
	Answered float64 `json:"answered"` // and that were answered
	Spacing  float64 `json:"spacing"`  // between them, summed, in seconds
	Runs     int     `json:"runs"`     // bursts seen
}

// probeStep is one probe in the order of sending.
type probeStep struct {
	id      uint64
	sent    time.Time
	idle    bool // not of a burst: counts for the loss
	outcome byte
}

// The outcomes of a step.
const (
	waiting byte = iota
	wasLost
	wasAnswered
	wasCancelled
)

// run is consecutive lost probes.
type run struct {
	began   time.Time
	lost    float64 // followers that were lost too
	spacing float64
}

func newBursts() Bursts {
	return Bursts{recent: priorLoss, learned: LearnedBursts{Loss: priorLoss, Lost: priorLost, Answered: priorAnswered,
		Spacing: priorSpacing * (priorLost + priorAnswered)}}
}

// forget drops what is in flight: the path is another one, the link the same.
func (b *Bursts) forget() {
	b.undecided, b.last, b.run = b.undecided[:0], probeStep{}, run{}
}

func (b *Bursts) sent(id uint64, at time.Time, idle bool) {
	b.undecided = append(b.undecided, probeStep{id: id, sent: at, idle: idle})
}

// decided records the outcome of a probe, and counts what is decided up to the
// first that is not.
func (b *Bursts) decided(id uint64, outcome byte) {
	for i := range b.undecided {
		if b.undecided[i].id == id {
			b.undecided[i].outcome = outcome
			break
		}
	}
	taken := 0
	for taken < len(b.undecided) && b.undecided[taken].outcome != waiting {
		if b.undecided[taken].outcome != wasCancelled {
			b.count(b.undecided[taken])
		}
		taken++
	}
	b.undecided = append(b.undecided[:0], b.undecided[taken:]...)
}

func (b *Bursts) count(s probeStep) {
	lost := s.outcome == wasLost
	if s.idle {
		x := 0.
		if lost {
			x = 1
		}
		b.recent += (x - b.recent) * recentWeight
		b.learned.Loss += (x - b.learned.Loss) * lossWeight
	}
	if b.last.outcome == wasLost {
		spacing := s.sent.Sub(b.last.sent)
		switch {
		case lost && spacing > sparse:
			b.run = run{began: s.sent}
		case lost:
			b.run.lost++
			b.run.spacing += spacing.Seconds()
		case spacing <= sparse && s.sent.Sub(b.run.began) <= outage:
			b.end(spacing)
		}
	}
	if lost && b.last.outcome != wasLost {
		b.run = run{began: s.sent}
	}
	b.last = s
}

// end counts the run that an answered probe ended.
func (b *Bursts) end(spacing time.Duration) {
	b.learned.Runs++
	const keep = 1 - burstWeight
	b.learned.Lost = b.learned.Lost*keep + b.run.lost
	b.learned.Answered = b.learned.Answered*keep + 1
	b.learned.Spacing = b.learned.Spacing*keep + b.run.spacing + spacing.Seconds()
}

// Learned returns what was learned so far.
func (b *Bursts) Learned() LearnedBursts { return b.learned }

// restore continues from what was learned before. Impossible figures, as a damaged file may hold, change nothing.
func (b *Bursts) restore(m LearnedBursts) {
	positive := func(v, most float64) bool { return v > 0 && v <= most }
	if !positive(m.Loss, 1) || !positive(m.Lost, 1e6) || !positive(m.Answered, 1e6) || !positive(m.Spacing, 1e6) || m.Runs < 0 {
		return
	}
	b.learned, b.recent = m, m.Loss
}

// Mean returns the mean length of a burst of loss: spans without memory are left
// with the same probability at every further probe, so it follows from the share
// of probes that were lost among those closely after a lost one. Independent loss
// looks like bursts shorter than the interval.
func (b *Bursts) Mean() time.Duration {
	followers := b.learned.Lost + b.learned.Answered
	spacing := max(b.learned.Spacing/followers, minLostSpacing)
	return time.Duration(spacing / math.Log(followers/b.learned.Lost) * float64(time.Second))
}

// Confirm returns for how long a silence has to go on after it was found before
// it is an outage and no burst of loss: B ln(86400 p / (I F)) for bursts of mean
// length B, loss p, a probe every I seconds and F false alarms a day. Until a
// burst of loss has been seen on this link it is base.
func (b *Bursts) Confirm(base, interval time.Duration) time.Duration {
	if b.learned.Runs == 0 {
		return base
	}
	trials := 86400 * max(b.learned.Loss, leastLoss) / (interval.Seconds() * falseDowns)
	span := time.Duration(float64(b.Mean()) * math.Log(max(trials, 1)))
	return min(max(span, MinConfirm), MaxConfirm).Round(10 * time.Millisecond)
}

// long reports whether bursts of loss were seen on this link that need a longer confirmation than lost single packets.
func (b *Bursts) long(interval time.Duration) bool {
	return b.learned.Runs > 0 && b.Confirm(0, interval) > MinConfirm
}

// fall returns how many misses in a row are no coincidence on this link: so many
// that independent loss brings them about once a week at most, but at least base
// and at most three times that.
func (b *Bursts) fall(base int, interval time.Duration) int {
	return min(max(missesAWeek(b.recent, interval), base), maxFall*base)
}

// maxFall times the configured fall are the most misses that are waited for before an uplink is suspect.
const maxFall = 3

// missesAWeek returns how many misses in a row, after a first one, independent loss brings about once a week.
func missesAWeek(loss float64, interval time.Duration) int {
	probes := math.Log((7 * 24 * time.Hour).Seconds() / interval.Seconds())
	return int(math.Ceil(probes/math.Log(1/min(max(loss, leastLoss), 0.9)))) - 1
}
