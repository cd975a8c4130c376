package monitor

import (
	"maps"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// balance decides who of a tier has the default's new flows, where that depends on more than verdicts.
type balance struct {
	fastest map[tierFamily]*uplink.Fastest
	lines   map[string]*uplink.Overflow // by uplink name, those with a bandwidth
	limits  map[string]float64          // of them; 0: none
	usable  map[rules.Path]bool         // at the latest pass; replaced, never changed in place
	slower  map[rules.Path]bool         // than another of their tier, likewise
	best    map[tierFamily]rules.Path   // as planning knows them; replaced, never changed in place
}

type tierFamily struct {
	tier   int
	family rules.Family
}

func (b *balance) configure(c *config.Config) {
	fastest := make(map[tierFamily]*uplink.Fastest)
	for _, t := range c.Tiers {
		if t.Balance != config.BalanceLatency {
			continue
		}
		for _, f := range rules.Families {
			at := tierFamily{t.Tier, f}
			if fastest[at] = b.fastest[at]; fastest[at] == nil {
				fastest[at] = new(uplink.Fastest)
			}
		}
	}
	b.fastest = fastest
	lines, limits := make(map[string]*uplink.Overflow), make(map[string]float64)
	for i := range c.Uplinks {
		if u := &c.Uplinks[i]; u.Bandwidth != (config.Bandwidth{}) {
			limits[u.Name] = c.Overflow(u)
			if lines[u.Name] = b.lines[u.Name]; lines[u.Name] == nil {
				lines[u.Name] = new(uplink.Overflow)
			}
		}
	}
	b.lines, b.limits = lines, limits
}

// compare lets the paths of each tier that is balanced by latency compete, and returns the fastest of each; a tier of which too little is
// known has none.
func (b *balance) compare(paths paths, now time.Time) map[tierFamily]rules.Path {
	found := make(map[tierFamily]rules.Path, len(b.fastest))
	for at, f := range b.fastest {
		contenders := make(map[rules.Path]uplink.Contender)
		for path, p := range paths {
			if path.Family == at.family && p.uplink.Tier == at.tier && p.uplink.Default && b.usable[path] {
				v := p.Verdict()
				contenders[path] = uplink.Contender{RTT: v.RTT, Congested: v.Congestion != ""}
			}
		}
		if best, known := f.Observe(contenders, now); known {
			found[at] = best
		}
	}
	return found
}

// review reports whether planning is to hear of another path that is the fastest now.
func (b *balance) review(paths paths, now time.Time) bool {
	return len(b.fastest) > 0 && !maps.Equal(b.compare(paths, now), b.best)
}

// apply adds to verdicts which paths are slower than another of their tier, and which lines are full.
func (b *balance) apply(paths paths, verdicts map[rules.Path]rules.Verdict, now time.Time) {
	b.usable, b.slower = make(map[rules.Path]bool, len(verdicts)), make(map[rules.Path]bool)
	for path, v := range verdicts {
		b.usable[path] = v.Health == rules.Good && !v.Drained
	}
	b.best = b.compare(paths, now)
	for path, v := range verdicts {
		u := &paths[path].uplink
		at := tierFamily{u.Tier, path.Family}
		if best, known := b.best[at]; known && b.usable[path] && u.Default {
			v.Slower, v.RTT = best != path, b.fastest[at].RTT(path)
			b.slower[path] = v.Slower
		}
		v.Full = b.full(u)
		verdicts[path] = v
	}
}

// full reports whether an uplink carries more than the overflow of its tier.
func (b *balance) full(u *config.Uplink) bool {
	line := b.lines[u.Name]
	return line != nil && line.Full()
}

// load takes how much the device of an uplink moves, and reports whether it has become full by that, or is no longer.
func (b *balance) load(u *config.Uplink, l uplink.Load, now time.Time) (changed bool) {
	line := b.lines[u.Name]
	if line == nil {
		return false
	}
	was := line.Full()
	line.Observe(uplink.Bandwidth{Received: float64(u.Bandwidth.Down), Sent: float64(u.Bandwidth.Up)}.Share(l), b.limits[u.Name], now)
	return line.Full() != was
}

// LineLoad is what a line carries of its bandwidth.
type LineLoad struct {
	Share float64 // 0..1, and more where the bandwidth is said to be less than it is
	Full  bool    // new flows use others too
}

// LineLoads returns those of the uplinks with a bandwidth, by name.
func (m *Monitor) LineLoads() map[string]LineLoad {
	m.mu.Lock()
	defer m.mu.Unlock()
	loads := make(map[string]LineLoad, len(m.balance.lines))
	for name, line := range m.balance.lines {
		loads[name] = LineLoad{line.Mean(), line.Full()}
	}
	return loads
}
