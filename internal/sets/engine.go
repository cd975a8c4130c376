package sets

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"reflect"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/schedule"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/inet"
)

// lookInterval is how often files are looked at, and how often it is looked what is due.
const lookInterval = time.Second

// Options are what an Engine is made of. One that is only to AddTo needs none of them.
type Options struct {
	Log   *slog.Logger // nil: none
	Phase time.Time    // what is done regularly is done at whole intervals after it
	// Changed hears that AddTo gives something else now.
	Changed func()
	OnEvent func(status.Event)
	// Lookup asks DNS servers of uplinks that work for the addresses of a name, and returns how long each holds. An answer without any
	// is no error.
	Lookup func(ctx context.Context, name string) (map[netip.Addr]time.Duration, error)
	// Client fetches lists; nil for one of our own.
	Client *http.Client
}

// Engine keeps sets.
type Engine struct {
	o       Options
	woken   chan struct{} // has an element when there is something to look at before the next interval
	reading sync.Mutex    // one reads files at a time

	mu    sync.Mutex // guards what follows
	dir   string     // of the cache
	sets  []*set     // in the order of the configuration
	users map[string][]user
}

// user is a policy that names a set.
type user struct {
	policy     string
	killSwitch bool
}

// set is what is known of one.
type set struct {
	config.Set
	content *inet.Set // nil: nothing yet
	// loaded is of when the content is: when its source was read last, and found good.
	loaded time.Time
	cached bool  // the content is that of the cache, and the source has not been read since
	err    error // why the source is not used as it is now; nil when it is

	file  fileState
	fetch fetchState
	names nameState
}

// New makes an Engine that knows no set before Configure.
func New(o Options) *Engine {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Client == nil {
		o.Client = newClient()
	}
	return &Engine{o: o, woken: make(chan struct{}, 1)}
}

// Configure takes a configuration, and reads files and the cache: what is planned after it has all that is known.
func (e *Engine) Configure(c *config.Config) {
	e.reading.Lock()
	defer e.reading.Unlock()
	e.mu.Lock()
	former := e.sets
	e.dir = cacheDir(c.Daemon.StateDir)
	e.mu.Unlock()
	var list []*set
	for i := range c.Sets {
		if src := c.Sets[i].Source(); src == "addresses" || src == "filled" {
			continue
		}
		s := &set{Set: c.Sets[i]}
		for _, f := range former {
			if reflect.DeepEqual(f.Set, s.Set) {
				s = f
			}
		}
		list = append(list, s)
	}
	now := time.Now()
	for _, s := range list {
		if s.content == nil && s.err == nil {
			e.restore(s)
			e.lookFirst(s, now)
		}
	}
	users := make(map[string][]user)
	for i := range c.Policies {
		p := &c.Policies[i]
		for _, a := range []config.Addresses{p.Match.From, p.Match.To} {
			for _, name := range a.Lists {
				users[name] = append(users[name], user{p.Name, p.Fallback == config.FallbackUnreachable})
			}
		}
	}
	e.mu.Lock()
	e.sets, e.users = list, users
	e.mu.Unlock()
	e.wake()
}

func (e *Engine) wake() {
	select {
	case e.woken <- struct{}{}:
	default:
	}
}

// AddTo gives the lists that policies and proxies name what is in them.
func (e *Engine) AddTo(in *rules.Config) {
	e.mu.Lock()
	defer e.mu.Unlock()
	known := make(map[string]*inet.Set, len(e.sets))
	for _, s := range e.sets {
		known[s.Name] = s.content
	}
	fill := func(selector rules.Selector) {
		for _, c := range selector {
			if a, is := c.(rules.SelectAddresses); is {
				for i := range a.Lists { // which the condition shares
					a.Lists[i].Set = known[a.Lists[i].Name]
				}
			}
		}
	}
	for i := range in.Policies {
		fill(in.Policies[i].Select)
	}
	for i := range in.TProxies {
		fill(in.TProxies[i].Select)
	}
}

// Run keeps the sets until the context ends.
func (e *Engine) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { e.watch(ctx) })
	running.Go(func() {
		schedule.Every(ctx, e.o.Phase, lookInterval, func(time.Time) { e.wake() })
	})
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.woken:
		}
		e.look(ctx, time.Now(), &running)
	}
}

// look does what is due.
func (e *Engine) look(ctx context.Context, now time.Time, running *sync.WaitGroup) {
	e.reading.Lock()
	defer e.reading.Unlock()
	e.mu.Lock()
	list := e.sets // replaced, never changed in place
	e.mu.Unlock()
	for _, s := range list {
		switch s.Source() {
		case "file":
			e.lookAtFile(s, now)
		case "url":
			if e.fetchDue(s, now) {
				running.Go(func() { e.refresh(ctx, s) })
			}
		case "domains":
			if e.namesDue(s, now) {
				running.Go(func() { e.lookUp(ctx, s) })
			}
		}
	}
}

// take gives a set what was read of its source, nil for nothing, and what is wrong with the source.
func (e *Engine) take(s *set, content *inet.Set, err error, now time.Time) {
	e.mu.Lock()
	before, errBefore := s.content, s.err
	s.err = err
	changed := content != nil && (before == nil || !content.Equal(before))
	if err == nil {
		s.loaded, s.cached = now, false
	}
	if changed {
		s.content = content
	}
	e.mu.Unlock()
	switch {
	case err != nil && (errBefore == nil || errBefore.Error() != err.Error()):
		e.o.Log.Warn("the source of a set cannot be used", "set", s.Name, "err", err)
		e.event(s, "left as it was: "+err.Error())
	case err == nil && errBefore != nil && !changed:
		e.event(s, "can be read again")
	}
	if changed {
		e.save(s)
		e.o.Log.Info("a set has changed", "set", s.Name, "from", before.Len(), "to", content.Len())
		e.event(s, fmt.Sprintf("has %d ranges of addresses, after %d", content.Len(), before.Len()))
		if e.o.Changed != nil {
			e.o.Changed()
		}
	}
}

func (e *Engine) event(s *set, what string) {
	if e.o.OnEvent != nil {
		e.o.OnEvent(status.Event{Kind: status.EventSet, Code: s.Source(), Message: "set " + s.Name + " " + what})
	}
}

// errNotYet means that a source has not been asked yet.
var errNotYet = errors.New("it has not been fetched yet")
