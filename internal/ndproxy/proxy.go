package ndproxy

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/linksession"
)

// maxWait is the longest pause between two looks at a device that has no link-local address.
const maxWait = 5 * time.Second

// Hosts are addresses of the network, by the link that they are on, sorted.
type Hosts struct {
	LAN  []netip.Addr `json:"lan,omitempty"`
	Line []netip.Addr `json:"line,omitempty"`
}

// Config is what a Proxy is made from.
type Config struct {
	Line, LAN string // devices
	Network   netip.Prefix
	Own       netip.Addr // ours in that network
	Kept      Hosts      // of an earlier run; they are asked whether they are still there
	Log       *slog.Logger
	// OnChange hears that Hosts returns something else, from one of the Proxy's goroutines.
	OnChange func()
	// Open makes the Conn of a device; nil is a packet socket.
	Open func(device string) (Conn, error)
}

// Proxy finds out which addresses of a network are on which of its links. Its methods may be called from any goroutine.
type Proxy struct {
	cfg      Config
	sessions [sides]*linksession.Session[Packet, Conn]

	mu    sync.Mutex // guards table
	table *table
}

// New makes a Proxy that does nothing before Run and a link.
func New(cfg Config) *Proxy {
	if cfg.Open == nil {
		cfg.Open = openPacket
	}
	p := &Proxy{cfg: cfg, table: newTable(cfg.Network, cfg.Own, cfg.Kept)}
	for s, device := range [sides]string{cfg.LAN, cfg.Line} {
		p.sessions[s] = linksession.New[Packet](linksession.Config[Conn]{Device: device, Protocol: "neighbour discovery proxy", Log: cfg.Log, Open: cfg.Open, MaxWait: maxWait})
	}
	return p
}

// SetLink tells the index of the line's device, which changes when it is made anew, and whether it has carrier.
func (p *Proxy) SetLink(index int, up bool) { p.sessions[line].SetLink(index, up) }

// SetHardware tells the hardware address of the line's device.
func (p *Proxy) SetHardware(address [6]byte) { p.sessions[line].SetHardware(address) }

// SetLAN tells all of that of the LAN's.
func (p *Proxy) SetLAN(index int, up bool, address [6]byte) {
	p.sessions[lan].SetHardware(address)
	p.sessions[lan].SetLink(index, up)
}

// Hosts returns the addresses that are known now.
func (p *Proxy) Hosts() Hosts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.table.present()
}

// Looped reports whether both links are one, by which nobody is answered.
func (p *Proxy) Looped(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.table.looped.IsZero() && now.Sub(p.table.looped) < 2*loopPause // once more, when it is tried again
}

// Crowded reports whether there were more addresses than are known here.
func (p *Proxy) Crowded(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.table.crowded.IsZero() && now.Sub(p.table.crowded) < crowdedTime
}

// Run listens on both links until the context ends.
func (p *Proxy) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for _, s := range []side{lan, line} {
		running.Go(func() { p.run(ctx, s) })
	}
	running.Wait()
	return nil
}

func (p *Proxy) run(ctx context.Context, s side) {
	session, other := p.sessions[s], p.sessions[s.other()]
	defer session.Close()
	var e linksession.Event[Packet]
	for deadline := (time.Time{}); !e.Ended; e = session.Next(ctx, deadline) {
		now := time.Now()
		opened, closed := session.Follow(now)
		p.mu.Lock()
		t := p.table
		if closed {
			t.linkDown(s)
		}
		if opened {
			t.linkUp(s, session.Conn().Link().Hardware)
		}
		if e.Received {
			if m, err := parse(e.Message); err == nil { // anybody may send anything
				t.receive(s, m, now)
			}
		}
		t.tick(now)
		questions, answers, changed := t.questions[s], t.answers[s], t.changed
		t.questions[s], t.answers[s], t.changed = nil, nil, false
		toOther := len(t.questions[s.other()])+len(t.answers[s.other()]) > 0
		deadline = t.deadline(now)
		p.mu.Unlock()
		if toOther {
			other.Wake()
		}
		for _, q := range questions {
			send(session, q.packet)
		}
		for _, a := range answers {
			send(session, a.packet)
		}
		if changed {
			p.cfg.OnChange()
		}
	}
}

// send sends a packet that is made for our end of the link, unless that is down.
func send(session *linksession.Session[Packet, Conn], make func(Link) (Packet, error)) {
	conn := session.Conn()
	if conn == nil {
		return
	}
	if p, err := make(conn.Link()); err == nil {
		session.Sent(conn.Send(p))
	}
}
