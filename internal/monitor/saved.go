package monitor

import (
	"encoding/json"
	"errors"
	"maps"
	"time"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// Names of the documents in the state directory.
const (
	docVerdicts   = "verdicts" // uplink/family to verdict
	docDrained    = "drained"  // names of drained uplinks
	docHolds      = "awaits"   // uplink/family that wait for undrain, by their failback policy
	docProbeBytes = "spent"    // bytes of today's probes, by uplink
)

// saveInterval is how often what probing has cost is written: flash wears out.
const saveInterval = 10 * time.Minute

// Saved is what a Monitor keeps over a restart.
type Saved struct {
	verdicts   map[string]savedVerdict // by pathKey
	drained    map[string]bool         // by uplink name
	holds      map[string]bool         // by pathKey
	probeBytes DailyBytes
}

// Documents returns the documents of the state directory, by name, to be filled.
func (s *Saved) Documents() map[string]any {
	return map[string]any{docVerdicts: &s.verdicts, docDrained: &s.drained, docHolds: &s.holds, docProbeBytes: &s.probeBytes}
}

// savedVerdict is a verdict that is kept over a restart.
type savedVerdict struct {
	State   uplink.State   `json:"state"`
	Since   time.Time      `json:"since"`
	Learned uplink.Learned `json:"memory"`
	Unmoved bool           `json:"unmoved,omitempty"` // down, and its flows had not been moved
}

// pathKey names a path in the documents of the state directory.
func pathKey(uplink string, family rules.Family) string { return uplink + "/" + family.String() }

func (p *monitoredPath) saved() savedVerdict {
	v := p.Verdict()
	return savedVerdict{v.State, v.Since, p.Learned(), v.State == uplink.Down && !p.moved}
}

// saveVerdicts saves the verdicts as they are by the time that the disk is free. When many change together, one save is
// enough for all that come while it waits.
func (m *Monitor) saveVerdicts() {
	if !m.saving.CompareAndSwap(false, true) {
		return
	}
	m.o.Save(docVerdicts, func() any {
		m.saving.Store(false)
		m.mu.Lock()
		defer m.mu.Unlock()
		saved := make(map[string]savedVerdict, len(m.paths))
		for path, p := range m.paths {
			saved[pathKey(p.settings.name, path.Family)] = p.saved()
		}
		return saved
	})
}

// FlowsMoved hears of the verdicts that a pass has planned by, after it has moved the flows of those that are down, but for the stuck ones,
// which have nowhere to go yet, and those that are not dead to planning, because others fail with them. The next run moves what this one has
// not.
func (m *Monitor) FlowsMoved(verdicts map[rules.Path]rules.Verdict, stuck map[rules.Path]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	changed := false
	for path, p := range m.paths {
		v := verdicts[path]
		if !p.moved && v.State == string(uplink.Down) && v.Health == rules.Dead && !stuck[path] && p.Verdict().State == uplink.Down {
			p.moved, changed = true, true
		}
	}
	if changed && m.ctx != nil && m.ctx.Err() == nil {
		m.running.Go(m.saveVerdicts) // the disk may be slow
	}
}

func (m *Monitor) saveProbeBytes() {
	m.o.Save(docProbeBytes, func() any { return m.ProbeBytesToday() })
}

// Replay gives each path of a configuration its saved verdict, for planning without a Monitor; a path without one, or
// regained since, counts as new.
func (s *Saved) Replay(c rules.Config, paths map[rules.Path]rules.PathInfo) map[rules.Path]rules.Verdict {
	verdicts := make(map[rules.Path]rules.Verdict)
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		for _, family := range rules.Families {
			path, key := rules.Path{Uplink: u.ID, Family: family}, pathKey(u.Name, family)
			f, state := paths[path], s.verdicts[key].State
			if !state.Valid() {
				state = uplink.Init
			}
			if !f.Carrier || !f.HasAddress() || !f.HasDefault {
				state = uplink.Down
			}
			verdicts[path] = rules.Verdict{Health: planHealth(state.Health(), state), State: string(state), Drained: s.drained[u.Name] || s.holds[key]}
		}
	}
	return verdicts
}

// TakeOver takes what another router knew, by document and name, of uplinks that are configured next. Null is what there is no more.
func (m *Monitor) TakeOver(documents map[string]map[string]json.RawMessage) (failed error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.restored = maps.Clone(m.restored)
	if m.restored == nil {
		m.restored = make(map[string]savedVerdict)
	}
	for key, value := range documents[docVerdicts] {
		var v savedVerdict
		if value != nil {
			failed = errors.Join(failed, json.Unmarshal(value, &v))
		}
		if delete(m.restored, key); v.State.Valid() {
			m.restored[key] = v
		}
	}
	for name, value := range documents[docDrained] {
		m.drained = with(m.drained, name, string(value) == "true")
	}
	for key, value := range documents[docHolds] {
		m.holds.set(key, string(value) == "true")
	}
	return failed
}
