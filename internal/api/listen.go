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
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

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

// Listen binds the unix socket and the TCP address; "" is none. The
// socket's directory is made; a socket that a dead daemon left is replaced; that
// of a living one is an error that is [ErrRunning]. The TCP address need not
// exist yet, as a LAN may come up later than the daemon.
func Listen(ctx context.Context, socket, tcp string) (*Listeners, error) {
	l := &Listeners{}
	if socket != "" {
		listener, err := listenUnix(ctx, socket)
		if err != nil {
			return nil, err
		}
		l.unix = listener
	}
	if tcp == "" {
		return l, nil
	}
	listener, err := listenTCP(ctx, tcp)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	l.tcp = listener
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
	unlock, err := lock(path + ".lock")
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

// ShareSocket gives a socket to a group of users; its mode lets them do what root may do by it. Without such a group
// the error is a [user.UnknownGroupError], and the socket stays as it was.
func ShareSocket(path, group string) error {
	g, err := user.LookupGroup(group)
	if err != nil {
		return fmt.Errorf("giving the socket to group %s: %w", group, err)
	}
	id, err := strconv.Atoi(g.Gid)
	if err != nil {
		return fmt.Errorf("giving the socket to group %s: its number is %q", group, g.Gid)
	}
	return os.Lchown(path, -1, id)
}

// lock keeps two daemons that start at once from taking each other's new socket for a stale one. Only we may open the file, so
// nobody else can hold the lock; one of somebody else's in its place gives way.
func lock(path string) (unlock func(), err error) {
	for range 2 {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
		if err == nil && isPrivate(f) {
			if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
				return func() { _ = f.Close() }, nil // which unlocks
			}
			_ = f.Close() // nothing was written
			return nil, &operatorError{"another uplinkd is just starting: " + path + " is locked", []error{ErrRunning}}
		}
		if err == nil {
			_ = f.Close()
		}
		_ = os.Remove(path)
	}
	return func() {}, nil // it matters only to two that start within the same millisecond
}

// isPrivate reports whether a file is one that only we can have opened.
func isPrivate(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o077 == 0 && int(st.Uid) == os.Geteuid()
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
		return &operatorError{"another uplinkd is running, but busy, on " + path, []error{ErrRunning, err}}
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
	if l.unix != nil {
		wg.Go(func() {
			defer stop() // the end of one is the end of both
			unixErr = s.serve(ctx, l.unix, true)
		})
	}
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
	limited := netutil.LimitListener(listener, s.limits.connections)
	if !local {
		limited = newFairListener(listener, s.limits.connections, s.limits.clientConnections)
	}
	taken := s.taken(ctx, listener)
	go func() { ended <- server.Serve(limited) }()
	var failed error
	select {
	case err := <-ended:
		failed = fmt.Errorf("serving on %s: %w", listener.Addr(), err)
	case failed = <-taken:
		listener.(*net.UnixListener).SetUnlinkOnClose(false) // what is there now is not ours
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limits.grace)
	defer cancel()
	if server.Shutdown(grace) != nil {
		// What is still open has had its time; there is nothing to do about an
		// error of closing it.
		_ = server.Close()
	}
	if failed == nil || errors.Is(failed, errTaken) {
		<-ended
	}
	open.Wait()
	return failed
}

// errTaken means that nobody can reach the socket any more.
var errTaken = errors.New("the control socket was removed")

// taken tells when somebody has removed the file of a socket, or put another in its place: who connects there does not
// reach us.
func (s *Server) taken(ctx context.Context, listener net.Listener) <-chan error {
	gone := make(chan error, 1)
	l, ok := listener.(*net.UnixListener)
	if !ok {
		return gone
	}
	path := l.Addr().String()
	bound, err := os.Lstat(path)
	go func() {
		for err == nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(s.limits.look):
			}
			var now os.FileInfo
			// Of a file system that gives an inode's number away again at once, only the time of making tells two apart.
			if now, err = os.Lstat(path); err == nil && !(os.SameFile(bound, now) && now.Mode().Type() == fs.ModeSocket && now.ModTime().Equal(bound.ModTime())) {
				err = errors.New("another is there")
			}
		}
		gone <- fmt.Errorf("%s: %w: %w", path, errTaken, err)
	}()
	return gone
}

// Answer serves listeners until ctx ends. When they fail or the socket is taken away, or there are none yet, it binds new ones
// as soon as that is possible, and report hears why nobody is answered meanwhile; nil when they are again.
func (s *Server) Answer(ctx context.Context, l *Listeners, bind func(context.Context) (*Listeners, error), report func(error)) {
	for ctx.Err() == nil {
		var err error
		if l == nil {
			l, err = bind(ctx)
		}
		if err == nil {
			report(nil)
			err, l = s.Serve(ctx, l), nil
			if errors.Is(err, errTaken) {
				continue
			}
		}
		if ctx.Err() != nil {
			break
		}
		report(err)
		select {
		case <-ctx.Done():
		case <-time.After(s.limits.look):
		}
	}
}
