package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/schedule"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Kernel is what the engine needs of the kernel.
type Kernel interface {
	Snapshot(rules.Query) (*rules.Observed, error)
	Apply(ops []netcfg.Op) error
	FlushConntrack(family rules.Family, mark, mask uint32) error
	DestroySockets(local []netip.Addr) (int, error)
	// DestroyConnections aborts the local sockets of exactly these connections, and returns how many.
	DestroyConnections([]rules.Connection) (int, error)
	// DeleteConnections deletes the entries of connection tracking that old gives a reason for, and counts them by it.
	DeleteConnections(old func(*rules.Connection) (why string)) (map[string]int, error)
	// PinConnections marks the entries that by returns an uplink's id for, and returns how many.
	PinConnections(by func(*rules.Connection) (uplink int)) (int, error)
}

// VerdictSource has the verdict of each path. It takes the paths first, so that a lost carrier counts at once.
type VerdictSource interface {
	Verdicts(paths map[rules.Path]rules.PathInfo) map[rules.Path]rules.Verdict
}

const (
	// Resync is how often the kernel is looked at without a hint.
	Resync = 5 * time.Second
	// cpuShare is the engine's part of a core while hints pour in without end, and burst the time of
	// passes that it may spend at once before that bound holds: a lost carrier is never kept waiting
	// by what came shortly before it.
	cpuShare = 0.08
	burst    = 250 * time.Millisecond
	// maxOverdraft bounds what a pass may overdraw, and with it the pause that follows to half a second: a pass that took seconds
	// has waited for a busy machine, and the next failover must not wait for it eight times over.
	maxOverdraft = 40 * time.Millisecond
	// rounds is how often a pass applies and looks again before it leaves the rest to the next pass.
	rounds = 3
	// retryMax bounds the pause before a failed pass is tried again.
	retryMin, retryMax = 100 * time.Millisecond, 5 * time.Second
	// refusedFor is how long a parameter that could not be set is left alone.
	refusedFor = time.Minute
	// Connections are looked through for what local networks that come and go have made of them once in renewPause, and in
	// renewShare times what it takes, which is long where there are many.
	renewPause = time.Second
	renewShare = 100
)

// refusedSysctl is a parameter that could not be set.
type refusedSysctl struct {
	why string
	at  time.Time
}

// Options are what an Engine is made of.
type Options struct {
	Kernel   Kernel
	Verdicts VerdictSource
	// Save keeps what we changed, over restarts.
	Save     func(rules.Recorded) error
	Log      *slog.Logger
	Config   rules.Config
	Recorded rules.Recorded
	// Phase is the time that passes without a hint follow at whole multiples of Resync; zero for that of New.
	Phase time.Time
	// OnPass, when set, is called after every pass, from the engine's goroutine.
	OnPass func(Result)
	// OnSnapshot, when set, sees every snapshot before it is planned for. It may call SetConfig, which
	// counts from the next pass on.
	OnSnapshot func(*rules.Observed)
}

// Engine is the one writer to the kernel.
type Engine struct {
	o      Options
	hint   chan struct{}
	urgent chan struct{} // likewise, of what waits for no budget

	mu         sync.Mutex // guards what follows, up to last and with it
	config     rules.Config
	given      uint64 // counts configurations
	planned    uint64 // the one of last
	reassigned []int  // ids that have become those of other uplinks
	inherited  bool   // connections of another router may have come
	last       Result

	// The rest belongs to the goroutine of Run.
	recorded      rules.Recorded
	contest       rules.MainContest
	hardware      rules.HardwareContest
	unsaved       bool
	seenUp        map[int]bool // interface indexes of devices that were up once
	verdicts      map[rules.Path]rules.Verdict
	cleanups      map[rules.Path]flowCleanup
	addrs         map[rules.Path][]netip.Prefix // last seen, for when they go with the link
	former        formerAddrs
	uplinks       map[int]bool // ids of the latest configuration
	sysctls       map[string]refusedSysctl
	devices       []*netcfg.Refusal // of the latest changes
	loggedFailure string            // that was logged last
	generation    uint64
	renewal       renewal
	returns       returns
	tables        tables
}

// renewal is when connections are looked through for those that the packet filter lets begin no more.
type renewal struct {
	due    bool        // it has changed
	atOnce bool        // for more than local networks that have come or gone
	next   time.Time   // when it may be looked through for those
	later  *time.Timer // nil before it was needed first
}

