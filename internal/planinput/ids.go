package planinput

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
)

// identified lists the names that have ids: of uplinks, of what policies share, and of the underlays of tunnels.
func identified(c *config.Config) []string {
	names := make([]string, 0, len(c.Uplinks)+len(c.Waiting))
	for _, u := range slices.Concat(c.Uplinks, c.Waiting) {
		names = append(names, u.Name)
	}
	for i := range c.Policies {
		if group := c.Policies[i].Group(); !slices.Contains(names, group) {
			names = append(names, group)
		}
	}
	for i := range c.Uplinks {
		if c.Uplinks[i].Kind == config.KindWireGuard {
			names = append(names, UnderlayName(c.Uplinks[i].Name))
		}
	}
	if len(c.TProxies) > 0 {
		names = append(names, config.TProxyGroup)
	}
	return names
}

// AssignIDs gives each uplink the id that the configuration says, and else, as each group, the one that it had before. Connections carry
// ids in their marks, so an id is reused for another name only when no fresh one is left; kept is updated and reports whether it was.
func AssignIDs(c *config.Config, kept map[string]int) (changed bool, err error) {
	names := identified(c)
	configured := func(name string) bool { return slices.Contains(names, name) }
	said := make(map[int]string)
	for _, u := range slices.Concat(c.Uplinks, c.Waiting, c.Disabled.Uplinks) {
		if u.ID != 0 {
			said[u.ID] = u.Name
		}
	}
	for name, id := range kept {
		if owner := said[id]; owner != "" && owner != name {
			delete(kept, name)
			changed = true
		}
	}
	for id, name := range said {
		if kept[name] != id {
			kept[name], changed = id, true
		}
	}
	group := func(name string) bool { return strings.HasPrefix(name, "@") }
	taken := make(map[int]string, len(kept))
	// Of two names with one id, which only a damaged file has, one that is in use keeps it.
	var inUse, others []string
	for _, name := range slices.Sorted(maps.Keys(kept)) {
		if configured(name) {
			inUse = append(inUse, name)
		} else {
			others = append(others, name)
		}
	}
	for _, name := range append(inUse, others...) {
		id := kept[name]
		if id < 1 || id > rules.MaxUplinks || taken[id] != "" {
			delete(kept, name)
			changed = true
			continue
		}
		taken[id] = name
	}
	for _, name := range names {
		if kept[name] != 0 {
			continue
		}
		id := freeID(func(id int) bool { return taken[id] == "" })
		if id == 0 { // no connection is pinned to a group
			id = freeID(func(id int) bool { return group(taken[id]) && !configured(taken[id]) })
			delete(kept, taken[id])
		}
		if id == 0 {
			id = freeID(func(id int) bool { return !configured(taken[id]) })
			delete(kept, taken[id])
		}
		if id == 0 {
			return changed, fmt.Errorf("no id left for %q: at most %d uplinks, tunnels and groups of policies", name, rules.MaxUplinks)
		}
		kept[name], taken[id] = id, name
		changed = true
	}
	return changed, nil
}

func freeID(free func(int) bool) int {
	for id := 1; id <= rules.MaxUplinks; id++ {
		if free(id) {
			return id
		}
	}
	return 0
}

// Reassigned lists the ids that uplinks have now and others had before, or whose uplinks have others now: connections with those in their marks
// belong to nobody. Groups have none.
func Reassigned(before, after map[string]int) (ids []int) {
	for name, id := range before {
		if now, known := after[name]; !strings.HasPrefix(name, "@") && now != id && (known || slices.Contains(slices.Collect(maps.Values(after)), id)) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}
