package usage

import (
	"math"
	"time"
)

// span is a length of history and the step at which it is kept.
type span struct {
	name string
	step time.Duration
	size int // samples
}

// spans are what is kept, the finest first: 5 minutes of seconds, an hour of ten seconds, a day of two minutes.
var spans = []span{{"5m", time.Second, 300}, {"1h", 10 * time.Second, 360}, {"24h", 2 * time.Minute, 720}}

// The values of a sample. Traffic is in bytes a second, latency in milliseconds, loss in 0..1.
const (
	rtt = iota
	loss
	received
	sent
	valueCount
)

// sample is what was seen in one second; NaN stands for a value that there is none of.
type sample struct {
	values [valueCount]float32
	state  uint8 // 1 + the index of the verdict in uplink.States; 0 for none
}

func noSample() sample {
	var s sample
	for i := range s.values {
		s.values[i] = float32(math.NaN())
	}
	return s
}

// history holds the last day of each series, by name, in fixed space. It is pure: the caller brings the time.
//
//	sample, once a second ──> a ring for each span, whose cells are the means over its step
type history map[string]*[3]ring

// add takes the samples of one second. What is not among them has a gap there. A clock that stands still or
// goes back a little adds to the step that was reached; one that was set back by more begins anew there, and what it calls the future is
// forgotten.
func (h history) add(at time.Time, samples map[string]sample) {
	for name, s := range samples {
		rings := h[name]
		if rings == nil {
			rings = new([3]ring)
			for i, span := range spans {
				rings[i] = ring{step: int64(span.step), cells: make([]cell, span.size+1)}
			}
			h[name] = rings
		}
		for i := range rings {
			rings[i].add(at, s)
		}
	}
}

// retain drops every series but those that keep names.
func (h history) retain(keep func(name string) bool) {
	for name := range h {
		if !keep(name) {
			delete(h, name)
		}
	}
}

// since returns the samples of a series that end at now and began after the given time, the oldest first,
// one for each step; those that there are none of are without values. A step counts when it is over. The
// first one begins at the time that is returned.
func (h history) since(name string, s span, after, now time.Time) (first time.Time, samples []sample) {
	last := now.UnixNano()/int64(s.step) - 1
	from := max(last-int64(s.size)+1, after.UnixNano()/int64(s.step)+1)
	var r *ring
	for i := range spans {
		if rings := h[name]; rings != nil && spans[i] == s {
			r = &rings[i]
		}
	}
	for slot := from; slot <= last; slot++ {
		samples = append(samples, r.at(slot))
	}
	return time.Unix(0, from*int64(s.step)), samples
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
	sum   [valueCount]float32
	count [valueCount]uint16
	state uint8
}

func (r *ring) add(at time.Time, s sample) {
	slot := at.UnixNano() / r.step
	switch back := r.last - slot; {
	case back <= 0:
	case back <= max(1, int64(time.Minute)/r.step):
		slot = r.last
	default:
		for i := range r.cells {
			if r.cells[i].slot > slot {
				r.cells[i] = cell{}
			}
		}
	}
	r.last = slot
	c := &r.cells[slot%int64(len(r.cells))]
	if c.slot != slot {
		*c = cell{slot: slot}
	}
	for i, v := range s.values {
		if !math.IsNaN(float64(v)) {
			c.sum[i] += v
			c.count[i]++
		}
	}
	c.state = s.state
}

// at returns the mean of a step; a nil ring has none.
func (r *ring) at(slot int64) sample {
	s := noSample()
	if r == nil {
		return s
	}
	c := &r.cells[slot%int64(len(r.cells))]
	if c.slot != slot {
		return s
	}
	for i := range s.values {
		if c.count[i] > 0 {
			s.values[i] = c.sum[i] / float32(c.count[i])
		}
	}
	s.state = c.state
	return s
}
