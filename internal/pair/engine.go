package pair

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
)

// docLedger is the document of the state directory.
const docLedger = "pair"

// Documents of engines that are maps by uplink, by uplink and family ("fiber/ipv4"), or by device of a LAN: what in them is about an uplink that moves, or
// about a LAN, is replicated.
var (
	byUplink = []string{"leases4", "leases6", "volumes", "drained"}
	byPath   = []string{"verdicts", "awaits", docLines}
	byLAN    = []string{"lans6"}
)

// Options are what an Engine is made of.
type Options struct {
	Log     *slog.Logger
	Version string // of the program
	Save    func(document string, read func() any)
	OnEvent func(status.Event)
	// Settled hears, a few times after this router has become primary, that what conntrackd has brought from the other one is here.
	Settled func()
	// Prepare has this router ready for lines that keepalived is about to bring, before they come, called again until then; nil lines: they come no more, or are here. Nil: nothing
	// is to be done.
	Prepare func(ctx context.Context, lines []Line) error
	// YieldFile is what keepalived tracks; "": nothing.
	YieldFile string
	// Listen and Dial reach the other router; nil is TCP.
	Listen func(ctx context.Context, address string) (net.Listener, error)
	Dial   func(ctx context.Context, address string) (net.Conn, error)
}

// Engine knows who is primary, and keeps what both know the same. Make one with [New]; all methods may be called by any goroutine.
type Engine struct {
	o       Options
	changed chan struct{} // has one element when the ledger is to be saved

	mu        sync.Mutex // guards what follows
	pair      config.Pair
	key       Key
	keyErr    error
	setup     Setup
	wanted    map[string]bool // keys that are replicated
	ledger    ledger
	confirmed map[string]bool // keys that engines have spoken of since this router is primary
	primary   bool            // the virtual address is here
	acting    bool            // and the engines work so
	expects   bool            // it became so a moment ago
	took      chan struct{}   // has one element when this router has become primary
	observed  bool            // primary was looked at
	wrote     time.Time       // when the ledger grew last by what is said here
	wroteAt   uint64          // the clock then
	peer      peer
	tell      chan struct{} // closed, and replaced, when there is something to tell
	again     chan struct{} // likewise, when what is pulled is to begin anew
	stirred   chan struct{} // likewise, when the role or what is known of the other router may have changed
	handover  *handover     // that this router, the primary, asks for
	coming    *handover     // that the other one asks for
	came      time.Time     // when it asked
	ready     *readiness    // for it
	prepares  chan struct{} // has one element when there is something to prepare
}

// New returns an Engine that does nothing before Configure and Run.
func New(o Options) *Engine {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Prepare == nil {
		o.Prepare = func(context.Context, []Line) error { return nil }
	}
	return &Engine{o: o, stirred: make(chan struct{}), prepares: make(chan struct{}, 1), changed: make(chan struct{}, 1), took: make(chan struct{}, 1), confirmed: make(map[string]bool), tell: make(chan struct{}), again: make(chan struct{})}
}

// Documents returns the documents of the state directory, by name, to be filled before Configure.
func (e *Engine) Documents() map[string]any { return map[string]any{docLedger: &e.ledger} }

// newNode draws the name of a router.
func newNode() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Configure takes a whole configuration, not what the backup works with, and the ids of its uplinks. [pair] itself is taken once. The error is about
// the key; the role is known without it.
func (e *Engine) Configure(c *config.Config, ids map[string]int) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !c.Pair.On() {
		return nil
	}
	if !e.pair.On() {
		e.pair = c.Pair
		e.ledger.usable()
		e.key, e.keyErr = ReadKey(e.pair.KeyFile)
		e.peer.since = time.Now()
	}
	e.setup = Setup{MarkMask: c.Kernel.MarkMask, Uplinks: make(map[string]int), LANs: make(map[string]int)}
	e.wanted = make(map[string]bool)
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		e.setup.Uplinks[u.Name] = ids[u.Name]
		if !u.Moves() {
			continue
		}
		e.setup.Moving = append(e.setup.Moving, u.Name)
		for _, document := range byUplink {
			e.wanted[document+"/"+u.Name] = true
		}
		for _, document := range byPath {
			for _, f := range rules.Families {
				e.wanted[document+"/"+u.Name+"/"+f.String()] = true
			}
		}
	}
	slices.Sort(e.setup.Moving)
	for i := range c.LANs {
		lan := &c.LANs[i]
		e.setup.LANs[lan.Device] = lan.SubnetID
		for _, document := range byLAN {
			e.wanted[document+"/"+lan.Device] = true
		}
	}
	maps.DeleteFunc(e.ledger.Records, func(key string, _ Record) bool { return !e.wanted[key] })
	e.news()
	return e.keyErr
}

// Identity returns what the pair is known by; false without a pair, or a key.
func (e *Engine) Identity() (Identity, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.pair.On() || e.keyErr != nil {
		return Identity{}, false
	}
	return e.key.Identity(), true
}

// Holds reports whether a machine has the virtual address of a pair.
func Holds(p *config.Pair, obs *rules.Observed) bool {
	return slices.ContainsFunc(obs.Addrs, func(a rules.Addr) bool {
		return a.Device == p.Device && a.Prefix.Addr() == p.Virtual[0]
	})
}

