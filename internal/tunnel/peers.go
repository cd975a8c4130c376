package tunnel

import (
	"maps"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

const (
	// maxUnanswered is how many echoes in a row a peer leaves unanswered, of one that used to answer them, before it is gone.
	maxUnanswered = 4
	// echoInterval is how fast they follow each other, and searchInterval how often a peer that is gone is asked where it was.
	echoInterval   = 400 * time.Millisecond
	searchInterval = 5 * time.Second
)

// Peers follows which peers of a device are there. It is pure: the caller looks at the device, asks whom it is told to
// ask, and says who has answered.
//
// A peer is there when it is heard, and until it leaves something unanswered: echoes, where it is known to answer those,
// or else WireGuard's own handshakes. Idle peers are asked nothing, which spares the batteries of phones.
type Peers struct {
	lives map[netcfg.Key]*peerLife
}

type peerLife struct {
	handshakeTracker
	alive     bool
	answers   bool // echoes
	askOnce   bool // to be asked once, whether it answers echoes at all
	asked     int  // echoes since it was last heard
	next      time.Time
	falseGone int // times that it was given up and went on as if nothing had been
	session   time.Time
}

// Begin judges peers that were not seen before, by what the device knows of them, and reports whether one is there. There
// is no change to go by; but a session that is good has somebody at its other end.
func (p *Peers) Begin(now time.Time, s *rules.WireGuardDevice) (changed bool) {
	if p.lives == nil {
		p.lives = make(map[netcfg.Key]*peerLife)
	}
	for i := range s.Peers {
		peer := &s.Peers[i]
		if p.lives[peer.PublicKey] != nil {
			continue
		}
		alive := !peer.Handshake.IsZero() && now.Sub(peer.Handshake) < sessionLife
		p.lives[peer.PublicKey] = &peerLife{alive: alive, askOnce: alive, session: peer.Handshake}
		changed = changed || alive
	}
	return changed
}

// Observe takes in a look at the device. It returns the peers to send an echo now, and whether others are there than
// before. HasEndpoint tells which ones can be looked for at an endpoint: to ask another one that is gone would have the
// kernel send handshakes to where it was last.
func (p *Peers) Observe(now time.Time, s *rules.WireGuardDevice, hasEndpoint func(netcfg.Key) bool) (ask []netcfg.Key, changed bool) {
	changed = p.Begin(now, s)
	for i := range s.Peers {
		peer := &s.Peers[i]
		l := p.lives[peer.PublicKey]
		before := l.alive
		if l.observe(now, peer, hasEndpoint(peer.PublicKey)) {
			ask = append(ask, peer.PublicKey)
		}
		changed = changed || l.alive != before
	}
	maps.DeleteFunc(p.lives, func(k netcfg.Key, l *peerLife) bool {
		gone := !slices.ContainsFunc(s.Peers, func(peer rules.WireGuardPeerState) bool { return peer.PublicKey == k })
		changed = changed || gone && l.alive
		return gone
	})
	return ask, changed
}

// observe takes in a look at one peer, and reports whether to ask it.
func (l *peerLife) observe(now time.Time, peer *rules.WireGuardPeerState, search bool) (ask bool) {
	anew := l.known && (peer.Received < l.received || peer.Sent < l.sent)
	sign := l.handshakeTracker.Observe(now, peer)
	switch {
	case anew:
		l.alive, l.asked, l.next = false, 0, time.Time{}
	case sign == Heard:
		if !l.alive && l.session.Equal(peer.Handshake) {
			l.falseGone++ // it was asleep
		}
		l.askOnce = l.askOnce || !l.alive && !l.answers
		l.alive, l.asked, l.next, l.session = true, 0, time.Time{}, peer.Handshake
	case sign == Silent, l.answers && l.asked >= maxUnanswered<<min(l.falseGone, 3) && !now.Before(l.next):
		l.alive = false
	}
	switch {
	case l.alive && l.askOnce:
		l.askOnce = false
		return true
	case l.alive && sign != Waiting, !l.alive && !search, now.Before(l.next):
		return false
	case l.alive:
		l.asked++
		l.next = now.Add(echoInterval)
	default:
		l.next = now.Add(searchInterval)
	}
	return true
}

// Answered notes that a peer has answered an echo.
func (p *Peers) Answered(k netcfg.Key) {
	if l := p.lives[k]; l != nil {
		l.answers = true
	}
}

// Alive reports whether a peer is there.
func (p *Peers) Alive(k netcfg.Key) bool {
	l := p.lives[k]
	return l != nil && l.alive
}

// Asking reports whether some peer owes an answer: then the device is to be looked at again soon.
func (p *Peers) Asking() bool {
	for _, l := range p.lives {
		if l.alive && !l.waiting.IsZero() {
			return true
		}
	}
	return false
}
