package daemon

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// judge runs one watcher per enabled path and turns their verdicts into what planning takes.
type judge struct {
	prober   probe.Prober
	onChange func(uplink.Transition)
	onRTT    func(uplink string, family rules.Family, rtt time.Duration)
	beat     time.Time          // what is done regularly is done at whole intervals after it
	wake     func()             // it is time to Judge
	tell     func(status.Event) // for the decision log

	mu       sync.Mutex
	court    *uplink.Court
	rulings  map[rules.Path]uplink.Ruling
	causes   map[rules.Family]uplink.Cause // as they were told
	alarm    *time.Timer                   // wakes when the court must rule again
	missedAt map[rules.Family]time.Time    // the latest miss of a path that was fine
	askedAt  map[rules.Family]time.Time    // when the others were asked because of one
	carries  map[rules.Path]bool           // new traffic; nil when that is not known yet
	spent    ledger
	awaits   map[string]bool // by verdictKey: was down, and the operator decides when it carries traffic again
	unkept   bool            // awaits has changed since it was taken to be kept
	numbers  rules.Kernel
	ctx      context.Context // of run; nil before
	running  sync.WaitGroup
	watched  map[rules.Path]*watched

	carriers  map[string][]string     // by name, of uplinks that are carried by others
	riding    map[string][]rules.Path // by name, what carries it now; replaced, never changed in place
	suspended map[string]string       // by name, why
	doubtful  map[string]bool         // by name, whether what carries it is doubted
	drained   map[string]bool         // by uplink name
	overQuota map[string]bool         // by uplink name; replaced, never changed in place
	restored  map[string]keptVerdict
}

func newJudge(p probe.Prober, beat time.Time, onChange func(uplink.Transition), onRTT func(string, rules.Family, time.Duration)) *judge {
	return &judge{prober: p, beat: beat, onChange: onChange, onRTT: onRTT, wake: func() {}, tell: func(status.Event) {}, watched: make(map[rules.Path]*watched),
		court: uplink.NewCourt(), missedAt: make(map[rules.Family]time.Time), askedAt: make(map[rules.Family]time.Time), awaits: make(map[string]bool), drained: make(map[string]bool), restored: make(map[string]keptVerdict)}
}

type watched struct {
	*uplink.Watcher
	name     string
	device   string
	uplink   config.Uplink // as configured now
	config   watcherKey
	stop     context.CancelFunc
	perProbe float64       // mean bytes of a probe
	pace     time.Duration // the interval that it has
	counted  uint64        // bytes of probes that are in the ledger
	proven   bool          // was up since the daemon has started
	heardAt  time.Time     // when its device last received something
	hintedAt time.Time     // when its traffic last looked one-way

	settled way              // as the kernel routes it now
	facts   uplink.PathFacts // as they were told last
}

// watcherKey is what a watcher is made of, to tell whether a reload changes it.
type watcherKey struct {
	name, device, targets    string
	interval, fast, timeout  time.Duration
	fall, rise, minTargetsUp int
	quality                  config.Quality
}

// keptVerdict is a verdict on its way over a restart.
type keptVerdict struct {
	State  uplink.State  `json:"state"`
	Since  time.Time     `json:"since"`
	Memory uplink.Memory `json:"memory"`
}

func verdictKey(name string, family rules.Family) string { return name + "/" + family.String() }

// configure makes the watchers of a configuration. Those whose settings did not change go on; others
// start anew from the verdict that their predecessor held.
func (j *judge) configure(c *config.Config, ids map[string]int) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.numbers = planinput.KernelNumbers(c.Kernel)
	j.setPaces(time.Now()) // counts what the watchers that go have spent
	j.carriers = planinput.Carriers(c)
	next := make(map[rules.Path]*watched)
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		targets := make([]probe.Target, len(u.Probe.Targets))
		for n, text := range u.Probe.Targets {
			t, err := probe.ParseTarget(text)
			if err != nil {
				return fmt.Errorf("uplink %s: %w", u.Name, err)
			}
			targets[n] = t
		}
		for family, ip := range map[rules.Family]config.IP{rules.IPv4: u.IPv4, rules.IPv6: u.IPv6} {
			if ip.Method == config.MethodOff {
				continue
			}
			path := rules.Path{Uplink: ids[u.Name], Family: family}
			next[path] = j.watch(path, u, targets)
			next[path].uplink = *u
		}
	}
	for path, w := range j.watched {
		if next[path] != w && w.stop != nil {
			w.stop()
		}
	}
	j.watched = next
	for _, w := range next {
		j.start(w)
	}
	j.forgetAwaits()
	return nil
}

