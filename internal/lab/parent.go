package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
)

// defaultListen is the dashboard's address on the machine, the same as the daemon's own.
const defaultListen = "127.0.0.1:9275"

// The files that the re-executed lab inherits, by index.
const (
	inheritedLock = iota
	inheritedListener
)

// runOptions are the flags of `lab run`.
type runOptions struct {
	world  Options
	listen string // "" when not given
	demo   bool
}

func parseRun(args []string) (runOptions, error) {
	var o runOptions
	f := flags("run")
	f.StringVar(&o.world.RPFilter, "rp-filter", "strict", "")
	f.IntVar(&o.world.Uplinks, "uplinks", 2, "")
	f.StringVar(&o.listen, "listen", "", "")
	f.BoolVar(&o.demo, "demo", false, "")
	if err := parseFlags(f, args); err != nil {
		return o, err
	}
	o.world.DNAT, o.world.Delegation = true, true
	if _, err := o.world.withDefaults(); err != nil {
		return o, fmt.Errorf("%w: %w", errUsage, err)
	}
	if o.listen == "" {
		return o, nil
	}
	ap, err := netip.ParseAddrPort(o.listen)
	if err != nil || !ap.Addr().IsLoopback() {
		return o, fmt.Errorf("%w: --listen is a loopback address and a port such as %s, not %q", errUsage, defaultListen, o.listen)
	}
	return o, nil
}

// runParent is the part of `lab run` that stays in the machine's namespaces: it holds the lock, gives the lab a
// listener of the machine, and removes the lab's directory afterwards.
func runParent(ctx context.Context, args []string, o runOptions, s streams) (code int, err error) {
	if _, err := findTools(); err != nil {
		return exitFailed, err
	}
	dir, err := claim(directoryPath())
	if errors.Is(err, errLabRuns) {
		return exitFailed, fmt.Errorf("%w: look at it with uplinkd lab status, end it with uplinkd lab down", err)
	}
	if err != nil {
		return exitFailed, err
	}
	defer func() { err = errors.Join(err, dir.remove()) }()
	if dir.stale {
		_, _ = fmt.Fprintf(s.err, "removed what a killed lab left in %s\n", dir.path)
	}
	listener, err := listenInParent(ctx, o.listen)
	if err != nil {
		return exitFailed, err
	}
	defer func() { _ = listener.Close() }()
	child := Child{
		Args:   append([]string{"lab", "run"}, args...),
		Env:    []string{directoryEnv + "=" + dir.path},
		Files:  []*os.File{inheritedLock: dir.lock, inheritedListener: listener},
		Stdout: s.out,
		Stderr: s.err,
	}
	return child.Run(ctx)
}

// listenInParent opens the dashboard's listener; where its usual port is taken, any other will do.
func listenInParent(ctx context.Context, addr string) (*os.File, error) {
	asked := addr
	if asked == "" {
		asked = defaultListen
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", asked)
	if addr == "" && errors.Is(err, syscall.EADDRINUSE) {
		ln, err = lc.Listen(ctx, "tcp", "127.0.0.1:0")
	}
	if err != nil {
		return nil, fmt.Errorf("opening the dashboard's address: %w", err)
	}
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("listening on %s is not TCP", asked), ln.Close())
	}
	file, err := tcp.File()
	return file, errors.Join(err, ln.Close())
}
