package daemon

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/internal/monitor"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// Status puts together what the engine last saw and what the watchers know now.
func (d *Daemon) Status() status.Status {
	last, now := d.engine.Last(), time.Now()
	d.mu.Lock()
	c, ids := d.config, maps.Clone(d.ids)
	d.mu.Unlock()
	s := status.Status{Version: d.o.Version, Started: status.At(d.started), Converged: last.Converged, Generation: last.Generation,
		Problems: append(d.problems.list(), last.Report.Problems...)}
	var wrong []rules.Problem
	s.Config, wrong = d.configStatus(now)
	s.Problems = append(s.Problems, wrong...)
	if last.Err != nil {
		s.Problems = append(s.Problems, rules.Problem{Code: "kernel-state", Severity: "error", Message: last.Err.Error(),
			Fix: "it is retried; see the daemon's log if it persists"})
	}
	s.Problems = append(s.Problems, d.saver.problems()...)
	s.Problems = append(append(s.Problems, d.monitor.Problems()...), append(append(d.addressing.Problems(now), d.tunnels.Problems()...), append(d.dns.Problems(), d.notify.Problems()...)...)...)
	s.Problems = append(append(s.Problems, last.Report.Absent...), d.sets.Problems(now)...)
	s.Problems = append(append(s.Problems, d.recovery.Problems()...), append(d.clat.Problems(), d.pair.Problems(now)...)...)
	s.Problems = append(s.Problems, idleProxies(&last.Report, kernel.ProxyListens)...)
	s.Problems = append(s.Problems, hiddenListeners(&last.Report, kernel.Listening)...)
	slices.SortStableFunc(s.Problems, func(a, b rules.Problem) int { return cmp.Compare(a.Code, b.Code) })
	drained, probeBytes, over := d.monitor.Drained(), d.monitor.ProbeBytesToday(), d.usage.OverQuota()
	paths, loads, helped := d.monitor.Statuses(), d.monitor.LineLoads(), d.recovery.Status()
	family := func(ip config.IP, path rules.Path) status.FamilyStatus {
		return paths[path].Family(ip, path, &last.Report)
	}
	sites := make(map[int]bool)
	for i := range last.Config.Uplinks {
		sites[last.Config.Uplinks[i].ID] = last.Config.Uplinks[i].Site
	}
	numbers := planinput.KernelNumbers(c.Kernel)
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		id := ids[u.Name]
		day, month := d.usage.Volume(now, u.Name)
		s.Uplinks = append(s.Uplinks, status.Uplink{
			Name: u.Name, Kind: u.Kind, Device: u.Device, Tier: u.Tier, Weight: u.Weight,
			Table: int(numbers.Table(id)), Mark: status.Mark(numbers.Mark(id)),
			Default: u.Default && !sites[id], Drained: drained[u.Name], Metered: u.Metered,
			Failback: string(u.Failback), ProbeBytesToday: probeBytes.Bytes[u.Name],
			BytesToday: day, BytesMonth: month, QuotaBytes: u.Quota, OverQuota: over[u.Name],
			IPv4: family(u.IPv4, rules.Path{Uplink: id, Family: rules.IPv4}),
			IPv6: family(u.IPv6, rules.Path{Uplink: id, Family: rules.IPv6}),
		})
		s.Uplinks[i].Recover = helped[u.Name]
		if l, known := loads[u.Name]; known {
			s.Uplinks[i].Load, s.Uplinks[i].Full = &l.Share, l.Full
		}
		if of := &s.Uplinks[i].IPv4; u.IPv4.Method == config.MethodCLAT && of.Code == uplink.CodeNoDevice && !d.clat.Running(u.Name) {
			of.Reason = "the translator, tayga, does not run"
		}
		explainLack(&s.Uplinks[i], u, d.addressing.Routerless(u.Name), last.Report.Problems)
		s.Uplinks[i].CarriedBy, s.Uplinks[i].Peers = monitor.CarrierChain(c, ids, &last.Report, u), d.tunnels.Peers(u.Name)
		for _, f := range rules.Families {
			info := last.Report.Paths[rules.Path{Uplink: id, Family: f}]
			s.Uplinks[i].MTU = max(s.Uplinks[i].MTU, info.DeviceMTU)
			if u.HardwareAddress != [6]byte{} && info.DeviceHardware != [6]byte{} {
				s.Uplinks[i].HardwareAddress = info.DeviceHardware.String()
			}
		}
		s.Uplinks[i].IPv6.Delegated = d.addressing.Delegated(u, now)
	}
	for i := range c.Disabled.Uplinks {
		u := &c.Disabled.Uplinks[i]
		off := status.FamilyStatus{State: uplink.Disabled, Code: uplink.CodeOff, Reason: "enabled = false"}
		s.Uplinks = append(s.Uplinks, status.Uplink{Name: u.Name, Kind: u.Kind, Device: u.Device, Tier: u.Tier, Weight: u.Weight,
			Metered: u.Metered, Failback: string(u.Failback), IPv4: off, IPv6: off})
	}
	for i := range c.Waiting {
		u := &c.Waiting[i]
		elsewhere := status.FamilyStatus{State: uplink.Disabled, Code: uplink.CodeElsewhere, Reason: "the other router of the pair has it"}
		s.Uplinks = append(s.Uplinks, status.Uplink{Name: u.Name, Kind: u.Kind, Device: u.Device, Tier: u.Tier, Weight: u.Weight,
			Table: int(numbers.Table(ids[u.Name])), Mark: status.Mark(numbers.Mark(ids[u.Name])),
			Metered: u.Metered, Failback: string(u.Failback), Drained: drained[u.Name], IPv4: elsewhere, IPv6: elsewhere})
	}
	s.Pair = d.pair.Status(now)
	s.DNS = d.dns.Status()
	s.Sets = d.sets.Status()
	s.Lans = d.addressing.LANs(now)
	s.Policies = policyStatus(c, ids, &last.Report)
	s.Forwards = forwardStatus(c, &last.Report)
	s.Headline = s.Summary()
	return s
}

