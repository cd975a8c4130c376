package uplink

import (
	"math"
	"time"

	"github.com/uplinkd/uplinkd/rules"
)

const (
	// rttMemory is the time constant of the mean that contenders are compared by: bursts of jitter are shorter.
	rttMemory = time.Minute
	// One that is faster by leastGain and by gainShare of the present one's time for gainFor takes over.
	leastGain = 5 * time.Millisecond
	gainShare = 0.2
	gainFor   = time.Minute
	// firstLook is how long the first choice waits until all contenders have answered.
	firstLook = 10 * time.Second
	// Between two moves that nothing forces there is leastStay. A move back within returnSpan of leaving doubles that, up to
	// longestStay, and any other one halves it.
	leastStay   = 10 * time.Minute
	longestStay = 2 * time.Hour
	returnSpan  = 2 * time.Hour
)

// Contender is a path that could carry the new flows of its tier.
type Contender struct {
	RTT time.Duration // smoothed, of the nearest target; 0: not known
	// Congested says that the time is that of a queue of its own traffic, which would move along.
	Congested bool
}

// Fastest picks the path whose answers come soonest among those that share a tier, and stays with it unless another one is
// clearly faster for a while. It is pure; the zero Fastest is ready to use.
type Fastest struct {
	best  rules.Path
	means map[rules.Path]*rttMean
	began time.Time // when there were contenders first
	rival rules.Path
	since time.Time     // since when the rival is faster
	moved time.Time     // the latest move that nothing has forced
	stay  time.Duration // the least until the next one
	left  rules.Path    // what that move has left
}

// rttMean is an exponential mean in time.
type rttMean struct {
	ms float64 // 0: nothing yet
	at time.Time
}

func (m *rttMean) observe(c Contender, now time.Time) {
	elapsed := now.Sub(m.at)
	m.at = now
	ms := float64(c.RTT) / float64(time.Millisecond)
	switch {
	case c.RTT <= 0 || c.Congested && m.ms > 0:
	case m.ms == 0:
		m.ms = ms
	default:
		m.ms += (ms - m.ms) * (1 - math.Exp(-max(elapsed.Seconds(), 0)/rttMemory.Seconds()))
	}
}

// Observe takes the contenders as they are now, a second or so after the last time, and returns the one to use; false while none
// is known well enough to be preferred. One that is no contender any more is left at once.
func (f *Fastest) Observe(contenders map[rules.Path]Contender, now time.Time) (best rules.Path, known bool) {
	if f.means == nil {
		f.means = make(map[rules.Path]*rttMean)
	}
	for path := range f.means {
		if _, still := contenders[path]; !still {
			delete(f.means, path) // measured anew when it is back
		}
	}
	if f.began.IsZero() && len(contenders) > 0 {
		f.began = now
	}
	measured := 0
	for path, c := range contenders {
		if f.means[path] == nil {
			f.means[path] = &rttMean{at: now}
		}
		if f.means[path].observe(c, now); f.means[path].ms > 0 {
			measured++
		}
	}
	if _, still := contenders[f.best]; !still {
		f.best, f.since = rules.Path{}, time.Time{}
		if measured == len(contenders) || now.Sub(f.began) >= firstLook {
			f.best = f.soonest()
		}
		return f.best, f.best != rules.Path{}
	}
	f.consider(now)
	return f.best, true
}

// consider moves when a rival has been faster for long enough.
func (f *Fastest) consider(now time.Time) {
	rival := f.soonest()
	have, want := f.means[f.best].ms, 0.
	if f.means[rival] != nil {
		want = f.means[rival].ms
	}
	gain := max(float64(leastGain)/float64(time.Millisecond), gainShare*have)
	if rival == f.best || have == 0 || want == 0 || have-want < gain {
		f.since = time.Time{}
		return
	}
	if f.since.IsZero() || rival != f.rival {
		f.since, f.rival = now, rival
	}
	if now.Sub(f.since) < gainFor || !f.moved.IsZero() && now.Sub(f.moved) < f.stay {
		return
	}
	if rival == f.left && now.Sub(f.moved) < returnSpan {
		f.stay = min(2*f.stay, longestStay)
	} else {
		f.stay = max(f.stay/2, leastStay)
	}
	f.left, f.best, f.moved, f.since = f.best, rival, now, time.Time{}
}

// soonest returns the path with the least mean; the zero Path while there is none. Of equals it is the one with the lowest id.
func (f *Fastest) soonest() (best rules.Path) {
	for path, m := range f.means {
		if m.ms > 0 && (best == rules.Path{} || m.ms < f.means[best].ms || m.ms == f.means[best].ms && path.Uplink < best.Uplink) {
			best = path
		}
	}
	return best
}

// RTT returns the mean by which a contender is compared; 0: not known.
func (f *Fastest) RTT(path rules.Path) time.Duration {
	if m := f.means[path]; m != nil {
		return time.Duration(m.ms * float64(time.Millisecond))
	}
	return 0
}
