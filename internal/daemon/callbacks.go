package daemon

import (
	"slices"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/internal/commit"
	"github.com/uplinkd/uplinkd/internal/reconcile"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// readyPatience is how long the service manager is kept waiting for the first plan to converge.
const readyPatience = 20 * time.Second

// onSnapshot looks for uplinks that have appeared, where they are discovered.
func (d *Daemon) onSnapshot(obs *rules.Observed) {
	if d.o.discovers() {
		d.reloading.Lock()
		defer d.reloading.Unlock()
		if c, changed := d.discovery.Scan(obs); changed {
			if err := d.adopt(c, commit.Config{Taken: d.started}); err != nil {
				d.log.Warn("a discovered uplink cannot be used", "err", err)
			}
		}
	}
	if d.tunnels.Observe(obs) && !d.o.discovers() {
		d.replan()
	}
	d.addressing.Observe(obs)
	d.repairs.observe(obs)
}

// onPass hears the outcome of each look at the kernel, from the engine's goroutine.
func (d *Daemon) onPass(r reconcile.Result) {
	d.metrics.ObserveReconcile(r.Duration)
	d.monitor.RouteInstalled(r.Report.Paths)
	d.monitor.SetActive(r.Report.Defaults)
	if r.Settled {
		d.tunnels.Settled(&r.Report)
	}
	d.dns.Planned(&r.Config, &r.Report)
	d.addressing.UpdateRA(&r.Report)
	d.monitor.SaveHolds() // only now: the disk may be slow, and traffic has moved already
	if len(r.Changes) > 0 {
		d.reportSwitches(r)
	}
	if e, ok := d.repairs.report(&r); ok {
		d.event(e)
		d.log.Warn("somebody flushed the nftables ruleset", "back", e.Message)
	}
	// A service manager that waits in vain would kill and restart us for ever, which helps nobody: the
	// problem is in the status.
	if !d.ready && (r.Settled || time.Since(d.started) > readyPatience) {
		d.ready = true
		d.o.Notify("READY=1")
	}
}

// reportSwitches tells the log which uplinks carry new traffic now, where that has changed, and measures how
// long after their verdicts the dead ones were left.
func (d *Daemon) reportSwitches(r reconcile.Result) {
	for _, family := range rules.Families {
		choice, before := r.Report.Defaults[family], d.carried[family]
		d.carried[family] = choice
		if before.Code == choice.Code && slices.EqualFunc(before.Members, choice.Members, func(a, b rules.Member) bool { return a.Uplink == b.Uplink }) {
			continue
		}
		d.event(status.Event{Kind: status.EventSwitch, Family: family.String(), Code: string(choice.Code), Reason: choice.Reason,
			From: memberNames(&r.Config, before), To: memberNames(&r.Config, choice)})
		d.log.Info("new traffic", "family", family.String(), "now", choice.Reason)
		for _, m := range before.Members {
			v, _ := d.monitor.Verdict(rules.Path{Uplink: m.Uplink, Family: family})
			if r.Converged && !choice.Has(m.Uplink) && v.State.Health() < uplink.HealthGood {
				d.metrics.ObserveFailover(time.Since(v.Since))
			}
		}
	}
}

// memberNames lists the uplinks of a choice, separated by commas; one that has left the configuration since is not among them.
func memberNames(c *rules.Config, choice rules.Choice) string {
	var names []string
	for _, m := range choice.Members {
		if i := slices.IndexFunc(c.Uplinks, func(u rules.Uplink) bool { return u.ID == m.Uplink }); i >= 0 {
			names = append(names, c.Uplinks[i].Name)
		}
	}
	return strings.Join(names, ",")
}
