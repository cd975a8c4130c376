package clat

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/schedule"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/inet"
)

const (
	// docNAT64 is the document of the state directory for prefixes that DNS servers have named.
	docNAT64 = "nat64"
	// lookInterval is how often it is looked whether a DNS server is to be asked.
	lookInterval = time.Second
)

// Options are what an Engine is made of. One that is only to Learn needs none of them.
type Options struct {
	Log   *slog.Logger // nil: none
	Phase time.Time    // what is done regularly is done at whole intervals after it
	// Dir is the directory for the configurations of translators.
	Dir string
	// Changed hears that Learn gives something else now.
	Changed func()
	// OnEvent takes what belongs into the decision log.
	OnEvent func(status.Event)
	// Save keeps a document of the state directory.
	Save func(document string, read func() any)
}

// Engine runs the translators, and finds out what they translate to. Make one with [New]. Callbacks are not called under its lock.
type Engine struct {
	o       Options
	changed chan struct{} // of what is wanted

	mu    sync.Mutex // guards what follows
	kept  map[string]netip.Prefix
	lines map[string]*line // by uplink name
}

// line is an uplink with a translator.
type line struct {
	name  string
	named bool // the configuration names the prefix,
	told  bool // or its routers do: no DNS server is asked

	// As planned:
	servers []netip.Addr
	binding probe.Binding
	want    *translator // nil: the prefix is not known

	question question
	program  supervised
}

// New returns an Engine that does nothing before Configure and Run.
func New(o Options) *Engine {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Engine{o: o, changed: make(chan struct{}, 1), kept: make(map[string]netip.Prefix), lines: make(map[string]*line)}
}

// Documents returns the documents of the state directory, by name, to be filled before Configure.
func (e *Engine) Documents() map[string]any { return map[string]any{docNAT64: &e.kept} }

// Configure sets the uplinks of a configuration, which is not changed any more.
func (e *Engine) Configure(c *config.Config) {
	e.mu.Lock()
	defer e.mu.Unlock()
	lines := make(map[string]*line)
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		if u.IPv4.Method != config.MethodCLAT {
			continue
		}
		if lines[u.Name] = e.lines[u.Name]; lines[u.Name] == nil {
			lines[u.Name] = &line{name: u.Name}
		}
		lines[u.Name].named = u.IPv4.NAT64.IsValid()
	}
	e.lines = lines
	if e.kept == nil { // as a damaged document leaves it
		e.kept = make(map[string]netip.Prefix)
	}
	maps.DeleteFunc(e.kept, func(name string, p netip.Prefix) bool {
		return lines[name] == nil || !inet.IsNAT64(p) || p != p.Masked()
	})
	e.wake()
}

// Learn adds the prefixes that DNS servers have named, where routers name none.
func (e *Engine) Learn(l planinput.Learned) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for name, line := range e.lines {
		given := l.Of(name)
		if line.told = given.NAT64.IsValid(); !line.told {
			given.NAT64 = e.kept[name]
		}
	}
}

// Planned takes what a plan wants translated, and by what an uplink's DNS servers can be asked.
func (e *Engine) Planned(cfg *rules.Config, report *rules.Report) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range cfg.Uplinks {
		u := &cfg.Uplinks[i]
		l := e.lines[u.Name]
		switch {
		case l == nil || u.CLAT == nil:
		case u.IsCLAT():
			if want := translatorOf(u.CLAT); l.want == nil != (want == nil) || want != nil && *want != *l.want {
				l.want = want
				e.wake()
			}
		default:
			info := report.Paths[rules.Path{Uplink: u.ID, Family: rules.IPv6}]
			binding := probe.Binding{Device: u.Device, Mark: cfg.Kernel.Mark(u.ID), Source: info.Source()}
			if !info.HasDefault || !info.Carrier {
				binding.Source = netip.Addr{}
			}
			var servers []netip.Addr
			for _, r := range report.Resolvers {
				if r.Uplink == u.ID && r.Family() == rules.IPv6 {
					servers = append(servers, r.Addr)
				}
			}
			if binding != l.binding || !slices.Equal(servers, l.servers) {
				l.binding, l.servers = binding, servers
				l.question.at, l.question.failed = time.Time{}, 0 // at once
			}
		}
	}
}

func (e *Engine) wake() {
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// Run has translators run until the context ends, and ends them.
func (e *Engine) Run(ctx context.Context) error {
	var running sync.WaitGroup
	running.Go(func() { e.supervise(ctx) })
	schedule.Every(ctx, e.o.Phase, lookInterval, func(now time.Time) { e.ask(ctx, now, &running) })
	running.Wait()
	return nil
}

// Problems lists what keeps IPv4 from being translated.
func (e *Engine) Problems() []rules.Problem {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []rules.Problem
	for _, name := range slices.Sorted(maps.Keys(e.lines)) {
		switch s := &e.lines[name].program; {
		case s.missing != nil:
			list = append(list, rules.Problem{Code: "clat-program", Severity: "error", Message: fmt.Sprintf("%s carries no IPv4: %v", name, s.missing), Fix: "install tayga (Debian: apt install tayga, and leave its own service off) and load the kernel module tun"})
		case s.failure != nil:
			list = append(list, rules.Problem{Code: "clat-failed", Severity: "error", Message: fmt.Sprintf("the translator of %s has ended: %v", name, s.failure),
				Fix: "it is started again; if it keeps ending, try it by hand: " + program + " --nodetach --config " + e.configFile(name)})
		}
	}
	return list
}

// Running reports whether the translator of an uplink runs.
func (e *Engine) Running(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.lines[name]
	return l != nil && l.program.running
}

func (e *Engine) configFile(name string) string { return configFile(e.o.Dir, name) }
