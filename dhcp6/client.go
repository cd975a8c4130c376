package dhcp6

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// Conn carries datagrams between one device and the DHCPv6 servers on its link.
type Conn interface {
	// Send sends to all servers and relays. ErrStale means that the Conn must be made anew.
	Send(b []byte) error
	// Receive returns the next datagram; it blocks until Close.
	Receive() ([]byte, error)
	Close() error
}

var (
	// ErrNotReady means that the device cannot send yet: it has no link-local address that is checked for
	// duplicates. Open is tried again soon.
	ErrNotReady = errors.New("no usable link-local address")
	// ErrStale means that the device or the address that a Conn was bound to is gone.
	ErrStale = errors.New("the socket's device or address is gone")
	// ErrEnded means that Run returned for another reason, and nothing was released.
	ErrEnded = errors.New("the client has ended")

	errClosed = errors.New("closed")
)

// Config is what a Client is made of.
type Config struct {
	Device string
	DUID   DUID     // of this router, from NewDUID once
	IAPD   []IAPD   // a prefix, or several, is asked for with each
	IANA   []uint32 // IAIDs of addresses for the uplink itself
	// RapidCommit lets servers answer a Solicit at once. With several servers on the link all but one
	// commit a prefix in vain.
	RapidCommit bool
	Last        *Lease // of an earlier run; nil for none
	Log         *slog.Logger
	// OnChange hears of every change, from the client's goroutine. Before it returns from a change in
	// which parts are gone, those must not be used any more: a Release follows. If Last is set, the first
	// change says what is left of it.
	OnChange func(Change)

	// Open makes the Conn; nil is a UDP socket.
	Open func(device string) (Conn, error)
	// Clock returns a clock that never steps and counts time asleep, and time.Now; nil is those of the system.
	Clock func() (sinceBoot time.Duration, wall time.Time)
	// Rand returns numbers in [0, 1); nil is math/rand/v2.
	Rand func() float64
}

// Client keeps leases on one device.
type Client struct {
	cfg     Config
	wake    chan struct{}
	release chan struct{}
	ended   chan struct{} // closed when Run returns
	gave    bool          // by Release: read after ended

	mu   sync.Mutex // guards link and lack
	link link
	lack *Lack // replaced, never changed in place
}

const (
	// A device that gave an error is left alone for this long; twice as long each time, up to the maximum.
	minReopen = 200 * time.Millisecond
	maxReopen = time.Second
	// readyTries is how often a device may lack an address before that is worth a line: the kernel looks
	// for duplicates for one or two seconds.
	readyTries = 6
	// maxNoted bounds what is remembered to have been logged: servers choose the words.
	maxNoted = 32
	// maxSleep is how often the clocks are looked at: Go's timers stand still while the machine sleeps, and
	// nothing tells that the wall clock has stepped.
	maxSleep = time.Minute
)

// New makes a client that does nothing before Run and a link.
func New(cfg Config) *Client {
	if cfg.Open == nil {
		cfg.Open = openUDP
	}
	if cfg.Clock == nil {
		cfg.Clock = systemClock
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Float64
	}
	return &Client{cfg: cfg, wake: make(chan struct{}, 1), release: make(chan struct{}), ended: make(chan struct{})}
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

// Verify asks whether what is held still belongs to the link, as after a loss of it: it may have another router.
func (c *Client) Verify() {
	c.mu.Lock()
	c.link.losses++
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *Client) linkNow() link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link
}

// Release gives the leases back to the server, for good: OnChange hears that they are gone, the server is
// told up to four times within some seconds, and Run returns. Without a link the server is not told. A
// restart must not call it: the prefix shall be there afterwards (RFC 9096 section 3.1). The error is the
// context's, or ErrEnded. It waits for Run to be called.
func (c *Client) Release(ctx context.Context) error {
	ask := c.release
	for {
		select {
		case ask <- struct{}{}:
			ask = nil // now wait for the end
		case <-c.ended:
			if !c.gave {
				return fmt.Errorf("releasing the lease of %s: %w", c.cfg.Device, ErrEnded)
			}
			return nil
		case <-ctx.Done():
			return fmt.Errorf("releasing the lease of %s: %w", c.cfg.Device, ctx.Err())
		}
	}
}

// Run asks for and keeps leases until the context ends or Release is done. The end of the context releases
// nothing. It may be called once.
func (c *Client) Run(ctx context.Context) error {
	defer close(c.ended)
	w := wishes{duid: c.cfg.DUID, iapd: c.cfg.IAPD, iana: c.cfg.IANA, rapid: c.cfg.RapidCommit}
	if err := w.check(); err != nil {
		return fmt.Errorf("DHCPv6 on %s: %w", c.cfg.Device, err)
	}
	r := &run{Client: c, timer: time.NewTimer(0), noted: make(map[string]bool)}
	defer r.timer.Stop()
	defer func() { r.session.close() }()
	var fx effects
	r.machine, fx = newMachine(w, c.cfg.Last, c.cfg.Rand, c.now())
	r.handle(fx)
	for r.machine.state != released {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
			r.reopenAt, r.tries = 0, 0
		case <-r.timer.C:
			r.handle(r.machine.tick(c.now()))
		case b := <-r.session.receive():
			r.handle(r.machine.receive(b, c.now()))
		case <-c.release:
			r.handle(r.machine.release(c.now()))
		case err := <-r.session.failure():
			r.lose(err)
		}
		r.follow()
		r.publish()
		r.arm()
	}
	c.gave = true
	return nil
}

