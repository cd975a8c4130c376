package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// The echo servers tell whom they saw. A UDP answer is the request's source address and port, a space, and the
// request; a TCP connection begins with a line that holds the client's address and port, and echoes from then on.

// ServeTCPEcho serves TCP echo on the host. It returns when the socket listens; ctx, or the world's end, ends it.
func (h *Host) ServeTCPEcho(ctx context.Context, at netip.AddrPort) error {
	return h.serveTCP(ctx, at, func(conn net.Conn) {
		if _, err := fmt.Fprintf(conn, "%s\n", plainSource(conn.RemoteAddr())); err == nil {
			_, _ = io.Copy(conn, conn) // the client's end of it is the client's matter
		}
	})
}

// ServeTCPAccept accepts TCP connections on the host and reads them until the client is done.
func (h *Host) ServeTCPAccept(ctx context.Context, at netip.AddrPort) error {
	return h.serveTCP(ctx, at, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
}

func (h *Host) serveTCP(ctx context.Context, at netip.AddrPort, handle func(net.Conn)) error {
	ln, err := h.Listen("tcp", at.String())
	if err != nil {
		return err
	}
	ctx, stop := h.world.serve(ctx, ln.Close)
	h.world.servers.Go(func() {
		defer stop()
		acceptAll(ln, func(conn net.Conn) {
			h.world.servers.Go(func() {
				defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
				defer func() { _ = conn.Close() }()
				handle(conn)
			})
		})
	})
	return nil
}

// acceptAll passes the connections of a listener on until it is closed.
func acceptAll(ln net.Listener, each func(net.Conn)) {
	for {
		conn, err := ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(10 * time.Millisecond) // out of descriptors; others will close some
		default:
			each(conn)
		}
	}
}

// serve joins a server's context with the world's and has its sockets closed when either ends.
func (w *World) serve(ctx context.Context, closers ...func() error) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	unlink := context.AfterFunc(w.ctx, cancel)
	context.AfterFunc(ctx, func() {
		for _, c := range closers {
			_ = c()
		}
	})
	return ctx, func() { unlink(); cancel() }
}

// ServeUDPEcho serves UDP echo on the host. On an unspecified address it answers from the address that was asked,
// whatever the routing table would choose. It returns when the socket is open; ctx, or the world's end, ends it.
func (h *Host) ServeUDPEcho(ctx context.Context, at netip.AddrPort) error {
	network := "udp4"
	if at.Addr().Is6() {
		network = "udp6"
	}
	pc, err := h.ListenPacket(network, at.String())
	if err != nil {
		return err
	}
	bufferBursts(pc)
	conn, err := newAskedConn(pc, at.Addr().Is6())
	if err != nil {
		return errors.Join(fmt.Errorf("%s: asking for packets' destinations: %w", h.name, err), pc.Close())
	}
	_, stop := h.world.serve(ctx, pc.Close)
	h.world.servers.Go(func() {
		defer stop()
		echoUDP(conn)
	})
	return nil
}

func echoUDP(conn askedConn) {
	request := make([]byte, 64<<10)
	var answer bytes.Buffer
	for {
		n, asked, from, err := conn.read(request)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error about an earlier answer
		}
		answer.Reset()
		fmt.Fprintf(&answer, "%s ", plainSource(from))
		answer.Write(request[:n])
		_ = conn.write(answer.Bytes(), asked, from) // an unreachable client asks no more
	}
}

// askedConn is a UDP socket that knows which of its addresses each packet was sent to.
type askedConn interface {
	read(b []byte) (n int, asked net.IP, from net.Addr, err error)
	write(b []byte, asked net.IP, to net.Addr) error
}

func newAskedConn(pc net.PacketConn, six bool) (askedConn, error) {
	if six {
		conn := asked6{ipv6.NewPacketConn(pc)}
		return conn, conn.SetControlMessage(ipv6.FlagDst, true)
	}
	conn := asked4{ipv4.NewPacketConn(pc)}
	return conn, conn.SetControlMessage(ipv4.FlagDst, true)
}

type asked4 struct{ *ipv4.PacketConn }

func (c asked4) read(b []byte) (int, net.IP, net.Addr, error) {
	n, cm, from, err := c.ReadFrom(b)
	if cm == nil {
		return n, nil, from, err
	}
	return n, cm.Dst, from, err
}

func (c asked4) write(b []byte, asked net.IP, to net.Addr) error {
	_, err := c.WriteTo(b, &ipv4.ControlMessage{Src: asked}, to)
	return err
}

type asked6 struct{ *ipv6.PacketConn }

func (c asked6) read(b []byte) (int, net.IP, net.Addr, error) {
	n, cm, from, err := c.ReadFrom(b)
	if cm == nil {
		return n, nil, from, err
	}
	return n, cm.Dst, from, err
}

func (c asked6) write(b []byte, asked net.IP, to net.Addr) error {
	_, err := c.WriteTo(b, &ipv6.ControlMessage{Src: asked}, to)
	return err
}

// plainSource writes an address without the IPv4-mapped form that dual-stack sockets show.
func plainSource(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.UDPAddr:
		ap = a.AddrPort()
	case *net.TCPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// AskUDP sends one request over a connected socket and returns the source that the echo server saw.
func AskUDP(ctx context.Context, conn net.Conn, request []byte) (netip.AddrPort, error) {
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if _, err := conn.Write(request); err != nil {
		return netip.AddrPort{}, err
	}
	buf := make([]byte, len(request)+128)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return netip.AddrPort{}, err
		}
		source, echoed, err := parseEcho(buf[:n])
		if err != nil {
			return netip.AddrPort{}, err
		}
		if bytes.Equal(echoed, request) {
			return source, nil
		}
	}
}

// AskTCP reads the source that a TCP echo server saw; the connection then echoes.
func AskTCP(ctx context.Context, conn net.Conn) (netip.AddrPort, error) {
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetReadDeadline(deadline)
	}
	line, err := bufio.NewReaderSize(conn, 128).ReadString('\n')
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.ParseAddrPort(line[:len(line)-1])
}

// parseEcho takes an answer of the UDP echo server apart.
func parseEcho(answer []byte) (source netip.AddrPort, request []byte, err error) {
	head, request, ok := bytes.Cut(answer, []byte(" "))
	if !ok {
		return source, nil, fmt.Errorf("answer %q names no source", answer)
	}
	source, err = netip.ParseAddrPort(string(head))
	return source, request, err
}
