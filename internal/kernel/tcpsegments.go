package kernel

import (
	"fmt"
	"net"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
)

// maxTCPHeaders is the longest IP header and TCP header without options, in bytes.
const maxTCPHeaders = 60 + 20

// ListenTCPSegments opens a packet socket for the headers of the TCP segments of a family that come in by a device, from the
// IP header on. What the device sends is not among them (packet(7): a socket for one protocol is not told).
func ListenTCPSegments(index int, family rules.Family) (net.PacketConn, error) {
	protocol, offset := unix.ETH_P_IP, uint32(9)
	if family == rules.IPv6 {
		protocol, offset = unix.ETH_P_IPV6, 6
	}
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: offset, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_TCP, SkipTrue: 1},
		bpf.RetConstant{Val: maxTCPHeaders},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, fmt.Errorf("assembling the filter of TCP segments: %w", err)
	}
	conn, err := packet.Listen(&net.Interface{Index: index}, packet.Datagram, protocol, &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket on interface %d: %w", index, err)
	}
	return conn, nil
}
