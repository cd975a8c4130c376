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
				d.log.Warn("cannot use a discovered uplink", "err", err)
			}
		}
	}
	if d.pair.Observe(obs) {
		d.changeRole()
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
	d.hints.SetUplinks(uplinkIndexes(&r.Report))
	if r.Settled {
		d.tunnels.Settled(&r.Report)
	}
	d.dns.Planned(&r.Config, &r.Report)
	d.clat.Planned(&r.Config, &r.Report)
	d.addressing.UpdateRA(&r.Report)
	d.monitor.SaveHolds() // only now: the disk may be slow, and traffic has moved already
	if len(r.Changes) > 0 {
		d.reportSwitches(r)
	}
	d.reportKillSwitches(&r)
	if e, ok := d.repairs.report(&r); ok {
		d.event(e)
		d.log.Warn("the nftables ruleset was flushed", "back", e.Message)
	}
	// A service manager that waits in vain would kill and restart us for ever, which helps nobody: the
	// problem is in the status.
	if !d.ready && (r.Settled || time.Since(d.started) > readyPatience) {
		d.ready = true
		d.o.Notify("READY=1")
	}
}

// uplinkIndexes are the interface indexes of the uplinks' devices.
func uplinkIndexes(r *rules.Report) map[int]bool {
	indexes := make(map[int]bool, len(r.Paths))
	for _, info := range r.Paths {
		if info.Present {
			indexes[info.Index] = true
		}
	}
	return indexes
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

// reportKillSwitches tells the log which kill switches refuse their traffic now, and which do no longer, in any family.
func (d *Daemon) reportKillSwitches(r *reconcile.Result) {
	now := make(map[string]string, len(d.closed))
	for _, p := range r.Report.Policies {
		at := slices.IndexFunc(r.Config.Groups, func(g rules.Group) bool { return g.ID == p.Group })
		if at < 0 || !r.Config.Groups[at].KillSwitch {
			continue
		}
		var closed, why []string
		for _, f := range rules.Families {
			if choice, about := p.Choice[f]; about && len(choice.Members) == 0 {
				closed, why = append(closed, f.String()), append(why, choice.Reason)
			}
		}
		now[p.Name] = strings.Join(closed, " and ")
		if before, known := d.closed[p.Name]; before != now[p.Name] && (known || len(closed) > 0) {
			e := status.Event{Kind: status.EventKillSwitch, From: or(before, "open"), To: or(now[p.Name], "open")}
			if e.Message = "kill switch " + p.Name + " lets its traffic pass again"; len(closed) > 0 {
				e.Message = "kill switch " + p.Name + " refuses its traffic in " + now[p.Name]
				e.Reason = why[0]
			}
			d.event(e)
			d.log.Warn("kill switch", "policy", p.Name, "closed", now[p.Name], "reason", e.Reason)
		}
	}
	d.closed = now
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
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
