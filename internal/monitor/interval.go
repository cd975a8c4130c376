package monitor

import (
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

const (
	// The probe intervals of paths that carry no new traffic. One that carries some is probed at the configured interval.
	standbyInterval        = 5 * time.Second
	standbyMeteredInterval = time.Minute
	// receivingInterval is that of a metered path whose device receives: most of what a probe could tell is known then.
	// It is no longer because the other family may be what is received.
	receivingInterval = 15 * time.Second
	// receivingSpan is how long a reception counts; shorter than that interval, so that the answers to our own probes are
	// no reason to send fewer.
	receivingSpan = 4 * time.Second
	// alertInterval is that of a path while another one of its family is in trouble, and urgentInterval that of the first
	// moments of the other's silence, when new flows wait for the answer.
	alertInterval  = time.Second
	urgentInterval = 100 * time.Millisecond
	urgentSpan     = time.Second
	// slowestInterval is that of a path that has no bytes left for the day.
	slowestInterval = 10 * time.Minute
	// reviewInterval is how often all intervals are decided anew.
	reviewInterval = time.Second
)

// probeContext is what the interval of a path depends on.
type probeContext struct {
	State     uplink.State
	Active    bool // carries new traffic
	Receiving bool // its device has received something just now
	Alert     bool // its traffic looks one-way, or another path of the family has missed an answer just now, or is silent
	Urgent    bool // and whether that one is to be left depends on this one
}

// baseInterval returns how often a path is probed while nothing is wrong with it, before any budget.
func baseInterval(u *config.Uplink, c probeContext) time.Duration {
	configured := u.Probe.Interval
	switch {
	case c.Urgent:
		return min(configured, urgentInterval)
	case c.Alert:
		return min(configured, alertInterval)
	case u.Probe.Fixed:
		return configured
	case c.Active && u.Metered && c.Receiving && c.State == uplink.Up:
		return max(configured, receivingInterval)
	case c.Active:
		return configured
	case u.Metered && c.State != uplink.Recovering && c.State != uplink.Init:
		return max(configured, standbyMeteredInterval)
	case c.State == uplink.Up, c.State == uplink.Degraded:
		return max(configured, standbyInterval)
	}
	return configured // what is broken and preferred shall be back soon
}

// setIntervals counts what probing has cost and sets the interval of every watcher. The lock is held.
func (m *Monitor) setIntervals(now time.Time) {
	dayLeft := m.probeBytes.rollover(now)
	probing := make(map[string]int) // families, by uplink
	for _, p := range m.paths {
		bytes := p.BytesSpent()
		m.probeBytes.Bytes[p.settings.name] += int64(bytes - p.counted)
		p.counted = bytes
		probing[p.settings.name]++
	}
	waiting := make(map[rules.Family]time.Time, len(rules.Families)) // since when somebody waits for a decision
	for _, family := range rules.Families {
		waiting[family] = m.correlation.DeferredSince(family)
	}
	for path, p := range m.paths {
		since := waiting[path.Family]
		interval := baseInterval(&p.uplink, probeContext{
			State: p.State(), Active: m.active == nil || m.active[path],
			Receiving: now.Sub(p.inboundAt) < receivingSpan,
			Alert:     !since.IsZero() || now.Sub(m.correlation.missedAt[path.Family]) < alertInterval || now.Sub(p.oneWayAt) < alertInterval || p.Blocked() != nil, // and its end is seen soon
			Urgent:    !since.IsZero() && now.Sub(since) < urgentSpan,
		})
		if limit := p.uplink.Probe.Budget; limit > 0 && (interval > alertInterval || since.IsZero()) {
			left := budget{left: limit - m.probeBytes.Bytes[p.settings.name], until: dayLeft}
			interval = left.stretch(interval, p.bytesPerProbe, probing[p.settings.name])
		}
		if interval != p.interval {
			p.interval = interval
			p.SetInterval(interval)
		}
	}
}
