package config

import (
	"strconv"
	"strings"
	"time"
)

// Quality is [uplink.quality]: what an uplink that works has to be like to be called good, or fair. It changes no
// verdict: latency may be our own queue, and moving the traffic would move the queue.
type Quality struct {
	Good, Fair Limits
}

// Limits are the most that a class allows. Those of Fair are at least those of Good.
type Limits struct {
	RTT    time.Duration // good_rtt, fair_rtt: of the nearest target; 1ms..10s
	Jitter time.Duration // good_jitter, fair_jitter: of the same; 1ms..10s
	Loss   float64       // good_loss, fair_loss: 0.001..0.19
}

const titleQuality = "[uplink.quality]"

// defaultQuality is what calls sound good or tolerable over.
func defaultQuality() Quality {
	return Quality{
		Good: Limits{150 * time.Millisecond, 30 * time.Millisecond, 0.01},
		Fair: Limits{300 * time.Millisecond, 60 * time.Millisecond, 0.03},
	}
}

const (
	minLimit, maxLimit         = time.Millisecond, 10 * time.Second
	minLossLimit, maxLossLimit = 0.001, 0.19 // beyond that an uplink is degraded anyway
)

func qualitySection(q *Quality) section {
	s := section{title: titleQuality}
	for _, c := range []struct {
		name string
		l    *Limits
	}{{"good", &q.Good}, {"fair", &q.Fair}} {
		s.fields = append(s.fields,
			duration(c.name+"_rtt", &c.l.RTT, minLimit, maxLimit),
			duration(c.name+"_jitter", &c.l.Jitter, minLimit, maxLimit),
			ratio(c.name+"_loss", &c.l.Loss, minLossLimit, maxLossLimit))
	}
	return s
}

// quality reads the section. A fair that allows less than good would make the class swing.
func (r *reader) quality(t *table, q *Quality) {
	r.section(t, qualitySection(q))
	for _, c := range []struct {
		name       string
		less       bool
		good, fair string
	}{
		{"rtt", q.Fair.RTT < q.Good.RTT, span(q.Good.RTT), span(q.Fair.RTT)},
		{"jitter", q.Fair.Jitter < q.Good.Jitter, span(q.Good.Jitter), span(q.Fair.Jitter)},
		{"loss", q.Fair.Loss < q.Good.Loss, number(q.Good.Loss), number(q.Fair.Loss)},
	} {
		good, fair := "good_"+c.name, "fair_"+c.name
		if !c.less || !t.usable(good) || !t.usable(fair) {
			continue
		}
		at := t.offset(fair)
		if t.values[fair] == nil {
			at = t.offset(good)
		}
		r.errorf(at, "fair_%s (%s) is less than good_%s (%s): good must not exceed fair", c.name, c.fair, c.name, c.good)
	}
}

// ratio is a number in lo..hi.
func ratio(name string, dst *float64, lo, hi float64) field {
	return field{name: name, takes: number(lo) + " to " + number(hi), read: func(r *reader, v *value) {
		if v.kind != kindFloat && v.kind != kindInteger {
			r.wrongType(v, name, "a number", number(*dst))
			return
		}
		f, err := strconv.ParseFloat(strings.ReplaceAll(v.text, "_", ""), 64)
		if err != nil || !(f >= lo && f <= hi) { // NaN is in no range
			r.fail(v, v.off, "%s = %s is out of range: it must be %s to %s, of 1", name, clip(v.text), number(lo), number(hi))
			return
		}
		*dst = f
	}}
}

func number(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
