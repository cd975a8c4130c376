package api

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// clientOf returns who is on the other end of a connection, as far as shares are concerned: a host has one IPv4 address, and as
// many of an IPv6 network as it likes. What has no address is one client.
func clientOf(remote string) netip.Prefix {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	addr, bits := at.Addr().Unmap().WithZone(""), 64
	if addr.Is4() {
		bits = 32
	} else if addr.IsLinkLocalUnicast() {
		bits = 128
	}
	client, _ := addr.Prefix(bits) // the bits fit
	return client
}

// shares are places of which no client gets more than its part.
type shares struct {
	all, each int

	mu    sync.Mutex
	taken map[netip.Prefix]int
	sum   int
}

func newShares(all, each int) *shares {
	return &shares{all: all, each: each, taken: make(map[netip.Prefix]int)}
}

// take returns what gives the place back.
func (s *shares) take(client netip.Prefix) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.sum >= s.all:
		return nil, fmt.Errorf("%d clients already follow events, which is the limit", s.sum)
	case s.taken[client] >= s.each:
		return nil, fmt.Errorf("you already follow events on %d connections, which is the limit", s.each)
	}
	s.sum++
	s.taken[client]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sum--
		if s.taken[client]--; s.taken[client] == 0 {
			delete(s.taken, client)
		}
	}, nil
}

// fairListener bounds connections, for each client and in all. Where there are too many in all, the newcomer takes the place of
// the oldest connection of whoever has the most: nobody can keep the others out.
type fairListener struct {
	net.Listener
	all, each int

	mu   sync.Mutex
	open []*fairConn // the oldest first
}

func newFairListener(l net.Listener, all, each int) *fairListener {
	return &fairListener{Listener: l, all: all, each: each}
}

// fairConn is a connection that has a place.
type fairConn struct {
	net.Conn
	of     *fairListener
	client netip.Prefix
}

// Accept waits for a connection that gets a place. Those that get none are closed.
func (l *fairListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &fairConn{Conn: conn, of: l, client: clientOf(conn.RemoteAddr().String())}
		out := l.admit(c)
		if out != nil {
			_ = out.Close() // whoever has it loses nothing that was promised
		}
		if out != c {
			return c, nil
		}
	}
}

// admit gives the connection a place, and returns the one that has to go for it; itself when it is one too many.
func (l *fairListener) admit(c *fairConn) (out *fairConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	count := make(map[netip.Prefix]int)
	for _, o := range l.open {
		count[o.client]++
	}
	if count[c.client] >= l.each {
		return c
	}
	if len(l.open) >= l.all {
		for _, o := range l.open {
			if out == nil || count[o.client] > count[out.client] {
				out = o
			}
		}
		l.remove(out)
	}
	l.open = append(l.open, c)
	return out
}

func (l *fairListener) remove(c *fairConn) {
	l.open = slices.DeleteFunc(l.open, func(o *fairConn) bool { return o == c })
}

// Close gives the place to others.
func (c *fairConn) Close() error {
	c.of.mu.Lock()
	c.of.remove(c)
	c.of.mu.Unlock()
	if err := c.Conn.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil // it had to give way
}

// maxGuessers bounds how many clients with wrong tokens are remembered.
const maxGuessers = 256

// guesses slows down those who try tokens.
type guesses struct {
	limit int
	time  time.Duration

	mu sync.Mutex
	by map[netip.Prefix]guesser
}

// guesser has sent so many wrong tokens since then.
type guesser struct {
	count int
	since time.Time
}

func newGuesses(limit int, time time.Duration) *guesses {
	return &guesses{limit: limit, time: time, by: make(map[netip.Prefix]guesser)}
}

// wait returns how long a client has to wait until its token is looked at; 0 for not at all.
func (g *guesses) wait(client netip.Prefix, now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if b := g.by[client]; b.count >= g.limit {
		return max(0, g.time-now.Sub(b.since))
	}
	return 0
}

// failed counts a wrong token, and reports whether it was the last that is looked at for now.
func (g *guesses) failed(client netip.Prefix, now time.Time) (last bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	b, known := g.by[client]
	if now.Sub(b.since) >= g.time {
		b = guesser{since: now}
	}
	if !known && len(g.by) >= maxGuessers {
		var oldest netip.Prefix
		for c, o := range g.by {
			if was, ok := g.by[oldest]; !ok || o.since.Before(was.since) {
				oldest = c
			}
		}
		delete(g.by, oldest)
	}
	b.count++
	g.by[client] = b
	return b.count == g.limit
}
