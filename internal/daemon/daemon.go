package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os/user"
	"slices"
	"sync"
	"sync/atomic"
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
	o       Options
	log     *slog.Logger
	started time.Time
	*saver
	kernel   *kernel.Kernel
	egress   kernel.EgressChecker
	traffic  *kernel.Traffic
	hints    *kernel.Watcher
	engine   *reconcile.Engine
	monitor  *monitor.Monitor
	events   *decisionLog
	problems ownProblems
	metrics  *api.Metrics
	usage    *usage.Meter

	addressing *addressing.Engine
	repairs    repairs
	tunnels    *tunnel.Engine
	dns        *dns.Engine
	notify     *notify.Engine
	recovery   *recovery.Engine
	clat       *clat.Engine
	sets       *sets.Engine
	pair       *pair.Engine
	awaited    atomic.Pointer[awaited] // what keepalived is about to bring; nil: nothing
	wireGuard  kernel.WireGuard
	sockets    *probe.Net // nil when somebody else's prober is used
	counters   *counters.Reader

	reloading sync.Mutex // one configuration change at a time
	kept      *commit.Keeper
	waits     chan struct{}        // has one element when how long kept waits may have changed
	discovery *discovery.Discovery // guarded by reloading; nil with a configuration file
	planned   rules.Config         // guarded by reloading; what the engine works towards

	explaining sync.Mutex // one explanation at a time

	mu     sync.Mutex // guards what follows
	config *config.Config
	// inForce is what the configuration was read from.
	inForce commit.Config
	// configFailure is what is wrong with the file as it is now; nil: nothing.
	configFailure error
	ids           map[string]int

	// Of the engine's goroutine only.
	ready   bool
	carried map[rules.Family]rules.Choice // who carries new traffic
	closed  map[string]string             // by the name of a policy that is a kill switch, the families that it refuses
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
	state := kept.State(c.Daemon.StateDir)
	d := &Daemon{o: o, log: o.Log, started: time.Now(), saver: newSaver(state, time.Now(), o.Log),
		kept: kept, waits: make(chan struct{}, 1), ids: make(map[string]int), carried: make(map[rules.Family]rules.Choice)}
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
	d.tunnels = tunnel.New(tunnel.Options{Log: d.log, WireGuard: &d.wireGuard, Prober: d.o.Prober, Phase: d.started, Changed: d.replan, OnEvent: d.event,
		Leaves: func(uplink string, paths []rules.Path) {
			d.monitor.SetActiveCarriers(uplink, paths)
			d.engine.Hint() // what was not judged meanwhile is judged again
		},
		Suspended: func(uplink string) bool { return d.monitor.Paused(uplink) },
		Dead: func(id int) bool {
			return !slices.ContainsFunc(rules.Families[:], func(f rules.Family) bool {
				v, known := d.monitor.Verdict(rules.Path{Uplink: id, Family: f})
				return known && v.State.Health() > uplink.HealthDead
			})
		}})
	d.o.Prober = &tunnel.Prober{Prober: d.o.Prober, WireGuard: &d.wireGuard}
	d.pair = d.newPair(c.Daemon.StateDir)
	d.addressing = addressing.New(addressing.Options{Log: d.log, Phase: d.started, Save: d.keep, Changed: d.replan, OnEvent: d.event,
		Verdict: func(path rules.Path) (v uplink.Verdict, whole, ok bool) {
			v, ok = d.monitor.Verdict(path)
			return v, ok && d.monitor.CanProbe(path), ok
		},
		ProbeNow: func(path rules.Path) { d.monitor.ProbeNow([]rules.Path{path}) }})
	d.dns = dns.New(dns.Options{Log: d.log, Phase: d.started, Prober: d.o.Prober, Changed: d.replan, OnEvent: d.event, Save: d.save})
	d.notify = notify.New(notify.Options{Log: d.log, Save: d.save, State: func() *status.Status { s := d.Status(); return &s }})
	d.recovery = recovery.New(recovery.Options{Phase: d.started, Log: d.log, OnEvent: d.event, Save: d.save,
		Verdicts: func() []status.PathVerdict { return d.monitor.PathVerdicts() }, Drained: func() map[string]bool { return d.monitor.Drained() }})
	d.clat = clat.New(clat.Options{Log: d.log, Phase: d.started, Dir: c.Daemon.StateDir, Changed: d.replan, OnEvent: d.event, Save: d.save})
	d.sets = sets.New(sets.Options{Log: d.log, Phase: d.started, Changed: d.replan, OnEvent: d.event, Lookup: d.dns.LookUp})
	d.usage = usage.New(usage.Options{Phase: d.started, Log: d.log, Counters: d.counters.Read, Flows: d.kernel.Flows, Devices: d.devices,
		Verdicts: func() []status.PathVerdict { return d.monitor.PathVerdicts() }, Wake: func() { d.engine.Hint() }, OnEvent: d.event, Save: d.keep,
		Outages: &outageLog{disk: d.saver, log: state.Log(docOutages, outageBytes)}, OnDamaged: d.problems.damaged})
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
		unread = errors.Join(unread, state.Load(name, v))
	}
	d.events, err = newDecisionLog(d.saver, api.FirstID(d.started))
	if unread = errors.Join(unread, err); unread != nil {
		d.log.Warn("damaged state", "err", unread)
		d.problems.damaged(unread)
	}
	d.addressing.Identify()
	d.addressing.Restore(d.started)
	d.monitor = monitor.New(monitor.Options{Prober: d.o.Prober, Phase: d.started, Log: d.log, Saved: saved, Counters: d.counters.Read, TCPSegments: kernel.ListenTCPSegments,
		OverQuota: d.usage.OverQuota, Save: d.keep, OnTransition: d.onTransition, OnRTT: func(name string, family rules.Family, rtt time.Duration) {
			d.metrics.ObserveRTT(name, family, rtt)
			d.usage.ObserveRTT(name, family, rtt)
		}, OnEvent: d.event, Wake: func() { d.engine.Hint() }})
	d.engine = reconcile.New(reconcile.Options{
		Phase: d.started, Kernel: foreseen{d.kernel, &d.awaited}, Verdicts: trusted{d.monitor, &d.awaited}, StateSaver: d.saver, Log: d.log, Recorded: recorded.Usable(),
		OnPass: d.onPass, OnSnapshot: d.onSnapshot,
	})
	if d.o.discovers() {
		obs, err := d.kernel.Snapshot(rules.Query{})
		if err != nil {
			return nil, err
		}
		d.discovery = discovery.New(c, discovery.ThisMachine(kernel.Driver))
		c, _ = d.discovery.Scan(obs)
	}
	if err := d.joinPair(c); err != nil {
		return nil, err
	}
	if err := d.adopt(c, read); err != nil {
		good, none := d.kept.Good(err)
		if none != nil || d.adopt(good.Config, good) != nil {
			read.Failure = err
			d.adoptAnyhow(read)
		}
	}
	d.tellPair()
	if d.configFailure != nil {
		d.log.Error("the configuration file is not used", "in force since", d.inForce.Taken, "err", d.configFailure)
	}
	d.metrics.ObserveReload(d.configFailure == nil)
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

