package rules

import "fmt"

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
			metric := "no metric"
			if theirs.Metric != 0 {
				metric = fmt.Sprintf("the metric %d", theirs.Metric)
			}
			p.problem("default-lost", "warning",
				fmt.Sprintf("%s (%s) has the address %v and no default route; that of %s has %s, and of two with one metric the second replaces the first, or is refused",
					u.Name, u.Device, info.Source(), other.Name, metric),
				fmt.Sprintf("give the DHCP client of each device a metric of its own (ifupdown: metric 100; systemd-networkd: RouteMetric=; dhcpcd: metric), or set method = \"dhcp\" in [uplink.ipv4] of %s and stop its client", u.Name))
			return
		}
	})
}
