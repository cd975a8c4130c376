package daemon

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// suspend finds the uplinks that nobody can carry at the moment. They are not probed, so that an outage of what carries
// them is not held against them, and carry nothing; they go on with the verdict that they had. Those whose carrier is
// doubted, or dead though others are not, are not probed either, and carry what they did: in half a second there is
// another carrier, or certainty. The lock is held.
func (j *judge) suspend() {
	suspended, doubted := make(map[string]string), make(map[string]bool)
	c := carriage{j.carriers, j.riding, j.bestState, j.pathState}
	for name := range j.carriers {
		if reason := c.suspendedBy(name); reason != "" {
			suspended[name] = reason
		}
		doubted[name] = c.doubted(name)
	}
	j.suspended, j.doubtful = suspended, doubted
}

// hold stops judging the tunnels whose carrier has fallen silent, without waiting for the next look at the kernel: on a busy
// machine they would be down by then, and held down for it.
func (j *judge) hold() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.suspend()
	for _, w := range j.watched {
		if held := j.suspended[w.name] != "" || j.doubtful[w.name]; held && w.facts.Carrier && !w.facts.Quiet {
			w.facts.Quiet = true
			w.SetPath(w.facts)
		}
	}
}

// carriage is which uplinks may carry which, and how they fare. Configuration has seen to it that no chain is a circle.
type carriage struct {
	carriers map[string][]string
	riding   map[string][]rules.Path                // the carriers in use, of tunnels that may choose
	state    func(name string) (uplink.State, bool) // false: not judged yet
	path     func(rules.Path) (name string, state uplink.State, known bool)
}

// doubted reports whether none of the carriers that an uplink uses is trusted, or of all where that is not known.
func (c carriage) doubted(name string) bool {
	if used := c.riding[name]; len(used) > 0 {
		return !slices.ContainsFunc(used, func(p rules.Path) bool {
			carrier, state, known := c.path(p)
			return !known || state != uplink.Suspect && carries(state) && !c.doubted(carrier)
		})
	}
	for _, carrier := range c.carriers[name] {
		if state, known := c.state(carrier); !known || state != uplink.Suspect && carries(state) && !c.doubted(carrier) {
			return false
		}
	}
	return len(c.carriers[name]) > 0
}

// suspendedBy says why an uplink is suspended, "" when it is not.
func (c carriage) suspendedBy(name string) string {
	var reasons []string
	for _, carrier := range c.carriers[name] {
		if reason := c.suspendedBy(carrier); reason != "" {
			reasons = append(reasons, fmt.Sprintf("%s is %s", carrier, reason))
			continue
		}
		state, known := c.state(carrier)
		if !known || carries(state) {
			return ""
		}
		reasons = append(reasons, fmt.Sprintf("%s is %s", carrier, state))
	}
	if len(reasons) == 0 {
		return ""
	}
	return "suspended, because " + strings.Join(reasons, " and ")
}

// bestState returns the best verdict of an uplink's families; false when it has none yet.
func (j *judge) bestState(name string) (best uplink.State, known bool) {
	for _, w := range j.watched {
		if w.name != name {
			continue
		}
		if s := w.Verdict().State; !known || s.Health() > best.Health() {
			best, known = s, true
		}
	}
	return best, known
}

// pathState returns whose a path is, and its verdict; false when it has none yet.
func (j *judge) pathState(path rules.Path) (name string, state uplink.State, known bool) {
	w := j.watched[path]
	if w == nil {
		return "", "", false
	}
	return w.name, w.Verdict().State, true
}

// ride notes by which paths a tunnel's packets leave now.
func (j *judge) ride(name string, paths []rules.Path) {
	j.mu.Lock()
	defer j.mu.Unlock()
	riding := maps.Clone(j.riding)
	if riding == nil {
		riding = make(map[string][]rules.Path)
	}
	riding[name] = paths
	j.riding = riding
}

// carries reports whether an uplink with that verdict may carry a tunnel's packets.
func carries(s uplink.State) bool { return s != uplink.Down && s != uplink.Disabled }

// chain lists what carries an uplink now: its carrier, then the carrier's own, and so on.
func chain(c *config.Config, ids map[string]int, report *rules.Report, u *config.Uplink) []string {
	var names []string
	for u != nil && len(names) < len(c.Uplinks) {
		next := u.Over
		if next == "" {
			id := 0
			for _, f := range rules.Families {
				if id == 0 {
					id = report.Carrier(ids[u.Name], f)
				}
			}
			for name, known := range ids {
				if known == id && id != 0 {
					next = name
				}
			}
		}
		i := slices.IndexFunc(c.Uplinks, func(o config.Uplink) bool { return o.Name == next })
		if i < 0 {
			break
		}
		u = &c.Uplinks[i]
		names = append(names, u.Name)
	}
	return names
}
