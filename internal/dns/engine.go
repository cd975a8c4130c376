package dns

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/schedule"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
)

const (
	// foreignInterval is how often it is looked at what other programs have learned.
	foreignInterval = 5 * time.Second
	// lookInterval is how often it is looked whether a check is due.
	lookInterval = time.Second
)

// Options are what an Engine is made of. One that is only to Learn needs none of them.
type Options struct {
	Log    *slog.Logger // nil: none
	Phase  time.Time    // what is done regularly is done at whole intervals after it
	Prober probe.Prober
	// Changed hears that Learn gives something else now.
	Changed func()
	OnEvent func(status.Event)
	// Save keeps a document of the state directory.
	Save func(document string, read func() any)
	// Root is the directory below which files of other programs are looked for; "" is the root of all.
	Root string
}

// Engine has name resolution follow the uplinks.
type Engine struct {
	o       Options
	workers []*worker
	former  formers // what outputs held before us

	mu      sync.Mutex // guards what follows
	config  *config.Config
	foreign map[string][]planinput.Resolver  // by uplink name
	sources map[key]planinput.ResolverSource // of all that was learned or configured
	planned []server                         // as planning has them; states are filled in when they are used
	paths   map[rules.Path]probe.Binding     // by which a server is asked; none: it cannot be
	health  map[key]*health
	chosen  []server
	wanted  bool     // somebody is told of servers
	lacking bool     // there is none to tell of
	setsErr error    // why dnsmasq does not fill sets
	manager struct { // NetworkManager
		had map[string][]netip.Addr // servers, by device
		at  time.Time
	}
	// restarted is the dnsmasq that was to be restarted last, whatever came of it.
	restarted *readsTooEarly
}

// key names a server: two uplinks may have one of the same address.
type key struct {
	uplink string
	addr   netip.Addr // without a zone
}

func (s *server) key() key { return key{s.uplink, s.Addr.WithZone("")} }

// New makes an Engine that does nothing before Configure and Run.
func New(o Options) *Engine {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	e := &Engine{o: o, config: new(config.Config), health: make(map[key]*health)}
	saveFormer := func() { o.Save(docFormer, e.former.read) }
	e.workers = []*worker{
		newWorker(e, "resolv_conf", func(d config.Resolution) string { return d.ResolvConf }, func(path string) output { return &resolvConf{path, &e.former, saveFormer} }),
		newWorker(e, "dnsmasq", func(d config.Resolution) string { return d.Dnsmasq }, func(dir string) output { return newDnsmasq(dir) }),
		newWorker(e, "unbound", func(d config.Resolution) string { return ifOn(d.Unbound) }, func(string) output { return &unbound{&e.former, saveFormer} }),
		newWorker(e, "resolved", func(d config.Resolution) string { return ifOn(d.Resolved) }, func(string) output { return &resolved{told: make(map[int]linkNames)} }),
	}
	return e
}

// Documents returns the documents of the state directory, by name, to be filled before Run.
func (e *Engine) Documents() map[string]any { return map[string]any{docFormer: &e.former.kept} }

// Configure takes a configuration, which must not be changed afterwards.
func (e *Engine) Configure(c *config.Config) {
	foreign := e.readForeign(c)
	e.mu.Lock()
	e.config, e.foreign, e.wanted = c, foreign, c.DNS.Any()
	e.mu.Unlock()
	if e.o.OnEvent != nil { // not only to Learn
		e.tellSets(false)
	}
	e.wake()
	e.update() // what checks have said counts while somebody is told
}

// Learn adds what other programs have learned.
func (e *Engine) Learn(l planinput.Learned) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sources = make(map[key]planinput.ResolverSource)
	for i := range e.config.Uplinks {
		u := &e.config.Uplinks[i]
		given := l.Of(u.Name)
		given.Resolvers = append(given.Resolvers, e.foreign[u.Name]...)
		for _, r := range planinput.ResolversOf(u, given.Resolvers) {
			if k := (key{u.Name, r.Addr.WithZone("")}); e.sources[k] == "" {
				e.sources[k] = r.From
			}
		}
	}
}

