package ndisc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/linksession"
)

const (
	// maxMessage is the largest message read, in bytes. Ones in fragments are dropped by the kernel anyway
	// (RFC 6980).
	maxMessage = 9216
	// sendTimeout bounds how long a device whose queue is full can hold us up.
	sendTimeout = time.Second
)

// rawConn is a Conn on a raw ICMPv6 socket.
type rawConn struct {
	*ipv6.PacketConn
	link   Link
	index  int
	buffer []byte // of Receive
}

var _ Conn = (*rawConn)(nil)

// openUplink hears advertisements, and routers that are asked whether they are there.
func openUplink(device string) (Conn, error) {
	return openRaw(device, netip.Addr{}, allNodes, ipv6.ICMPTypeRouterAdvertisement, ipv6.ICMPTypeNeighborAdvertisement)
}

// openLAN hears solicitations, and what other routers say.
func openLAN(device string, source netip.Addr) (Conn, error) {
	return openRaw(device, source, allRouters, ipv6.ICMPTypeRouterSolicitation, ipv6.ICMPTypeRouterAdvertisement)
}

// openRaw opens a socket that is bound to the device and hears only the given types. Every interface is in
// ff02::1 by itself; ff02::2 has to be joined. It sends from source, or, if that is zero, from an address of the device.
func openRaw(device string, source, group netip.Addr, types ...ipv6.ICMPType) (Conn, error) {
	ifc, err := linksession.InterfaceByName(device)
	if err != nil {
		return nil, fmt.Errorf("looking up %s: %w", device, err)
	}
	usable, err := linksession.LinkLocals(ifc.Index, false)
	if err != nil {
		return nil, fmt.Errorf("looking up the link-local address of %s: %w", device, err)
	}
	switch {
	case !source.IsValid():
		source = usable[0]
	case !slices.Contains(usable, source):
		return nil, fmt.Errorf("%w: %v is not on %s", linksession.ErrNotReady, source, device)
	}
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = unix.BindToDevice(int(fd), device) })
		return errors.Join(err, failed)
	}}
	raw, err := config.ListenPacket(context.Background(), "ip6:ipv6-icmp", "::")
	if err != nil {
		return nil, fmt.Errorf("opening an ICMPv6 socket on %s: %w", device, err)
	}
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	for _, t := range types {
		filter.Accept(t)
	}
	c := &rawConn{ipv6.NewPacketConn(raw), Link{Addr: source, Hardware: ifc.HardwareAddr, MTU: ifc.MTU}, ifc.Index, make([]byte, maxMessage)}
	err = errors.Join(
		c.SetICMPFilter(&filter),
		c.SetHopLimit(hopLimit),
		c.SetMulticastHopLimit(hopLimit),
		c.SetMulticastLoopback(false),
		c.SetControlMessage(ipv6.FlagHopLimit, true),
		c.JoinGroup(ifc, &net.IPAddr{IP: group.AsSlice()}))
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("preparing the ICMPv6 socket on %s: %w", device, err)
	}
	return c, nil
}

func (c *rawConn) Link() Link {
	link := c.link
	if ifc, err := linksession.InterfaceByIndex(c.index); err == nil { // else it is gone, and sending will show that
		link.Hardware, link.MTU = ifc.HardwareAddr, ifc.MTU
	}
	return link
}

// Send names source and device itself: the kernel would take a wider address towards a host's wider one, and
// an advertisement from anything but a link-local address is void (RFC 4861 section 6.1.2). The destination
// has no zone: package net would turn its name into an index that may be a minute old, of a device that has
// been made anew since, and the kernel would say EINVAL.
func (c *rawConn) Send(message []byte, to netip.Addr) error {
	if err := c.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	from := &ipv6.ControlMessage{Src: c.link.Addr.AsSlice(), IfIndex: c.index}
	_, err := c.WriteTo(message, from, &net.IPAddr{IP: to.AsSlice()})
	return err
}

// Mute and Unmute replace the filter of the socket in the kernel.
func (c *rawConn) Mute(except netip.Addr) error { return c.filter(onlyOf(except)) }

func (c *rawConn) Unmute() error { return c.filter([]bpf.Instruction{bpf.RetConstant{Val: 1 << 18}}) }

func (c *rawConn) filter(program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return err
	}
	return c.SetBPF(raw)
}

// networkHeader is where filters find the header below the one that the socket reads (linux/filter.h SKF_NET_OFF).
const networkHeader = 0xfff00000

// onlyOf lets all pass that is no router advertisement, and those of one router. The filter of a raw ICMPv6 socket sees the
// ICMPv6 header at offset 0.
func onlyOf(router netip.Addr) []bpf.Instruction {
	const all = 1 << 18 // bytes, more than any message has
	drop := bpf.RetConstant{Val: 0}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: typeAdvert, SkipTrue: 1},
		bpf.RetConstant{Val: all},
	}
	if !router.IsValid() {
		return append(program, drop)
	}
	source := router.As16()
	for i := range 4 {
		program = append(program, bpf.LoadAbsolute{Off: networkHeader + 8 + uint32(4*i), Size: 4},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(source[4*i:]), SkipTrue: 1}, drop)
	}
	return append(program, bpf.RetConstant{Val: all})
}

func (c *rawConn) Receive() (Packet, error) {
	n, control, from, err := c.ReadFrom(c.buffer)
	if err != nil {
		return Packet{}, err
	}
	p := Packet{Data: bytes.Clone(c.buffer[:n])}
	if ip, ok := from.(*net.IPAddr); ok {
		p.From, _ = netip.AddrFromSlice(ip.IP)
	}
	if control != nil {
		p.HopLimit = control.HopLimit
	}
	return p, nil
}
