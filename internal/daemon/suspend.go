package daemon

import (
	"fmt"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// suspend finds the uplinks that nobody can carry at the moment. They are not probed, so that an outage of what carries
// them is not held against them, and carry nothing; they go on with the verdict that they had. The lock is held.
func (j *judge) suspend() {
	suspended := make(map[string]string)
	for name := range j.carriers {
		if reason := j.suspendedBy(name); reason != "" {
			suspended[name] = reason
		}
	}
	j.suspended = suspended
}

// suspendedBy says why an uplink is suspended, "" when it is not. Configuration has seen to it that carriers do not run
// in a circle. The lock is held.
func (j *judge) suspendedBy(name string) string {
	var reasons []string
	for _, carrier := range j.carriers[name] {
		if reason := j.suspendedBy(carrier); reason != "" {
			reasons = append(reasons, fmt.Sprintf("%s is %s", carrier, reason))
			continue
		}
		state, known := j.bestState(carrier)
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

// carries reports whether a tunnel over an uplink with that verdict can be judged by itself.
func carries(s uplink.State) bool {
	return s == uplink.Init || s == uplink.Up || s == uplink.Degraded || s == uplink.Recovering
}

// carriersOf lists, by name, which uplinks may carry an uplink.
func carriersOf(c *config.Config) map[string][]string {
	all := make(map[string][]string)
	for i := range c.Uplinks {
		if names := c.Carriers(&c.Uplinks[i]); len(names) > 0 {
			all[c.Uplinks[i].Name] = names
		}
	}
	return all
}

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

func (j *judge) isSuspended(name string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.suspended[name] != ""
}
