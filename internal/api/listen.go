package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
)

// ErrRunning is the error of Listen when a living daemon has the socket.
var ErrRunning = errors.New("another uplinkd is running")

// socketMode lets root and the group of the socket change things.
const socketMode = 0o660

// Listeners are bound, and nobody is answered yet. Pass them to [Server.Serve],
// which closes them, or close them.
type Listeners struct {
	unix, tcp net.Listener
}

// Listen binds the unix socket and, unless tcp is "", the TCP address. The
// socket's directory is made; a socket that a dead daemon left is replaced; that
// of a living one is an error that is [ErrRunning]. The TCP address need not
// exist yet, as a LAN may come up later than the daemon.
func Listen(ctx context.Context, socket, tcp string) (*Listeners, error) {
	l := &Listeners{}
	var err error
	if l.unix, err = listenUnix(ctx, socket); err != nil {
		return nil, err
	}
	if tcp == "" {
		return l, nil
	}
	if l.tcp, err = listenTCP(ctx, tcp); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func listenTCP(ctx context.Context, address string) (net.Listener, error) {
	network := "tcp"
	if a, err := netip.ParseAddrPort(address); err == nil && a.Addr().Is4() {
		network = "tcp4" // "tcp" would take 0.0.0.0 for every IPv6 address too
	}
	config := net.ListenConfig{Control: freebind}
	listener, err := config.Listen(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", address, reason(err))
	}
	return listener, nil
}

// reason leaves out what package net says about operation and address.
func reason(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// TCPAddr returns the address of the TCP listener; nil when it is off.
func (l *Listeners) TCPAddr() net.Addr {
	if l.tcp == nil {
		return nil
	}
	return l.tcp.Addr()
}

// Close gives up the listeners and removes the socket.
func (l *Listeners) Close() error {
	var errs []error
	for _, listener := range []net.Listener{l.unix, l.tcp} {
		if listener == nil {
			continue
		}
		if err := listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the directory of the socket: %w", err)
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	config := net.ListenConfig{Control: chmodBeforeBind}
	listener, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, reason(err))
	}
	if err := os.Chmod(path, socketMode); err != nil { // against the umask
		return nil, errors.Join(fmt.Errorf("setting the mode of the socket: %w", err), listener.Close())
	}
	return listener, nil
}

// lock keeps two daemons that start at once from taking each other's new socket
// for a stale one. The directory itself is locked, so that no file is left.
func lock(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the directory of the socket: %w", err)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = d.Close() // opened for reading only
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &operatorError{"another uplinkd is just starting: " + dir + " is locked", []error{ErrRunning, err}}
		}
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return func() { _ = d.Close() }, nil // which unlocks
}

// removeStale removes the socket of a daemon that is gone, and nothing else.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking at the socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		_ = conn.Close() // nothing was sent
		return &operatorError{"another uplinkd answers on " + path, []error{ErrRunning}}
	case errors.Is(err, syscall.EAGAIN):
		return &operatorError{"another uplinkd is there, and busy, on " + path, []error{ErrRunning, err}}
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("finding out whether %s is in use: %w", path, reason(err))
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing a stale socket: %w", err)
	}
	return nil
}

// chmodBeforeBind makes the socket's file appear with no more rights than it
// shall have: Linux gives it those of the unbound socket, less the umask.
func chmodBeforeBind(_, _ string, c syscall.RawConn) error {
	var failed error
	if err := c.Control(func(fd uintptr) { failed = unix.Fchmod(int(fd), socketMode) }); err != nil {
		return err
	}
	return failed
}

// freebind allows an address that no device has yet. Without it the daemon
// would not start on a router whose LAN bridge comes up late.
func freebind(network, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		// Where the kernel refuses, binding itself says what is wrong.
		if network == "tcp6" {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
		} else {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
		}
	})
}

// Serve answers on l until ctx ends, and returns when all connections are gone
// and the socket is removed; nil on cancel. It may be called once for l.
func (s *Server) Serve(ctx context.Context, l *Listeners) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	var unixErr, tcpErr error
	wg.Go(func() {
		defer stop() // the end of one is the end of both
		unixErr = s.serve(ctx, l.unix, true)
	})
	if l.tcp != nil {
		wg.Go(func() {
			defer stop()
			tcpErr = s.serve(ctx, l.tcp, false)
		})
	}
	wg.Wait()
	return errors.Join(unixErr, tcpErr)
}

func (s *Server) serve(ctx context.Context, listener net.Listener, local bool) error {
	var open sync.WaitGroup
	server := &http.Server{
		Handler:           s.handler(local),
		ReadHeaderTimeout: s.limits.headerTimeout,
		ReadTimeout:       s.limits.readTimeout,
		WriteTimeout:      s.limits.writeTimeout,
		IdleTimeout:       s.limits.idleTimeout,
		MaxHeaderBytes:    s.limits.headerBytes,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return ctx }, // its end ends the streams
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				open.Add(1)
			case http.StateClosed, http.StateHijacked:
				open.Done()
			}
		},
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(netutil.LimitListener(listener, s.limits.connections)) }()
	var failed error
	select {
	case err := <-ended:
		failed = fmt.Errorf("serving on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limits.grace)
	defer cancel()
	if server.Shutdown(grace) != nil {
		// What is still open has had its time; there is nothing to do about an
		// error of closing it.
		_ = server.Close()
	}
	if failed == nil {
		<-ended
	}
	open.Wait()
	return failed
}
