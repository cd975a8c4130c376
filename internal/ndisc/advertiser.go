package ndisc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/linksession"
)

// AdvertiserConfig is what an Advertiser is made of.
type AdvertiserConfig struct {
	Device string
	Log    *slog.Logger
	// OnOthers hears, from the Advertiser's goroutine, of all other routers on the LAN when they change in
	// more than time; nil: nobody wants to know.
	OnOthers func([]Other)
	// Source is the link-local address to advertise from, once the device has it; zero: the device's first.
	Source netip.Addr
	// Open makes the Conn; nil is a raw socket.
	Open func(device string) (Conn, error)
}

// Advertiser is the router of one LAN, as far as hosts are told.
type Advertiser struct {
	cfg    AdvertiserConfig
	socket linkSocket

	mu         sync.Mutex // guards what follows
	content    *Content   // what SetContent or Withdraw said last
	withdrawal *finalRA   // nil unless Withdraw waits
}

// finalRA is a Withdraw that is under way.
type finalRA struct {
	left int           // advertisements still to be sent
	done chan struct{} // closed at the end
	once sync.Once
}

func (f *finalRA) finish() { f.once.Do(func() { close(f.done) }) }

// errReplaced ends a Withdraw when new content came in between.
var errReplaced = errors.New("replaced by new content or another withdrawal")

// NewAdvertiser makes an Advertiser that does nothing before Run, a link and a content.
func NewAdvertiser(cfg AdvertiserConfig) *Advertiser {
	if cfg.Open == nil {
		cfg.Open = func(device string) (Conn, error) { return openLAN(device, cfg.Source) }
	}
	if cfg.OnOthers == nil {
		cfg.OnOthers = func([]Other) {}
	}
	return &Advertiser{cfg: cfg, socket: newLinkSocket(cfg.Device, cfg.Log, cfg.Open)}
}

// SetLink tells the index of the device, which changes when it is made anew, and whether it has carrier.
func (a *Advertiser) SetLink(index int, up bool) { a.socket.SetLink(index, up) }

// SetHardware tells the link-layer address of the device.
func (a *Advertiser) SetHardware(address [6]byte) { a.socket.SetHardware(address) }

// SetContent tells what to advertise from now on. What hosts have to act on goes out at once, three times;
// longer lifetimes go out once; the same content again changes nothing. An error means that it cannot be
// advertised and that the former stays.
func (a *Advertiser) SetContent(c Content) error {
	if err := c.check(); err != nil {
		return fmt.Errorf("advertising on %s: %w", a.cfg.Device, err)
	}
	a.set(c, nil)
	return nil
}

