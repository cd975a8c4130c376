package daemon

import (
	"cmp"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
)

// Status puts together what the engine last saw and what the watchers know now.
func (d *Daemon) Status() status.Status {
	last, now := d.engine.Last(), time.Now()
	c, ids := d.working()
	planned := status.Planned{Config: c, IDs: ids, Plan: &last.Config, Report: &last.Report}
	s := status.Status{Version: d.o.Version, Started: status.At(d.started), Converged: last.Converged, Generation: last.Generation,
		Uplinks: planned.Uplinks(), DNS: d.dns.Status(), Sets: d.sets.Status(), Lans: d.addressing.LANs(now), Policies: planned.Policies(),
		Forwards: planned.Forwards(), Pair: d.pair.Status(now)}
	var wrong []rules.Problem
	s.Config, wrong = d.reloader.Status(now)
	s.Problems = slices.Concat(d.problems.list(), last.Report.Problems, wrong, d.monitor.Problems(), d.addressing.Problems(now), d.tunnels.Problems(), d.dns.Problems(),
		d.notify.Problems(), last.Report.Absent, d.sets.Problems(now), d.recovery.Problems(), d.clat.Problems(), d.pair.Problems(now),
		status.IdleProxies(&last.Report, kernel.ProxyListens), status.HiddenListeners(&last.Report, kernel.Listening))
	if last.Err != nil {
		s.Problems = append(s.Problems, rules.Problem{Code: "kernel-state", Severity: "error", Message: last.Err.Error(),
			Fix: "it is retried; see the daemon's log if it persists"})
	}
	if err := d.disk.Failure(); err != nil {
		s.Problems = append(s.Problems, rules.Problem{Code: "state-not-saved", Severity: "warning", Message: err.Error(),
			Fix: "free space in the state directory, or let uplinkd write to it"})
	}
	slices.SortStableFunc(s.Problems, func(a, b rules.Problem) int { return cmp.Compare(a.Code, b.Code) })
	drained, probeBytes, over := d.monitor.Drained(), d.monitor.ProbeBytesToday(), d.usage.OverQuota()
	paths, loads, helped := d.monitor.Statuses(), d.monitor.LineLoads(), d.recovery.Status()
	for i := range c.Uplinks {
		u, of := &c.Uplinks[i], &s.Uplinks[i]
		path4, path6 := rules.Path{Uplink: ids[u.Name], Family: rules.IPv4}, rules.Path{Uplink: ids[u.Name], Family: rules.IPv6}
		of.IPv4, of.IPv6 = paths[path4].Family(u.IPv4, path4, &last.Report), paths[path6].Family(u.IPv6, path6, &last.Report)
		of.IPv6.Delegated = d.addressing.Delegated(u, now)
		of.ProbeBytesToday, of.OverQuota, of.Recover, of.Peers = probeBytes.Bytes[u.Name], over[u.Name], helped[u.Name], d.tunnels.Peers(u.Name)
		of.BytesToday, of.BytesMonth = d.usage.Volume(now, u.Name)
		if l, known := loads[u.Name]; known {
			of.Load, of.Full = &l.Share, l.Full
		}
		planned.ExplainLack(of, u, d.addressing.Routerless(u.Name), d.clat.Running(u.Name))
	}
	for _, list := range [][]status.Uplink{s.Uplinks[:len(c.Uplinks)], s.Uplinks[len(s.Uplinks)-len(c.Waiting):]} {
		for i := range list {
			list[i].Drained = drained[list[i].Name]
		}
	}
	s.Headline = s.Summary()
	return s
}
