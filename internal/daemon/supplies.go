package daemon

import (
	"context"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/dhcp6"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/ndisc"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/schedule"
	"github.com/uplinkd/uplinkd/rules"
)

// supplies gathers what is there now.
func (d *Daemon) supplies(now time.Time) planinput.Learned {
	s := make(planinput.Learned)
	d.leases.supply(s)
	d.routers.supply(s, now)
	d.delegations.supply(s, now)
	for name, supply := range s {
		for i := range supply.Delegations {
			supply.Delegations[i].Elsewhere = !d.routers.carries(name, d.delegations.delegating(name))
		}
	}
	d.tunnels.supply(s)
	return s
}

// planFor gives the engine a configuration with what leases and routers give by now. The caller holds
// d.reloading.
func (d *Daemon) planFor(c *config.Config, ids map[string]int) {
	now := time.Now()
	in := planinput.Build(c, ids, d.supplies(now), d.identity.ula(c.Daemon.ULA))
	d.lans.addWithdrawn(&in, now)
	if !reflect.DeepEqual(in, d.planned) {
		d.planned = in
		d.engine.SetConfig(in)
	}
}

// resupply has the engine plan for what leases and routers give by now.
func (d *Daemon) resupply() {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	d.mu.Lock()
	c, ids := d.config, d.ids // replaced, never changed in place
	d.mu.Unlock()
	d.planFor(c, ids)
}

// keepTime resupplies as lifetimes end, and tells the LANs.
func (d *Daemon) keepTime(ctx context.Context) error {
	schedule.Every(ctx, d.started, lanTick, func(now time.Time) {
		d.tellRouters()
		if c := d.current(); len(c.LANs) > 0 || slices.ContainsFunc(c.Uplinks, func(u config.Uplink) bool {
			return u.IPv6.Method == config.MethodRA || u.IPv6.Delegation
		}) {
			d.resupply()
			d.routers.keep(now)
			last := d.engine.Last()
			d.tellLANs(&last.Report)
		}
	})
	d.routers.keep(time.Now())
	return nil
}

// tellLANs has the hosts of the LANs told what the latest plan gives them.
func (d *Daemon) tellLANs(report *rules.Report) {
	d.mu.Lock()
	c, ids := d.config, d.ids
	d.mu.Unlock()
	if len(c.LANs) == 0 {
		return
	}
	names := make(map[int]string, len(ids))
	for name, id := range ids {
		names[id] = name
	}
	supplies := make(map[string]lanSupply, len(c.Uplinks))
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		facts := report.Facts[rules.Path{Uplink: ids[u.Name], Family: rules.IPv6}]
		supplies[u.Name] = d.lanSupply(u, facts.PathMTU())
	}
	d.lans.update(c, report, names, d.identity.ula(c.Daemon.ULA), supplies, time.Now())
}

// lanSupply gathers what hosts may be told of an uplink.
func (d *Daemon) lanSupply(u *config.Uplink, mtu int) lanSupply {
	lease, _ := d.delegations.lease(u.Name)
	s := lanSupply{mtu: mtu, dns: slices.Clone(lease.DNS), lease: func(prefix netip.Prefix) (preferred, valid time.Time, brief, ok bool) {
		if prefix == u.IPv6.Prefix {
			return time.Time{}, time.Time{}, false, true // it never ends
		}
		for _, p := range lease.Prefixes {
			if p.Prefix == prefix {
				return finite(p.Preferred), finite(p.Valid), ndisc.IsBrief(p.Preferred.Sub(lease.Heard)), true
			}
		}
		return time.Time{}, time.Time{}, false, false
	}}
	for _, server := range d.routers.view(u.Name).DNS {
		if !server.Addr.IsLinkLocalUnicast() { // of the uplink's link, where hosts are not
			s.dns = append(s.dns, server.Addr)
		}
	}
	return s
}

// finite turns what DHCPv6 calls for ever into what router advertisements do.
func finite(end time.Time) time.Time {
	if end.Equal(dhcp6.Never()) {
		return time.Time{}
	}
	return end
}
