package daemon

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/tunnel"
	"github.com/uplinkd/uplinkd/probe"
)

const (
	// nudgePace is how often a peer is sent something that it must answer; WireGuard tries no handshake more often either.
	nudgePace = 5 * time.Second
	// nudgeTime is how long that is waited for: less than any probe is.
	nudgeTime = 50 * time.Millisecond
)

// handshakes answers probes of the kind handshake by what WireGuard counts, and passes all others on. A peer is asked
// nothing that it does not answer by itself: data has to be answered within ten seconds, by an empty packet if need be.
type handshakes struct {
	probe.Prober
	look func(device string) (*tunnel.State, error)

	mu       sync.Mutex
	contacts map[contact]*handshake
}

type contact struct {
	device string
	addr   netip.Addr
}

type handshake struct {
	tunnel.Contact
	nudged time.Time
}

var (
	errNoPeer     = errors.New("no peer is allowed this address")
	errNoResponse = errors.New("neither data nor new handshakes are answered")
)

// Probe implements [probe.Prober]. What says nothing yet is told as a probe that was cancelled.
func (h *handshakes) Probe(ctx context.Context, p probe.Path, t probe.Target) (time.Duration, error) {
	if t.Kind() != probe.Handshake {
		return h.Prober.Probe(ctx, p, t)
	}
	state, err := h.look(p.Device)
	if err != nil {
		return 0, &probe.Error{Target: t.String(), Class: probe.ErrLocal, Err: err}
	}
	peer := state.Towards(t.Addr())
	if peer == nil {
		return 0, &probe.Error{Target: t.String(), Class: probe.ErrLocal, Err: errNoPeer}
	}
	there, silent, nudge := h.observe(contact{p.Device, t.Addr()}, peer, time.Now())
	if there {
		return 0, nil
	}
	if echo, err := probe.ParseTarget(t.Addr().String()); nudge && err == nil {
		window, cancel := context.WithTimeout(ctx, nudgeTime)
		defer cancel()
		if rtt, err := h.Prober.Probe(window, p, echo); err == nil {
			return rtt, nil
		}
	}
	if silent {
		return 0, &probe.Error{Target: t.String(), Class: probe.ErrTimeout, Err: errNoResponse}
	}
	return 0, context.Canceled
}

// observe takes in a look at a peer.
func (h *handshakes) observe(c contact, peer *tunnel.PeerState, now time.Time) (there, silent, nudge bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.contacts == nil {
		h.contacts = make(map[contact]*handshake)
	}
	k := h.contacts[c]
	if k == nil {
		k = new(handshake)
		h.contacts[c] = k
	}
	sign := k.Observe(now, peer)
	if sign == tunnel.Heard || k.Fresh(now) {
		return true, false, false
	}
	if nudge = sign != tunnel.Waiting && now.Sub(k.nudged) >= nudgePace; nudge {
		k.nudged = now
	}
	return false, sign == tunnel.Silent, nudge
}
