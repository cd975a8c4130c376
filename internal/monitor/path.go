package monitor

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// monitoredPath is a path with its watcher.
type monitoredPath struct {
	*uplink.Watcher
	uplink   config.Uplink // as configured now
	settings probeSettings
	ctx      context.Context    // of the watcher, and of who looks at its connections; nil before it runs
	stop     context.CancelFunc // ends it; nil before it runs

	bytesPerProbe float64       // mean
	interval      time.Duration // in force
	counted       uint64        // bytes of probes that are among the day's
	proven        bool          // was up since the daemon has started
	fell          bool          // went down since applyFailback has looked
	moved         bool          // is down, and its flows have been moved; false before it goes down, whoever looks then
	inboundAt     time.Time     // when its device last received something
	oneWayAt      time.Time     // when its traffic last looked one-way

	connectionsWatched bool // while its targets are silent

	installed egress          // as the kernel routes its mark now
	info      uplink.PathInfo // as given to the watcher last
}

// probeSettings are what a watcher is made of: a reload that changes one of them makes a new watcher.
type probeSettings struct {
	name, device, targets    string
	optional                 bool
	interval, fast, timeout  time.Duration
	fall, rise, minTargetsUp int
	quality                  config.Quality
}

// pathFor returns the present entry of a path if its settings still fit, else a new one. The lock is held.
func (m *Monitor) pathFor(path rules.Path, u *config.Uplink) *monitoredPath {
	optional := path.Family == rules.IPv6 && u.IPv6.Method == config.MethodAuto && !u.IPv6.Delegates()
	settings := probeSettings{u.Name, u.DeviceOf(path.Family), fmt.Sprint(u.Probe.Targets), optional, u.Probe.Interval, u.Probe.FastInterval, u.Probe.Timeout,
		u.Probe.Fall, u.Probe.Rise, u.Probe.MinTargetsUp, u.Quality}
	old := m.paths[path]
	if old != nil && old.settings == settings {
		return old
	}
	p := &monitoredPath{settings: settings, bytesPerProbe: bytesPerProbe(u.Probe.Targets, path.Family), interval: u.Probe.Interval, Watcher: uplink.NewWatcher(uplink.WatcherConfig{
		Uplink: u.Name, Family: path.Family, Optional: optional, Targets: u.Probe.Targets,
		Interval: u.Probe.Interval, FastInterval: u.Probe.FastInterval, Timeout: u.Probe.Timeout,
		Fall: u.Probe.Fall, Rise: u.Probe.Rise, MinTargetsUp: u.Probe.MinTargetsUp, Phase: phaseOf(m.o.Phase, path.Family, u.Probe.Interval),
		Classes: uplink.Classes{Good: uplink.Limits(u.Quality.Good), Fair: uplink.Limits(u.Quality.Fair)},
		Prober:  m.o.Prober, OnChange: m.onTransition, OnMiss: func() { m.onMiss(path) },
		OnRTT: func(_ probe.Target, rtt time.Duration) {
			m.o.OnRTT(u.Name, path.Family, rtt)
			m.onAnswer(path, rtt)
		},
	})}
	key := pathKey(u.Name, path.Family)
	saved, ok := m.restored[key]
	delete(m.restored, key) // out of date by the time that an uplink is removed and comes back
	if old != nil && old.settings.name == u.Name {
		saved, ok = old.saved(), true
		p.proven = old.proven
	}
	if ok && saved.State.Valid() {
		p.Restore(saved.State, saved.Since)
		p.RestoreLearned(saved.Learned)
		p.moved = saved.State == uplink.Down && !saved.Unmoved
	}
	return p
}

// phaseOf returns the phase of a path's probes. Both families mostly fail together: probed by turns, whatever befalls
// the uplink is noticed sooner than by both at a time.
func phaseOf(phase time.Time, family rules.Family, interval time.Duration) time.Time {
	if family == rules.IPv6 {
		return phase.Add(interval / 2)
	}
	return phase
}

func (m *Monitor) pathInfo(path rules.Path, p *monitoredPath, f rules.PathInfo) uplink.PathInfo {
	// A unique-local address without a default comes from a router that has no IPv6 itself.
	localOnly := path.Family == rules.IPv6 && !f.HasDefault && f.Source().IsPrivate()
	link := uplink.Link{NoPrefix: f.NoNAT64, NoDevice: !f.Present, Carrier: f.Present && f.Carrier, HasAddress: f.HasAddress() && !localOnly,
		HasGateway: f.HasDefault || p.uplink.Kind == config.KindWireGuard} // may lead to a few networks only
	link.Lack = lack(p.settings.device, path.Family, link, f)
	if translated := path.Family == rules.IPv4 && p.uplink.IPv4.Method == config.MethodCLAT; translated && !link.NoPrefix && !link.NoDevice && link.HasAddress && !link.HasGateway {
		link.Lack = "its IPv6, which carries it, has no address or no default route"
	}
	return uplink.PathInfo{
		Link:    link,
		Binding: probe.Binding{Device: p.settings.device, Mark: m.numbers.Mark(path.Uplink), Source: f.Source()},
		Quiet:   egressOf(f) != p.installed || m.carriers.paused(p.uplink.Name),
	}
}

// lack says what keeps packets from leaving by a path, "" for what the verdict's own words say as well.
func lack(device string, family rules.Family, l uplink.Link, f rules.PathInfo) string {
	switch {
	case f.NoNAT64:
		return "the prefix of the provider's NAT64 is not known: neither its routers (RFC 8781) nor its DNS servers (RFC 7050) name one"
	case l.NoDevice:
		return "there is no device " + device
	case !l.Carrier && !f.Up:
		return fmt.Sprintf("%[1]s is set down: ip link set %[1]s up", device)
	case !l.Carrier:
		return ""
	case !l.HasAddress && f.NoSource:
		return device + " lacks the address that is configured or leased"
	case !l.HasAddress:
		return fmt.Sprintf("%s has no %s address", device, family.Name())
	case !l.HasGateway && f.Source().IsValid():
		return fmt.Sprintf("%s has %v but no default route", device, f.Source())
	}
	return ""
}

func (p *monitoredPath) setInfo(f uplink.PathInfo) {
	p.info = f
	p.SetPath(f)
}

// egress is how the packets of a path leave.
type egress struct {
	index   int
	source  netip.Addr
	gateway netip.Addr
}

func egressOf(f rules.PathInfo) egress { return egress{f.Index, f.Source(), f.Gateway} }

// paths are those that are monitored.
type paths map[rules.Path]*monitoredPath

// of returns those of a list that are monitored.
func (ps paths) of(list []rules.Path) []*monitoredPath {
	var found []*monitoredPath
	for _, path := range list {
		if p := ps[path]; p != nil {
			found = append(found, p)
		}
	}
	return found
}

// uplinkState returns the best verdict of an uplink's families; false when it has none yet.
func (ps paths) uplinkState(name string) (best uplink.State, known bool) {
	for _, p := range ps {
		if p.uplink.Name != name {
			continue
		}
		if s := p.State(); !known || s.Health() > best.Health() {
			best, known = s, true
		}
	}
	return best, known
}

// state returns whose a path is, and its verdict; false when it has none yet.
func (ps paths) state(path rules.Path) (name string, state uplink.State, known bool) {
	p := ps[path]
	if p == nil {
		return "", "", false
	}
	return p.uplink.Name, p.State(), true
}
