package linksession

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"
)

var (
	// ErrNotReady is wrapped by an Open whose device cannot send yet: it has no link-local address that is checked for
	// duplicates. That is tried again soon.
	ErrNotReady = errors.New("no usable link-local address yet")
	// ErrGone is wrapped by a Send whose device or address is gone: the socket must be made anew.
	ErrGone = errors.New("the socket's device or address is gone")
)

const (
	// reopenPause is how long a device that gave an error is left alone.
	reopenPause = time.Second
	// readyPause is between two looks at a device whose address is being checked for duplicates, which takes a second or two.
	// A device that has none for longer is looked at more and more seldom.
	readyPause = 200 * time.Millisecond
	// readyGrace is how long a device may lack an address before that is worth a line.
	readyGrace = 5 * time.Second
)

// Conn is a socket on one device that receives messages M.
type Conn[M any] interface {
	// Receive returns the next message; it blocks until Close.
	Receive() (M, error)
	Close() error
}

// Config is what a Session is made from.
type Config[C any] struct {
	Device   string
	Protocol string // as the log is to name it
	Log      *slog.Logger
	Open     func(device string) (C, error)
	// MaxWait is the longest pause between two looks at a device that is not ready.
	MaxWait time.Duration
}

// Session is a socket that is open while the link of its device is up. SetLink, SetHardware, Restart and Wake may be called from
// any goroutine, all else belongs to that of the client.
type Session[M any, C Conn[M]] struct {
	cfg  Config[C]
	wake chan struct{}

	mu   sync.Mutex // guards link
	link link

	seen      link // at the latest Follow
	conn      C
	reader    *reader[M] // of conn; nil: there is none
	closed    bool       // since the latest Follow
	retry     time.Time  // not opened before
	waiting   time.Time  // since when the device is not ready; zero: it is not for that
	complaint string     // the latest, which is not repeated
}

// link is what a session follows. A loss that is over before anybody has looked still shows, by the number of losses.
type link struct {
	index    int
	up       bool
	losses   int
	hardware [6]byte // zero: not told
}

// New makes a Session that is closed.
func New[M any, C Conn[M]](cfg Config[C]) *Session[M, C] {
	return &Session[M, C]{cfg: cfg, wake: make(chan struct{}, 1)}
}

// SetLink tells the index of the device, which changes when it is made anew, and whether it has carrier.
func (s *Session[M, C]) SetLink(index int, up bool) {
	s.set(func(l *link) {
		if l.up && !up {
			l.losses++
		}
		l.index, l.up = index, up
	})
}

// SetHardware tells the hardware address of the device, for protocols in which others have to learn a new one.
func (s *Session[M, C]) SetHardware(address [6]byte) { s.set(func(l *link) { l.hardware = address }) }

// Restart has a new session begin, as after a loss of the link.
func (s *Session[M, C]) Restart() { s.set(func(l *link) { l.losses++ }) }

func (s *Session[M, C]) set(change func(*link)) {
	s.mu.Lock()
	before := s.link
	change(&s.link)
	changed := s.link != before
	s.mu.Unlock()
	if changed {
		s.Wake()
	}
}

// Wake has Next return.
func (s *Session[M, C]) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Conn returns the open socket; the zero value when there is none.
func (s *Session[M, C]) Conn() C { return s.conn }

// Follow opens and closes the socket as the link comes and goes. It reports whether one is newly open, and whether the former one
// has been closed since the latest call.
func (s *Session[M, C]) Follow(now time.Time) (opened, closed bool) {
	s.mu.Lock()
	link := s.link
	s.mu.Unlock()
	if link != s.seen {
		s.Close()
		s.seen, s.retry, s.waiting = link, time.Time{}, time.Time{}
	}
	if link.up && s.reader == nil && !now.Before(s.retry) {
		if conn, err := s.cfg.Open(s.cfg.Device); err != nil {
			s.postpone(err, now)
		} else {
			s.conn, s.reader, opened = conn, read(conn), true
			s.retry, s.waiting, s.complaint = time.Time{}, time.Time{}, ""
		}
	}
	closed, s.closed = s.closed, false
	return opened, closed
}