// Withdraw advertises what c withdraws, three times within six seconds, and then no more until
// SetContent. It is for a LAN that we leave for good, and needs no SetContent before: the content of a stored
// Advertised will do. It returns nil when all was sent; the first goes out at once, so that a context which ends
// sooner loses the repetitions only. Run has to be running and the link to be up.
func (a *Advertiser) Withdraw(ctx context.Context, c Content) error {
	c = c.Withdrawn()
	if err := c.check(); err != nil {
		return fmt.Errorf("withdrawing from %s: %w", a.cfg.Device, err)
	}
	f := &finalRA{left: finalAdverts, done: make(chan struct{})}
	a.set(c, f)
	select {
	case <-ctx.Done():
		return fmt.Errorf("withdrawing from %s: %w", a.cfg.Device, ctx.Err())
	case <-f.done:
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if f.left > 0 {
		return fmt.Errorf("withdrawing from %s: %w", a.cfg.Device, errReplaced)
	}
	return nil
}

func (a *Advertiser) set(c Content, f *finalRA) {
	c = c.clone()
	a.mu.Lock()
	if a.withdrawal != nil {
		a.withdrawal.finish()
	}
	a.content, a.withdrawal = &c, f
	a.mu.Unlock()
	a.socket.Wake()
}

// sender is the state of Run.
type sender struct {
	*Advertiser
	schedule   *schedule
	others     otherRouters
	advertised *Content // what is being advertised; nil: nothing
	sent       [][]byte // the latest messages
	final      *finalRA // that is under way
	link       Link
}

// Run advertises until the context ends. It withdraws nothing then.
func (a *Advertiser) Run(ctx context.Context) error {
	s := &sender{Advertiser: a, schedule: newSchedule(rand.Float64)}
	defer a.socket.Close()
	var e linksession.Event[Packet]
	for ; !e.Ended; e = a.socket.Next(ctx, earlier(s.schedule.deadline(), s.others.deadline())) {
		now := time.Now()
		if e.Received {
			s.receive(e.Message, now)
		}
		if opened, closed := a.socket.Follow(now); opened {
			s.link = a.socket.Conn().Link()
			s.schedule.linkUp(now)
		} else if closed {
			s.schedule.linkDown()
		}
		s.update(now)
		s.send(now)
		s.others.expire(now)
		if s.others.changed {
			s.others.changed = false
			a.cfg.OnOthers(slices.Clone(s.others.list))
		}
	}
	return nil
}

// update notes a new content.
func (s *sender) update(now time.Time) {
	s.mu.Lock()
	content, final := s.content, s.withdrawal
	s.mu.Unlock()
	if content == nil || content == s.advertised && final == s.final {
		return
	}
	former := s.advertised
	s.advertised, s.final = content, final
	switch {
	case final != nil:
		s.schedule.finalRA(now)
	case former == nil || !s.schedule.content:
		s.schedule.begin(now)
	default:
		s.schedule.changed(former.changeTo(*content, now), now)
	}
}

// send sends what is due.
func (s *sender) send(now time.Time) {
	to := s.schedule.due(now)
	if len(to) == 0 || s.advertised == nil {
		return
	}
	link := s.link
	if conn := s.socket.Conn(); conn != nil {
		link = conn.Link()
	}
	messages, err := s.advertised.messages(link, now)
	if err != nil { // check lets nothing pass that could do this
		s.cfg.Log.Error("router advertisement not made", "device", s.cfg.Device, "err", err)
		s.schedule.failed(now)
		return
	}
	s.sent = messages
	for _, host := range to {
		sent := true
		for _, m := range messages {
			sent = sent && s.socket.send(m, host)
		}
		if host != allNodes {
			continue // the host asks again
		}
		if !sent {
			s.schedule.failed(now)
			continue
		}
		s.schedule.sent(s.advertised.least(now), now)
		s.countFinal()
	}
}

// countFinal counts, and falls silent after the last.
func (s *sender) countFinal() {
	if s.final == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.final.left--; s.final.left <= 0 {
		s.schedule.stop()
		s.final.finish()
	}
}

// sameMessage compares two but for the checksum, which the kernel fills in.
func sameMessage(a, b []byte) bool {
	const checksum, body = 2, 4 // RFC 4443 section 2.1
	return len(a) == len(b) && len(a) > body && bytes.Equal(a[:checksum], b[:checksum]) && bytes.Equal(a[body:], b[body:])
}

// receive takes a message of the LAN in.
func (s *sender) receive(p Packet, now time.Time) {
	// Our own come back where the LAN has a loop, and never from our socket (IPV6_MULTICAST_LOOP).
	here := p.From == s.link.Addr
	if len(p.Data) == 0 || here && (p.Data[0] != typeAdvert || slices.ContainsFunc(s.sent, func(m []byte) bool { return sameMessage(m, p.Data) })) {
		return
	}
	var err error
	switch p.Data[0] {
	case typeSolicit:
		if err = parseSolicit(p); err == nil {
			s.schedule.solicited(p.From, now)
		}
	case typeAdvert:
		var heard advert
		if heard, err = parseAdvert(p); err == nil {
			s.others.receive(Other{Router: p.From, Here: here}, heard, s.advertised, now)
		}
	}
	if err != nil {
		s.cfg.Log.Debug("neighbour discovery message not used", "device", s.cfg.Device, "from", p.From, "reason", err)
	}
}
