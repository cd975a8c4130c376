package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// runChild is the part of `lab run` that lives in the private namespaces: it holds the world until ctx ends or
// somebody asks it to go.
func runChild(ctx context.Context, o runOptions, s streams) error {
	lock := Inherited(inheritedLock) // held until this process ends
	defer func() { _ = lock.Close() }()
	if err := isolateNamespaces(); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	l := &labRun{options: o, dir: &directory{path: directoryPath()}, streams: s, stop: stop}
	err := l.run(ctx)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil // interrupted while starting
	}
	stop()
	l.running.Wait()
	return errors.Join(err, l.end())
}

// labRun is a running lab.
type labRun struct {
	options runOptions
	dir     *directory
	streams streams
	stop    func()

	world     *World
	daemon    *daemon
	dashboard string
	running   sync.WaitGroup // goroutines that end with ctx
}

func (l *labRun) say(format string, args ...any) {
	_, _ = fmt.Fprintf(l.streams.out, format+"\n", args...)
}

// step runs one part of the start and tells how long it took.
func (l *labRun) step(name, what string, fn func() error) error {
	start := time.Now()
	if err := fn(); err != nil {
		return err
	}
	l.say("  %-10s %-52s %5.2f s", name, what, time.Since(start).Seconds())
	return nil
}

func (l *labRun) run(ctx context.Context) error {
	rp := l.options.world.RPFilter
	l.say("uplinkd lab: %d uplinks, rp_filter %s, in namespaces of its own", l.options.world.Uplinks, rp)
	steps := []struct {
		name, what string
		fn         func(context.Context) error
	}{
		{"world", "LAN host, router, providers, Internet", l.build},
		{"services", "ping, TCP, HTTP, DNS, echo, port forwardings", l.services},
		{"daemon", "log in " + l.dir.log(), l.startDaemon},
	}
	for _, st := range steps {
		if err := l.step(st.name, st.what, func() error { return st.fn(ctx) }); err != nil {
			return err
		}
	}
	if err := l.open(ctx); err != nil {
		return err
	}
	l.say("  %-10s %s", "dashboard", l.dashboard)
	if l.options.demo {
		if err := l.demo(ctx); err != nil {
			return err
		}
	}
	l.hints()
	l.watch(ctx)
	return nil
}

func (l *labRun) build(ctx context.Context) (err error) {
	l.world, err = New(ctx, l.options.world)
	return err
}

// services are the Internet's, what the LAN host offers through the port forwardings, and an echo on the router.
func (l *labRun) services(context.Context) error {
	ctx, w := l.world.ctx, l.world
	errs := []error{w.ServeInternet(ctx)}
	for _, a := range []string{LANHost4, LANHost6} {
		ip := netip.MustParseAddr(a)
		errs = append(errs,
			w.Host(LAN).ServeTCPEcho(ctx, netip.AddrPortFrom(ip, ForwardedTCP)),
			w.Host(LAN).ServeUDPEcho(ctx, netip.AddrPortFrom(ip, ForwardedUDP)))
	}
	for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		errs = append(errs, w.Host(Router).ServeUDPEcho(ctx, netip.AddrPortFrom(any, EchoPort)))
	}
	return errors.Join(errs...)
}

func (l *labRun) startDaemon(ctx context.Context) (err error) {
	if err := writeConfig(l.dir, l.world.Uplinks()); err != nil {
		return err
	}
	l.daemon, err = startDaemon(ctx, l.world.Host(Router), l.dir)
	return err
}

// open makes the lab reachable: the dashboard from the machine, the control socket for the other commands, and the
// daemon's socket at its usual place for programs that run in the lab.
func (l *labRun) open(ctx context.Context) error {
	file := Inherited(inheritedListener)
	dashboard, err := net.FileListener(file)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("taking over the dashboard's listener: %w", err)
	}
	l.dashboard = "http://" + dashboard.Addr().String() + "/"
	l.running.Go(func() { forward(ctx, dashboard, l.world.Host(Router), daemonListen) })

	control, err := net.Listen("unix", l.dir.control())
	if err != nil {
		return fmt.Errorf("opening the control socket: %w", err)
	}
	c := &controller{world: l.world, dashboard: l.dashboard, down: l.stop}
	l.running.Go(func() { c.serve(ctx, control) })

	const usual = "/run/uplinkd/uplinkd.sock"
	if err := os.MkdirAll(filepath.Dir(usual), 0o755); err != nil {
		return fmt.Errorf("offering the daemon's socket at its usual place: %w", err)
	}
	if err := os.Symlink(l.dir.socket(), usual); err != nil {
		return fmt.Errorf("offering the daemon's socket at its usual place: %w", err)
	}
	return nil
}

func (l *labRun) hints() {
	exe, err := os.Executable()
	if err != nil {
		exe = "uplinkd"
	}
	name := commandName(exe)
	l.say(`
play with it from another terminal:
  %[1]s lab break carrier fiber          pull the cable; also blackhole, far, loss, gateway, prefix
  %[1]s lab heal                         put everything right again
  %[1]s lab exec lan -- ping 192.0.2.1   from the LAN to the Internet
  %[1]s lab exec router -- %[2]s status
  %[1]s lab exec router                  a shell on the router
Ctrl-C or %[1]s lab down ends it, and nothing remains`, name, exe)
}

// commandName is how a user in the present directory calls this program.
func commandName(exe string) string {
	here, err := os.Getwd()
	if err != nil {
		return exe
	}
	if name, err := filepath.Rel(here, exe); err == nil && !strings.HasPrefix(name, "..") {
		if name == filepath.Base(name) {
			return "./" + name
		}
		return name
	}
	return exe
}

// watch waits for the end, and says so when the daemon ends before.
func (l *labRun) watch(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-l.daemon.ended:
	}
	if ctx.Err() != nil {
		return
	}
	l.say("\nthe daemon has ended: %s\n%s\nthe world stays; start it again with\n  %s", l.daemon.outcome(), l.daemon.tail(), l.daemon.again())
	<-ctx.Done()
}

func (l *labRun) end() error {
	var errs []error
	if l.daemon != nil {
		errs = append(errs, l.daemon.stop())
	}
	if l.world != nil {
		errs = append(errs, l.world.Close())
	}
	return errors.Join(errs...)
}

// forward passes connections of a listener on to an address within a host, until ctx ends.
func forward(ctx context.Context, ln net.Listener, to *Host, addr string) {
	var open sync.WaitGroup
	defer open.Wait()
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	acceptAll(ln, func(conn net.Conn) { open.Go(func() { forwardOne(ctx, conn, to, addr) }) })
}

func forwardOne(ctx context.Context, conn net.Conn, to *Host, addr string) {
	defer func() { _ = conn.Close() }()
	peer, err := to.Dial(ctx, "tcp", "", addr)
	if err != nil {
		return // the browser shows that nobody answers
	}
	defer func() { _ = peer.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close(); _ = peer.Close() })()
	var back sync.WaitGroup
	back.Go(func() { copyHalf(conn, peer) })
	copyHalf(peer, conn)
	back.Wait()
}

// copyHalf copies one direction and passes its end on.
func copyHalf(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}
