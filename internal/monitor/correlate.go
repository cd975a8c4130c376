package monitor

import (
	"fmt"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// missSpan is how long the others that were probed because of a miss need not be probed again for another one.
const missSpan = 50 * time.Millisecond

// correlation is what the paths of a family say about one another.
type correlation struct {
	*uplink.Correlator
	decisions map[rules.Path]uplink.Decision       // replaced, never changed in place
	outages   map[rules.Family]uplink.CommonOutage // those that the log knows
	missedAt  map[rules.Family]time.Time           // the latest miss of a path that was fine
	hintedAt  map[rules.Family]time.Time           // when the others were probed because of one
}

func newCorrelation() correlation {
	return correlation{Correlator: uplink.NewCorrelator(), missedAt: make(map[rules.Family]time.Time), hintedAt: make(map[rules.Family]time.Time)}
}

// onMiss takes the first unanswered probe of a path that was fine. Whoever can tell whether that is the path's
// fault or the target's is probed at once: the same family of every other uplink. The other family of this uplink is
// too: both mostly fail together.
func (m *Monitor) onMiss(path rules.Path) {
	m.mu.Lock()
	now := time.Now()
	m.correlation.missedAt[path.Family] = now
	hinted := now.Sub(m.correlation.hintedAt[path.Family]) < missSpan // when many fail together, once is enough
	if !hinted {
		m.correlation.hintedAt[path.Family] = now
		m.setIntervals(now) // a hint is taken once in an interval
	}
	var others []*monitoredPath
	for other, p := range m.paths {
		if other != path && (other.Family == path.Family && !hinted || other.Uplink == path.Uplink) {
			others = append(others, p)
		}
	}
	m.mu.Unlock()
	for _, p := range others {
		p.Hint()
	}
}

// onAnswer takes every answer: it may decide about a path that is silent.
func (m *Monitor) onAnswer(path rules.Path, rtt time.Duration) {
	now := time.Now()
	m.mu.Lock()
	decides, renew := m.correlation.Answered(path, now.Add(-rtt), now)
	again := m.paths.of(renew)
	m.mu.Unlock()
	for _, p := range again {
		p.Renew()
	}
	if decides {
		m.o.Wake()
	}
}

// correlate decides what to believe of each path, and sees to it that this is done again in time. The lock is held.
func (m *Monitor) correlate(reports map[rules.Path]uplink.PathReport) {
	now := time.Now()
	decisions, next := m.correlation.Decide(reports, now)
	m.correlation.decisions = decisions
	switch {
	case m.ctx == nil || m.ctx.Err() != nil || next.IsZero():
	case m.recheckTimer == nil:
		m.recheckTimer = time.AfterFunc(next.Sub(now), m.o.Wake)
	default:
		m.recheckTimer.Reset(next.Sub(now))
	}
}

// outageEvents returns the events of common outages that began or ended since the last time.
func (c *correlation) outageEvents() []status.Event {
	var events []status.Event
	outages := c.Outages()
	next := make(map[rules.Family]uplink.CommonOutage, len(outages))
	for _, family := range rules.Families {
		outage, is := outages[family]
		_, was := c.outages[family]
		switch {
		case is && !was:
			events = append(events, status.Event{Kind: status.EventCause, Family: family.String(), Code: string(status.CauseBegan), Message: outageMessage(family, outage)})
		case was && !is:
			events = append(events, status.Event{Kind: status.EventCause, Family: family.String(), Code: string(status.CauseOver), Message: "the common cause is over"})
		}
		if is {
			next[family] = outage
		}
	}
	c.outages = next
	return events
}

func outageMessage(family rules.Family, outage uplink.CommonOutage) string {
	return fmt.Sprintf("common cause: no target answers by any of %s (%v); traffic stays where it is", strings.Join(outage.Names, ", "), family.Name())
}
