package ndisc

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// Link is our end of a link.
type Link struct {
	Addr     netip.Addr       // our link-local address, without a zone
	Hardware net.HardwareAddr // empty: the device has none
	MTU      int              // bytes
}

// Conn carries messages on one device.
type Conn interface {
	// Link is as it is now: a bridge takes the hardware address of another port when the one that lent it leaves.
	Link() Link
	// Send sends an ICMPv6 message, whose checksum it computes, with hop limit 255 from the link-local
	// address.
	Send(message []byte, to netip.Addr) error
	// Receive returns the next message; it blocks until Close.
	Receive() (Packet, error)
	Close() error
}

var (
	// errClosed ends Receive after Close.
	errClosed = errors.New("closed")
	// errWait is wrapped when the device has no usable link-local address yet.
	errWait = errors.New("no link-local address yet")
)

// allNodes is where advertisements go, allRouters where solicitations go.
var (
	allNodes   = netip.MustParseAddr("ff02::1")
	allRouters = netip.MustParseAddr("ff02::2")
)

const (
	// reopenPause is how long a device that gave an error is left alone.
	reopenPause = time.Second
	// addressPause is between two looks at a device whose address is being checked for duplicates, which
	// takes a second or two. A device that has none for longer is looked at more and more seldom.
	addressPause    = 200 * time.Millisecond
	addressPatience = 5 * time.Second // no complaint before, no longer pause after
)

// linkState is what setLink told. A loss that is over before anybody has looked still shows, by their number.
type linkState struct {
	index    int
	up       bool
	losses   int
	hardware [6]byte // zero: not told
}

// port keeps a Conn open while its link is up. Its goroutine is the one that calls follow.
type port struct {
	device string
	log    *slog.Logger
	open   func(device string) (Conn, error)
	wake   chan struct{}

	mu   sync.Mutex // guards link
	link linkState

	session *session
	retry   time.Time // zero: nothing to open
	waiting time.Time // since when there is no address; zero: it is not for that
	said    string    // the latest complaint, which is not repeated
}

func newPort(device string, log *slog.Logger, open func(string) (Conn, error)) *port {
	return &port{device: device, log: log, open: open, wake: make(chan struct{}, 1)}
}

func (p *port) setLink(index int, up bool) {
	p.mu.Lock()
	changed := p.link.index != index || p.link.up != up
	if p.link.up && !up {
		p.link.losses++
	}
	p.link.index, p.link.up = index, up
	p.mu.Unlock()
	if changed {
		p.poke()
	}
}

// setHardware tells the link-layer address. Others on the link have to learn a new one: a new session begins.
func (p *port) setHardware(address [6]byte) {
	p.mu.Lock()
	changed := p.link.hardware != address
	p.link.hardware = address
	p.mu.Unlock()
	if changed {
		p.poke()
	}
}

// poke makes Run look at what it was told.
func (p *port) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// follow opens and closes the session as the link comes and goes, and reports whether it is a new one.
func (p *port) follow(now time.Time) (opened bool) {
	p.mu.Lock()
	link := p.link
	p.mu.Unlock()
	if p.session != nil && p.session.link != link {
		p.close()
	}
	if !link.up || p.session != nil {
		p.retry, p.waiting = time.Time{}, time.Time{}
		return false
	}
	if now.Before(p.retry) {
		return false
	}
	conn, err := p.open(p.device)
	if err != nil {
		p.postpone(err, now)
		return false
	}
	p.retry, p.waiting, p.said = time.Time{}, time.Time{}, ""
	p.session = newSession(conn, link)
	return true
}

// postpone decides when to try again to open a socket.
func (p *port) postpone(err error, now time.Time) {
	if !errors.Is(err, errWait) {
		p.waiting, p.retry = time.Time{}, now.Add(reopenPause)
		p.complain("neighbour discovery socket cannot be opened", err)
		return
	}
	if p.waiting.IsZero() {
		p.waiting = now
	}
	waited := now.Sub(p.waiting)
	p.retry = now.Add(min(max(waited/4, addressPause), addressPatience))
	if waited >= addressPatience {
		p.complain("neighbour discovery waits", err)
	}
}

// failed ends a session that gave an error; follow opens another after a pause.
func (p *port) failed(now time.Time, err error) {
	p.complain("neighbour discovery socket failed, opening it again", err)
	p.close()
	p.retry = now.Add(reopenPause)
}

func (p *port) complain(what string, err error) {
	if said := what + err.Error(); said != p.said {
		p.said = said
		p.log.Warn(what, "device", p.device, "err", err)
	}
}

// send reports whether a message went out. A device that has gone, or has another address now, ends the
// session; anything else passes (ENOBUFS, ENETDOWN, a firewall's EPERM).
func (p *port) send(message []byte, to netip.Addr, now time.Time) bool {
	if p.session == nil {
		return false
	}
	err := p.session.conn.Send(message, to)
	if err == nil {
		return true
	}
	for _, gone := range []error{syscall.ENODEV, syscall.ENXIO, syscall.EADDRNOTAVAIL, syscall.EINVAL, net.ErrClosed} {
		if errors.Is(err, gone) {
			p.failed(now, err)
			return false
		}
	}
	p.log.Debug("neighbour discovery message not sent", "device", p.device, "to", to, "err", err)
	return false
}

func (p *port) close() {
	if p.session != nil {
		p.session.close()
		p.session = nil
	}
}

func (p *port) packets() <-chan Packet {
	if p.session == nil {
		return nil
	}
	return p.session.packets
}

func (p *port) failures() <-chan error {
	if p.session == nil {
		return nil
	}
	return p.session.broken
}

// event is what a turn of a Run loop begins with.
type event struct {
	packet *Packet // received
	ended  bool    // the context is over
}

// next waits until there is something to do: at the latest at the deadline, unless that is zero.
func (p *port) next(ctx context.Context, timer *time.Timer, deadline time.Time) event {
	timer.Stop()
	if d := earlier(deadline, p.retry); !d.IsZero() {
		timer.Reset(max(time.Until(d), 0))
	}
	select {
	case <-ctx.Done():
		return event{ended: true}
	case <-p.wake:
	case <-timer.C:
	case packet := <-p.packets():
		return event{packet: &packet}
	case err := <-p.failures():
		p.failed(time.Now(), err)
	}
	return event{}
}

// session is an open Conn with its reader.
type session struct {
	conn    Conn
	link    linkState
	packets chan Packet
	broken  chan error
	stop    chan struct{}
	reader  sync.WaitGroup
}

func newSession(conn Conn, link linkState) *session {
	s := &session{conn: conn, link: link, packets: make(chan Packet), broken: make(chan error, 1), stop: make(chan struct{})}
	s.reader.Go(func() {
		for {
			p, err := conn.Receive()
			if err != nil {
				s.broken <- err
				return
			}
			select {
			case s.packets <- p:
			case <-s.stop:
				return
			}
		}
	})
	return s
}

// close waits for the reader.
func (s *session) close() {
	close(s.stop)
	_ = s.conn.Close()
	s.reader.Wait()
}