// watch returns the watcher of a path, the present one if it fits. The lock is held.
func (j *judge) watch(path rules.Path, u *config.Uplink, targets []probe.Target) *watched {
	key := watcherKey{u.Name, u.Device, fmt.Sprint(u.Probe.Targets), u.Probe.Interval, u.Probe.FastInterval, u.Probe.Timeout,
		u.Probe.Fall, u.Probe.Rise, u.Probe.MinTargetsUp, u.Quality}
	old := j.watched[path]
	if old != nil && old.config == key {
		return old
	}
	w := &watched{name: u.Name, device: u.Device, config: key, perProbe: perProbe(targets, path.Family), pace: u.Probe.Interval, Watcher: uplink.NewWatcher(uplink.WatcherConfig{
		Uplink: u.Name, Family: path.Family, Targets: targets,
		Interval: u.Probe.Interval, FastInterval: u.Probe.FastInterval, Timeout: u.Probe.Timeout,
		Fall: u.Probe.Fall, Rise: u.Probe.Rise, MinTargetsUp: u.Probe.MinTargetsUp, Beat: beatOf(j.beat, path.Family, u.Probe.Interval),
		Classes: uplink.Classes{Good: uplink.Limits(u.Quality.Good), Fair: uplink.Limits(u.Quality.Fair)},
		Prober:  j.prober, OnChange: j.onChange, OnMiss: func() { j.missed(path) },
		OnRTT: func(_ probe.Target, rtt time.Duration) {
			j.onRTT(u.Name, path.Family, rtt)
			j.answered(path, rtt)
		},
	})}
	kept, ok := j.restored[verdictKey(u.Name, path.Family)]
	delete(j.restored, verdictKey(u.Name, path.Family)) // stale by the time that the uplink is removed and comes back
	if old != nil && old.name == u.Name {
		v := old.Verdict()
		kept, ok = keptVerdict{v.State, v.Since, old.Memory()}, true
		w.proven = old.proven
	}
	if ok && kept.State.Valid() {
		w.Restore(kept.State, kept.Since)
		w.Remember(kept.Memory)
	}
	return w
}

// beatOf is that of a path's probes. Both families mostly fail together: asked in turn, whatever befalls the uplink is
// noticed sooner than by both at a time.
func beatOf(beat time.Time, family rules.Family, interval time.Duration) time.Time {
	if family == rules.IPv6 {
		return beat.Add(interval / 2)
	}
	return beat
}

// hint has paths probed at once. The probes alone decide.
func (j *judge) hint(paths []rules.Path) {
	asked := j.watchers(paths)
	j.mu.Lock()
	now := time.Now()
	for _, w := range asked {
		w.hintedAt = now
	}
	j.setPaces(now) // a hint comes through once in an interval
	j.mu.Unlock()
	for _, w := range asked {
		w.Hint()
	}
}

// slowest returns the longest round-trip time of the paths.
func (j *judge) slowest(paths []rules.Path) time.Duration {
	longest := time.Duration(0)
	for _, w := range j.watchers(paths) {
		longest = max(longest, w.RTT())
	}
	return longest
}

func (j *judge) watchers(paths []rules.Path) []*watched {
	j.mu.Lock()
	defer j.mu.Unlock()
	var found []*watched
	for _, path := range paths {
		if w := j.watched[path]; w != nil {
			found = append(found, w)
		}
	}
	return found
}

// start runs a watcher if the judge runs. The lock is held.
func (j *judge) start(w *watched) {
	if j.ctx == nil || w.stop != nil {
		return
	}
	ctx, stop := context.WithCancel(j.ctx)
	w.stop = stop
	j.running.Go(func() { _ = w.Run(ctx) })
}

// run runs the watchers until the context ends.
func (j *judge) run(ctx context.Context) error {
	j.mu.Lock()
	j.ctx = ctx
	for _, w := range j.watched {
		j.start(w)
	}
	j.mu.Unlock()
	j.keepPaces(ctx)
	j.running.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.alarm != nil {
		j.alarm.Stop()
	}
	return nil
}

// Judge tells the watchers what the kernel says of their paths, and returns their verdicts. A path that
// is new, or leaves in another way than before, is not probed until settle: the kernel does not route by
// its mark yet.
func (j *judge) Verdicts(facts map[rules.Path]rules.Facts) map[rules.Path]rules.Verdict {
	verdicts, events := j.hear(facts)
	for _, e := range events {
		j.tell(e)
	}
	return verdicts
}

