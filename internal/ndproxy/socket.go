package ndproxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/linksession"
)

// Link is our end of a link.
type Link struct {
	Addr     netip.Addr // link-local
	Hardware net.HardwareAddr
}

// Conn carries messages on one device.
type Conn interface {
	linksession.Conn[Packet] // of neighbour solicitations and advertisements, whatever groups they go to
	Link() Link
	Send(p Packet) error
}

// onlyNeighbours lets solicitations and advertisements pass that no router has forwarded. The socket is of type DGRAM: the filter sees the
// IPv6 header at offset 0.
var onlyNeighbours = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 6, Size: 2}, // next header and hop limit
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMPV6<<8 | hopLimit, SkipTrue: 4},
	bpf.LoadAbsolute{Off: ipv6.HeaderLen, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(ipv6.ICMPTypeNeighborSolicitation), SkipTrue: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(ipv6.ICMPTypeNeighborAdvertisement), SkipTrue: 1},
	bpf.RetConstant{Val: maxMessage},
	bpf.RetConstant{Val: 0},
}

// maxMessage is the largest message read, in bytes: what fits into an Ethernet frame.
const maxMessage = 1500

// packetConn is a Conn on a packet socket.
type packetConn struct {
	*packet.Conn
	link   Link
	buffer []byte // of Receive
}

func openPacket(device string) (Conn, error) {
	ifc, err := linksession.InterfaceByName(device)
	if err != nil {
		return nil, fmt.Errorf("looking up %s: %w", device, err)
	}
	if len(ifc.HardwareAddr) != 6 {
		return nil, fmt.Errorf("%s is no Ethernet device", device)
	}
	own, err := linksession.LinkLocals(ifc.Index, false)
	if err != nil {
		return nil, fmt.Errorf("looking up the link-local address of %s: %w", device, err)
	}
	filter, err := bpf.Assemble(onlyNeighbours)
	if err != nil {
		return nil, fmt.Errorf("assembling the filter of neighbour discovery: %w", err)
	}
	conn, err := packet.Listen(ifc, packet.Datagram, unix.ETH_P_IPV6, &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket on %s: %w", device, err)
	}
	// A solicitation goes to a group of its target, of which there are 16 million.
	raw, err := conn.SyscallConn()
	if err == nil {
		var failed error
		err = raw.Control(func(fd uintptr) {
			failed = unix.SetsockoptPacketMreq(int(fd), unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(ifc.Index), Type: unix.PACKET_MR_ALLMULTI})
		})
		err = errors.Join(err, failed)
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("having %s hear all groups: %w", device, err)
	}
	return &packetConn{conn, Link{own[0], ifc.HardwareAddr}, make([]byte, maxMessage)}, nil
}

func (c *packetConn) Link() Link { return c.link }

func (c *packetConn) Send(p Packet) error {
	_, err := c.WriteTo(p.Data, &packet.Addr{HardwareAddr: p.Hardware})
	return err
}

func (c *packetConn) Receive() (Packet, error) {
	n, from, err := c.ReadFrom(c.buffer)
	if err != nil {
		return Packet{}, err
	}
	p := Packet{Data: append([]byte(nil), c.buffer[:n]...)}
	if a, ok := from.(*packet.Addr); ok {
		p.Hardware = a.HardwareAddr
	}
	return p, nil
}
