package monitor

import (
	"fmt"
	"maps"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// manualHolds are the paths, by pathKey, that were down and whose failback waits for the operator.
type manualHolds struct {
	held    map[string]bool // replaced, never changed in place
	changed bool            // since it was taken to be saved
}

func (h *manualHolds) set(key string, held bool) {
	if h.held[key] != held {
		h.held, h.changed = with(h.held, key, held), true
	}
}

// retain ends the holds of all other paths.
func (h *manualHolds) retain(keys map[string]bool) {
	for key := range h.held {
		if !keys[key] {
			h.set(key, false)
		}
	}
}

// with returns a copy of a set that has an element or not.
func with(set map[string]bool, element string, has bool) map[string]bool {
	next := maps.Clone(set)
	if next == nil {
		next = make(map[string]bool)
	}
	if delete(next, element); has {
		next[element] = true
	}
	return next
}

// applyFailback applies the policy of an uplink to what the correlator has decided of a path: how far planning may trust
// it, and whether it is held back until the operator says otherwise. The lock is held.
func (m *Monitor) applyFailback(path rules.Path, state uplink.State) (h uplink.Health, held bool, event *status.Event) {
	p, h := m.paths[path], m.correlation.decisions[path].Health
	name, key := p.uplink.Name, pathKey(p.uplink.Name, path.Family)
	if state == uplink.Up || state == uplink.Degraded {
		p.proven = true
	}
	switch p.uplink.Failback {
	case config.FailbackImmediate, config.FailbackImmediateAll:
		if state == uplink.Recovering && h == uplink.HealthDoubtful {
			h = uplink.HealthGood
		}
	case config.FailbackManual:
		fell := p.fell && state != uplink.Down // and is back: nobody has looked meanwhile
		p.fell = false
		// A line that has no carrier yet when the box starts has not failed.
		if (h == uplink.HealthDead || fell) && p.proven && !m.holds.held[key] {
			m.holds.set(key, true)
			event = &status.Event{Kind: status.EventDrain, Uplink: name, Family: path.Family.String(),
				Message: fmt.Sprintf("is kept out of use (failback = %q) until: uplinkd undrain %s", config.FailbackManual, name)}
		}
	}
	return h, m.holds.held[key], event
}

// noteTransition keeps for applyFailback what may be over before it looks.
func (m *Monitor) noteTransition(t uplink.Transition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for path, p := range m.paths {
		if p.uplink.Name != t.Uplink || path.Family != t.Family {
			continue
		}
		switch t.To {
		case uplink.Up, uplink.Degraded:
			p.proven = true
		case uplink.Down:
			p.fell = true
		}
		if t.To != uplink.Down {
			p.moved = false
		}
	}
}

// SaveHolds saves the manual holds if they have changed. The disk may be slow: it is called when traffic has moved.
func (m *Monitor) SaveHolds() {
	m.mu.Lock()
	changed := m.holds.changed
	m.holds.changed = false
	m.mu.Unlock()
	if changed {
		m.o.Save(docHolds, func() any {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.holds.held
		})
	}
}

// SetDrained sends traffic of an uplink elsewhere, or back, which also ends its manual holds. It lasts over restarts; that what runs ends
// is not said again then.
func (m *Monitor) SetDrained(name string, d status.Drain) {
	m.mu.Lock()
	m.drained = with(m.drained, name, d != status.Undrained)
	switch d {
	case status.DrainedNow:
		m.ended[name]++
	case status.Drained:
	case status.Undrained:
		delete(m.ended, name)
		for _, family := range rules.Families {
			m.holds.set(pathKey(name, family), false)
		}
	}
	m.mu.Unlock()
	m.SaveDrained()
}

// SaveDrained saves which uplinks are drained.
func (m *Monitor) SaveDrained() { m.o.Save(docDrained, func() any { return m.Drained() }) }

// Drained returns the drained uplinks by name. It is not to be changed.
func (m *Monitor) Drained() map[string]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.drained
}
