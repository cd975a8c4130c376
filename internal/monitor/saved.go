package monitor

import (
	"maps"
	"time"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// Saved is what a Monitor keeps over a restart. Each field is a document of its own in the state directory.
type Saved struct {
	Verdicts    map[string]SavedVerdict // by PathKey
	Drained     map[string]bool         // by uplink name
	ManualHolds map[string]bool         // by PathKey
	ProbeBytes  DailyBytes
}

// SavedVerdict is a verdict on its way over a restart.
type SavedVerdict struct {
	State  uplink.State  `json:"state"`
	Since  time.Time     `json:"since"`
	Memory uplink.Memory `json:"memory"`
}

// PathKey names a path in the documents of the state directory.
func PathKey(uplink string, family rules.Family) string { return uplink + "/" + family.String() }

func (p *monitoredPath) saved() SavedVerdict {
	v := p.Verdict()
	return SavedVerdict{v.State, v.Since, p.Memory()}
}

// SavedVerdicts returns the verdicts and what was learned of each path, by PathKey.
func (m *Monitor) SavedVerdicts() map[string]SavedVerdict {
	m.mu.Lock()
	paths := maps.Clone(m.paths)
	m.mu.Unlock()
	saved := make(map[string]SavedVerdict, len(paths))
	for path, p := range paths {
		saved[PathKey(p.settings.name, path.Family)] = p.saved()
	}
	return saved
}

// Replay gives each path of a configuration its saved verdict, for a look without a Monitor; a path without one, or
// regained since, counts as new.
func (s *Saved) Replay(c rules.Config, facts map[rules.Path]rules.Facts) map[rules.Path]rules.Verdict {
	verdicts := make(map[rules.Path]rules.Verdict)
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		for _, family := range rules.Families {
			path, key := rules.Path{Uplink: u.ID, Family: family}, PathKey(u.Name, family)
			f, state := facts[path], s.Verdicts[key].State
			if !state.Valid() {
				state = uplink.Init
			}
			if !f.Carrier || !f.HasAddress() || !f.HasDefault {
				state = uplink.Down
			}
			verdicts[path] = rules.Verdict{Health: planHealth(state.Health(), state), State: string(state), Drained: s.Drained[u.Name] || s.ManualHolds[key]}
		}
	}
	return verdicts
}
