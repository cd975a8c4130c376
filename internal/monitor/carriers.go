package monitor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// carriers are the tunnels among the uplinks, what carries each, and which of them are paused for its sake.
//
// Those that nobody can carry at the moment are suspended: they are not probed, so that an outage of their carriers is
// not held against them, and carry nothing; they go on with the verdict that they had. Those whose carrier is suspect,
// or dead though others are not, are not probed either, and carry what they did: in half a second there is another
// carrier, or certainty.
type carriers struct {
	configured map[string][]string     // by uplink name, what may carry it
	active     map[string][]rules.Path // by uplink name, what carries it now
	suspended  map[string]string       // by uplink name, why
	suspect    map[string]bool         // by uplink name, whether what carries it is suspect
}

// update finds out anew which uplinks are paused.
func (c *carriers) update(ps paths) {
	c.suspended, c.suspect = make(map[string]string), make(map[string]bool)
	g := carrierGraph{c.configured, c.active, ps.uplinkState, ps.state}
	for name := range c.configured {
		if reason := g.suspendedBy(name); reason != "" {
			c.suspended[name] = reason
		}
		c.suspect[name] = g.carrierSuspect(name)
	}
}

// paused reports whether an uplink is not probed, because of what carries it.
func (c *carriers) paused(name string) bool { return c.suspended[name] != "" || c.suspect[name] }

// carrierGraph is which uplinks may carry which, and how they fare. The configuration has no circles.
type carrierGraph struct {
	carriers map[string][]string
	active   map[string][]rules.Path                // the carriers in use, of tunnels that may choose
	state    func(name string) (uplink.State, bool) // false: no verdict yet
	path     func(rules.Path) (name string, state uplink.State, known bool)
}

// carrierSuspect reports whether none of the carriers that an uplink uses is trusted, or of all where that is not known.
func (g carrierGraph) carrierSuspect(name string) bool {
	trusted := func(carrier string, state uplink.State, known bool) bool {
		return !known || state != uplink.Suspect && canCarry(state) && !g.carrierSuspect(carrier)
	}
	if used := g.active[name]; len(used) > 0 {
		return !slices.ContainsFunc(used, func(p rules.Path) bool { return trusted(g.path(p)) })
	}
	carriers := g.carriers[name]
	return len(carriers) > 0 && !slices.ContainsFunc(carriers, func(carrier string) bool {
		state, known := g.state(carrier)
		return trusted(carrier, state, known)
	})
}

// suspendedBy says why an uplink is suspended, "" when it is not.
func (g carrierGraph) suspendedBy(name string) string {
	var reasons []string
	for _, carrier := range g.carriers[name] {
		if reason := g.suspendedBy(carrier); reason != "" {
			reasons = append(reasons, fmt.Sprintf("%s is %s", carrier, reason))
			continue
		}
		state, known := g.state(carrier)
		if !known || canCarry(state) {
			return ""
		}
		reasons = append(reasons, fmt.Sprintf("%s is %s", carrier, state))
	}
	if len(reasons) == 0 {
		return ""
	}
	return "suspended, because " + strings.Join(reasons, " and ")
}

// canCarry reports whether an uplink with that verdict may carry a tunnel's packets.
func canCarry(s uplink.State) bool { return s != uplink.Down && s != uplink.Disabled }

// pauseCarried stops probing the tunnels whose carrier has fallen silent, without waiting for the next look at the
// kernel: on a busy machine they would be down by then, and held down for it.
func (m *Monitor) pauseCarried() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.carriers.update(m.paths)
	for _, p := range m.paths {
		if m.carriers.paused(p.uplink.Name) && p.info.Carrier && !p.info.Quiet {
			p.info.Quiet = true
			p.SetPath(p.info)
		}
	}
}

// Paused reports whether an uplink is not probed, because of what carries it.
func (m *Monitor) Paused(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.carriers.paused(name)
}

// SetActiveCarriers says by which paths a tunnel's packets leave now.
func (m *Monitor) SetActiveCarriers(name string, paths []rules.Path) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.carriers.active[name] = paths
}
