// Package history remembers the last day of every uplink in fixed space: latency, loss and verdict of each
// path, and the traffic of its device.
//
//	Sample, once a second ──> ring of seconds ──> ring of ten seconds ──> ring of two minutes
//	                             5 minutes             1 hour                  24 hours
//
// Each ring is a mean over its step. It is pure: the caller brings the time, and nothing here waits.
package history

import (
	"math"
	"sync"
	"time"
)

// Range is a span of history and the step at which it is kept.
type Range struct {
	Name string
	Step time.Duration
	Size int // samples
}

// Ranges returns what is kept, the finest first.
func Ranges() []Range {
	return []Range{{"5m", time.Second, 300}, {"1h", 10 * time.Second, 360}, {"24h", 2 * time.Minute, 720}}
}

// Value is one of the numbers that are remembered.
type Value int

// The values of a series. Traffic is in bytes a second, latency in milliseconds, loss in 0..1.
const (
	RTT Value = iota
	Loss
	Received
	Sent
	values // how many there are
)

// Sample is what was seen in one second; NaN stands for a value that there is none of.
type Sample struct {
	Values [values]float32
	State  uint8 // a number that the caller gives a verdict
}

// NoSample returns a sample without values.
func NoSample() Sample {
	s := Sample{}
	for i := range s.Values {
		s.Values[i] = float32(math.NaN())
	}
	return s
}

// Store holds the series by name. All methods may be called by any goroutine.
type Store struct {
	mu     sync.Mutex
	series map[string]*series
}

// New returns an empty store.
func New() *Store { return &Store{series: make(map[string]*series)} }

// Add takes the samples of one second. What is not among them has a gap there. A clock that stands still or
// goes back a little adds to the step that was reached; one that was set right by more begins anew there.
func (s *Store) Add(at time.Time, samples map[string]Sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, sample := range samples {
		x := s.series[name]
		if x == nil {
			x = newSeries()
			s.series[name] = x
		}
		for i := range x.rings {
			x.rings[i].add(at, sample)
		}
	}
}

// Keep forgets every series but those that keep names.
func (s *Store) Keep(keep func(name string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.series {
		if !keep(name) {
			delete(s.series, name)
		}
	}
}

// Since returns the samples of a series that end at now and began after the given time, the oldest first,
// one for each step; those that there are none of are without values. A step counts when it is over. The
// first one begins at the time that is returned.
func (s *Store) Since(name string, r Range, after, now time.Time) (first time.Time, samples []Sample) {
	last := now.UnixNano()/int64(r.Step) - 1
	from := max(last-int64(r.Size)+1, after.UnixNano()/int64(r.Step)+1)
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.series[name]
	for slot := from; slot <= last; slot++ {
		sample := NoSample()
		if x != nil {
			sample = x.at(r, slot)
		}
		samples = append(samples, sample)
	}
	return time.Unix(0, from*int64(r.Step)), samples
}

// series has a ring for each range.
type series struct{ rings []ring }

func newSeries() *series {
	x := &series{}
	for _, r := range Ranges() {
		x.rings = append(x.rings, ring{step: int64(r.Step), cells: make([]cell, r.Size+1)})
	}
	return x
}

func (x *series) at(r Range, slot int64) Sample {
	for i := range x.rings {
		if x.rings[i].step == int64(r.Step) {
			return x.rings[i].at(slot)
		}
	}
	return NoSample()
}

// ring holds a cell for each step, by the number of the step since 1970; one more than is shown, because the
// present one is not over.
type ring struct {
	step  int64
	last  int64 // the latest step that was added to
	cells []cell
}

// cell is the sum of a step.
type cell struct {
	slot  int64
	sum   [values]float32
	count [values]uint16
	state uint8
}

func (r *ring) add(at time.Time, s Sample) {
	slot := at.UnixNano() / r.step
	if back := r.last - slot; back > 0 && back < int64(len(r.cells)) {
		slot = r.last
	}
	r.last = slot
	c := &r.cells[slot%int64(len(r.cells))]
	if c.slot != slot {
		*c = cell{slot: slot}
	}
	for i, v := range s.Values {
		if !math.IsNaN(float64(v)) {
			c.sum[i] += v
			c.count[i]++
		}
	}
	c.state = s.State
}

func (r *ring) at(slot int64) Sample {
	s := NoSample()
	c := &r.cells[slot%int64(len(r.cells))]
	if c.slot != slot {
		return s
	}
	for i := range s.Values {
		if c.count[i] > 0 {
			s.Values[i] = c.sum[i] / float32(c.count[i])
		}
	}
	s.State = c.state
	return s
}
