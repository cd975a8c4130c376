package daemon

import (
	"fmt"
	"maps"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// failback applies the policy of an uplink to what the court thinks of a path: how far planning may trust
// it, and whether it is held back until the operator says otherwise. The lock is held.
func (j *judge) failback(path rules.Path, state uplink.State) (h uplink.Health, held bool, event *status.Event) {
	w, h := j.watched[path], j.rulings[path].Health
	key := verdictKey(w.name, path.Family)
	if state == uplink.Up || state == uplink.Degraded {
		w.proven = true
	}
	switch w.uplink.Failback {
	case config.FailbackImmediate:
		if state == uplink.Recovering && h == uplink.HealthDoubtful {
			h = uplink.HealthGood
		}
	case config.FailbackManual:
		// A line that has no carrier yet when the box starts has not failed.
		if h == uplink.HealthDead && w.proven && !j.awaits[key] {
			j.await(key, true)
			event = &status.Event{Kind: status.EventDrain, Uplink: w.name, Family: path.Family.String(),
				Message: fmt.Sprintf("stays out of the choice after this (failback = %q): \"uplinkd undrain %s\" ends it", config.FailbackManual, w.name)}
		}
	}
	return h, j.awaits[key], event
}

// await notes whether a path waits for the operator. The lock is held.
func (j *judge) await(key string, waits bool) {
	next := maps.Clone(j.awaits)
	if waits {
		next[key] = true
	} else {
		delete(next, key)
	}
	j.awaits, j.unkept = next, true
}

// forgetAwaits forgets the paths whose uplinks are gone or have another policy now. The lock is held.
func (j *judge) forgetAwaits() {
	manual := make(map[string]bool)
	for path, w := range j.watched {
		if w.uplink.Failback == config.FailbackManual {
			manual[verdictKey(w.name, path.Family)] = true
		}
	}
	for key := range j.awaits {
		if !manual[key] {
			j.await(key, false)
		}
	}
}

// release lets an uplink that waited for the operator carry traffic again.
func (j *judge) release(name string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, family := range rules.Families {
		if key := verdictKey(name, family); j.awaits[key] {
			j.await(key, false)
		}
	}
}

// awaiting returns the paths that wait for the operator, by verdictKey.
func (j *judge) awaiting() map[string]bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.awaits // replaced, never changed in place
}

// takeUnkept reports whether awaiting has to be kept anew.
func (j *judge) takeUnkept() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	unkept := j.unkept
	j.unkept = false
	return unkept
}
