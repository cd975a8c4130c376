package monitor

import (
	"maps"
	"time"

	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
)

// budget is what is left of a day's bytes for probes.
type budget struct {
	left  int64         // bytes; may be negative
	until time.Duration // the end of the day
}

// stretch returns the interval at which the bytes left last until the end of the day, if that is longer than the given
// one: so many families share them.
func (b budget) stretch(interval time.Duration, bytesPerProbe float64, families int) time.Duration {
	if b.left <= 0 {
		return max(interval, slowestInterval)
	}
	lasting := time.Duration(bytesPerProbe * float64(families) * float64(b.until) / float64(b.left))
	return max(interval, min(lasting, slowestInterval))
}

// DailyBytes counts the bytes of a day's probes, by uplink.
type DailyBytes struct {
	Day   string           `json:"day"` // local date
	Bytes map[string]int64 `json:"bytes"`
}

// rollover begins a new day if there is one, and returns how much is left of it.
func (d *DailyBytes) rollover(now time.Time) time.Duration {
	if day := now.Format(time.DateOnly); d.Day != day || d.Bytes == nil {
		d.Day, d.Bytes = day, make(map[string]int64)
	}
	year, month, day := now.Date()
	return time.Date(year, month, day+1, 0, 0, 0, 0, now.Location()).Sub(now)
}

// ProbeBytesToday returns what probing has cost since midnight.
func (m *Monitor) ProbeBytesToday() DailyBytes {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.setIntervals(time.Now())
	return DailyBytes{Day: m.probeBytes.Day, Bytes: maps.Clone(m.probeBytes.Bytes)}
}

// bytesPerProbe returns the mean bytes of one probe of a family.
func bytesPerProbe(targets []probe.Target, family rules.Family) float64 {
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
