package pair

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// heartbeat is how often the other router is told that all is as it was.
	heartbeat = time.Second
	// silence is how long it need not be heard before it counts as gone.
	silence = 3500 * time.Millisecond
	// reachTimeout bounds a handshake, and each write; retryPause is between two tries.
	reachTimeout = 2 * time.Second
	retryPause   = time.Second
	// maxServed bounds the connections that are served at once.
	maxServed = 4
)

var (
	errSelf    = errors.New("it is this router itself: peer must be the address of the other one")
	errAgain   = errors.New("what was not taken is to be heard again")
	errVersion = errors.New("the other router has a version of uplinkd that this one does not understand")
)

// localAddr returns where this router can be reached by the other one: the source that the kernel would take.
func localAddr(peer netip.AddrPort) (string, error) {
	c, err := net.Dial("udp", peer.String()) // sends nothing
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	host, _, err := net.SplitHostPort(c.LocalAddr().String())
	return host, err
}

func listenTCP(ctx context.Context, address string) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", address)
}

func dialTCP(ctx context.Context, address string) (net.Conn, error) {
	return (&net.Dialer{Timeout: reachTimeout}).DialContext(ctx, "tcp", address)
}

// listen serves the other router until the context ends.
func (e *Engine) listen(ctx context.Context, secure *tls.Config) {
	for ctx.Err() == nil {
		if err := e.serveAt(ctx, secure); err != nil && ctx.Err() == nil {
			e.o.Log.Debug("pair: not listening", "err", err)
		}
		pause(ctx, retryPause)
	}
}

// serveAt serves at the address that this router has now, until it has another one.
func (e *Engine) serveAt(ctx context.Context, secure *tls.Config) error {
	listen, where := e.o.Listen, ""
	if listen == nil {
		local, err := localAddr(e.pair.Peer)
		if err != nil {
			return err
		}
		listen, where = listenTCP, local
	}
	address := net.JoinHostPort(where, fmt.Sprint(e.pair.Peer.Port()))
	l, err := listen(ctx, address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	if where != "" {
		running.Go(func() {
			for pause(ctx, 10*retryPause) {
				if now, err := localAddr(e.pair.Peer); err == nil && now != where {
					_ = l.Close()
					return
				}
			}
		})
	}
	places := make(chan struct{}, maxServed)
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		from, err := netip.ParseAddrPort(conn.RemoteAddr().String())
		if where != "" && (err != nil || from.Addr().Unmap().WithZone("") != e.pair.Peer.Addr()) {
			_ = conn.Close() // nobody else has anything to say here
			continue
		}
		select {
		case places <- struct{}{}:
		default:
			_ = conn.Close()
			continue
		}
		running.Go(func() {
			defer func() { <-places }()
			if err := e.serve(ctx, tls.Server(conn, secure)); err != nil && ctx.Err() == nil {
				e.o.Log.Debug("pair: the other router has left", "err", err)
			}
		})
	}
}

// serve tells whoever has the key what it lacks, until the connection ends.
func (e *Engine) serve(ctx context.Context, conn *tls.Conn) error {
	var reading sync.WaitGroup
	defer reading.Wait()
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(reachTimeout)) // a connection that cannot have one fails below
	var asked hello
	if err := readFrame(conn, &asked); err != nil {
		return err
	}
	have := asked.Have
	if have == nil {
		have = make(map[string]Stamp)
	}
	gone := make(chan struct{})
	_ = conn.SetReadDeadline(time.Time{})
	reading.Go(func() { // ends with the connection: nothing more is said
		defer close(gone)
		_, _ = conn.Read(make([]byte, 1))
	})
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		e.mu.Lock()
		m, tell := e.message(have, asked.Protocol == protocol && asked.Node != e.ledger.Node), e.tell
		e.mu.Unlock()
		_ = conn.SetWriteDeadline(time.Now().Add(reachTimeout))
		if err := writeFrame(conn, m); err != nil {
			return err
		}
		for _, r := range m.Records {
			have[r.Key] = r.Stamp
		}
		if m.More {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-gone:
			return nil
		case <-tell:
		case <-ticker.C:
		}
	}
}

// message is what is to be told to whoever has these records. The lock is held.
func (e *Engine) message(have map[string]Stamp, records bool) message {
	m := message{Protocol: protocol, Version: e.o.Version, Node: e.ledger.Node, Primary: e.primary, Now: time.Now(), Clock: e.ledger.Clock, Setup: e.setup, Handover: e.handover, Ready: e.ready}
	if !records {
		return m
	}
	size := 0
	for _, r := range e.ledger.newer(have) {
		if size += len(r.Key) + len(r.Value); size > batch && len(m.Records) > 0 {
			m.More = true
			break
		}
		m.Records = append(m.Records, r)
	}
	return m
}

// pullForever hears from the other router until the context ends.
func (e *Engine) pullForever(ctx context.Context, secure *tls.Config) {
	for ctx.Err() == nil {
		e.mu.Lock()
		again := e.again
		e.mu.Unlock()
		err := e.pull(ctx, secure, again, false)
		select {
		case <-again:
			continue
		default:
			if errors.Is(err, errAgain) {
				continue
			}
		}
		if err != nil && ctx.Err() == nil {
			e.lost(err)
		}
		pause(ctx, retryPause)
	}
}

// pull connects, and takes what it hears until the connection ends, or again is closed; once, until the other router has told all that it knows.
func (e *Engine) pull(ctx context.Context, secure *tls.Config, again <-chan struct{}, once bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dial := e.o.Dial
	if dial == nil {
		dial = dialTCP
	}
	raw, err := dial(ctx, e.pair.Peer.String())
	if err != nil {
		return err
	}
	conn := tls.Client(raw, secure)
	defer func() { _ = conn.Close() }()
	go func() {
		select {
		case <-ctx.Done():
		case <-again:
		}
		_ = raw.Close()
	}()
	e.mu.Lock()
	greeting := hello{Protocol: protocol, Node: e.ledger.Node, Have: e.ledger.have()}
	e.mu.Unlock()
	_ = conn.SetDeadline(time.Now().Add(reachTimeout))
	if err := writeFrame(conn, greeting); err != nil {
		return err
	}
	for {
		_ = conn.SetReadDeadline(time.Now().Add(silence))
		var m message
		if err := readFrame(conn, &m); err != nil {
			return err
		}
		if err := e.hear(&m); err != nil || once && !m.More {
			return err
		}
	}
}

// Sync hears once what the other router knows, where it can be reached within the time: who starts must not take for true what it knew long ago.
func (e *Engine) Sync(within time.Duration) {
	e.mu.Lock()
	off := !e.pair.On() || e.keyErr != nil
	again := e.again
	e.mu.Unlock()
	if off {
		return
	}
	secure, err := e.key.tls()
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), within)
		defer cancel()
		err = e.pull(ctx, secure, again, true)
	}
	if err != nil {
		e.lost(err)
	}
}

// pause waits, and reports whether the context lasts.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
