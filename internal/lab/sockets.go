package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Listen opens a listening socket on the host.
func (h *Host) Listen(network, addr string) (ln net.Listener, err error) {
	err = h.Do(func() error {
		ln, err = net.Listen(network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.name, err)
	}
	return ln, nil
}

// ListenPacket opens a packet socket on the host, of any network that [net.ListenPacket] knows.
func (h *Host) ListenPacket(network, addr string) (pc net.PacketConn, err error) {
	err = h.Do(func() error {
		pc, err = net.ListenPacket(network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.name, err)
	}
	return pc, nil
}

// bufferBursts has a socket hold what comes while the machine runs something else: by default some 280 small packets, a moment of a
// flow whose packets are counted. The kernel takes it down to net.core.rmem_max.
func bufferBursts(socket any) {
	if s, ok := socket.(interface{ SetReadBuffer(bytes int) error }); ok {
		_ = s.SetReadBuffer(4 << 20)
	}
}

// Dial connects from the host; network is tcp or udp, laddr an address with or without a port, or empty. Only the
// creation of the socket needs a thread in the namespace, so that any number of connections may be pending.
func (h *Host) Dial(ctx context.Context, network, laddr, raddr string) (net.Conn, error) {
	d := dialer{network: network}
	var err error
	if d.remote, err = netip.ParseAddrPort(raddr); err != nil {
		return nil, fmt.Errorf("dialling from %s: %w", h.name, err)
	}
	if d.local, err = parseLocal(laddr); err != nil {
		return nil, fmt.Errorf("dialling from %s: %w", h.name, err)
	}
	conn, err := d.dial(ctx, h)
	if err != nil {
		return nil, fmt.Errorf("dialling %s %s from %s: %w", network, raddr, h.name, err)
	}
	return conn, nil
}

// parseLocal accepts "", "192.0.2.100", "192.0.2.100:4000" and the same in IPv6.
func parseLocal(s string) (netip.AddrPort, error) {
	if s == "" {
		return netip.AddrPort{}, nil
	}
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(addr, 0), nil
	}
	return netip.ParseAddrPort(s)
}

type dialer struct {
	network       string
	local, remote netip.AddrPort
}

func (d dialer) dial(ctx context.Context, h *Host) (net.Conn, error) {
	var file *os.File
	var to unix.Sockaddr
	err := h.Do(func() (err error) {
		file, err = d.socket()
		if err == nil {
			to, err = sockaddr(d.remote) // a zone is a name of this namespace
		}
		return err
	})
	if file != nil {
		defer func() { _ = file.Close() }() // FileConn duplicates it
	}
	if err != nil {
		return nil, err
	}
	if err := connect(ctx, file, to); err != nil {
		return nil, err
	}
	return net.FileConn(file)
}

// socket returns a non-blocking, bound socket of the namespace of the calling thread.
func (d dialer) socket() (*os.File, error) {
	kind := unix.SOCK_STREAM
	if strings.HasPrefix(d.network, "udp") {
		kind = unix.SOCK_DGRAM
	} else if !strings.HasPrefix(d.network, "tcp") {
		return nil, net.UnknownNetworkError(d.network)
	}
	domain := unix.AF_INET6
	if d.remote.Addr().Unmap().Is4() {
		domain = unix.AF_INET
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), d.network)
	if d.local.IsValid() {
		from, err := sockaddr(d.local)
		if err == nil {
			err = os.NewSyscallError("bind", unix.Bind(fd, from))
		}
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
	return file, nil
}

func sockaddr(ap netip.AddrPort) (unix.Sockaddr, error) {
	addr := ap.Addr().Unmap()
	if addr.Is4() {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: addr.As4()}, nil
	}
	sa := &unix.SockaddrInet6{Port: int(ap.Port()), Addr: addr.As16()}
	if zone := addr.Zone(); zone != "" {
		index, err := zoneIndex(zone)
		if err != nil {
			return nil, fmt.Errorf("zone of %s: %w", addr, err)
		}
		sa.ZoneId = uint32(index)
	}
	return sa, nil
}

// zoneIndex resolves a zone in the namespace of the calling thread, which package net does not: it caches the names of
// whichever namespace it saw first.
func zoneIndex(zone string) (int, error) {
	if index, err := strconv.ParseUint(zone, 10, 31); err == nil {
		return int(index), nil
	}
	dev, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, err
	}
	return dev.Index, nil
}

// connect connects a non-blocking socket and waits for the outcome, without a thread.
func connect(ctx context.Context, file *os.File, to unix.Sockaddr) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = file.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	started := false
	var outcome error
	err = raw.Write(func(fd uintptr) (done bool) {
		if !started {
			started = true
			outcome = unix.Connect(int(fd), to)
			return !errors.Is(outcome, unix.EINPROGRESS)
		}
		pending, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			outcome = err
		case pending != 0:
			outcome = unix.Errno(pending)
		default:
			// Writable without an error may be a stale event: a peer's name proves the connection.
			_, outcome = unix.Getpeername(int(fd))
		}
		return !errors.Is(outcome, unix.ENOTCONN)
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(err, os.NewSyscallError("connect", outcome))
}
