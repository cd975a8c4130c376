package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/tunnel"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// tunnels makes and keeps the devices that tunnels are. Keep and moved are of the engine's goroutine, the one that
// writes to the kernel.
type tunnels struct {
	log *slog.Logger

	mu       sync.Mutex // guards what follows
	specs    []tunnel.Spec
	wired    map[string]*wired // WireGuard uplinks, by name
	problems []rules.Problem
	swept    bool // devices of an earlier run have been looked for

	wires wires
}

// tunnelPrefix begins what a device of ours is for where it is no uplink.
const tunnelPrefix = "tunnel "

func newTunnels(log *slog.Logger) *tunnels {
	return &tunnels{log: log, wired: make(map[string]*wired)}
}

// specOf says what device an Ethernet tunnel is.
func specOf(e *config.Ethernet, device, purpose, bridge string) tunnel.Spec {
	s := tunnel.Spec{Device: device, For: purpose, MTU: e.MTU, Bridge: bridge, Params: tunnel.Params{Kind: e.Kind, Local: e.Local, Remote: e.Remote,
		TTL: uint8(e.TTL), ID: uint32(e.ID), Port: uint16(e.Port)}}
	if e.Kind == config.KindGRETAP && e.Key >= 0 {
		s.Key, s.HasKey = uint32(e.Key), true
	}
	s.Fragment = bridge != "" && e.Kind == config.KindGRETAP && e.Local.Is4()
	return s
}

// specsOf lists the devices that a configuration wants made.
func specsOf(c *config.Config) []tunnel.Spec {
	var specs []tunnel.Spec
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		switch {
		case u.Ethernet != nil:
			specs = append(specs, specOf(u.Ethernet, u.Device, u.Name, ""))
		case u.WireGuard != nil:
			specs = append(specs, tunnel.Spec{Device: u.Device, For: u.Name, MTU: u.WireGuard.MTU, Params: tunnel.Params{Kind: tunnel.WireGuard}})
		}
	}
	for i := range c.Tunnels {
		t := &c.Tunnels[i]
		specs = append(specs, specOf(&t.Ethernet, t.Device, tunnelPrefix+t.Device, t.Bridge))
	}
	return specs
}