// Result is the outcome of a pass.
type Result struct {
	At         time.Time
	Duration   time.Duration
	Config     rules.Config
	Report     rules.Report
	Verdicts   map[rules.Path]rules.Verdict
	Changes    []netcfg.Op         // carried out in this pass
	Restored   []string            // nftables tables of ours that somebody else had taken away, by name
	Converged  bool                // nothing is left to do
	Settled    bool                // nothing is left to do but what the kernel refuses
	Generation uint64              // counts passes that changed the kernel
	Stuck      map[rules.Path]bool // dead, and their connections have nowhere to go; nil when the pass could not look for any
	Err        error               // joined, refusals as netcfg.Refusal; nil when all went well

	left []netcfg.Op // still to do
}

// Devices returns the interface index of each uplink's device by uplink name, 0 for one that is not there.
func (r *Result) Devices() map[string]int {
	found := make(map[string]int, len(r.Config.Uplinks))
	for i := range r.Config.Uplinks {
		u := &r.Config.Uplinks[i]
		found[u.Name] = 0
		for _, family := range rules.Families {
			if f := r.Report.Paths[rules.Path{Uplink: u.ID, Family: family}]; f.Present {
				found[u.Name] = f.Index
			}
		}
	}
	return found
}

// New makes an engine. Nothing happens before Run.
func New(o Options) *Engine {
	if o.Phase.IsZero() {
		o.Phase = time.Now()
	}
	return &Engine{
		o: o, config: o.Config, recorded: o.Recorded.Clone(), hint: make(chan struct{}, 1), urgent: make(chan struct{}, 1),
		seenUp: make(map[int]bool), verdicts: make(map[rules.Path]rules.Verdict), cleanups: make(map[rules.Path]flowCleanup),
		addrs: make(map[rules.Path][]netip.Prefix), uplinks: make(map[int]bool), sysctls: make(map[string]refusedSysctl),
	}
}

// Hint asks for a pass. It never blocks.
func (e *Engine) Hint() {
	select {
	case e.hint <- struct{}{}:
	default:
	}
}

// Urgent asks for a pass that does not wait for its turn, however many there have been: an uplink has another carrier.
func (e *Engine) Urgent() {
	select {
	case e.urgent <- struct{}{}:
	default:
	}
}

// SetConfig changes what the engine works towards, from the next pass on.
func (e *Engine) SetConfig(c rules.Config) {
	e.mu.Lock()
	e.config = c
	e.given++
	e.mu.Unlock()
	e.Hint()
}

// EndReassigned has the connections end that are pinned to ids which are now those of other uplinks, by the configuration that was set.
func (e *Engine) EndReassigned(ids []int) {
	if len(ids) == 0 {
		return
	}
	e.mu.Lock()
	e.reassigned = append(e.reassigned, ids...)
	e.mu.Unlock()
	e.Hint()
}

// Inherited has those connections begin anew that another router began and that cannot go on here.
func (e *Engine) Inherited() {
	e.mu.Lock()
	e.inherited = true
	e.mu.Unlock()
	e.Hint()
}

// Last returns the outcome of the latest pass. It is neither converged nor settled where there is another configuration by now.
func (e *Engine) Last() Result {
	e.mu.Lock()
	defer e.mu.Unlock()
	last := e.last
	if e.planned != e.given {
		last.Converged, last.Settled = false, false
	}
	return last
}

// Alive returns why the engine does not look at the kernel any more, nil when it does.
func (e *Engine) Alive() error {
	if age := time.Since(e.Last().At); age > 4*Resync {
		return fmt.Errorf("the last look at the kernel was %v ago", age.Round(time.Second))
	}
	return nil
}

// Healthy returns why the kernel was not as planned after the latest pass, nil when it was.
func (e *Engine) Healthy() error {
	e.mu.Lock()
	last := e.last
	e.mu.Unlock()
	switch err := e.Alive(); {
	case err != nil:
		return err
	case last.Err != nil:
		return last.Err
	case !last.Converged:
		return errors.New("the kernel does not match the plan yet")
	}
	return nil
}

