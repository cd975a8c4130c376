package probe

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Binding says how a probe must leave: bound to the device, marked, from the
// source address. Each may be zero; a probe then leaves as the kernel chooses.
// The mark is what selects the uplink's table, so a path without one is only as
// good as the rules for its device or source.
type Binding struct {
	Device string
	Mark   uint32
	Source netip.Addr
}

// Prober asks one target once over one path. The deadline of ctx is the
// listening window; a Prober must return when it has passed. Errors are those
// of [Net.Probe]. Implementations are used by many goroutines.
type Prober interface {
	Probe(ctx context.Context, b Binding, t Target) (rtt time.Duration, err error)
}

var _ Prober = (*Net)(nil)

// Net probes with real sockets. It needs CAP_NET_RAW for echo requests and
// CAP_NET_ADMIN for marks.
type Net struct {
	// LeavesByDevice reports whether an echo request with the mark and the source of a binding would leave by its device
	// without being bound to it; false also means that nobody knows. Asking the kernel costs less than binding. Where it is
	// nil, a rule before the mark's can take those of IPv6 elsewhere. It is set before the first probe and used by
	// many goroutines.
	LeavesByDevice func(b Binding, target netip.Addr) bool

	nextEcho atomic.Uint32  // the next ICMP id; 16 bits of it are used
	closing  sync.WaitGroup // pingers that still have to notice their end
	echoes   echoSockets
}

// New returns a prober with real sockets.
func New() *Net {
	n := new(Net)
	n.nextEcho.Store(rand.Uint32())
	return n
}

// Close waits until the last socket is closed: an echo probe's closes up to
// 100 ms after Probe has returned. No Probe may start after Close.
func (n *Net) Close() error {
	n.closing.Wait()
	return n.echoes.close()
}

// Probe asks t once over p and returns the time to its answer: for HTTP until
// the status line has arrived, so it compares only with the same target's. What
// counts as an answer:
//
//   - echo requests: the echo reply;
//   - TCP: the connection, and also its refusal by RST: either took the path to
//     the target and back. The connection is reset at once;
//   - HTTP and HTTPS: status 204 for a path ending in /generate_204, else any
//     2xx or 3xx. Redirects are not followed and bodies not read. HTTPS does not
//     verify certificates: an expired one, or a router's clock that is wrong
//     after a power cut, does not make an uplink dead. So it also cannot tell a
//     portal that terminates TLS, except by the status;
//   - DNS: NOERROR or NXDOMAIN with our id and question. Other messages are
//     ignored until the window closes, other codes are ErrAnswer. With
//     answer=none an address is ErrPortal.
//
// Errors wrap exactly one of ErrTimeout, ErrUnreachable, ErrAnswer or ErrLocal
// and maybe their special cases ErrPortal and ErrNoPath. A cancelled ctx gives
// context.Canceled and says nothing about the path.
func (n *Net) Probe(ctx context.Context, b Binding, t Target) (time.Duration, error) {
	if err := ctx.Err(); err != nil {
		return 0, receiveError(ctx, t, err)
	}
	b, err := n.bindingFor(b, t)
	if err != nil {
		return 0, sendError(t, err)
	}
	if t.kind.probe == nil {
		return 0, &Error{Target: t.text, Class: ErrLocal, Err: fmt.Errorf("nobody asks targets of kind %s here", t.kind.name)}
	}
	return t.kind.probe(ctx, n, b, t)
}

// dial opens a socket that is marked, bound to the device and to the source.
func (b Binding) dial(ctx context.Context, network string, t Target) (net.Conn, error) {
	d := net.Dialer{
		KeepAlive: -1,
		Control: func(_, _ string, c syscall.RawConn) error {
			var set error
			err := c.Control(func(fd uintptr) {
				if set = b.set(int(fd)); set == nil && network == "udp" {
					set = reportErrors(int(fd), t)
				}
			})
			return errors.Join(err, set)
		},
	}
	if b.Source.IsValid() {
		source := netip.AddrPortFrom(b.scoped(b.Source), 0)
		if network == "tcp" {
			d.LocalAddr = net.TCPAddrFromAddrPort(source)
		} else {
			d.LocalAddr = net.UDPAddrFromAddrPort(source)
		}
	}
	return d.DialContext(ctx, network, netip.AddrPortFrom(b.scoped(t.addr), t.port).String())
}

// set marks the socket and binds it to the device. The mark comes first: on a
// kernel that denies it, the binding would hide the fault.
func (b Binding) set(fd int) error {
	if b.Mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(b.Mark)); err != nil {
			return fmt.Errorf("%w %#x: %w", ErrMark, b.Mark, err)
		}
	}
	if b.Device != "" {
		if err := unix.BindToDevice(fd, b.Device); err != nil {
			return fmt.Errorf("binding the socket to %s: %w", b.Device, err)
		}
	}
	return nil
}

// reportErrors makes a UDP socket return all that ICMP says about its packets.
// Otherwise an unreachable host or network is passed over as transient, and only
// a closed port is reported.
func reportErrors(fd int, t Target) error {
	level, option := unix.IPPROTO_IP, unix.IP_RECVERR
	if t.addr.Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, option, 1))
}

// scoped gives a link-local address the device as its zone, which it cannot be
// used without.
func (b Binding) scoped(a netip.Addr) netip.Addr {
	if a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "" && b.Device != "" {
		return a.WithZone(b.Device)
	}
	return a
}