// Planned takes what a plan says that the kernel has now: the servers, and by what they are asked.
func (e *Engine) Planned(cfg *rules.Config, report *rules.Report) {
	names := make(map[int]string, len(cfg.Uplinks))
	for i := range cfg.Uplinks {
		names[cfg.Uplinks[i].ID] = cfg.Uplinks[i].Name
	}
	var planned []server
	paths := make(map[rules.Path]probe.Binding)
	for _, r := range report.Resolvers {
		path := rules.Path{Uplink: r.Uplink, Family: r.Family()}
		info := report.Paths[path]
		planned = append(planned, server{Resolver: r, uplink: names[r.Uplink], index: info.Index})
		if source := info.Source(); source.IsValid() && trust(r.Code) > trust(rules.ChoiceDoubtful) { // else its silence says nothing of it
			paths[path] = probe.Binding{Device: r.Device, Mark: cfg.Kernel.Mark(r.Uplink), Source: source}
		}
	}
	e.mu.Lock()
	if slices.Equal(planned, e.planned) && len(paths) == len(e.paths) {
		e.paths = paths
		e.mu.Unlock()
		return
	}
	e.planned, e.paths = planned, paths
	known := make(map[key]*health, len(planned))
	for i := range planned {
		h := e.health[planned[i].key()]
		if h == nil {
			h = new(health)
		}
		if _, asked := paths[rules.Path{Uplink: planned[i].Uplink, Family: planned[i].Family()}]; !asked {
			h.failed = 0
			h.next = time.Time{} // at once, when its uplink is back
		}
		known[planned[i].key()] = h
	}
	e.health = known
	e.mu.Unlock()
	e.update()
}

// update chooses anew, and tells everybody when that is something else.
func (e *Engine) update() {
	e.mu.Lock()
	chosen := choose(e.servers())
	same := slices.EqualFunc(chosen, e.chosen, func(a, b server) bool { return a.key() == b.key() && a.index == b.index })
	before := e.chosen
	e.chosen, e.lacking = chosen, len(chosen) == 0
	tell := e.wanted
	e.mu.Unlock()
	if same {
		return
	}
	e.wake()
	if from, to := list(before), list(chosen); tell && from != to {
		e.o.Log.Info("DNS servers", "now", to)
		e.o.OnEvent(status.Event{Kind: status.EventDNS, From: from, To: to, Message: "names are resolved by " + to})
	}
}

// servers returns those of the plan with their states. The lock is held.
func (e *Engine) servers() []server {
	list := slices.Clone(e.planned)
	for i := range list {
		if h := e.health[list[i].key()]; h != nil && e.wanted {
			list[i].state = h.state
		}
	}
	return list
}

// list names servers for people.
func list(servers []server) string {
	words := make([]string, len(servers))
	for i := range servers {
		words[i] = servers[i].Addr.String() + " by " + servers[i].uplink
	}
	return strings.Join(words, ", ")
}

// Run tells outputs, and asks servers, until the context ends; then outputs get back what they held before.
func (e *Engine) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for _, w := range e.workers {
		running.Go(func() { w.run(ctx) })
	}
	running.Go(func() {
		schedule.Every(ctx, e.o.Phase, foreignInterval, func(time.Time) {
			e.lookForeign()
			e.tellSets(true)
		})
	})
	var checks sync.WaitGroup
	schedule.Every(ctx, e.o.Phase, lookInterval, func(now time.Time) { e.startChecks(ctx, now, &checks) })
	checks.Wait()
	running.Wait()
	return nil
}

// startChecks asks the servers that are due.
func (e *Engine) startChecks(ctx context.Context, now time.Time, checks *sync.WaitGroup) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.wanted {
		return
	}
	for i := range e.planned {
		s := &e.planned[i]
		path := rules.Path{Uplink: s.Uplink, Family: s.Family()}
		binding, can := e.paths[path]
		h := e.health[s.key()]
		if !can || h.asking || now.Before(h.next) {
			continue
		}
		h.asking = true
		k, addr := s.key(), s.Addr
		checks.Go(func() { e.checked(k, path, check(ctx, e.o.Prober, binding, addr)) })
	}
}

// checked takes what a check has seen. Silence while the uplink fails is not the server's.
func (e *Engine) checked(k key, path rules.Path, o outcome) {
	e.mu.Lock()
	h := e.health[k]
	if h == nil {
		e.mu.Unlock()
		return
	}
	if _, works := e.paths[path]; !works {
		o = outcome{}
	}
	metered := slices.ContainsFunc(e.config.Uplinks, func(u config.Uplink) bool { return u.Name == k.uplink && u.Metered })
	before := h.state
	changed := h.take(o, metered, time.Now())
	e.mu.Unlock()
	if !changed {
		return
	}
	if before != Unasked || o.state.bad() {
		e.o.Log.Info("DNS server", "uplink", k.uplink, "server", k.addr, "from", before, "to", o.state, "detail", o.detail)
		e.o.OnEvent(status.Event{Kind: status.EventDNS, Uplink: k.uplink, Family: path.Family.String(), From: string(before), To: string(o.state),
			Code: string(o.state), Message: "DNS server " + k.addr.String() + " " + sentence(o.state)})
	}
	e.update()
}

// sentence says for people what a state means.
func sentence(s State) string {
	switch s {
	case Silent:
		return "does not answer, although its uplink works"
	case Lies:
		return "invents addresses for names that do not exist"
	case Refuses:
		return "refuses to answer"
	}
	return "answers"
}
