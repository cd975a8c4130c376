package main

import (
	"math/rand/v2"
	"time"

	"github.com/uplinkd/uplinkd/uplink"
)

const (
	ms   = time.Millisecond
	day  = 24 * time.Hour
	week = 7 * day

	// settled is how long a link is well before it breaks: every target's
	// times are known by then.
	settled = 2 * time.Minute
	// giveUp is how long a fault may remain unfound before a run gives up.
	giveUp = 10 * time.Minute
)

// fiber is the link of every scenario before anything is wrong with it.
func fiber() *link { return &link{rtt: 15 * ms, jitter: 3 * ms} }

// found is when a fault was found, in time since it began; forever for not.
type found struct {
	bad     time.Duration // degraded or worse
	suspect time.Duration // suspect or worse
	down    time.Duration
}

// find breaks a link at a random moment and waits for the verdicts.
func find(s settings, seed uint64, breakIt func(l *link, at time.Duration)) found {
	l := fiber()
	began := settled + randomPhase(seed)
	f := newFound()
	r := newRun(s, l, seed, func(t uplink.Transition, at time.Duration) { f.note(t, at-began) })
	r.until(began - l.rtt)
	breakIt(l, began)
	for r.now < began+giveUp && f.down == forever && (f.bad == forever || r.now < began+5*time.Second) {
		r.until(r.now + 100*ms)
	}
	return f
}

// randomPhase is some time within a round of probes to all targets.
func randomPhase(seed uint64) time.Duration {
	return time.Duration(rand.New(rand.NewPCG(seed, 1)).Int64N(int64(3 * time.Second)))
}

func newFound() found { return found{forever, forever, forever} }

// note takes a verdict at a time since the fault began.
func (f *found) note(t uplink.Transition, at time.Duration) {
	if at < 0 {
		return
	}
	if t.To != uplink.Up {
		f.bad = min(f.bad, at)
	}
	if t.To.Health() < uplink.HealthGood {
		f.suspect = min(f.suspect, at)
	}
	if t.To == uplink.Down {
		f.down = min(f.down, at)
	}
}

// faults are what breaks, in the order of the table.
var faults = []struct {
	name  string
	total bool // nothing comes back, so it has to be suspect and down
	do    func(l *link, at time.Duration)
}{
	{"near blackhole", true, func(l *link, at time.Duration) {
		l.there.from, l.there.hole, l.back.from, l.back.hole = at, near, at, near
	}},
	{"far blackhole", true, func(l *link, at time.Duration) {
		l.there.from, l.there.hole, l.back.from, l.back.hole = at, far, at, far
	}},
	{"one way, nothing goes out", true, func(l *link, at time.Duration) { l.there.from, l.there.hole = at, far }},
	{"one way, nothing comes in", true, func(l *link, at time.Duration) { l.back.from, l.back.hole = at, far }},
	{"20 % loss", false, func(l *link, _ time.Duration) { l.there.loss = 0.20 }},
	{"50 % loss", false, func(l *link, _ time.Duration) { l.there.loss = 0.50 }},
}

// tally counts the verdicts of a run.
type tally struct {
	suspects, downs, degradations int
	moves                         int // times that new traffic would leave for a better uplink
	transitions                   int // but for the first answer
	probes                        int
	longestDown                   time.Duration // until it is up again

	downAt time.Duration // of the last down
	isDown bool          // and it has not been up since
}

func (t *tally) count(tr uplink.Transition, at time.Duration) {
	if tr.From == uplink.Init {
		return
	}
	t.transitions++
	if tr.To == uplink.Up {
		t.ended(at)
	}
	switch tr.To {
	case uplink.Suspect:
		t.suspects++
	case uplink.Down:
		t.downs++
		if !t.isDown {
			t.downAt, t.isDown = at, true
		}
	case uplink.Degraded:
		if tr.From == uplink.Up {
			t.degradations++
		}
	}
	if tr.From == uplink.Up {
		t.moves++
	}
}

// ended ends a down, and so does the end of a run.
func (t *tally) ended(at time.Duration) {
	if t.isDown {
		t.longestDown, t.isDown = max(t.longestDown, at-t.downAt), false
	}
}

func (t *tally) add(o tally) {
	t.longestDown = max(t.longestDown, o.longestDown)
	t.suspects += o.suspects
	t.downs += o.downs
	t.degradations += o.degradations
	t.moves += o.moves
	t.transitions += o.transitions
	t.probes += o.probes
}

// observe runs a link for a span, after another one in which it may be learnt, and
// counts its verdicts.
func observe(s settings, seed uint64, l *link, before, span time.Duration) tally {
	var t tally
	r := newRun(s, l, seed, func(tr uplink.Transition, at time.Duration) {
		if at >= before {
			t.count(tr, at)
		}
	})
	r.until(before + span)
	t.ended(before + span)
	t.probes = r.probes
	return t
}

// lossy loses a share of the probes, at random.
func lossy(share float64) func() *link {
	return func() *link {
		l := fiber()
		l.there.loss = share
		return l
	}
}

// eachWay loses a share in each direction, at random.
func eachWay(share float64) func() *link {
	return func() *link {
		l := fiber()
		l.there.loss, l.back.loss = share, share
		return l
	}
}

// bursty loses a share of the probes, in bursts of a mean length.
func bursty(share float64, mean time.Duration) func() *link {
	return func() *link {
		l := fiber()
		l.there.bursts = newBursts(share, mean)
		return l
	}
}

// quietLinks are links that are no reason for a verdict, in the order of the table.
var quietLinks = []struct {
	name     string
	link     func() *link
	suspects float64 // below so many a week; 0 for no bar
	downs    float64
	yearly   int // downs in a year, at most; negative for no bar
}{
	{"0.1 % at random", lossy(0.001), 1, 1, 12},
	{"1 % at random", lossy(0.01), 1, 1, 12},
	{"3 % at random", lossy(0.03), 0, 0, -1},
	{"5 % at random", lossy(0.05), 0, 0, -1},
	{"1 % in bursts of 50 ms", bursty(0.01, 50*ms), 0, 0, -1},
	{"1 % in bursts of 200 ms", bursty(0.01, 200*ms), 0, 1, 12},
	{"1 % in bursts of 500 ms", bursty(0.01, 500*ms), 0, 0, -1},
}
