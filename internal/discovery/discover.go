// Package discovery finds uplinks where there is no configuration file.
package discovery

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Discovery makes a configuration of what the kernel holds: each device with a default route in table
// main, other than one of ours, is an uplink. Metrics become tiers: the lowest is tier 1, equal ones
// share a tier. What was found once stays: an uplink that lost its default route is down, not gone.
type Discovery struct {
	base *config.Config
	seen map[string]*candidate // by device
}

// candidate is a device that has had a default route.
type candidate struct {
	name   string
	metric uint32 // the lowest that a default route of the device has had
}

// New returns a discovery of uplinks beside what a configuration says.
func New(base *config.Config) *Discovery {
	return &Discovery{base: base, seen: make(map[string]*candidate)}
}

// Scan returns the configuration of all that was found so far, and whether this look changed it.
func (d *Discovery) Scan(obs *rules.Observed) (c *config.Config, changed bool) {
	metrics := defaultMetrics(obs, d.base.Kernel.Protocol)
	for _, device := range byMetric(metrics) {
		metric, s := metrics[device], d.seen[device]
		switch {
		case s == nil && len(d.seen) < config.MaxUplinks:
			d.seen[device] = &candidate{metric: metric}
			changed = true
		case s != nil && metric < s.metric:
			s.metric = metric
			changed = true
		}
	}
	for device, s := range d.seen {
		metrics[device] = s.metric
	}
	maps.DeleteFunc(metrics, func(device string, _ uint32) bool { return d.seen[device] == nil })
	devices := byMetric(metrics)
	out := *d.base
	out.Uplinks = make([]config.Uplink, len(devices))
	for i, device := range devices {
		s := d.seen[device]
		if s.name == "" {
			s.name = d.unusedName(device)
		}
		u := config.DefaultUplink(s.name, device)
		if i > 0 {
			u.Tier = out.Uplinks[i-1].Tier
			if s.metric != d.seen[devices[i-1]].metric {
				u.Tier++
			}
		}
		out.Uplinks[i] = u
	}
	return &out, changed
}

// defaultMetrics returns the lowest metric of each device's default routes that are not ours.
func defaultMetrics(obs *rules.Observed, ours int) map[string]uint32 {
	metrics := make(map[string]uint32)
	for _, r := range obs.Routes {
		if r.Table != netcfg.TableMain || int(r.Protocol) == ours || r.Type != netcfg.Unicast || !r.IsDefault() {
			continue
		}
		for _, hop := range r.Nexthops {
			if have, ok := metrics[hop.Device]; !ok || r.Metric < have {
				metrics[hop.Device] = r.Metric
			}
		}
	}
	return metrics
}

// byMetric sorts devices, the lowest metric first.
func byMetric(metrics map[string]uint32) []string {
	return slices.SortedFunc(maps.Keys(metrics), func(a, b string) int {
		return cmp.Or(cmp.Compare(metrics[a], metrics[b]), cmp.Compare(a, b))
	})
}

// unusedName makes an uplink name of a device name that no other uplink has.
func (d *Discovery) unusedName(device string) string {
	name := uplinkName(device)
	for n, base := 2, name; d.named(name); n++ {
		name = fmt.Sprintf("%s-%d", base, n)
	}
	return name
}

func (d *Discovery) named(name string) bool {
	for _, s := range d.seen {
		if s.name == name {
			return true
		}
	}
	return false
}

// uplinkName makes a valid uplink name of a device name ("eth0.7" becomes "eth0-7").
func uplinkName(device string) string {
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
	return name
}
