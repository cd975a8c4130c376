package tunnel

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
)

const (
	// nudgeInterval is how often a peer is sent something that it must answer; WireGuard tries no handshake more often either.
	nudgeInterval = 5 * time.Second
	// nudgeTimeout is how long that is waited for: less than any probe is.
	nudgeTimeout = 50 * time.Millisecond
)

// Prober answers probes of the kind handshake by what WireGuard counts, and passes all others on. A peer is asked
// nothing that it does not answer by itself: data has to be answered within ten seconds, by an empty packet if need be.
type Prober struct {
	probe.Prober
	WireGuard WireGuard

	mu       sync.Mutex
	trackers map[peerAddress]*nudgedTracker
}

type peerAddress struct {
	device string
	addr   netip.Addr
}

type nudgedTracker struct {
	handshakeTracker
	nudged time.Time
}

var (
	errNoPeer     = errors.New("no peer has this address in allowed_ips")
	errNoResponse = errors.New("neither data nor handshakes are answered")
)

// Probe implements [probe.Prober]. What says nothing yet is told as a probe that was cancelled.
func (h *Prober) Probe(ctx context.Context, p probe.Binding, t probe.Target) (time.Duration, error) {
	if t.Kind() != probe.Handshake {
		return h.Prober.Probe(ctx, p, t)
	}
	state, err := h.WireGuard.Device(p.Device)
	if err != nil {
		return 0, &probe.Error{Target: t.String(), Class: probe.ErrLocal, Err: err}
	}
	peer := state.PeerFor(t.Addr())
	if peer == nil {
		return 0, &probe.Error{Target: t.String(), Class: probe.ErrLocal, Err: errNoPeer}
	}
	there, silent, nudge := h.observe(peerAddress{p.Device, t.Addr()}, peer, time.Now())
	if there {
		return 0, nil
	}
	if echo, err := probe.ParseTarget(t.Addr().String()); nudge && err == nil {
		window, cancel := context.WithTimeout(ctx, nudgeTimeout)
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
func (h *Prober) observe(at peerAddress, peer *rules.WireGuardPeerState, now time.Time) (there, silent, nudge bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.trackers == nil {
		h.trackers = make(map[peerAddress]*nudgedTracker)
	}
	k := h.trackers[at]
	if k == nil {
		k = new(nudgedTracker)
		h.trackers[at] = k
	}
	sign := k.Observe(now, peer)
	if sign == Heard || k.Fresh(now) {
		return true, false, false
	}
	if nudge = sign != Waiting && now.Sub(k.nudged) >= nudgeInterval; nudge {
		k.nudged = now
	}
	return false, sign == Silent, nudge
}
