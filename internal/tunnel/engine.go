package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
)

// WireGuard reads WireGuard devices, for any goroutine.
type WireGuard interface {
	// Device reads a device. The error is os.ErrNotExist when there is no WireGuard device of the name.
	Device(device string) (*rules.WireGuardDevice, error)
}

// Options are what an Engine is made of. The functions may be called from any goroutine.
type Options struct {
	Log       *slog.Logger
	WireGuard WireGuard
	Prober    probe.Prober // of echoes to peers
	Phase     time.Time    // what has no hurry happens whole periods after it
	// Changed is called when planning is to be given what Learn says by now.
	Changed func()
	// OnEvent takes a line of the decision log.
	OnEvent func(status.Event)
	// Leaves is told by which paths an uplink's packets leave, where that has changed.
	Leaves func(uplink string, paths []rules.Path)
	// Suspended reports whether an uplink is not judged, because what carries it is silent.
	Suspended func(uplink string) bool
	// Dead reports whether no family of an uplink works. It is called under the engine's lock.
	Dead func(id int) bool
}

// Engine runs what the WireGuard uplinks of a configuration need.
type Engine struct {
	o Options

	mu       sync.Mutex // guards what follows
	uplinks  map[string]*wgUplink
	numbers  rules.Kernel
	problems []rules.Problem
	unread   error // why keys could not be read
}

// New makes an engine without uplinks. Nothing happens before Run.
func New(o Options) *Engine {
	return &Engine{o: o, uplinks: make(map[string]*wgUplink)}
}

// Configure takes a configuration over. It changes nothing when a key cannot be read.
func (e *Engine) Configure(c *config.Config, ids map[string]int) error {
	wanted, err := e.read(c, ids)
	if err != nil {
		return err
	}
	e.take(c, wanted, nil)
	return nil
}

// ConfigureAnyhow takes a configuration over, because there is none to stay with. A device whose keys cannot be read stays as it
// is, and that is a problem until the next configuration.
func (e *Engine) ConfigureAnyhow(c *config.Config, ids map[string]int) {
	wanted, err := e.read(c, ids)
	for _, w := range wanted {
		w.made = w.made && !w.keyless
	}
	e.take(c, wanted, err)
}

// DryRun takes a configuration over for a look from outside, for which keys that cannot be read are missing: the error
// says which.
func (e *Engine) DryRun(c *config.Config, ids map[string]int) error {
	wanted, err := e.read(c, ids)
	e.take(c, wanted, err)
	return err
}

// read makes the uplinks of a configuration, and looks at their devices, so that what is planned first keeps what an
// earlier run has routed.
func (e *Engine) read(c *config.Config, ids map[string]int) (map[string]*wgUplink, error) {
	wanted := make(map[string]*wgUplink)
	var failed []error
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		if u.Kind != config.KindWireGuard {
			continue
		}
		w := newWGUplink(u, ids, planinput.KernelNumbers(c.Kernel))
		if err := w.readKeys(u.WireGuard); err != nil {
			w.keyless = true
			failed = append(failed, fmt.Errorf("uplink %s: %w", u.Name, err))
		}
		if state, err := e.o.WireGuard.Device(w.device); err == nil {
			w.state = state
			w.present.Begin(time.Now(), state)
		}
		wanted[u.Name] = w
	}
	return wanted, errors.Join(failed...)
}

func (e *Engine) take(c *config.Config, wanted map[string]*wgUplink, unread error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for name, w := range wanted {
		if before := e.uplinks[name]; before != nil && before.device == w.device {
			w.carrier, w.stale, w.present = before.carrier, before.stale, before.present
			for endpoint, to := range before.resolved {
				w.resolved[endpoint] = to
			}
		}
	}
	e.uplinks, e.numbers, e.unread = wanted, planinput.KernelNumbers(c.Kernel), unread
}

// Observe takes in a snapshot. It reports whether there are uplinks of which Learn may say something else now.
func (e *Engine) Observe(obs *rules.Observed) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.problems = nil
	for _, w := range e.uplinks {
		w.observe(obs.WireGuardDevice(w.device))
		if msg := w.endpointInTunnel(); msg != "" {
			e.problems = append(e.problems, rules.Problem{Code: "tunnel-loop", Severity: "error", Message: msg, Fix: "correct the endpoint, or what its name resolves to"})
		}
	}
	return len(e.uplinks) > 0
}

// Learn adds what planning takes of the uplinks.
func (e *Engine) Learn(l planinput.Learned) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for name, w := range e.uplinks {
		u := l.Of(name)
		u.IPv4, u.IPv6, u.Calls, u.WireGuard = w.assignment(rules.IPv4), w.assignment(rules.IPv6), w.calls(), w.config()
	}
}

// Settled hears of a plan that the kernel has, and tells by what an uplink's packets leave where that has changed.
func (e *Engine) Settled(report *rules.Report) {
	changed := make(map[string][]rules.Path)
	e.mu.Lock()
	for name, w := range e.uplinks {
		if paths := w.leavesBy(report); !slices.Equal(paths, w.leaves) {
			w.leaves, changed[name] = paths, paths
		}
		before := w.carrier
		for i, f := range rules.Families {
			w.carrier[i] = report.Carrier(w.id, f)
		}
		if w.carrier != before && w.state != nil {
			e.o.Log.Info("a tunnel moved to another underlay", "uplink", name, "carriers", fmt.Sprint(w.carrier))
		}
	}
	e.mu.Unlock()
	for name, paths := range changed {
		e.o.Leaves(name, paths)
	}
}

// Run follows peers and resolves the names of endpoints, until the context ends.
func (e *Engine) Run(ctx context.Context) error {
	var running sync.WaitGroup
	running.Go(func() { e.resolve(ctx) })
	running.Go(func() { e.follow(ctx) })
	running.Wait()
	return nil
}

// Problems lists what keeps tunnels from working.
func (e *Engine) Problems() []rules.Problem {
	e.mu.Lock()
	defer e.mu.Unlock()
	problems := slices.Clone(e.problems)
	if e.unread != nil {
		problems = append(problems, rules.Problem{Code: "wireguard-key", Severity: "error", Message: e.unread.Error(), Fix: "put the key there, then run: uplinkd reload"})
	}
	return problems
}

// Peers lists the peers of an uplink, as they were at the latest snapshot.
func (e *Engine) Peers(uplink string) []status.Peer {
	e.mu.Lock()
	defer e.mu.Unlock()
	w := e.uplinks[uplink]
	if w == nil || w.state == nil {
		return nil
	}
	list := make([]status.Peer, len(w.state.Peers))
	for i, p := range w.state.Peers {
		list[i] = status.Peer{PublicKey: p.PublicKey.String(), Endpoint: p.Endpoint, AllowedIPs: p.AllowedIPs,
			Handshake: status.At(p.Handshake), Routed: !w.follows || w.present.Alive(p.PublicKey)}
	}
	return list
}

// Evidence tells when the peers of an uplink made their latest handshakes.
func (e *Engine) Evidence(uplink string, now time.Time) []string {
	var lines []string
	for _, p := range e.Peers(uplink) {
		when := "none yet"
		if !p.Handshake.IsZero() {
			when = now.Sub(p.Handshake.Time).Round(time.Second).String() + " ago"
		}
		lines = append(lines, fmt.Sprintf("peer %.8s...: latest handshake %s", p.PublicKey, when))
	}
	return lines
}