// postpone decides when to try again to open a socket.
func (s *Session[M, C]) postpone(err error, now time.Time) {
	pause := reopenPause
	if !errors.Is(err, ErrNotReady) {
		s.waiting = time.Time{}
	} else {
		if s.waiting.IsZero() {
			s.waiting = now
		}
		waited := now.Sub(s.waiting)
		pause = min(max(waited/4, readyPause), s.cfg.MaxWait)
		if waited < readyGrace {
			s.retry = now.Add(pause)
			return
		}
	}
	s.retry = now.Add(pause)
	s.complain(" socket cannot be opened", err)
}

// Sent takes the result of sending and reports whether the message went out. A device that has gone, or has another address
// now, ends the session; anything else passes (ENOBUFS, ENETDOWN, a firewall's EPERM).
func (s *Session[M, C]) Sent(err error) bool {
	if err == nil {
		return true
	}
	for _, gone := range []error{ErrGone, syscall.ENODEV, syscall.ENXIO, syscall.EADDRNOTAVAIL, syscall.EINVAL, net.ErrClosed} {
		if errors.Is(err, gone) {
			s.fail(err)
			return false
		}
	}
	s.complain(" message not sent", err)
	return false
}

// fail ends a session whose socket gave an error; Follow opens another after a pause.
func (s *Session[M, C]) fail(err error) {
	s.complain(" socket failed, opening it again", err)
	s.Close()
	s.retry = time.Now().Add(reopenPause)
}

// complain logs what is new. The same errno is the same, wherever the message was to go.
func (s *Session[M, C]) complain(what string, err error) {
	text := what + err.Error()
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		text = what + errno.Error()
	}
	if text != s.complaint {
		s.complaint = text
		s.cfg.Log.Warn(s.cfg.Protocol+what, "device", s.cfg.Device, "err", err)
	}
}

// Close ends the session and waits for its reader.
func (s *Session[M, C]) Close() {
	if s.reader == nil {
		return
	}
	close(s.reader.stop)
	_ = s.conn.Close()
	<-s.reader.done
	s.conn, s.reader, s.closed = *new(C), nil, true
}

// Event is what Next returned for.
type Event[M any] struct {
	Message  M
	Received bool // there is a Message
	Ended    bool // the context is over
}

// Next waits until there is something to do, at the latest at the deadline, unless that is zero. Follow is to be called
// between two calls.
func (s *Session[M, C]) Next(ctx context.Context, deadline time.Time) Event[M] {
	if deadline.IsZero() || !s.retry.IsZero() && s.retry.Before(deadline) {
		deadline = s.retry
	}
	var due <-chan time.Time
	if !deadline.IsZero() {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		due = timer.C
	}
	var messages chan M
	var broken chan error
	if s.reader != nil {
		messages, broken = s.reader.messages, s.reader.broken
	}
	select {
	case <-ctx.Done():
		return Event[M]{Ended: true}
	case <-s.wake:
	case <-due:
	case m := <-messages:
		return Event[M]{Message: m, Received: true}
	case err := <-broken:
		s.fail(err)
	}
	return Event[M]{}
}

// Anybody on the link may send as much as it carries. What is more than any protocol here needs is left to the kernel, which drops
// what does not fit into the socket: that costs us nothing.
const (
	readAtOnce    = 200
	readPerSecond = 200
	readPause     = 50 * time.Millisecond // at least, so that a flood does not wake us for each message
)

// reader is the goroutine that receives what a socket hears.
type reader[M any] struct {
	messages   chan M
	broken     chan error
	stop, done chan struct{}
}

func read[M any](conn Conn[M]) *reader[M] {
	r := &reader[M]{messages: make(chan M), broken: make(chan error, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(r.done)
		allowed := NewBudget(readAtOnce, time.Second/readPerSecond)
		for {
			if wait := allowed.Spend(time.Now()); wait > 0 {
				select {
				case <-time.After(max(wait, readPause)):
					continue
				case <-r.stop:
					return
				}
			}
			m, err := conn.Receive()
			if err != nil {
				r.broken <- err
				return
			}
			select {
			case r.messages <- m:
			case <-r.stop:
				return
			}
		}
	}()
	return r
}