// explainLack adds to the reasons of an uplink that lacks its device or its default route what an owner can do about it.
func explainLack(s *status.Uplink, u *config.Uplink, routerless bool, problems []rules.Problem) {
	for _, of := range []*status.FamilyStatus{&s.IPv4, &s.IPv6} {
		switch {
		case of == &s.IPv4 && u.IPv4.Method == config.MethodCLAT:
		case of.Code == uplink.CodeNoDevice:
			of.Reason = config.NoDevice(u.Device, config.DeviceList(config.PresentDevices()))
		case of.Code != uplink.CodeNoGateway || of != &s.IPv4:
		case routerless:
			of.Reason += `: the DHCP lease names no router; if you know it, method = "static" with address and gateway`
		case u.IPv4.Method == config.MethodAuto && slices.ContainsFunc(problems, func(p rules.Problem) bool { return p.Code == "default-lost" }):
			of.Reason += `: give it its own metric, or method = "dhcp"`
		case u.IPv4.Method == config.MethodAuto:
			of.Reason += `: method = "dhcp", or a default route with its own metric`
		}
	}
}

// devices returns the interface index of each uplink's device by uplink name, 0 for one that is not there.
func (d *Daemon) devices() map[string]int {
	last := d.engine.Last()
	found := make(map[string]int, len(last.Config.Uplinks))
	for i := range last.Config.Uplinks {
		u := &last.Config.Uplinks[i]
		found[u.Name] = 0
		for _, family := range rules.Families {
			if f := last.Report.Paths[rules.Path{Uplink: u.ID, Family: family}]; f.Present {
				found[u.Name] = f.Index
			}
		}
	}
	return found
}

// History returns what was seen after a time.
func (d *Daemon) History(name string, after time.Time) (status.History, bool) {
	return d.usage.History(name, after)
}

// Report tells of a month, "" for the present one; false for what is no month.
func (d *Daemon) Report(month string) (status.Report, bool) { return d.usage.Report(month) }

// Usage returns what metered uplinks have carried.
func (d *Daemon) Usage() status.Usage { return d.usage.Usage() }