func (j *judge) hear(facts map[rules.Path]rules.Facts) (map[rules.Path]rules.Verdict, []status.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.suspend()
	testimony := make(map[rules.Path]uplink.Testimony, len(j.watched))
	var idle []rules.Path
	for path, w := range j.watched {
		if f, ok := facts[path]; ok {
			w.tell(j.pathFacts(path, w, f))
			if j.suspended[w.name] != "" {
				idle = append(idle, path)
				continue
			}
			testimony[path] = w.Testify()
		}
	}
	j.rule(testimony)
	j.setPaces(time.Now())
	verdicts := make(map[rules.Path]rules.Verdict, len(testimony))
	events := j.newCauses()
	for path, t := range testimony {
		h, held, event := j.failback(path, t.State)
		if event != nil {
			events = append(events, *event)
		}
		verdicts[path] = rules.Verdict{Health: health(h, t.State), State: string(t.State),
			Drained: held || t.Suppressed || j.drained[j.watched[path].name] || j.overQuota[j.watched[path].name]}
	}
	for _, path := range idle {
		verdicts[path] = rules.Verdict{Health: rules.Dead, State: string(uplink.Down), Drained: j.drained[j.watched[path].name]}
	}
	return verdicts, events
}

func (j *judge) pathFacts(path rules.Path, w *watched, f rules.Facts) uplink.PathFacts {
	return uplink.PathFacts{
		NoDevice: !f.Present, Carrier: f.Present && f.Carrier, HasAddress: f.HasAddress(), HasGateway: f.HasDefault || w.uplink.Kind == config.KindWireGuard, // may lead to a few networks only
		Probe: probe.Path{Device: w.device, Mark: j.numbers.Mark(path.Uplink), Source: f.Source()},
		Quiet: wayOf(f) != w.settled || j.suspended[w.name] != "" || j.doubtful[w.name],
	}
}

func (w *watched) tell(f uplink.PathFacts) {
	w.facts = f
	w.SetPath(f)
}

// settle lets the paths be probed whose routes and rules have just been applied.
func (j *judge) settle(facts map[rules.Path]rules.Facts) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for path, w := range j.watched {
		f, ok := facts[path]
		if way := wayOf(f); ok && way != w.settled {
			w.settled = way
			w.tell(j.pathFacts(path, w, f))
		}
	}
}

// way is how the packets of a path leave.
type way struct {
	index   int
	source  netip.Addr
	gateway netip.Addr
}

func wayOf(f rules.Facts) way { return way{f.Index, f.Source(), f.Gateway} }

// health translates what the court believes into the levels of the planning package. A degraded path is
// as alive as any; planning prefers one that does not lose much.
func health(h uplink.Health, s uplink.State) rules.Health {
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

// verdict returns the verdict of a path, false when it is not watched.
func (j *judge) verdict(path rules.Path) (uplink.Verdict, bool) {
	j.mu.Lock()
	w := j.watched[path]
	j.mu.Unlock()
	if w == nil {
		return uplink.Verdict{}, false
	}
	return w.Verdict(), true
}

// isWhole reports whether a path has all that it takes for probes to be sent.
func (j *judge) isWhole(path rules.Path) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	w := j.watched[path]
	return w != nil && w.facts.Carrier && w.facts.HasAddress && w.facts.HasGateway && !w.facts.Quiet
}

// verdicts returns those of all paths, for a scrape.
func (j *judge) verdicts() []status.PathVerdict {
	j.mu.Lock()
	watched := maps.Clone(j.watched)
	j.mu.Unlock()
	out := make([]status.PathVerdict, 0, len(watched))
	for path, w := range watched {
		out = append(out, status.PathVerdict{Uplink: w.name, Family: path.Family, Verdict: w.Verdict()})
	}
	return out
}

// keep returns what a restart should know.
func (j *judge) keep() map[string]keptVerdict {
	j.mu.Lock()
	watched := maps.Clone(j.watched)
	j.mu.Unlock()
	kept := make(map[string]keptVerdict, len(watched))
	for path, w := range watched {
		v := w.Verdict()
		kept[verdictKey(w.name, path.Family)] = keptVerdict{v.State, v.Since, w.Memory()}
	}
	return kept
}

// drain marks an uplink so that new traffic goes elsewhere.
func (j *judge) drain(name string, drained bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	next := maps.Clone(j.drained)
	if drained {
		next[name] = true
	} else {
		delete(next, name)
	}
	j.drained = next
}

// setOverQuota says which uplinks have used up their month.
func (j *judge) setOverQuota(over map[string]bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.overQuota = over
}

// isDrained returns the drained uplinks by name.
func (j *judge) isDrained() map[string]bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.drained // replaced, never changed in place
}
