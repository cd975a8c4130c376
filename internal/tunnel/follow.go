package tunnel

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/schedule"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

const (
	// followInterval is how often it is looked at which peers are there, and askingInterval while one owes an answer.
	followInterval = 500 * time.Millisecond
	askingInterval = 400 * time.Millisecond
	// idleInterval is how often it is looked whether there are peers to follow: a reload may bring some.
	idleInterval = 5 * time.Second
	// echoTimeout is how long the answer to an echo is waited for. A later one is seen in the counters.
	echoTimeout = 2 * time.Second
)

// peerProbe is an echo for a peer.
type peerProbe struct {
	uplink string
	peer   netcfg.Key
	path   probe.Binding
	target netip.Addr
}

// follow follows the peers of uplinks whose routes are theirs.
func (e *Engine) follow(ctx context.Context) {
	var probes sync.WaitGroup
	defer probes.Wait()
	timer := time.NewTimer(followInterval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		followed := e.followed()
		if len(followed) == 0 {
			timer.Reset(schedule.Until(e.o.Phase, time.Now(), idleInterval))
			continue
		}
		timer.Reset(followInterval)
		for name, device := range followed {
			state, err := e.o.WireGuard.Device(device)
			if err != nil {
				state = new(rules.WireGuardDevice) // nobody is behind a device that is not there
			}
			if e.checkPeers(ctx, name, state, &probes) {
				timer.Reset(askingInterval)
			}
		}
	}
}

// checkPeers takes in a look at a device, and reports whether a peer owes an answer.
func (e *Engine) checkPeers(ctx context.Context, name string, state *rules.WireGuardDevice, running *sync.WaitGroup) (asking bool) {
	if e.o.Suspended(name) { // what carries the tunnel is silent: that is not the peers' silence
		return false
	}
	probes, events, asking := e.observePeers(name, state, time.Now())
	for _, event := range events {
		e.o.Log.Info(event.Message, "uplink", name)
		e.o.OnEvent(event)
	}
	if len(events) > 0 {
		e.o.Changed()
	}
	for _, q := range probes {
		target, err := probe.ParseTarget(q.target.String())
		if err != nil {
			continue // an address that nobody can be asked at
		}
		running.Go(func() {
			window, cancel := context.WithTimeout(ctx, echoTimeout)
			defer cancel()
			if _, err := e.o.Prober.Probe(window, q.path, target); err == nil {
				e.answered(q.uplink, q.peer)
			}
		})
	}
	return asking
}

// followed lists the uplinks whose peers are followed, with their devices.
func (e *Engine) followed() map[string]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make(map[string]string)
	for name, w := range e.uplinks {
		if w.follows {
			list[name] = w.device
		}
	}
	return list
}

// observePeers takes in a look at a device. It returns whom to ask, and what there is to tell.
func (e *Engine) observePeers(name string, state *rules.WireGuardDevice, now time.Time) (ask []peerProbe, events []status.Event, asking bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	w := e.uplinks[name]
	if w == nil || !w.follows {
		return nil, nil, false
	}
	before := make(map[netcfg.Key]bool, len(state.Peers))
	for _, p := range state.Peers {
		before[p.PublicKey] = w.present.Alive(p.PublicKey)
	}
	keys, _ := w.present.Observe(now, state, w.hasEndpoint)
	for _, p := range state.Peers {
		if alive := w.present.Alive(p.PublicKey); alive != before[p.PublicKey] {
			events = append(events, status.Event{Kind: status.EventPeer, Uplink: name, Message: peerNews(&p.WireGuardPeer, alive)})
		}
		if target, source, ok := w.innerAddress(&p.WireGuardPeer); ok && slices.Contains(keys, p.PublicKey) {
			ask = append(ask, peerProbe{name, p.PublicKey, probe.Binding{Device: w.device, Mark: e.numbers.Mark(w.id), Source: source}, target})
		}
	}
	return ask, events, w.present.Asking()
}

func peerNews(p *netcfg.WireGuardPeer, alive bool) string {
	what := "is gone: its networks are no longer routed to it"
	if alive {
		what = "is back: its networks are routed to it"
	}
	words := make([]string, len(p.AllowedIPs))
	for i, n := range p.AllowedIPs {
		words[i] = n.String()
	}
	return fmt.Sprintf("peer %.8s... (%s) %s", p.PublicKey.String(), strings.Join(words, ", "), what)
}

// answered notes that a peer has answered an echo.
func (e *Engine) answered(name string, peer netcfg.Key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if w := e.uplinks[name]; w != nil {
		w.present.Answered(peer)
	}
}