// adopt makes a configuration the one in force: c is what was read, or what was discovered besides. It changes nothing
// when it fails.
func (d *Daemon) adopt(c *config.Config, read commit.Config) error {
	return d.adoptWith(c, read, d.tunnels.Configure)
}

// adoptAnyhow makes a configuration the one in force where there is none to stay with: what of it cannot work is left out.
func (d *Daemon) adoptAnyhow(c commit.Config) {
	err := d.adoptWith(c.Config, c, func(c *config.Config, ids map[string]int) error { d.tunnels.ConfigureAnyhow(c, ids); return nil })
	d.report("config-refused", err, "have fewer uplinks and policies")
}

func (d *Daemon) adoptWith(c *config.Config, read commit.Config, tunnels func(*config.Config, map[string]int) error) error {
	ids, err := d.configure(c, read, tunnels)
	if err != nil {
		return err
	}
	if err := writeTableNames(c, ids); err != nil { // they are a convenience
		d.log.Warn("cannot write table names", "err", err)
	}
	d.kept.Took(read)
	d.saveConfig()
	select {
	case d.waits <- struct{}{}:
	default:
	}
	return nil
}

// configure has the engines work by a configuration, as far as this router of a pair has to. Nothing waits for the disk but ids that are new.
func (d *Daemon) configure(c *config.Config, read commit.Config, tunnels func(*config.Config, map[string]int) error) (ids map[string]int, err error) {
	d.mu.Lock()
	before := d.ids
	d.mu.Unlock()
	ids = maps.Clone(before)
	c, changed, err := d.working(c, ids)
	if err != nil {
		return nil, err
	}
	if err := tunnels(c, ids); err != nil {
		return nil, err
	}
	d.monitor.Configure(c, ids)
	d.mu.Lock()
	former := d.config
	d.config, d.ids, d.inForce, d.configFailure = c, ids, read, read.Failure
	d.mu.Unlock()
	if former != nil {
		for i := range former.Uplinks {
			if name := former.Uplinks[i].Name; !slices.ContainsFunc(c.Uplinks, func(u config.Uplink) bool { return u.Name == name }) {
				d.metrics.RemoveUplink(name)
			}
		}
	}
	if changed {
		d.saveIDs() // before the kernel hears of them
	}
	d.usage.Configure(c)
	d.addressing.Configure(c, ids)
	d.dns.Configure(c)
	d.notify.Configure(c)
	d.recovery.Configure(c)
	d.clat.Configure(c)
	d.sets.Configure(c)
	d.planFor(c, ids)
	d.engine.EndReassigned(planinput.Reassigned(before, ids))
	d.pair.Acting()
	return ids, nil
}

