package daemon

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/addressing"
	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/clat"
	"github.com/uplinkd/uplinkd/internal/commit"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/counters"
	"github.com/uplinkd/uplinkd/internal/discovery"
	"github.com/uplinkd/uplinkd/internal/dns"
	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/internal/monitor"
	"github.com/uplinkd/uplinkd/internal/notify"
	"github.com/uplinkd/uplinkd/internal/pair"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/reconcile"
	"github.com/uplinkd/uplinkd/internal/recovery"
	"github.com/uplinkd/uplinkd/internal/sets"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/internal/store"
	"github.com/uplinkd/uplinkd/internal/tunnel"
	"github.com/uplinkd/uplinkd/internal/usage"
	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

const (
	// docOutages is the log of outages in the state directory, and outageBytes its bound: some thousands of them.
	docOutages  = "outages"
	outageBytes = 4 << 20
)

// Options are what a daemon is started with.
type Options struct {
	// ConfigFile is read at start and on Reload. Empty: uplinks are discovered from the kernel's
	// default routes.
	ConfigFile string
	Version    string
	Log        *slog.Logger
	Prober     probe.Prober // real sockets when nil
	// Examine is the doctor, for the API; may be nil. It is told what the daemon's status is.
	Examine func(context.Context, *status.Status) (status.Examination, error)
	// Notify tells the service manager ("READY=1", ...); may be nil.
	Notify func(state string)
	// Watchdog is how often the service manager wants to hear of us; 0 for never.
	Watchdog time.Duration
}

// Daemon is a running uplinkd.
type Daemon struct {
	o        Options
	log      *slog.Logger
	started  time.Time
	disk     *store.Saver
	kernel   *kernel.Kernel
	egress   kernel.EgressChecker
	traffic  *kernel.Traffic
	hints    *kernel.Watcher
	engine   *reconcile.Engine
	monitor  *monitor.Monitor
	events   *api.DecisionLog
	problems ownProblems
	metrics  *api.Metrics
	usage    *usage.Meter

	addressing *addressing.Engine
	tunnels    *tunnel.Engine
	dns        *dns.Engine
	notify     *notify.Engine
	recovery   *recovery.Engine
	clat       *clat.Engine
	sets       *sets.Engine
	pair       *pair.Engine
	successor  *pair.Successor
	wireGuard  kernel.WireGuard
	sockets    *probe.Net // nil when somebody else's prober is used
	counters   *counters.Reader

	reloading sync.Mutex // one configuration change at a time
	reloader  *commit.Reloader
	discovery *discovery.Discovery // guarded by reloading; nil with a configuration file
	planned   rules.Config         // guarded by reloading; what the engine works towards

	explaining sync.Mutex // one explanation at a time

	mu     sync.Mutex     // guards what follows, which is replaced, never changed in place
	config *config.Config // what this router has to do of the one in force
	ids    map[string]int

	// Of the engine's goroutine only.
	ready   bool
	changes status.Changes
}

