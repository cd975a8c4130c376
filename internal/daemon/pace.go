package daemon

import (
	"context"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/schedule"
	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

const (
	// The calm paces of paths that carry no new traffic. One that carries some is asked at the configured
	// interval.
	standbyInterval        = 5 * time.Second
	standbyMeteredInterval = time.Minute
	// receivingInterval is that of a metered path whose device receives: most of what a probe could tell is
	// known then. It is no longer because the other family may be what is received.
	receivingInterval = 15 * time.Second
	// receivingSpan is how long a reception counts; shorter than that interval, so that the answers to our
	// own probes are no reason to send fewer.
	receivingSpan = 4 * time.Second
	// alertInterval is the pace at which a path is asked while another one of its family is in trouble,
	// and urgentInterval that of the first moments of its silence, when new flows wait for the answer.
	alertInterval  = time.Second
	urgentInterval = 100 * time.Millisecond
	urgentSpan     = time.Second
	// slowestInterval is how seldom a path is asked that has no bytes left for the day.
	slowestInterval = 10 * time.Minute
	// paceTick is how often the paces are thought over.
	paceTick = time.Second
)

// duty is what decides how often a path is asked.
type duty struct {
	State   uplink.State
	Carries bool // new traffic
	Hears   bool // its device has received something just now
	Alert   bool // its traffic looks one-way, or another path of the family has missed an answer just now, or is silent
	Urgent  bool // and whether it is to be left depends on this one
}

// calmPace returns how often a path is asked while nothing is wrong with it, before any budget.
func calmPace(u *config.Uplink, d duty) time.Duration {
	pace := u.Probe.Interval
	switch {
	case d.Urgent:
		return min(pace, urgentInterval)
	case d.Alert:
		return min(pace, alertInterval)
	case u.Probe.Fixed:
		return pace
	case d.Carries && u.Metered && d.Hears && d.State == uplink.Up:
		return max(pace, receivingInterval)
	case d.Carries:
		return pace
	case u.Metered && d.State != uplink.Recovering && d.State != uplink.Init:
		return max(pace, standbyMeteredInterval)
	case d.State == uplink.Up, d.State == uplink.Degraded:
		return max(pace, standbyInterval)
	}
	return pace // what is broken and preferred shall be back soon
}

// allowance is what is left of a day's budget of bytes.
type allowance struct {
	left  int64         // bytes; may be negative
	until time.Duration // the end of the day
}

// stretch returns the pace at which the bytes left last until the end of the day, if pace is faster:
// each probe takes so many, and paths as many share them.
func (a allowance) stretch(pace time.Duration, perProbe float64, paths int) time.Duration {
	if a.left <= 0 {
		return max(pace, slowestInterval)
	}
	lasting := time.Duration(perProbe * float64(paths) * float64(a.until) / float64(a.left))
	return max(pace, min(lasting, slowestInterval))
}

// ledger counts the bytes of a day's probes, by uplink. Its JSON is kept over restarts.
type ledger struct {
	Day   string           `json:"day"` // local date
	Bytes map[string]int64 `json:"bytes"`
}

// turn begins a new day if there is one, and returns how much is left of it.
func (l *ledger) turn(now time.Time) time.Duration {
	if day := now.Format(time.DateOnly); l.Day != day || l.Bytes == nil {
		l.Day, l.Bytes = day, make(map[string]int64)
	}
	y, m, d := now.Date()
	return time.Date(y, m, d+1, 0, 0, 0, 0, now.Location()).Sub(now)
}

// carry notes who carries new traffic.
func (j *judge) carry(defaults map[rules.Family]rules.Choice) {
	j.mu.Lock()
	defer j.mu.Unlock()
	carries := make(map[rules.Path]bool)
	for family, choice := range defaults {
		for _, m := range choice.Members {
			carries[rules.Path{Uplink: m.Uplink, Family: family}] = true
		}
	}
	j.carries = carries
	j.setPaces(time.Now())
}

// heard notes that the device of the paths receives, and whether that is a stream.
func (j *judge) heard(paths []rules.Path, stream bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, path := range paths {
		if w := j.watched[path]; w != nil {
			w.heardAt = time.Now()
			w.Received(w.heardAt)
			if stream {
				w.Flooded(w.heardAt)
			}
		}
	}
}

// keepPaces thinks the paces over until the context ends, and counts what probing costs.
func (j *judge) keepPaces(ctx context.Context) {
	schedule.Every(ctx, j.beat, paceTick, func(now time.Time) {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.setPaces(now)
	})
}

// setPaces tells every watcher how often to ask. The lock is held.
func (j *judge) setPaces(now time.Time) {
	dayLeft := j.spent.turn(now)
	probing := make(map[string]int) // families, by uplink
	for _, w := range j.watched {
		spent := w.Spent()
		j.spent.Bytes[w.name] += int64(spent - w.counted)
		w.counted = spent
		probing[w.name]++
	}
	waits := make(map[rules.Family]time.Time, len(rules.Families))
	for _, family := range rules.Families {
		waits[family] = j.court.Waiting(family)
	}
	for path, w := range j.watched {
		waiting := waits[path.Family]
		pace := calmPace(&w.uplink, duty{
			State: w.State(), Carries: j.carries == nil || j.carries[path],
			Hears:  now.Sub(w.heardAt) < receivingSpan,
			Alert:  !waiting.IsZero() || now.Sub(j.missedAt[path.Family]) < alertInterval || now.Sub(w.hintedAt) < alertInterval || w.Blocked() != nil, // and its end is seen soon
			Urgent: !waiting.IsZero() && now.Sub(waiting) < urgentSpan,
		})
		if budget := w.uplink.Probe.Budget; budget > 0 {
			left := allowance{left: budget - j.spent.Bytes[w.name], until: dayLeft}
			if pace > alertInterval || waiting.IsZero() {
				pace = left.stretch(pace, w.perProbe, probing[w.name])
			}
		}
		if pace != w.pace {
			w.pace = pace
			w.SetInterval(pace)
		}
	}
}

// perProbe returns the mean bytes of one probe of a family.
func perProbe(targets []probe.Target, family rules.Family) float64 {
	n, bytes := 0, 0
	for _, t := range targets {
		if rules.FamilyOf(t.Addr()) == family {
			n++
			bytes += t.Bytes()
		}
	}
	if n == 0 {
		return 0
	}
	return float64(bytes) / float64(n)
}

// spentToday returns the bytes that probing has cost since midnight, by uplink.
func (j *judge) spentToday() ledger {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.setPaces(time.Now())
	kept := ledger{Day: j.spent.Day, Bytes: make(map[string]int64, len(j.spent.Bytes))}
	for name, n := range j.spent.Bytes {
		kept.Bytes[name] = n
	}
	return kept
}
