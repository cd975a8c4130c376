package dhcp6

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/linksession"
)

// Conn carries datagrams between one device and the DHCPv6 servers on its link.
type Conn interface {
	// Send sends to all servers and relays. ErrGone means that the Conn must be made anew.
	Send(b []byte) error
	// Receive returns the next datagram; it blocks until Close.
	Receive() ([]byte, error)
	Close() error
}

var (
	// ErrNotReady means that the device cannot send yet: it has no link-local address that is checked for
	// duplicates. Open is tried again soon.
	ErrNotReady = linksession.ErrNotReady
	// ErrGone means that the device or the address that a Conn was bound to is gone.
	ErrGone = linksession.ErrGone
	// ErrEnded means that Run returned for another reason, and nothing was released.
	ErrEnded = errors.New("the client has ended")
)

// Config is what a Client is made of.
type Config struct {
	Device string
	DUID   DUID     // of this router, from NewDUID once
	IAPD   []IAPD   // a prefix, or several, is asked for with each
	IANA   []uint32 // IAIDs of addresses for the uplink itself
	// Class is told to servers that tell customers' routers apart by it.
	Class Class
	// RapidCommit lets servers answer a Solicit at once. With several servers on the link all but one
	// commit a prefix in vain.
	RapidCommit bool
	Last        *Lease // of an earlier run; nil for none
	Log         *slog.Logger
	// OnChange hears of every change, from the client's goroutine. Before it returns from a change in
	// which changes are gone, those must not be used any more: a Release follows. If Last is set, the first
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
	session *linksession.Session[[]byte, Conn]
	ended   chan struct{} // closed when Run returns
	gave    bool          // by Release: read after ended

	mu        sync.Mutex // guards what follows
	releasing bool       // Release was called
	lack      *Lack      // replaced, never changed in place
}

const (
	// maxWait is the longest pause between two looks at a device without an address.
	maxWait = time.Second
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
	return &Client{cfg: cfg, ended: make(chan struct{}),
		session: linksession.New[[]byte](linksession.Config[Conn]{Device: cfg.Device, Protocol: "DHCPv6", Log: cfg.Log, Open: cfg.Open, MaxWait: maxWait})}
}

// SetLink tells the index of the device, which changes when it is made anew, and whether it has carrier.
func (c *Client) SetLink(index int, up bool) { c.session.SetLink(index, up) }

// Verify asks whether what is held still belongs to the link, as after a loss of it: it may have another router.
func (c *Client) Verify() { c.session.Restart() }

// Release gives the leases back to the server, for good: OnChange hears that they are gone, the server is
// told up to four times within some seconds, and Run returns. Without a link the server is not told. A
// restart must not call it: the prefix shall be there afterwards (RFC 9096 section 3.1). The error is the
// context's, whose end leaves the release under way, or ErrEnded. It waits for Run to be called.
func (c *Client) Release(ctx context.Context) error {
	c.mu.Lock()
	c.releasing = true
	c.mu.Unlock()
	c.session.Wake()
	select {
	case <-c.ended:
		if !c.gave {
			return fmt.Errorf("releasing the lease of %s: %w", c.cfg.Device, ErrEnded)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("releasing the lease of %s: %w", c.cfg.Device, ctx.Err())
	}
}

// Run asks for and keeps leases until the context ends or Release is done. The end of the context releases
// nothing. It may be called once.
func (c *Client) Run(ctx context.Context) error {
	defer close(c.ended)
	w := iaConfig{duid: c.cfg.DUID, iapd: c.cfg.IAPD, iana: c.cfg.IANA, class: c.cfg.Class, rapid: c.cfg.RapidCommit}
	if err := w.check(); err != nil {
		return fmt.Errorf("DHCPv6 on %s: %w", c.cfg.Device, err)
	}
	r := &run{Client: c, noted: make(map[string]bool)}
	defer c.session.Close()
	var fx effects
	r.machine, fx = newMachine(w, c.cfg.Last, c.cfg.Rand, c.now())
	r.handle(fx)
	var e linksession.Event[[]byte]
	for ; !e.Ended; e = c.session.Next(ctx, r.deadline()) {
		if r.step(e); r.machine.state == released {
			c.gave = true
			return nil
		}
	}
	return nil
}

func (c *Client) now() instant {
	mono, wall := c.cfg.Clock()
	return instant{mono, wall}
}

// check finds what no server could answer.
func (w *iaConfig) check() error {
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
	if n := w.class.size(); n > maxClass {
		return fmt.Errorf("the classes have %d octets, want %d at most", n, maxClass)
	}
	for _, pd := range w.iapd {
		if pd.Hint.IsValid() && !pd.Hint.Addr().Is6() {
			return fmt.Errorf("the hint %v is no IPv6 prefix", pd.Hint)
		}
	}
	return nil
}

// run is the state of Run.
type run struct {
	*Client
	machine *machine
	noted   map[string]bool // logged about the protocol since the last change
}

// step does what is to be done after an event.
func (r *run) step(e linksession.Event[[]byte]) {
	opened, closed := r.session.Follow(time.Now())
	if closed {
		r.handle(r.machine.linkDown(r.now()))
	}
	if opened {
		r.handle(r.machine.linkUp(r.now()))
	}
	if e.Received {
		r.handle(r.machine.receive(e.Message, r.now()))
	} else {
		r.handle(r.machine.tick(r.now()))
	}
	r.mu.Lock()
	releasing := r.releasing
	r.mu.Unlock()
	if releasing {
		r.handle(r.machine.release(r.now()))
	}
	r.publish()
}

// deadline returns when the machine has something to do.
func (r *run) deadline() time.Time {
	return time.Now().Add(min(r.machine.deadline()-r.now().mono, maxSleep))
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
	if conn := r.session.Conn(); fx.send != nil && conn != nil {
		r.session.Sent(conn.Send(fx.send)) // what did not go out is sent again like what was not answered
	}
}
