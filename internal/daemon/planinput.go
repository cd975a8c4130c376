package daemon

import (
	"fmt"
	"maps"
	"slices"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
)

// kernelNumbers picks the numbers that planning needs out of the configuration.
func kernelNumbers(k config.Kernel) rules.Kernel {
	return rules.Kernel{Protocol: uint8(k.Protocol), RulePriority: k.RulePriority, TableBase: uint32(k.TableBase),
		MarkMask: k.MarkMask, LinkGroup: k.LinkGroup}
}

// Assignments holds, per uplink name, the address that a lease gives its IPv4 side.
type Assignments map[string]*rules.Assignment

// planInput turns a configuration into what planning takes.
func planInput(c *config.Config, ids map[string]int, leases Assignments) rules.Config {
	out := rules.Config{Kernel: kernelNumbers(c.Kernel), Uplinks: make([]rules.Uplink, len(c.Uplinks))}
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		out.Uplinks[i] = rules.Uplink{
			ID: ids[u.Name], Name: u.Name, Device: u.Device, Tier: u.Tier, Weight: u.Weight,
			IPv4: addressing(u.IPv4, leases[u.Name]), IPv6: addressing(u.IPv6, nil),
		}
	}
	return out
}

func addressing(ip config.IP, lease *rules.Assignment) rules.Addressing {
	a := rules.Addressing{Enabled: ip.Method != config.MethodOff, Masquerade: ip.Masquerade}
	switch ip.Method {
	case config.MethodStatic:
		a.Managed, a.Assign = true, &rules.Assignment{Addresses: []rules.Address{{Prefix: ip.Address}}, Gateway: ip.Gateway}
	case config.MethodDHCP:
		a.Managed, a.Assign = true, lease
	}
	return a
}

// assignIDs gives each uplink the id that it had before. Connections carry ids in their marks, so an id
// is reused for another name only when no fresh one is left; kept is updated and reports whether it was.
func assignIDs(c *config.Config, kept map[string]int) (changed bool, err error) {
	configured := func(name string) bool {
		return slices.ContainsFunc(c.Uplinks, func(u config.Uplink) bool { return u.Name == name })
	}
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
	for i := range c.Uplinks {
		name := c.Uplinks[i].Name
		if kept[name] != 0 {
			continue
		}
		id := freeID(func(id int) bool { return taken[id] == "" })
		if id == 0 {
			id = freeID(func(id int) bool { return !configured(taken[id]) })
			delete(kept, taken[id])
		}
		if id == 0 {
			return changed, fmt.Errorf("no id left for uplink %q: at most %d uplinks", name, rules.MaxUplinks)
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
