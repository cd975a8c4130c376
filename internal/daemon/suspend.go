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
// them is not held against them, and carry nothing; they go on with the verdict that they had. Those whose carriers are
// doubted are not probed either, and carry what they did: in half a second there is another carrier, or certainty. The
// lock is held.
func (j *judge) suspend() {
	suspended, doubted := make(map[string]string), make(map[string]bool)
	c := carriage{j.carriers, j.bestState}
	for name := range j.carriers {
		if reason := c.suspendedBy(name); reason != "" {
			suspended[name] = reason
		}
		doubted[name] = c.doubted(name)
	}
	j.suspended, j.doubtful = suspended, doubted
}

// carriage is which uplinks may carry which, and how they fare. Configuration has seen to it that no chain is a circle.
type carriage struct {
	carriers map[string][]string
	state    func(name string) (uplink.State, bool) // false: not judged yet
}

// doubted reports whether none of an uplink's carriers is trusted.
func (c carriage) doubted(name string) bool {
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

// carries reports whether an uplink with that verdict may carry a tunnel's packets.
func carries(s uplink.State) bool { return s != uplink.Down && s != uplink.Disabled }

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
