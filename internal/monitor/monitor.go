package monitor

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/counters"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/schedule"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// Options are what a Monitor is made of. All are required, except that Saved may be empty.
type Options struct {
	Prober probe.Prober
	Phase  time.Time // probes and periodic work keep to whole multiples of their interval after it
	Log    *slog.Logger
	Saved  Saved // of the previous run

	// Counters fills in the counters of every device, by interface index, and returns when they were read.
	Counters func(map[int]counters.Device) (time.Time, error)
	// TCPSegments opens a socket that gives the headers of the TCP segments of a family that come in by a device, by interface
	// index.
	TCPSegments func(index int, family rules.Family) (net.PacketConn, error)
	// OverQuota returns the uplinks, by name, that have used up their month.
	OverQuota func() map[string]bool
	// Save keeps a document of the state directory.
	Save func(document string, read func() any)
	// OnTransition gets each changed verdict, on the goroutine of its watcher.
	OnTransition func(uplink.Transition)
	// OnRTT gets the round-trip time of each answer.
	OnRTT func(uplink string, family rules.Family, rtt time.Duration)
	// OnEvent takes what belongs into the decision log besides transitions.
	OnEvent func(status.Event)
	// Wake asks for a pass of planning: a verdict has changed, or may be decided now.
	Wake func()
}

// Monitor runs one watcher per enabled path and turns their verdicts into what planning takes. Make one with [New]; all
// methods may be called by any goroutine.
type Monitor struct {
	o Options

	saving atomic.Bool // somebody waits for the disk to save the verdicts

	mu         sync.Mutex // guards what follows
	ctx        context.Context
	running    sync.WaitGroup // watchers
	paths      paths
	numbers    rules.Kernel
	planned    map[rules.Path]rules.PathInfo // of the latest pass
	active     map[rules.Path]bool           // carry new traffic; nil when that is not known yet
	drained    map[string]bool               // by uplink name; replaced, never changed in place
	ended      map[string]uint               // by uplink name: how often what runs was to end since it was drained
	restored   map[string]savedVerdict       // by pathKey, of the previous run, until their path is configured
	holds      manualHolds
	probeBytes DailyBytes
	carriers   carriers

	balance      balance
	correlation  correlation
	recheckTimer *time.Timer // wakes planning when the correlator has to decide again
}

// New returns a Monitor that watches nothing before Configure and Run.
func New(o Options) *Monitor {
	m := &Monitor{o: o, paths: make(paths), drained: o.Saved.drained, ended: make(map[string]uint), restored: o.Saved.verdicts,
		holds: manualHolds{held: o.Saved.holds}, probeBytes: o.Saved.probeBytes,
		carriers: carriers{active: make(map[string][]rules.Path)}, correlation: newCorrelation()}
	m.o.Saved = Saved{}
	return m
}

// Configure makes the watchers of a configuration. Those whose settings are unchanged go on; others start anew from the
// verdict of their predecessor.
func (m *Monitor) Configure(c *config.Config, ids map[string]int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.numbers = planinput.KernelNumbers(c.Kernel)
	m.setIntervals(time.Now()) // counts the bytes of the watchers that go
	m.carriers.configured = planinput.Carriers(c)
	m.balance.configure(c)
	next := make(paths)
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		for family, ip := range map[rules.Family]config.IP{rules.IPv4: u.IPv4, rules.IPv6: u.IPv6} {
			if ip.Method == config.MethodOff {
				continue
			}
			path := rules.Path{Uplink: ids[u.Name], Family: family}
			next[path] = m.pathFor(path, u)
			next[path].uplink = *u
		}
	}
	for path, p := range m.paths {
		if next[path] != p && p.stop != nil {
			p.stop()
		}
	}
	m.paths = next
	manual := make(map[string]bool)
	for path, p := range next {
		m.start(p)
		if p.uplink.Failback == config.FailbackManual {
			manual[pathKey(p.uplink.Name, path.Family)] = true
		}
	}
	m.holds.retain(manual)
}

// start runs the watcher of a path once the Monitor runs. The lock is held.
func (m *Monitor) start(p *monitoredPath) {
	if m.ctx == nil || p.stop != nil {
		return
	}
	ctx, stop := context.WithCancel(m.ctx)
	p.ctx, p.stop = ctx, stop
	m.running.Go(func() { _ = p.Run(ctx) }) // nil, when the context ends
}

// Run runs the watchers, and watches traffic, until the context ends; then it saves what it knows.
func (m *Monitor) Run(ctx context.Context) error {
	m.mu.Lock()
	m.ctx = ctx
	for path, p := range m.paths {
		m.start(p)
		m.watchConnections(path, p)
	}
	m.mu.Unlock()
	m.running.Go(func() { m.watchTraffic(ctx) })
	m.running.Go(func() {
		schedule.Every(ctx, m.o.Phase, saveInterval, func(time.Time) { m.saveProbeBytes() })
	})
	schedule.Every(ctx, m.o.Phase, reviewInterval, func(now time.Time) {
		m.mu.Lock()
		m.setIntervals(now)
		moves := m.balance.review(m.paths, now)
		m.mu.Unlock()
		if moves {
			m.o.Wake()
		}
	})
	m.running.Wait()
	m.mu.Lock()
	if m.recheckTimer != nil {
		m.recheckTimer.Stop()
	}
	m.mu.Unlock()
	m.saveVerdicts()
	m.saveProbeBytes()
	return nil
}

