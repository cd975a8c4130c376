package tunnel

import (
	"time"

	"github.com/uplinkd/uplinkd/rules"
)

// Times by which WireGuard itself answers (section 6 of its paper, drivers/net/wireguard/messages.h).
const (
	// sessionLife is how long a handshake is good for (REJECT_AFTER_TIME).
	sessionLife = 180 * time.Second
	// answerTime is how long the other end may take to answer data, at the latest by an empty packet (KEEPALIVE_TIMEOUT),
	// and a little.
	answerTime = 12 * time.Second
	// silenceTime is how long what was sent may go unanswered: after 15 s (KEEPALIVE_TIMEOUT + REKEY_TIMEOUT) the kernel
	// has begun a new handshake, and nothing has come of that either.
	silenceTime = 17 * time.Second
	// emptySize is what an empty packet counts, with its header: nobody answers it.
	emptySize = 32
)

// handshakeTracker is what the counters of one peer have shown so far. What they show at one time says little: a peer that has
// nothing to say is as silent as a dead one. What counts is whether something comes after something was sent. Times are
// those of the looks; the wall clock of the latest handshake is compared with itself only.
type handshakeTracker struct {
	known          bool
	received, sent uint64
	handshake      time.Time
	heard          time.Time // when the peer was last heard; zero: not yet
	waiting        time.Time // since when something that was sent waits for an answer; zero: nothing does
}

// Sign is what a look at a peer's counters tells.
type Sign uint8

// The signs.
const (
	Quiet   Sign = iota // nothing has come, and nothing waits for an answer
	Heard               // something has come since the last look, which only the peer itself can have sent
	Waiting             // something that was sent has no answer yet
	Silent              // it has none, and neither have the handshakes that WireGuard began for that reason
)

// Observe takes in a look at the counters.
func (c *handshakeTracker) Observe(now time.Time, p *rules.WireGuardPeerState) Sign {
	if !c.known || p.Received < c.received || p.Sent < c.sent { // the first look, or a device that was made anew
		*c = handshakeTracker{known: true, received: p.Received, sent: p.Sent, handshake: p.Handshake}
		return Quiet
	}
	heard := p.Received > c.received || !p.Handshake.Equal(c.handshake)
	grown := p.Sent - c.sent
	c.received, c.sent, c.handshake = p.Received, p.Sent, p.Handshake
	switch {
	case heard:
		c.heard, c.waiting = now, time.Time{}
		return Heard
	case c.waiting.IsZero() && grown > 0 && grown != emptySize:
		c.waiting = now
	}
	switch {
	case c.waiting.IsZero():
		return Quiet
	case now.Sub(c.waiting) >= silenceTime:
		return Silent
	}
	return Waiting
}

// Fresh reports whether the peer was heard so lately that it would not have had to say anything since.
func (c *handshakeTracker) Fresh(now time.Time) bool {
	return !c.heard.IsZero() && now.Sub(c.heard) < answerTime
}