// New reads the configuration, the state directory and the kernel. Nothing is changed yet. Whoever does
// not Run the daemon must Close it.
func New(o Options) (_ *Daemon, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Notify == nil {
		o.Notify = func(string) {}
	}
	kept, read, unread, err := commit.Start(o.ConfigFile, commit.SystemClock())
	if err != nil {
		return nil, err
	}
	c := read.Config
	d := &Daemon{o: o, log: o.Log, started: time.Now(), problems: ownProblems{log: o.Log}, ids: make(map[string]int)}
	d.disk = store.NewSaver(kept.State(c.Daemon.StateDir), d.started, d.log)
	d.events, err = api.OpenDecisionLog(d.disk, api.FirstID(d.started))
	unread = errors.Join(unread, err)
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if d.hints, err = kernel.Subscribe(); err != nil {
		return nil, err
	}
	if d.kernel, err = kernel.Open(planinput.KernelNumbers(c.Kernel), d.log); err != nil {
		return nil, err
	}
	d.kernel.HeardBy(d.hints)
	if d.traffic, err = kernel.OpenTraffic(); err != nil {
		return nil, err
	}
	d.counters = counters.NewReader(d.traffic.Read)
	d.metrics = api.NewMetrics(o.Version, func() []status.PathVerdict { return d.monitor.PathVerdicts() })
	if d.o.Prober == nil {
		d.sockets = probe.New()
		d.egress.Changes = d.hints.Changes
		d.sockets.LeavesByDevice = func(p probe.Binding, target netip.Addr) bool {
			return d.egress.LeavesBy(p.Device, p.Mark, p.Source, target)
		}
		d.o.Prober = d.sockets
	}
	d.tunnels = tunnel.New(tunnel.Options{Log: d.log, WireGuard: &d.wireGuard, Prober: d.o.Prober, Phase: d.started, Changed: d.replan, OnEvent: d.events.Append,
		Leaves: func(uplink string, paths []rules.Path) {
			d.monitor.SetActiveCarriers(uplink, paths)
			d.engine.Hint() // what was not judged meanwhile is judged again
		},
		Suspended: func(uplink string) bool { return d.monitor.Paused(uplink) },
		Dead: func(id int) bool {
			return !slices.ContainsFunc(rules.Families[:], func(f rules.Family) bool { return d.monitor.Alive(rules.Path{Uplink: id, Family: f}) })
		}})
	d.o.Prober = &tunnel.Prober{Prober: d.o.Prober, WireGuard: &d.wireGuard}
	d.successor = pair.NewSuccessor(pair.SuccessorOptions{Log: d.log, Primary: func() bool { return d.pair.Primary() },
		Config: func() (*config.Config, map[string]int) {
			_, ids := d.working()
			return d.reloader.InForce().Config, maps.Clone(ids)
		},
		Replan:  func() { d.replan(); d.engine.Urgent() },
		Planned: func() bool { last := d.engine.Last(); return last.Config.LANsElsewhere && last.Settled }})
	d.pair = pair.New(pair.Options{Log: d.log, Version: d.o.Version, Save: d.disk.Keep, OnEvent: d.events.Append, Settled: func() {
		d.replan()
		d.engine.Inherited()
		d.tellPair()
	}, Prepare: d.successor.Prepare, YieldFile: filepath.Join(c.Daemon.StateDir, pair.YieldFile)})
	keep := func(document string, read func() any) { // has the other router of a pair told
		d.disk.Keep(document, func() any {
			v := read()
			d.pair.Note(document, v)
			return v
		})
	}
	d.addressing = addressing.New(addressing.Options{Log: d.log, Phase: d.started, Save: keep, Changed: d.replan, OnEvent: d.events.Append,
		Verdict: func(path rules.Path) (v uplink.Verdict, whole, ok bool) {
			v, ok = d.monitor.Verdict(path)
			return v, ok && d.monitor.CanProbe(path), ok
		},
		ProbeNow: func(path rules.Path) { d.monitor.ProbeNow([]rules.Path{path}) }})
	d.dns = dns.New(dns.Options{Log: d.log, Phase: d.started, Prober: d.o.Prober, Changed: d.replan, OnEvent: d.events.Append, Save: d.disk.Keep})
	d.notify = notify.New(notify.Options{Log: d.log, Save: d.disk.Keep, State: func() *status.Status { s := d.Status(); return &s }})
	d.recovery = recovery.New(recovery.Options{Phase: d.started, Log: d.log, OnEvent: d.events.Append, Save: d.disk.Keep,
		Verdicts: func() []status.PathVerdict { return d.monitor.PathVerdicts() }, Drained: func() map[string]bool { return d.monitor.Drained() }})
	d.clat = clat.New(clat.Options{Log: d.log, Phase: d.started, Dir: c.Daemon.StateDir, Changed: d.replan, OnEvent: d.events.Append, Save: d.disk.Keep})
	d.sets = sets.New(sets.Options{Log: d.log, Phase: d.started, Changed: d.replan, OnEvent: d.events.Append, Lookup: d.dns.LookUp})
	d.usage = usage.New(usage.Options{Phase: d.started, Log: d.log, Counters: d.counters.Read, Flows: d.kernel.Flows, Devices: func() map[string]int { last := d.engine.Last(); return last.Devices() },
		Verdicts: func() []status.PathVerdict { return d.monitor.PathVerdicts() }, Wake: func() { d.engine.Hint() }, OnEvent: d.events.Append, Save: keep,
		Outages: d.disk.PendingLog(docOutages, outageBytes), OnDamaged: d.problems.damaged})
	var recorded rules.Recorded
	var saved monitor.Saved
	documents := d.addressing.Documents()
	maps.Copy(documents, saved.Documents())
	maps.Copy(documents, d.usage.Documents())
	maps.Copy(documents, d.dns.Documents())
	maps.Copy(documents, d.notify.Documents())
	maps.Copy(documents, d.recovery.Documents())
	maps.Copy(documents, d.clat.Documents())
	maps.Copy(documents, d.pair.Documents())
	maps.Copy(documents, map[string]any{store.IDs: &d.ids, store.Recorded: &recorded})
	for name, v := range documents {
		unread = errors.Join(unread, d.disk.Load(name, v))
	}
	if unread != nil {
		d.log.Warn("damaged state", "err", unread)
		d.problems.damaged(unread)
	}
	d.addressing.Identify()
	d.addressing.Restore(d.started)
	d.monitor = monitor.New(monitor.Options{Prober: d.o.Prober, Phase: d.started, Log: d.log, Saved: saved, Counters: d.counters.Read, TCPSegments: kernel.ListenTCPSegments,
		OverQuota: d.usage.OverQuota, Save: keep, OnTransition: d.onTransition, OnRTT: func(name string, family rules.Family, rtt time.Duration) {
			d.metrics.ObserveRTT(name, family, rtt)
			d.usage.ObserveRTT(name, family, rtt)
		}, OnEvent: d.events.Append, Wake: func() { d.engine.Hint() }})
	d.engine = reconcile.New(reconcile.Options{
		Phase: d.started, Kernel: foreseen{d.kernel, d.successor}, Verdicts: trusted{d.monitor, d.successor}, Log: d.log, Recorded: recorded.Usable(),
		Save:   func(r rules.Recorded) error { return d.disk.Save(store.Recorded, r) },
		OnPass: d.onPass, OnSnapshot: d.onSnapshot,
	})
	d.reloader = &commit.Reloader{Keeper: kept, Log: d.log, Lock: &d.reloading, Adopt: d.adopt, AdoptAnyhow: d.adoptAnyhow, Store: d.disk.Write,
		OnEvent: d.events.Append, OnReload: d.metrics.ObserveReload}
	if d.o.discovers() {
		obs, err := d.kernel.Snapshot(rules.Query{})
		if err != nil {
			return nil, err
		}
		d.discovery = discovery.New(c, discovery.ThisMachine(kernel.Driver))
		read.Config, _ = d.discovery.Scan(obs)
	}
	if err := d.joinPair(read.Config); err != nil {
		return nil, err
	}
	if err := d.adopt(read); err != nil {
		good, none := kept.Good(err)
		if none != nil || d.adopt(good) != nil {
			read.Failure = err
			d.adoptAnyhow(read)
		}
	}
	d.tellPair()
	inForce := d.reloader.InForce()
	if inForce.Failure != nil {
		d.log.Error("the configuration file is not used", "in force since", inForce.Taken, "err", inForce.Failure)
	}
	d.metrics.ObserveReload(inForce.Failure == nil)
	return d, nil
}

// Close gives back what New opened.
func (d *Daemon) Close() {
	if d.sockets != nil {
		if err := d.sockets.Close(); err != nil {
			d.log.Warn("closing probes failed", "err", err)
		}
	}
	d.wireGuard.Close()
	if d.hints != nil {
		d.hints.Close()
	}
	if d.kernel != nil {
		d.kernel.Close()
	}
	d.egress.Close()
	if d.traffic != nil {
		d.traffic.Close()
	}
}

// discovers reports whether uplinks are taken from the kernel's default routes.
func (o *Options) discovers() bool { return o.ConfigFile == "" }
