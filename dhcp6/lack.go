package dhcp6

import (
	"fmt"
	"slices"
	"time"
)

// Lack is that no prefix is held though one is asked for.
type Lack struct {
	Since   time.Time // when the asking began, on the link as it is
	Refusal string    // what a server has said instead of giving one; "": none has answered
}

// lacking is what the machine knows of that.
type lacking struct {
	asked   bool
	since   time.Duration
	refusal string
}

// noteAsked is told that servers are asked for what is not held.
func (m *machine) noteAsked(now instant) {
	if !m.lacking.asked {
		m.lacking.asked, m.lacking.since = true, now.mono
	}
}

// noteRefusal is told of a message that gives no prefix.
func (m *machine) noteRefusal(msg *message) {
	m.lacking.refusal = fmt.Sprintf("server %v says %s", msg.server, msg.explain())
}

// lack returns what is lacking; nil when a prefix is held, or none was asked for.
func (m *machine) lack(now instant) *Lack {
	holds := slices.ContainsFunc(m.held.entries, func(e entry) bool { return e.ia.pd })
	if holds || len(m.iapd) == 0 || !m.lacking.asked {
		return nil
	}
	return &Lack{Since: now.at(m.lacking.since), Refusal: m.lacking.refusal}
}

// Lack tells why no prefix is held that is asked for; nil when one is, or nobody could be asked yet.
func (c *Client) Lack() *Lack {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lack
}

// publish makes the machine's state known to other goroutines.
func (r *run) publish() {
	lack := r.machine.lack(r.now())
	r.mu.Lock()
	r.lack = lack
	r.mu.Unlock()
}
