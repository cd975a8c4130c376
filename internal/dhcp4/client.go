package dhcp4

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Conn carries messages on one device.
type Conn interface {
	HardwareAddr() net.HardwareAddr
	// Send sends a message: to and from are zero for a broadcast.
	Send(m *dhcpv4.DHCPv4, to, from netip.Addr) error
	// Receive returns the next well-formed message; it blocks until Close.
	Receive() (*dhcpv4.DHCPv4, error)
	Close() error
}

// Config is what a Client is made of.
type Config struct {
	Device string
	Last   *Lease // of an earlier run; nil for none
	Log    *slog.Logger
	// OnLease hears, from the client's goroutine, of a lease with new terms or times, and with nil of
	// its end.
	OnLease func(*Lease)
	// OnRefused, when set, hears from the same goroutine why a reply was of no use.
	OnRefused func(reason string)
	// Open makes the Conn; nil is a packet socket.
	Open func(device string) (Conn, error)
}

// Client keeps a lease on one device.
type Client struct {
	cfg  Config
	wake chan struct{}

	mu   sync.Mutex // guards link
	link link

	lastRefused string // the rest belongs to the goroutine of Run
	refusedAt   time.Time
}

// reopenPause is how long a device that gave an error is left alone.
const reopenPause = time.Second

// refusedPause is how long the same fault of a server is told once.
const refusedPause = time.Minute

// New makes a client that does nothing before Run and a link.
func New(cfg Config) *Client {
	if cfg.Open == nil {
		cfg.Open = openPacket
	}
	return &Client{cfg: cfg, wake: make(chan struct{}, 1)}
}

// link is what SetLink told. A loss that is over before anybody has looked still shows, by their number.
type link struct {
	index  int
	up     bool
	losses int
}

// SetLink tells the index of the device, which changes when it is made anew, and whether it has carrier.
func (c *Client) SetLink(index int, up bool) {
	c.mu.Lock()
	changed := c.link.index != index || c.link.up != up
	if c.link.up && !up {
		c.link.losses++
	}
	c.link.index, c.link.up = index, up
	c.mu.Unlock()
	if changed {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

func (c *Client) linkNow() link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link
}

// session is an open Conn with its reader.
type session struct {
	Conn
	link     link
	messages chan *dhcpv4.DHCPv4
	broken   chan error
	reader   sync.WaitGroup
}

// Run asks for and keeps a lease until the context ends. The lease is not released.
func (c *Client) Run(ctx context.Context) error {
	m := newMachine(c.cfg.Last)
	told := c.cfg.Last
	var s *session
	defer func() { s.close() }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var out []outgoing
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-timer.C:
			out = m.tick(time.Now())
		case reply := <-s.receive():
			out = m.receive(reply, time.Now())
			if m.refused != "" {
				c.refused(m.refused, time.Now())
				m.refused = ""
			}
		case err := <-s.failure():
			c.cfg.Log.Warn("DHCP socket failed, opening it again", "device", c.cfg.Device, "err", err)
			s.close()
			s = nil
			m.linkDown()
		}
		retry := false
		s, retry, out = c.follow(s, m, out)
		for _, o := range out {
			if err := s.Send(o.message, o.to, o.from); err != nil {
				c.cfg.Log.Debug("DHCP message not sent", "device", c.cfg.Device, "err", err)
			}
		}
		if told != m.lease {
			told = m.lease
			c.cfg.OnLease(told)
		}
		arm(timer, m.deadline, retry)
	}
}

// refused tells why a reply was not used: at once when that is news, and seldom while a server goes on with it.
func (c *Client) refused(reason string, now time.Time) {
	if reason == c.lastRefused && now.Sub(c.refusedAt) < refusedPause {
		return
	}
	c.lastRefused, c.refusedAt = reason, now
	c.cfg.Log.Warn("DHCP reply not used", "device", c.cfg.Device, "reason", reason)
	if c.cfg.OnRefused != nil {
		c.cfg.OnRefused(reason)
	}
}

// follow opens and closes the session as the link comes and goes.
func (c *Client) follow(s *session, m *machine, out []outgoing) (_ *session, retry bool, _ []outgoing) {
	link := c.linkNow()
	if s != nil && s.link != link {
		s.close()
		s, out = nil, nil
		m.linkDown()
	}
	if s != nil || !link.up {
		return s, false, out
	}
	conn, err := c.cfg.Open(c.cfg.Device)
	if err != nil {
		c.cfg.Log.Warn("DHCP socket cannot be opened", "device", c.cfg.Device, "err", err)
		return nil, true, nil
	}
	s = &session{Conn: conn, link: link, messages: make(chan *dhcpv4.DHCPv4), broken: make(chan error, 1)}
	s.read()
	return s, false, m.linkUp(conn.HardwareAddr(), time.Now())
}

// arm sets the timer to the machine's deadline, or sooner when the device shall be opened again.
func arm(timer *time.Timer, deadline time.Time, retry bool) {
	timer.Stop()
	if !deadline.IsZero() {
		timer.Reset(max(time.Until(deadline), 0))
	}
	if retry && (deadline.IsZero() || time.Until(deadline) > reopenPause) {
		timer.Reset(reopenPause)
	}
}

func (s *session) read() {
	stop := make(chan struct{})
	conn := s.Conn
	s.Conn = closeOnce{conn, sync.OnceValue(func() error { close(stop); return conn.Close() })}
	s.reader.Go(func() {
		for {
			m, err := conn.Receive()
			if err != nil {
				s.broken <- err
				return
			}
			select {
			case s.messages <- m:
			case <-stop:
				return
			}
		}
	})
}

// closeOnce also ends the reader.
type closeOnce struct {
	Conn
	close func() error
}

func (c closeOnce) Close() error { return c.close() }

// close ends the session and waits for its reader; a nil session is closed already.
func (s *session) close() {
	if s != nil {
		_ = s.Conn.Close()
		s.reader.Wait()
	}
}

func (s *session) receive() <-chan *dhcpv4.DHCPv4 {
	if s == nil {
		return nil
	}
	return s.messages
}

func (s *session) failure() <-chan error {
	if s == nil {
		return nil
	}
	return s.broken
}

// errClosed ends Receive after Close.
var errClosed = errors.New("closed")