// Run runs the daemon until the context ends. Kernel state stays as it is then, so that a restart does
// not interrupt traffic; Clean removes it.
func (d *Daemon) Run(ctx context.Context) error {
	defer d.Close()
	c := d.current()
	token, err := api.ReadToken(c.Daemon.TokenFile)
	d.report("token-file", err, "correct it and restart; until then nothing can be changed over TCP")
	o := api.Options{Source: d, Events: d.events.EventLog, Metrics: d.metrics, Log: d.log, Token: token, Hosts: c.Daemon.Hosts}
	if d.o.Examine != nil {
		o.Examine = func(ctx context.Context) (status.Examination, error) { s := d.Status(); return d.o.Examine(ctx, &s) }
	}
	server := api.NewServer(o)
	// Whoever answers on the control socket has the state directory; the claim below is for the kernel state.
	bindSocket := func(ctx context.Context) (*api.Listeners, error) {
		l, err := api.Listen(ctx, c.Daemon.Socket, "")
		if err == nil {
			d.report("socket-group", shareSocket(&c.Daemon), "make the group (groupadd --system NAME), or correct [daemon] socket_group, and restart; until then the socket is root's alone")
		}
		return l, err
	}
	bindTCP := func(ctx context.Context) (*api.Listeners, error) { return api.Listen(ctx, "", c.Daemon.Listen) }
	socket, err := bindSocket(ctx)
	if errors.Is(err, api.ErrRunning) {
		return err
	}
	release, claimErr := kernel.Claim()
	switch {
	case errors.Is(claimErr, kernel.ErrClaimed):
		if socket != nil {
			claimErr = errors.Join(claimErr, socket.Close())
		}
		return claimErr
	case claimErr != nil:
		d.log.Warn("a second uplinkd would not be noticed", "err", claimErr)
	default:
		defer release()
	}
	hooks := notifier{d.events, d.events.last(), d.log} // of the start too
	toNotify := d.notify.Seen(d.events.last())
	d.event(status.Event{Kind: status.EventStart, Message: "uplinkd " + d.o.Version})
	d.log.Info("starting", "version", d.o.Version, "uplinks", len(c.Uplinks), "config", d.o.ConfigFile)

	parts := []func(context.Context) error{
		d.monitor.Run, d.addressing.Run,
		d.engine.Run, d.usage.Run, d.watchdog, d.takeBack, d.saver.run, d.events.run, d.tunnels.Run, d.dns.Run, d.notify.Run, d.recovery.Run, d.clat.Run, d.sets.Run, d.pair.Run,
		func(ctx context.Context) error {
			server.Answer(ctx, socket, bindSocket, func(err error) {
				d.report("socket", err, "remove what is in the way, or set another [daemon] socket and restart; it is retried")
			})
			return nil
		},
		func(ctx context.Context) error {
			d.hints.Urgent = d.engine.Urgent
			return d.hints.Run(ctx, d.engine.Hint)
		},
		func(ctx context.Context) error { return hooks.runPrograms(ctx, c.Daemon.Hooks) },
		func(ctx context.Context) error { return hooks.runWebhook(ctx, c.Daemon.Webhook) },
		func(ctx context.Context) error {
			for e := range d.events.Subscribe(ctx, toNotify) {
				d.notify.Event(e)
			}
			return nil
		},
	}
	if c.Daemon.Listen != "" {
		parts = append(parts, func(ctx context.Context) error {
			server.Answer(ctx, nil, bindTCP, func(err error) {
				d.report("listen", err, "free the address, or set another [daemon] listen and restart; it is retried")
			})
			return nil
		})
	}
	err = together(ctx, parts)
	d.events.save()
	d.o.Notify("STOPPING=1")
	d.log.Info("stopped; kernel state is left as it is", "err", err)
	return err
}

