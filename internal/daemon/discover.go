package daemon

import (
	"cmp"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
)

// discover makes a configuration of what the kernel holds: each device with a default route in table
// main, other than one of ours, is an uplink. Metrics become tiers: the lowest is tier 1, equal ones
// share a tier.
func discover(base *config.Config, obs *rules.Observed) *config.Config {
	type found struct {
		device string
		metric uint32
	}
	var devices []found
	for _, r := range obs.Routes {
		if r.Table != rules.TableMain || int(r.Protocol) == base.Kernel.Protocol || r.Type != rules.Unicast || !r.IsDefault() {
			continue
		}
		for _, hop := range r.Nexthops {
			i := slices.IndexFunc(devices, func(f found) bool { return f.device == hop.Device })
			if i < 0 {
				devices = append(devices, found{hop.Device, r.Metric})
			} else {
				devices[i].metric = min(devices[i].metric, r.Metric)
			}
		}
	}
	slices.SortStableFunc(devices, func(a, b found) int {
		return cmp.Or(cmp.Compare(a.metric, b.metric), cmp.Compare(a.device, b.device))
	})
	c := *base
	c.Uplinks = nil
	for i, d := range devices {
		if len(c.Uplinks) == config.MaxUplinks {
			break
		}
		u := config.DefaultUplink(uplinkName(d.device, c.Uplinks), d.device)
		u.Tier = 1
		if i > 0 {
			u.Tier = c.Uplinks[i-1].Tier
			if d.metric != devices[i-1].metric {
				u.Tier++
			}
		}
		c.Uplinks = append(c.Uplinks, u)
	}
	return &c
}

// uplinkName makes a valid, unused uplink name of a device name ("eth0.7" becomes "eth0-7").
func uplinkName(device string, used []config.Uplink) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '_':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, device)
	if name[0] == '-' || name[0] == '_' {
		name = "x" + name
	}
	for slices.ContainsFunc(used, func(u config.Uplink) bool { return u.Name == name }) {
		name += "-2"
	}
	return name
}

// merge adds to a discovered configuration what a later look found. What was known stays: an uplink that
// lost its default route is down, not gone.
func merge(have, found *config.Config) (merged *config.Config, added bool) {
	out := *have
	out.Uplinks = slices.Clone(have.Uplinks)
	for _, u := range found.Uplinks {
		known := slices.ContainsFunc(out.Uplinks, func(h config.Uplink) bool { return h.Device == u.Device })
		if known || len(out.Uplinks) == config.MaxUplinks {
			continue
		}
		u.Name = uplinkName(u.Device, out.Uplinks)
		out.Uplinks = append(out.Uplinks, u)
		added = true
	}
	return &out, added
}
