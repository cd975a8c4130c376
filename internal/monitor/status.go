package monitor

import (
	"maps"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// PathStatus is what the status shows of a path.
type PathStatus struct {
	uplink.Verdict      // its reason includes what planning makes of it
	Suspended      bool // nobody who may carry it works
	ManualHold     bool // it waits for the operator's undrain
	Slower         bool // another of its tier is preferred, by latency
}

// Statuses returns those of all paths at once: who asks for many shall not have to wait for the lock with each.
func (m *Monitor) Statuses() map[rules.Path]PathStatus {
	m.mu.Lock()
	paths, decisions, suspended, held := maps.Clone(m.paths), m.correlation.decisions, m.carriers.suspended, m.holds.held // each but paths is replaced, never changed in place
	slower := m.balance.slower
	m.mu.Unlock()
	found := make(map[rules.Path]PathStatus, len(paths))
	for path, p := range paths {
		name := p.settings.name
		s := PathStatus{Verdict: p.Verdict(), Suspended: suspended[name] != "", ManualHold: held[pathKey(name, path.Family)], Slower: slower[path]}
		if s.Suspended {
			s.Reason = uplink.Reason{Code: uplink.CodeSuspended, Text: suspended[name]}
		} else if note := decisions[path].Note; note != "" {
			s.Reason.Text += "; " + note
		}
		found[path] = s
	}
	return found
}

// Family renders the status of a path, with what the latest plan says of it.
func (s PathStatus) Family(ip config.IP, path rules.Path, report *rules.Report) status.FamilyStatus {
	if ip.Method == config.MethodOff {
		return status.FamilyStatus{State: uplink.Disabled, Code: uplink.CodeOff}
	}
	info := report.Paths[path]
	if s.State == uplink.Disabled {
		return status.FamilyStatus{State: s.State, Code: s.Reason.Code, Reason: s.Reason.Text, Since: status.At(s.Since), Addresses: info.Addresses}
	}
	out := status.FamilyStatus{State: s.State, Code: s.Reason.Code, Reason: s.Reason.Text, Since: status.At(s.Since), Loss: s.Loss,
		Addresses: info.Addresses, Gateway: info.Gateway, RTTms: status.Milliseconds(s.RTT), JitterMs: status.Milliseconds(s.Jitter),
		AwaitsUndrain: s.ManualHold, Slower: s.Slower, Portal: s.Portal,
		Class: s.Class.String(), Suppressed: s.Suppressed, Congested: s.Congestion != ""}
	if s.Suspended {
		out.State, out.Suspended = uplink.Down, true
	}
	if out.State == uplink.Down {
		out.Class = uplink.Poor.String() // what was measured before says nothing now
	}
	if out.Congested {
		out.Reason += "; " + s.Congestion
	}
	for _, m := range report.Defaults[path.Family].Members {
		if m.Uplink == path.Uplink {
			out.Share = m.Share
		}
	}
	for _, t := range s.Targets {
		out.Targets = append(out.Targets, status.Target{Target: t.Target, Up: t.Up, RTTms: status.Milliseconds(t.RTT)})
	}
	return out
}

// Verdict returns the verdict of a path, false when it is not monitored.
func (m *Monitor) Verdict(path rules.Path) (uplink.Verdict, bool) {
	m.mu.Lock()
	p := m.paths[path]
	m.mu.Unlock()
	if p == nil {
		return uplink.Verdict{}, false
	}
	return p.Verdict(), true
}

// Alive reports whether a path is monitored and not dead.
func (m *Monitor) Alive(path rules.Path) bool {
	v, known := m.Verdict(path)
	return known && v.State.Health() > uplink.HealthDead
}

// CanProbe reports whether a path has all that it takes for probes to be sent.
func (m *Monitor) CanProbe(path rules.Path) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.paths[path]
	return p != nil && p.canProbe()
}

func (p *monitoredPath) canProbe() bool {
	return p.info.Complete() && !p.info.Quiet
}

// PathVerdicts returns the verdicts of all paths.
func (m *Monitor) PathVerdicts() []status.PathVerdict {
	m.mu.Lock()
	paths, suspended, outages := maps.Clone(m.paths), m.carriers.suspended, m.correlation.outages // the others are replaced, never changed in place
	m.mu.Unlock()
	out := make([]status.PathVerdict, 0, len(paths))
	for path, p := range paths {
		_, common := outages[path.Family]
		out = append(out, status.PathVerdict{Uplink: p.settings.name, Family: path.Family, Verdict: p.Verdict(), Suspended: suspended[p.settings.name] != "", Common: common})
	}
	return out
}