// shareSocket lets the members of a group use the control socket. The group that packages make need not exist.
func shareSocket(d *config.Daemon) error {
	name := cmp.Or(d.SocketGroup, config.DefaultSocketGroup)
	err := api.ShareSocket(d.Socket, name)
	if unknown := user.UnknownGroupError(name); d.SocketGroup == "" && errors.Is(err, unknown) {
		return nil
	}
	return err
}

// report has a failure of the daemon's own be a problem until it is over: nil. None of them keeps the box from being routed.
func (d *Daemon) report(code string, err error, fix string) {
	if err != nil {
		d.log.Error("part of the daemon does not work", "code", code, "err", err)
		d.problems.put(code, "error", err.Error(), fix)
		return
	}
	d.problems.clear(code)
}

// together runs the parts until the context ends or one of them fails, and returns when all are gone.
func together(ctx context.Context, parts []func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make([]error, len(parts))
	var group sync.WaitGroup
	for i, part := range parts {
		group.Go(func() {
			defer cancel()
			failed[i] = part(ctx)
		})
	}
	group.Wait()
	return errors.Join(failed...)
}

// watchdog tells the service manager that the engine is alive.
func (d *Daemon) watchdog(ctx context.Context) error {
	if d.o.Watchdog <= 0 {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(d.o.Watchdog / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if d.alive() == nil {
				d.o.Notify("WATCHDOG=1")
			}
		}
	}
}

// alive reports whether the engine still looks at the kernel.
func (d *Daemon) alive() error {
	if age := time.Since(d.engine.Last().At); age > 4*reconcile.Resync {
		return fmt.Errorf("the last look at the kernel was %v ago", age.Round(time.Second))
	}
	return nil
}

func (d *Daemon) current() *config.Config {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.config
}

// saveIDs keeps the ids in force.
func (d *Daemon) saveIDs() {
	d.save(store.IDs, func() any {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.ids // replaced, never changed in place
	})
}

// event appends to the decision log.
func (d *Daemon) event(e status.Event) {
	e.Time = status.At(time.Now())
	d.events.Append(e)
}

// onTransition hears of a changed verdict, from a watcher's goroutine.
func (d *Daemon) onTransition(t uplink.Transition) {
	if t.Family == rules.IPv6 {
		d.addressing.UpdateVerdicts()
	}
	d.log.Info("verdict", "uplink", t.Uplink, "family", t.Family.String(), "from", t.From, "to", t.To, "reason", t.Reason.Text)
	if t.To == uplink.Suspect || t.To == uplink.Down {
		d.mu.Lock()
		id, numbers := d.ids[t.Uplink], planinput.KernelNumbers(d.config.Kernel)
		d.mu.Unlock()
		info := d.engine.Last().Report.Paths[rules.Path{Uplink: id, Family: t.Family}]
		if info.Carrier {
			t.Evidence = append(append(t.Evidence, d.tunnels.Evidence(t.Uplink, time.Now())...), evidence(t.Family, numbers.Mark(id), numbers.MarkMask, info)...)
		}
	}
	d.events.Append(status.VerdictEvent(t))
	d.metrics.ObserveTransition(t)
	d.usage.Transition(t)
}