// Observe takes who is primary from a look at the kernel, and reports whether that has changed.
func (e *Engine) Observe(obs *rules.Observed) (changed bool) {
	e.mu.Lock()
	if !e.pair.On() {
		e.mu.Unlock()
		return false
	}
	primary := Holds(&e.pair, obs)
	changed, first := primary != e.primary, !e.observed
	e.expects = primary && (e.expects || changed && !first)
	e.primary, e.observed = primary, true
	if changed {
		clear(e.confirmed)
		e.acting = false
		e.news()
		e.prepareFor(nil)
		e.wakePreparer()
		e.stir()
		close(e.again) // what two primaries have not taken from each other is heard again
		e.again = make(chan struct{})
	}
	virtual := e.pair.Virtual[0]
	e.mu.Unlock()
	if !changed && !first {
		return false
	}
	ev := status.Event{Kind: status.EventPair, Code: string(Backup), Message: "backup: " + virtual.String() + " is not here"}
	if primary {
		ev.Code, ev.Message = string(Primary), "primary: "+virtual.String()+" is here"
	}
	e.o.Log.Info("pair", "role", ev.Code)
	e.o.OnEvent(ev)
	return changed
}

// Acting says that the engines work for a primary now: what they say from now on is true.
func (e *Engine) Acting() {
	e.mu.Lock()
	defer e.mu.Unlock()
	began := e.primary && !e.acting
	if e.acting = e.primary; began {
		select {
		case e.took <- struct{}{}:
		default:
		}
	}
}

// Primary reports whether this router works: it has the virtual address, or there is no pair.
func (e *Engine) Primary() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.pair.On() || e.primary
}

// news wakes those who tell the other router. The lock is held.
func (e *Engine) news() {
	close(e.tell)
	e.tell = make(chan struct{})
}

// Note takes what an engine saves. Only a primary's counts.
func (e *Engine) Note(document string, v any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.acting || !slices.Contains(slices.Concat(byUplink, byPath, byLAN), document) {
		return
	}
	var values map[string]json.RawMessage
	if b, err := json.Marshal(v); err != nil || json.Unmarshal(b, &values) != nil {
		return // the document's own save tells
	}
	grown := false
	for key := range e.wanted {
		if name, ok := strings.CutPrefix(key, document+"/"); ok {
			value := values[name]
			e.confirmed[key] = true
			grown = e.ledger.put(key, bytes.Clone(value)) || grown
		}
	}
	if grown {
		e.wrote, e.wroteAt = time.Now(), e.ledger.Clock
		e.grown()
	}
}

// grown has the ledger saved and told. The lock is held.
func (e *Engine) grown() {
	e.news()
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// Records returns what is known of the documents of engines, by document and name, for the one that becomes primary.
func (e *Engine) Records() map[string]map[string]json.RawMessage {
	e.mu.Lock()
	defer e.mu.Unlock()
	known := make(map[string]map[string]json.RawMessage)
	for key, r := range e.ledger.Records {
		document, name, _ := strings.Cut(key, "/")
		if !e.wanted[key] {
			continue
		}
		if known[document] == nil {
			known[document] = make(map[string]json.RawMessage)
		}
		known[document][name] = nil
		if !r.gone() {
			known[document][name] = r.Value
		}
	}
	return known
}

// save keeps the ledger, soon after it has changed, until the context ends.
func (e *Engine) save(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.changed:
		}
		e.o.Save(docLedger, func() any {
			e.mu.Lock()
			defer e.mu.Unlock()
			l := e.ledger
			l.Records = maps.Clone(l.Records)
			return l
		})
	}
}

// commits are when conntrackd's script may have committed what it has of the other router, after this one became primary.
var commits = []time.Duration{500 * time.Millisecond, 2 * time.Second, 5 * time.Second, 15 * time.Second}

// expected is the place among them from which on what is new is new.
const expected = 1

// Expects reports whether connections that the other router had may still be on their way from conntrackd into the kernel.
func (e *Engine) Expects() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.expects
}

// settle tells of each of them, until the context ends.
func (e *Engine) settle(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for i := len(commits); ; {
		select {
		case <-ctx.Done():
			return
		case <-e.took: // perhaps once more
			i = 0
			timer.Reset(commits[0])
			continue
		case <-timer.C:
		}
		if i == expected {
			e.mu.Lock()
			e.expects = false
			e.mu.Unlock()
		}
		e.o.Settled()
		if i++; i < len(commits) {
			timer.Reset(commits[i] - commits[i-1])
		}
	}
}

// Run talks with the other router until the context ends.
func (e *Engine) Run(ctx context.Context) error {
	e.mu.Lock()
	off, mute := !e.pair.On(), e.keyErr != nil
	e.mu.Unlock()
	var running sync.WaitGroup
	switch {
	case off:
		<-ctx.Done()
		return nil
	case !mute:
		secure, err := e.key.tls()
		if err != nil {
			return err
		}
		running.Go(func() { e.save(ctx) })
		running.Go(func() { e.listen(ctx, secure) })
		running.Go(func() { e.pullForever(ctx, secure) })
		running.Go(func() { e.prepare(ctx) })
	}
	e.settle(ctx)
	running.Wait()
	return nil
}
