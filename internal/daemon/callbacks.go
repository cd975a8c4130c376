package daemon

import (
	"fmt"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/internal/commit"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/internal/planinput"
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
			if err := d.adopt(commit.Config{File: config.File{Config: c}, Taken: d.started}); err != nil {
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
	d.tellLines(&r.Report)
	if r.Stuck != nil {
		d.monitor.FlowsMoved(r.Verdicts, r.Stuck)
	}
	d.monitor.SaveHolds() // only now: the disk may be slow, and traffic has moved already
	if len(r.Changes) > 0 {
		d.reportSwitches(&r)
	}
	for _, e := range d.changes.KillSwitches(&r.Config, &r.Report) {
		d.events.Append(e)
		d.log.Warn(e.Message, "reason", e.Reason)
	}
	if len(r.Restored) > 0 {
		tables := "inet " + strings.Join(r.Restored, ", inet ")
		d.events.Append(status.Event{Kind: status.EventRepair, Reason: "ruleset flushed",
			Message: "the nftables ruleset was flushed or our tables in it were deleted: " + tables + " restored. What would have left untranslated meanwhile was dropped"})
		d.log.Warn("the nftables ruleset was flushed", "restored", tables)
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
func (d *Daemon) reportSwitches(r *reconcile.Result) {
	events, left := d.changes.Switches(&r.Config, &r.Report)
	for _, e := range events {
		d.events.Append(e)
		d.log.Info("new traffic", "family", e.Family, "now", e.Reason)
	}
	for _, path := range left {
		if v, _ := d.monitor.Verdict(path); r.Converged && v.State.Health() < uplink.HealthGood {
			d.metrics.ObserveFailover(time.Since(v.Since))
		}
	}
}

// onTransition hears of a changed verdict, from a watcher's goroutine.
func (d *Daemon) onTransition(t uplink.Transition) {
	if t.Family == rules.IPv6 {
		d.addressing.UpdateVerdicts()
	}
	d.log.Info("verdict", "uplink", t.Uplink, "family", t.Family.String(), "from", t.From, "to", t.To, "reason", t.Reason.Text)
	if t.To == uplink.Suspect || t.To == uplink.Down {
		c, ids := d.working()
		id, numbers := ids[t.Uplink], planinput.KernelNumbers(c.Kernel)
		info := d.engine.Last().Report.Paths[rules.Path{Uplink: id, Family: t.Family}]
		if info.Carrier {
			t.Evidence = append(append(t.Evidence, d.tunnels.Evidence(t.Uplink, time.Now())...), evidence(t.Family, numbers.Mark(id), numbers.MarkMask, info)...)
		}
	}
	d.events.Append(status.VerdictEvent(t))
	d.metrics.ObserveTransition(t)
	d.usage.Transition(t)
}

// evidence is what the kernel has seen of a path that falls silent: whether its gateway is there, which says on whose side the
// fault is, and how many of its connections are unanswered. It is for people to read; probes decide.
func evidence(family rules.Family, mark, mask uint32, info rules.PathInfo) (lines []string) {
	if info.Gateway.IsValid() {
		if state, err := kernel.Neighbour(info.Index, info.Gateway); err == nil {
			lines = append(lines, fmt.Sprintf("gateway %v: neighbour %s", info.Gateway, state))
		}
	}
	if unanswered, all, err := kernel.Connections(family, mark, mask); err == nil && all > 0 {
		lines = append(lines, fmt.Sprintf("connections by it: %d of %d unanswered", unanswered, all))
	}
	return lines
}
