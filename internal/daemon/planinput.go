package daemon

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
)

// kernelNumbers picks the numbers that planning needs out of the configuration.
func kernelNumbers(k config.Kernel) rules.Kernel {
	return rules.Kernel{Protocol: uint8(k.Protocol), RulePriority: k.RulePriority, TableBase: uint32(k.TableBase),
		MarkMask: k.MarkMask, LinkGroup: k.LinkGroup}
}

// planInput turns a configuration, and what leases and routers give, into what planning takes. Site is the
// router's own /48; invalid: none.
func planInput(c *config.Config, ids map[string]int, supplies Supplies, site netip.Prefix) rules.Config {
	out := rules.Config{Kernel: kernelNumbers(c.Kernel), Uplinks: make([]rules.Uplink, len(c.Uplinks))}
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		var given Supply
		if s := supplies[u.Name]; s != nil {
			given = *s
		}
		out.Uplinks[i] = rules.Uplink{
			ID: ids[u.Name], Name: u.Name, Device: u.Device, Tier: u.Tier, Weight: u.Weight,
			IPv4: addressing(u.IPv4, given.IPv4), IPv6: addressing(u.IPv6, given.IPv6),
		}
		if u.IPv6.Delegation {
			out.Uplinks[i].Delegations = given.Delegations
		}
	}
	for i := range c.LANs {
		lan := rules.LAN{Device: c.LANs[i].Device, SubnetID: c.LANs[i].SubnetID}
		for _, name := range c.LANs[i].PrefixesFrom {
			lan.From = append(lan.From, ids[name])
		}
		if site.IsValid() {
			lan.ULA = ulaOf(site, lan.SubnetID)
		}
		out.LANs = append(out.LANs, lan)
	}
	return out
}

// addressing says where one family gets its addresses; given is what a lease or routers offer.
func addressing(ip config.IP, given *rules.Assignment) rules.Addressing {
	a := rules.Addressing{Enabled: ip.Method != config.MethodOff, Masquerade: ip.Masquerade, Translate: ip.Translate}
	switch ip.Method {
	case config.MethodStatic:
		a.Managed, a.Assign = true, &rules.Assignment{Addresses: []rules.Address{{Prefix: ip.Address}}, Gateway: ip.Gateway}
	case config.MethodDHCP:
		a.Managed, a.Assign = true, given
	case config.MethodRA:
		a.Managed, a.Discovers, a.Assign = true, true, given
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