// Run passes at once, then after every hint and every Resync, until the context ends. What is in the
// kernel then stays there: a restart shall not interrupt traffic.
func (e *Engine) Run(ctx context.Context) error {
	untilResync := func() time.Duration { return schedule.Until(e.o.Phase, time.Now(), Resync) }
	resync := time.NewTimer(untilResync())
	defer resync.Stop()
	retry := time.NewTimer(0)
	defer retry.Stop()
	pause := retryMin
	budget, refilled := burst, time.Now()
	for {
		urgent := false
		select {
		case <-ctx.Done():
			return nil
		case <-e.hint:
		case <-e.urgent:
			urgent = true
		case <-resync.C:
			resync.Reset(untilResync())
		case <-retry.C:
		}
		select {
		case <-e.urgent: // as well as something else
			urgent = true
		default:
		}
		result := e.lookAndSet(urgent)
		if result.Err != nil || !result.Converged {
			retry.Reset(pause)
			pause = min(2*pause, retryMax)
		} else {
			pause = retryMin
		}
		now := time.Now()
		budget = max(min(budget+time.Duration(cpuShare*float64(now.Sub(refilled))), burst)-result.Duration, -maxOverdraft)
		refilled = now
		if budget >= 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Duration(float64(-budget) / cpuShare)):
		case <-e.urgent:
			e.Urgent()
		}
	}
}

// Pass looks at the kernel once and sets right what is wrong. It must not run beside Run.
func (e *Engine) Pass() Result { return e.lookAndSet(false) }

func (e *Engine) lookAndSet(urgent bool) Result {
	start := time.Now()
	e.mu.Lock()
	cfg, given, reassigned := e.config, e.given, e.reassigned
	if e.inherited || e.planned != given {
		e.renewal.atOnce = true
	}
	e.renewal.due = e.renewal.due || e.inherited
	e.reassigned, e.inherited = nil, false
	e.mu.Unlock()
	for _, id := range reassigned {
		for _, family := range rules.Families {
			e.cleanups[rules.Path{Uplink: id, Family: family}] = flowCleanup{mark: cfg.Kernel.Mark(id), reassigned: true}
		}
	}
	r := e.pass(cfg, urgent)
	r.At, r.Duration, r.Config, r.Generation = start, time.Since(start), cfg, e.generation
	e.mu.Lock()
	e.last, e.planned = r, given
	e.mu.Unlock()
	e.logFailure(r.Err)
	if e.o.OnPass != nil {
		e.o.OnPass(r)
	}
	return r
}

// logFailure logs what is wrong when that is news.
func (e *Engine) logFailure(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != e.loggedFailure && err != nil {
		e.o.Log.Warn("kernel state differs from the plan", "err", err)
	}
	e.loggedFailure = text
}

// pass relies, when it is urgent, on what was read before for its first changes.
func (e *Engine) pass(cfg rules.Config, urgent bool) Result {
	var r Result
	var failed []error
	var refused []*netcfg.Refusal
	var obs *rules.Observed
	for round := 0; ; round++ {
		var err error
		obs, err = e.snapshot(cfg, urgent && round == 0)
		if err != nil {
			r.Restored, r.Err = e.tables.restored(r.Changes), errors.Join(append(append(failed, asErrors(refused)...), err)...)
			return r
		}
		if e.o.OnSnapshot != nil {
			e.o.OnSnapshot(obs)
		}
		e.tables.observe(obs)
		e.noteUp(cfg, obs)
		r.Verdicts = e.o.Verdicts.Verdicts(rules.ReadPaths(cfg, obs))
		foreseen := obs.Foresee(cfg)
		want, report := rules.Plan(cfg, foreseen, r.Verdicts)
		r.Report = report
		have := rules.Ours(cfg.Kernel, foreseen)
		r.left = netcfg.Diff(have, want)
		e.renewal.atOnce = e.renewal.atOnce || !want.Table.MatchesButForLocals(have.Table)
		if len(r.left) == 0 {
			r.Converged, refused = true, nil
			e.unsaved = e.recorded.Prune(&want) || e.unsaved
			break
		}
		// What was refused a moment ago is refused again, and keeps nothing waiting until the next pass.
		if r.Settled = allRefused(r.left, refused); r.Settled || round == rounds {
			break
		}
		failed = e.record(r.left)
		if e.generation == 0 && have.Table == nil && want.Table != nil {
			failed = append(failed, e.pinEarlier(&report))
		}
		refused = e.apply(r.left)
		r.Changes = append(r.Changes, r.left...)
		e.generation++
	}
	r.Settled = r.Settled || r.Converged
	r.Restored = e.tables.restored(r.Changes)
	e.trackDeadPaths(cfg, &r)
	failed = append(failed, e.cleanUpFlows(cfg, &r)...)
	r.Stuck = make(map[rules.Path]bool, len(e.cleanups))
	for path := range e.cleanups {
		r.Stuck[path] = true
	}
	failed = append(failed, e.renew(&r), e.takeBack(cfg, &r), e.abortRemovedAddrs(r.Changes, obs), e.endOnFormer())
	if e.unsaved {
		failed = append(failed, e.save())
	}
	r.Err = errors.Join(append(failed, asErrors(refused)...)...)
	return r
}