func (m *Monitor) onTransition(t uplink.Transition) {
	m.noteTransition(t)
	if t.To == uplink.Suspect || t.To == uplink.Down {
		m.pauseCarried()
	}
	if t.To == uplink.Suspect {
		m.watchConnectionsOf(t.Uplink, t.Family)
	}
	m.o.Wake()
	m.o.OnTransition(t)
	m.saveVerdicts()
}

// Verdicts gives the watchers what the kernel knows of their paths, and returns their verdicts. A path that is new, or
// leaves otherwise than before, is not probed until RouteInstalled: the kernel does not route by its mark yet.
func (m *Monitor) Verdicts(paths map[rules.Path]rules.PathInfo) map[rules.Path]rules.Verdict {
	verdicts, events := m.collectVerdicts(paths)
	for _, e := range events {
		m.o.OnEvent(e)
	}
	return verdicts
}

func (m *Monitor) collectVerdicts(paths map[rules.Path]rules.PathInfo) (map[rules.Path]rules.Verdict, []status.Event) {
	overQuota := m.o.OverQuota()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.carriers.update(m.paths)
	reports := make(map[rules.Path]uplink.PathReport, len(m.paths))
	verdicts := make(map[rules.Path]rules.Verdict, len(m.paths))
	for path, p := range m.paths {
		f, ok := paths[path]
		if !ok {
			continue
		}
		p.setInfo(m.pathInfo(path, p, f))
		if m.carriers.suspended[p.uplink.Name] != "" {
			verdicts[path] = rules.Verdict{Health: rules.Dead, State: string(uplink.Down), Drained: m.drained[p.uplink.Name]}
			continue
		}
		report := p.Report()
		if report.State == uplink.Disabled {
			verdicts[path] = rules.Verdict{Health: rules.Dead, State: string(report.State), Drained: m.drained[p.uplink.Name]}
			continue
		}
		reports[path] = report
	}
	m.correlate(reports)
	m.setIntervals(time.Now())
	events := m.correlation.outageEvents()
	for path, report := range reports {
		health, held, event := m.applyFailback(path, report.State)
		if event != nil {
			events = append(events, *event)
		}
		name := m.paths[path].uplink.Name
		verdicts[path] = rules.Verdict{Health: planHealth(health, report.State), State: string(report.State),
			Drained: held || report.Suppressed || m.drained[name] || overQuota[name], Ended: m.ended[name], Unmoved: report.State == uplink.Down && !m.paths[path].moved}
	}
	m.balance.apply(m.paths, verdicts, time.Now())
	return verdicts, events
}

// RouteInstalled lets the paths be probed whose routes and rules have just been applied.
func (m *Monitor) RouteInstalled(paths map[rules.Path]rules.PathInfo) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.planned = paths
	for path, p := range m.paths {
		f, ok := paths[path]
		if e := egressOf(f); ok && e != p.installed {
			p.installed = e
			p.setInfo(m.pathInfo(path, p, f))
		}
		m.watchConnections(path, p) // it may be silent since before a restart
	}
}

// planHealth translates the health of a path into the levels of the planning package. A degraded path is as alive as
// any; planning prefers one that does not lose much.
func planHealth(h uplink.Health, s uplink.State) rules.Health {
	switch {
	case h == uplink.HealthGood && s == uplink.Degraded:
		return rules.Impaired
	case h == uplink.HealthGood:
		return rules.Good
	case h == uplink.HealthDoubtful:
		return rules.Doubtful
	case h == uplink.HealthDead:
		return rules.Dead
	}
	return rules.Unknown
}

// ProbeNow has paths probed at once, because something looks wrong. The probes alone decide.
func (m *Monitor) ProbeNow(list []rules.Path) { m.hint(list, (*uplink.Watcher).Hint) }

// hint gives a hint to the watchers of paths.
func (m *Monitor) hint(list []rules.Path, hint func(*uplink.Watcher)) {
	m.mu.Lock()
	now, found := time.Now(), m.paths.of(list)
	for _, p := range found {
		p.oneWayAt = now
	}
	m.setIntervals(now) // a hint is taken once in an interval
	m.mu.Unlock()
	for _, p := range found {
		hint(p.Watcher)
	}
}

// SetActive says who carries new traffic.
func (m *Monitor) SetActive(defaults map[rules.Family]rules.Choice) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.active = make(map[rules.Path]bool)
	for family, choice := range defaults {
		for _, member := range choice.Members {
			m.active[rules.Path{Uplink: member.Uplink, Family: family}] = true
		}
	}
	m.setIntervals(time.Now())
}