func (c *Client) now() instant {
	mono, wall := c.cfg.Clock()
	return instant{mono, wall}
}

// check finds what no server could answer.
func (w *wishes) check() error {
	switch keys := w.keys(); {
	case len(w.duid) < minDUID || len(w.duid) > maxDUID:
		return fmt.Errorf("the DUID has %d octets, want %d to %d", len(w.duid), minDUID, maxDUID)
	case len(keys) == 0:
		return errors.New("neither a prefix nor an address is asked for")
	default:
		seen := make(map[iaKey]bool)
		for _, k := range keys {
			if seen[k] {
				return fmt.Errorf("%v is asked for twice", k)
			}
			seen[k] = true
		}
	}
	for _, pd := range w.iapd {
		if pd.Hint.IsValid() && !pd.Hint.Addr().Is6() {
			return fmt.Errorf("the hint %v is no IPv6 prefix", pd.Hint)
		}
	}
	return nil
}

// run is the state of Run: the machine and the socket that it has at the moment.
type run struct {
	*Client
	machine   *machine
	session   *session // nil: none open
	timer     *time.Timer
	reopenAt  time.Duration   // monotonic: not opened again before
	tries     int             // of opening it, failed in a row
	complaint string          // logged last about the socket
	noted     map[string]bool // logged about the protocol since the last change
}

// handle does what the machine wants.
func (r *run) handle(fx effects) {
	if len(fx.changes) > 0 || len(r.noted) > maxNoted {
		clear(r.noted)
	}
	for _, n := range fx.notes {
		if !r.noted[n] {
			r.cfg.Log.Info("DHCPv6: "+n, "device", r.cfg.Device)
		}
		r.noted[n] = true
	}
	for _, ch := range fx.changes {
		if r.cfg.OnChange != nil {
			r.cfg.OnChange(ch)
		}
	}
	if fx.send == nil || r.session == nil {
		return
	}
	switch err := r.session.Send(fx.send); {
	case errors.Is(err, ErrStale):
		r.lose(err)
	case err != nil:
		// A full queue or a firewall: the retransmission tries again.
		r.complain("DHCPv6 message not sent", err)
	default:
		r.complaint = ""
	}
}

// complain logs what is new.
func (r *run) complain(what string, err error) {
	if text := what + err.Error(); text != r.complaint {
		r.complaint = text
		r.cfg.Log.Warn(what, "device", r.cfg.Device, "err", err)
	}
}

// lose closes the session after an error of its socket; follow opens the next one.
func (r *run) lose(err error) {
	r.complain("DHCPv6 socket lost, opening it again", err)
	r.shut()
	r.later()
}

func (r *run) shut() {
	r.session.close()
	r.session = nil
	r.handle(r.machine.linkDown(r.now()))
}

// later puts off the next opening.
func (r *run) later() {
	r.reopenAt = r.now().mono + min(minReopen<<min(r.tries, 10), maxReopen)
	r.tries++
}

// follow opens and closes the session as the link comes and goes.
func (r *run) follow() {
	link := r.linkNow()
	if r.session != nil && r.session.link != link {
		r.shut()
	}
	if r.session != nil || !link.up || r.now().mono < r.reopenAt || r.machine.state == released {
		return
	}
	conn, err := r.cfg.Open(r.cfg.Device)
	if err != nil {
		r.later()
		if r.tries >= readyTries || !errors.Is(err, ErrNotReady) {
			r.complain("DHCPv6 socket cannot be opened yet", err)
		}
		return
	}
	r.tries, r.complaint = 0, ""
	r.session = newSession(conn, link)
	r.handle(r.machine.linkUp(r.now()))
}

// arm sets the timer to what is due first.
func (r *run) arm() {
	now := r.now().mono
	wait := min(r.machine.deadline()-now, maxSleep)
	if r.linkNow().up && r.session == nil {
		wait = min(wait, r.reopenAt-now)
	}
	r.timer.Reset(max(wait, 0))
}

// session is an open Conn with its reader.
type session struct {
	Conn
	link     link
	messages chan []byte
	broken   chan error
	stop     chan struct{}
	reader   sync.WaitGroup
}

func newSession(conn Conn, link link) *session {
	s := &session{Conn: conn, link: link, messages: make(chan []byte), broken: make(chan error, 1), stop: make(chan struct{})}
	s.reader.Go(s.read)
	return s
}

func (s *session) read() {
	for {
		b, err := s.Receive()
		if err != nil {
			s.broken <- err
			return
		}
		select {
		case s.messages <- b:
		case <-s.stop:
			return
		}
	}
}

// close ends the session and waits for its reader; a nil session is closed already.
func (s *session) close() {
	if s != nil {
		close(s.stop)
		_ = s.Close()
		s.reader.Wait()
	}
}

func (s *session) receive() <-chan []byte {
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