// allRefused reports whether every change is one that the kernel has refused.
func allRefused(ops []netcfg.Op, refused []*netcfg.Refusal) bool {
	return !slices.ContainsFunc(ops, func(op netcfg.Op) bool { return !wasRefused(op, refused) })
}

func wasRefused(op netcfg.Op, refused []*netcfg.Refusal) bool {
	return slices.ContainsFunc(refused, func(r *netcfg.Refusal) bool { return r.Op.Command() == op.Command() })
}

func asErrors(refused []*netcfg.Refusal) []error {
	list := make([]error, len(refused))
	for i, r := range refused {
		list[i] = r
	}
	return list
}

func (e *Engine) snapshot(cfg rules.Config, urgent bool) (*rules.Observed, error) {
	var obs *rules.Observed
	for again := true; again; {
		var err error
		query := rules.QueryOf(cfg, e.recorded)
		query.Urgent = urgent
		if obs, err = e.o.Kernel.Snapshot(query); err != nil {
			return nil, err
		}
		e.unsaved = e.recorded.RecordMainOwners(cfg.Kernel, obs) || e.unsaved
		obs.Recorded = e.recorded.Clone()
		var from, to string
		if from, to, again = obs.Renamed(cfg.Kernel); again { // its parameters have other names now
			e.o.Log.Info("a device was renamed", "from", from, "to", to)
			e.recorded.RenameDevice(from, to)
			e.unsaved = true
		}
	}
	obs.Former = e.former.observe(cfg, obs, time.Now())
	obs.MainContested = e.contest.Observe(cfg.Kernel, obs, time.Now())
	obs.HardwareContested = e.hardware.Observe(cfg, obs, time.Now())
	maps.DeleteFunc(e.sysctls, func(_ string, r refusedSysctl) bool { return time.Since(r.at) > refusedFor })
	obs.RefusedDevices, obs.SeenUp = e.devices, e.seenUp
	obs.RefusedSysctls = make(map[string]string, len(e.sysctls))
	for name, r := range e.sysctls {
		obs.RefusedSysctls[name] = r.why
	}
	return obs, nil
}

// record notes down what the changes overwrite. A record that cannot be written does not keep traffic from being routed; it is
// tried again with every pass.
func (e *Engine) record(ops []netcfg.Op) []error {
	if !e.recorded.Record(ops) {
		return nil
	}
	e.unsaved = true
	return []error{e.save()}
}

// apply carries the changes out, and returns those that the kernel refuses.
func (e *Engine) apply(ops []netcfg.Op) []*netcfg.Refusal {
	for _, op := range ops {
		e.o.Log.Debug("changing the kernel", "change", op.Command())
	}
	e.o.Log.Info("changing the kernel", "changes", len(ops), "first", firstLine(ops[0].Command()))
	err := e.o.Kernel.Apply(ops)
	refused := netcfg.Refusals(err)
	if err != nil && len(refused) == 0 {
		refused = []*netcfg.Refusal{{Op: ops[0], Err: err}}
	}
	// All that is wanted of devices is among the changes each time, until it is done.
	e.devices = slices.DeleteFunc(slices.Clone(refused), func(r *netcfg.Refusal) bool { return netcfg.DeviceOf(r.Op) == "" })
	return slices.DeleteFunc(refused, func(r *netcfg.Refusal) bool {
		op, is := r.Op.(netcfg.SetSysctl)
		// The next plan does without it and says so. One that is not there has gone with its device, and comes back with it.
		if is && !errors.Is(r.Err, fs.ErrNotExist) {
			e.sysctls[op.Name] = refusedSysctl{r.Err.Error(), time.Now()}
		}
		return is
	})
}

func (e *Engine) save() error {
	err := e.o.Save(e.recorded.Clone())
	e.unsaved = err != nil
	return err
}

// noteUp notes the devices of ours that are up. Later their owner may set one down, and it stays down.
func (e *Engine) noteUp(cfg rules.Config, obs *rules.Observed) {
	for i := range cfg.Uplinks {
		u := &cfg.Uplinks[i]
		if link, present := obs.Link(u.Device); present && link.Up && (u.IPv4.Managed || u.IPv6.Managed) {
			e.seenUp[link.Index] = true
		}
	}
}
