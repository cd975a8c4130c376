package daemon

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/reconcile"
	"github.com/uplinkd/uplinkd/internal/schedule"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/internal/tunnel"
	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
)

const (
	// peerPace is how often it is looked at which peers are there, and askingPace while one owes an answer.
	peerPace   = 500 * time.Millisecond
	askingPace = 400 * time.Millisecond
	// echoPatience is how long the answer to a question is waited for. A later one is seen in the counters.
	echoPatience = 2 * time.Second
)

// question is an echo for a peer.
type question struct {
	uplink string
	peer   tunnel.Key
	path   probe.Path
	target netip.Addr
}

// watchPeers follows the peers of uplinks whose routes are theirs.
func (d *Daemon) watchPeers(ctx context.Context) error {
	var questions sync.WaitGroup
	defer questions.Wait()
	timer := time.NewTimer(peerPace)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		followed := d.tunnels.followed()
		if len(followed) == 0 {
			timer.Reset(schedule.Until(d.started, time.Now(), reconcile.Resync)) // a reload may bring some
			continue
		}
		timer.Reset(peerPace)
		for name, device := range followed {
			state, err := d.tunnels.wires.state(device)
			if err != nil {
				state = new(tunnel.State) // nobody is behind a device that is not there
			}
			if d.lookAtPeers(ctx, name, state, &questions) {
				timer.Reset(askingPace)
			}
		}
	}
}

// lookAtPeers takes in a look at a device, and reports whether a peer owes an answer.
func (d *Daemon) lookAtPeers(ctx context.Context, name string, state *tunnel.State, running *sync.WaitGroup) (asking bool) {
	if d.monitor.Paused(name) { // what carries the tunnel is silent: that is not the peers' silence
		return false
	}
	questions, events, asking := d.tunnels.observePeers(name, state, time.Now(), planinput.KernelNumbers(d.current().Kernel))
	for _, e := range events {
		d.log.Info(e.Message, "uplink", name)
		d.event(e)
	}
	if len(events) > 0 {
		d.replan()
	}
	for _, q := range questions {
		target, err := probe.ParseTarget(q.target.String())
		if err != nil {
			continue // an address that nobody can be asked at
		}
		running.Go(func() {
			window, cancel := context.WithTimeout(ctx, echoPatience)
			defer cancel()
			if _, err := d.o.Prober.Probe(window, q.path, target); err == nil {
				d.tunnels.answered(q.uplink, q.peer)
			}
		})
	}
	return asking
}

// followed lists the uplinks whose peers are followed, with their devices.
func (t *tunnels) followed() map[string]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make(map[string]string)
	for name, w := range t.wired {
		if w.follows {
			list[name] = w.device
		}
	}
	return list
}

// observePeers takes in a look at a device. It returns whom to ask, and what there is to tell.
func (t *tunnels) observePeers(name string, state *tunnel.State, now time.Time, k rules.Kernel) (ask []question, events []status.Event, asking bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.wired[name]
	if w == nil || !w.follows {
		return nil, nil, false
	}
	before := make(map[tunnel.Key]bool, len(state.Peers))
	for _, p := range state.Peers {
		before[p.PublicKey] = w.present.Alive(p.PublicKey)
	}
	keys, _ := w.present.Observe(now, state, w.hasPlace)
	for _, p := range state.Peers {
		if alive := w.present.Alive(p.PublicKey); alive != before[p.PublicKey] {
			events = append(events, status.Event{Kind: status.EventPeer, Uplink: name, Message: peerNews(&p.Peer, alive)})
		}
		if target, source, ok := w.within(&p.Peer); ok && slices.Contains(keys, p.PublicKey) {
			ask = append(ask, question{name, p.PublicKey, probe.Path{Device: w.device, Mark: k.Mark(w.id), Source: source}, target})
		}
	}
	return ask, events, w.present.Asking()
}

func peerNews(p *tunnel.Peer, alive bool) string {
	what := "is gone: its networks are not routed to it any more"
	if alive {
		what = "is here: its networks are routed to it"
	}
	words := make([]string, len(p.AllowedIPs))
	for i, n := range p.AllowedIPs {
		words[i] = n.String()
	}
	return fmt.Sprintf("peer %.8s... (%s) %s", base64.StdEncoding.EncodeToString(p.PublicKey[:]), strings.Join(words, ", "), what)
}

// hasPlace reports whether it is known where to look for a peer, wherever it was last.
func (w *wired) hasPlace(key tunnel.Key) bool {
	return slices.ContainsFunc(w.peers, func(p wiredPeer) bool { return p.PublicKey == key && p.endpoint != "" })
}

// within returns an address that a peer has inside the tunnel, or one of its network's, and ours of that family.
func (w *wired) within(p *tunnel.Peer) (target, source netip.Addr, ok bool) {
	for _, n := range p.AllowedIPs {
		a := n.Addr()
		if !n.IsSingleIP() {
			a = a.Next() // most networks have somebody there
		}
		if n.Bits() <= leastBits(a.Is4()) || target.IsValid() && !n.IsSingleIP() {
			continue
		}
		for _, own := range w.addresses {
			if own.Addr().Is4() == a.Is4() {
				target, source = a, own.Addr()
			}
		}
		if !w.made {
			target = a // the kernel knows the source
		}
		if n.IsSingleIP() && target.IsValid() {
			break
		}
	}
	return target, source, target.IsValid()
}

// answered notes that a peer has answered a question.
func (t *tunnels) answered(name string, peer tunnel.Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w := t.wired[name]; w != nil {
		w.present.Answered(peer)
	}
}

// testimony tells when the peers of an uplink made their latest handshakes.
func (t *tunnels) testimony(name string, now time.Time) []string {
	var lines []string
	for _, p := range t.peers(name) {
		when := "none yet"
		if !p.Handshake.IsZero() {
			when = now.Sub(p.Handshake.Time).Round(time.Second).String() + " ago"
		}
		lines = append(lines, fmt.Sprintf("peer %.8s...: latest handshake %s", p.PublicKey, when))
	}
	return lines
}

// peers lists those of a WireGuard uplink for the status.
func (t *tunnels) peers(name string) []status.Peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.wired[name]
	if w == nil || w.state == nil {
		return nil
	}
	list := make([]status.Peer, len(w.state.Peers))
	for i, p := range w.state.Peers {
		list[i] = status.Peer{PublicKey: base64.StdEncoding.EncodeToString(p.PublicKey[:]), Endpoint: p.Endpoint, AllowedIPs: p.AllowedIPs,
			Handshake: status.At(p.Handshake), Routed: !w.follows || w.present.Alive(p.PublicKey)}
	}
	return list
}
