package rules

import (
	"fmt"
	"slices"

	"github.com/uplinkd/uplinkd/internal/programs"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// lostDefaults names uplinks that others address and that have no default route while another uplink has one. DHCP clients
// put theirs into main with one and the same metric unless they are told otherwise; there is room for one of each metric,
// so the second replaces the first, or is refused.
func (p *planner) lostDefaults() {
	var defaults map[deviceFamily]foreignDefault
	p.eachPath(func(u *Uplink, family Family, info PathInfo) {
		a := u.Family(family)
		if family != IPv4 || a.Managed || a.Assign != nil || !info.Carrier || info.HasDefault || !info.Source().IsValid() {
			return
		}
		if defaults == nil {
			defaults = foreignDefaults(p.cfg, p.obs)
		}
		if defaults[deviceFamily{u.Device, family}].Route != nil {
			return // it is there, and of no use
		}
		for i := range p.cfg.Uplinks {
			other := &p.cfg.Uplinks[i]
			theirs := defaults[deviceFamily{other.Device, family}]
			if other == u || theirs.Route == nil {
				continue
			}
			cause := ""
			if daemon := programs.RoutingDaemon(theirs.Protocol); daemon != "" {
				cause = fmt.Sprintf("%s has put that of %s into table main, and a routing daemon puts only its best one there", daemon, other.Name)
			} else if daemon := p.routingDaemon(family); daemon != "" {
				cause = fmt.Sprintf("that of %s is in table main, and %s, which has routes there, keeps to itself whatever is no better", other.Name, daemon)
			}
			if cause != "" {
				p.problem("default-lost", "warning", fmt.Sprintf("%s (%s) has %v but no default route: %s", u.Name, u.Device, info.Source(), cause),
					fmt.Sprintf("name the gateway here: in [uplink.ipv4] of %s, method = \"static\" with address = %q and gateway, or method = \"dhcp\"", u.Name, info.Addresses[0]))
				return
			}
			metric := "no metric"
			if theirs.Metric != 0 {
				metric = fmt.Sprintf("metric %d", theirs.Metric)
			}
			p.problem("default-lost", "warning",
				fmt.Sprintf("%s (%s) has %v but no default route: that of %s has %s, and of two default routes with the same metric the second replaces the first or is rejected",
					u.Name, u.Device, info.Source(), other.Name, metric),
				fmt.Sprintf("give the DHCP client of each device a metric of its own (%s), or set method = \"dhcp\" in [uplink.ipv4] of %s and stop its client", programs.Metrics(), u.Name))
			return
		}
	})
}

// routingDaemon names one that has routes in table main, "" for none.
func (p *planner) routingDaemon(family Family) string {
	protocols := p.obs.Routed[family.Index()].protocols()
	for i := range p.obs.Routes {
		if r := &p.obs.Routes[i]; r.Family == family && r.Table == netcfg.TableMain {
			protocols = append(protocols, r.Protocol)
		}
	}
	slices.Sort(protocols) // of several always the same
	for _, protocol := range slices.Compact(protocols) {
		if name := programs.RoutingDaemon(protocol); name != "" {
			return name
		}
	}
	return ""
}
