package dhcp4

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/linksession"
)

const (
	serverPort = 67
	clientPort = 68
	// maxMessage is the largest message read, in bytes: what fits into an Ethernet frame.
	maxMessage = 1500
	// renewWindow is how long the socket of a renewal stays open: while it does, the kernel does not
	// answer the server's reply with "port unreachable".
	renewWindow = 5 * time.Second
)

// onlyReplies lets UDP datagrams to port 68 pass, and no fragments. The socket is of type DGRAM: the
// filter sees the IPv4 header at offset 0.
var onlyReplies = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 9, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 6},
	bpf.LoadAbsolute{Off: 6, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 4},
	bpf.LoadMemShift{Off: 0},
	bpf.LoadIndirect{Off: 2, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: clientPort, SkipTrue: 1},
	bpf.RetConstant{Val: 0xffff},
	bpf.RetConstant{Val: 0},
}

// packetConn is a Conn on a packet socket.
type packetConn struct {
	net.PacketConn
	device   string
	hardware net.HardwareAddr
}

func openPacket(device string) (Conn, error) {
	ifc, err := linksession.InterfaceByName(device)
	if err != nil {
		return nil, fmt.Errorf("looking up %s: %w", device, err)
	}
	if len(ifc.HardwareAddr) == 0 {
		return nil, fmt.Errorf("%s has no hardware address: DHCP needs an Ethernet-like device", device)
	}
	filter, err := bpf.Assemble(onlyReplies)
	if err != nil {
		return nil, fmt.Errorf("assembling the DHCP filter: %w", err)
	}
	raw, err := packet.Listen(ifc, packet.Datagram, unix.ETH_P_IP, &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket on %s: %w", device, err)
	}
	conn := nclient4.NewBroadcastUDPConn(raw, &net.UDPAddr{Port: clientPort})
	return &packetConn{conn, device, ifc.HardwareAddr}, nil
}

func (c *packetConn) HardwareAddr() net.HardwareAddr { return c.hardware }

func (c *packetConn) Send(m *dhcpv4.DHCPv4, to, from netip.Addr) error {
	if to.IsValid() {
		err := c.sendUnicast(m, to, from)
		if err == nil {
			return nil
		}
		// Another client may hold the port, or the address may be gone: the server hears a broadcast too.
	}
	_, err := c.WriteTo(m.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: serverPort})
	return err
}

// sendUnicast sends from the leased address by an ordinary socket. The reply is read by the packet
// socket like any other.
func (c *packetConn) sendUnicast(m *dhcpv4.DHCPv4, to, from netip.Addr) error {
	dialer := net.Dialer{
		LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, clientPort)),
		Control: func(_, _ string, raw syscall.RawConn) error {
			var failed error
			err := raw.Control(func(fd uintptr) {
				failed = errors.Join(unix.BindToDevice(int(fd), c.device),
					unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
			})
			return errors.Join(err, failed)
		},
	}
	conn, err := dialer.Dial("udp4", netip.AddrPortFrom(to, serverPort).String())
	if err != nil {
		return err
	}
	time.AfterFunc(renewWindow, func() { _ = conn.Close() })
	_, err = conn.Write(m.ToBytes())
	return err
}

// Receive skips what is no DHCP message.
func (c *packetConn) Receive() (*dhcpv4.DHCPv4, error) {
	b := make([]byte, maxMessage)
	for {
		n, _, err := c.ReadFrom(b)
		if err != nil {
			return nil, err
		}
		if m, err := dhcpv4.FromBytes(b[:n]); err == nil {
			return m, nil
		}
	}
}