// configure takes a configuration over. It changes nothing when a key cannot be read.
func (t *tunnels) configure(c *config.Config, ids map[string]int) error {
	numbers := planinput.KernelNumbers(c.Kernel)
	wanted := make(map[string]*wired)
	for i := range c.Uplinks {
		if u := &c.Uplinks[i]; u.Kind == config.KindWireGuard {
			w := newWired(u, ids[u.Name], numbers.Mark(ids[planinput.UnderlayName(u.Name)]))
			if err := w.readKeys(u.WireGuard); err != nil {
				return fmt.Errorf("uplink %s: %w", u.Name, err)
			}
			wanted[u.Name] = w
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, w := range wanted {
		if before := t.wired[name]; before != nil && before.device == w.device {
			w.state, w.carrier = before.state, before.carrier
			w.resolved, w.present = before.resolved, before.present
		} else {
			w.look(&t.wires)
		}
	}
	t.specs, t.wired, t.swept = specsOf(c), wanted, false
	return nil
}

// imagine takes a configuration over for a look from outside, which needs no keys.
func (t *tunnels) imagine(c *config.Config, ids map[string]int) {
	for i := range c.Uplinks {
		if u := &c.Uplinks[i]; u.Kind == config.KindWireGuard {
			t.wired[u.Name] = newWired(u, ids[u.Name], 0)
		}
	}
}

// keep looks at the devices and sets right what is wrong with them. What it changes, the kernel tells the watcher, and
// another pass follows. It reports whether supply may have changed.
func (t *tunnels) keep(k *kernel.Kernel, obs *rules.Observed) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.problems = nil
	if len(t.specs) > 0 || !t.swept {
		t.keepLinks(k, obs)
	}
	for _, w := range t.wired {
		t.keepWired(w, obs)
	}
	return len(t.wired) > 0
}

func (t *tunnels) keepLinks(k *kernel.Kernel, obs *rules.Observed) {
	links, err := k.TunnelLinks()
	if err != nil {
		t.problem("tunnel", "error", err.Error(), "it is tried again by itself")
		return
	}
	t.swept = true
	changes, problems := tunnel.Decide(t.specs, tunnel.World{Links: links, Carrier: func(local netip.Addr) (int, bool) { return carrierMTU(obs, local) }})
	for _, p := range problems {
		severity := "error"
		if p.Waiting {
			severity = "warning"
		}
		t.problem("tunnel", severity, p.Message, p.Fix)
	}
	for _, f := range tunnel.Check(t.specs, links, k.BridgeFilters()) {
		t.problem(f.Code, "warning", f.Message, f.Fix)
	}
	for _, c := range changes {
		t.log.Info("changing a tunnel", "change", c.Line())
		if err := k.ChangeTunnel(c); err != nil {
			t.log.Warn("a tunnel is not as it should be", "err", err)
			t.problem("tunnel", "error", err.Error(), "look whether the kernel has a module for it (modprobe); it is tried again by itself")
		}
	}
}

// carrierMTU returns the MTU of the device that has an address.
func carrierMTU(obs *rules.Observed, local netip.Addr) (int, bool) {
	i := slices.IndexFunc(obs.Addrs, func(a rules.Addr) bool { return a.Prefix.Addr() == local })
	if i < 0 {
		return 0, false
	}
	link, ok := obs.Link(obs.Addrs[i].Device)
	return link.MTU, ok && link.MTU > 0
}

// keepWired has a WireGuard device hold what is configured, and reads what it knows of its peers.
func (t *tunnels) keepWired(w *wired, obs *rules.Observed) {
	if _, present := obs.Link(w.device); !present {
		w.state = nil
		return
	}
	state, err := t.wires.state(w.device)
	if err != nil {
		w.state = nil
		if !errors.Is(err, os.ErrNotExist) || w.made {
			t.problem("wireguard", "error", err.Error(), "look whether the device is a WireGuard one; it is tried again by itself")
		}
		return
	}
	if !w.made {
		w.state = state // says whether the device has our mark
	}
	wanted := w.config()
	if set, differs := wanted.Missing(state); differs {
		t.log.Info("configuring WireGuard", "device", w.device, "peers", len(set.Peers), "mark", fmt.Sprintf("%#x", set.FwMark))
		if err := t.wires.set(w.device, set); err != nil {
			t.problem("wireguard", "error", err.Error(), "it is tried again by itself")
		} else if now, err := t.wires.state(w.device); err == nil {
			state = now
		}
	}
	w.state = state
	t.seek(w)
	if msg := w.loops(); msg != "" {
		t.problem("tunnel-loop", "error", msg, "correct what the name resolves to, or the endpoint")
	}
}

// seek has the kernel look for peers where their names lead now.
func (t *tunnels) seek(w *wired) {
	for _, p := range w.peers {
		to := w.resolved[p.endpoint]
		if !slices.Contains(w.stale, p.PublicKey) || !to.IsValid() || w.inside(to.Addr()) {
			continue
		}
		if err := t.wires.setEndpoint(w.device, p.PublicKey, to); err != nil {
			t.log.Warn("an endpoint is not set", "device", w.device, "err", err)
			return // the next pass tries again
		}
	}
	w.stale = nil
}

// moved hears of a plan that the kernel has, and tells by what a tunnel's packets leave where that has changed. Where a
// tunnel has another carrier than before, its peers' endpoints are set again, which clears the source address that the
// kernel has used so far.
func (t *tunnels) moved(report *rules.Report, tell func(name string, paths []rules.Path)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, w := range t.wired {
		if paths := w.leavesBy(report); !slices.Equal(paths, w.leaves) {
			w.leaves = paths
			tell(name, paths)
		}
		before := w.carrier
		for i, f := range rules.Families {
			w.carrier[i] = report.Carrier(w.id, f)
		}
		if w.carrier == before || w.state == nil {
			continue
		}
		t.log.Info("a tunnel's underlay has moved", "uplink", name, "carriers", fmt.Sprint(w.carrier))
		for _, p := range w.state.Peers {
			if !p.Endpoint.IsValid() || !w.called(p.PublicKey) {
				continue
			}
			if err := t.wires.setEndpoint(w.device, p.PublicKey, p.Endpoint); err != nil {
				t.log.Warn("the source of a tunnel is not cleared", "uplink", name, "err", err)
			}
		}
	}
}

// supply adds the addresses and ways of WireGuard uplinks.
func (t *tunnels) supply(s planinput.Learned) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, w := range t.wired {
		s.Of(name).IPv4, s.Of(name).IPv6, s.Of(name).Calls = w.assignment(true), w.assignment(false), w.calls()
	}
}

func (t *tunnels) problem(code, severity, message, fix string) {
	t.problems = append(t.problems, rules.Problem{Code: code, Severity: severity, Message: message, Fix: fix})
}

// known lists what keeps tunnels from working.
func (t *tunnels) known() []rules.Problem {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.problems)
}

// resolveEndpoints looks names of endpoints up, again while their tunnel is dead.
func (d *Daemon) resolveEndpoints(ctx context.Context) error {
	dead := func(id int) bool {
		return !slices.ContainsFunc(rules.Families[:], func(f rules.Family) bool {
			v, known := d.monitor.Verdict(rules.Path{Uplink: id, Family: f})
			return known && v.State.Health() > uplink.HealthDead
		})
	}
	return d.tunnels.resolve(ctx, dead, d.engine.Hint)
}

// removeTunnels removes the devices that we have made, and our mark from those that others have.
func removeTunnels(k *kernel.Kernel, c *config.Config) error {
	links, err := k.TunnelLinks()
	if err != nil {
		return err
	}
	changes, _ := tunnel.Decide(nil, tunnel.World{Links: links})
	var failed []error
	for _, change := range changes {
		failed = append(failed, k.ChangeTunnel(change))
	}
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		theirs := slices.ContainsFunc(links, func(l tunnel.Link) bool { return l.Device == u.Device && l.Kind == tunnel.WireGuard && !l.Ours() })
		if u.Kind == config.KindWireGuard && theirs {
			failed = append(failed, unmark(u.Device))
		}
	}
	return errors.Join(failed...)
}

func unmark(device string) error {
	control, err := kernel.OpenWireGuard()
	if err != nil {
		return err
	}
	defer control.Close()
	return control.Set(device, tunnel.Config{})
}
