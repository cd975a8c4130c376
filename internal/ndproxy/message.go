package ndproxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules/inet"
)

const (
	hopLimit   = 255 // proves that no router has forwarded a message (RFC 4861 sections 7.1.1 and 7.1.2)
	minMessage = 24  // bytes of a solicitation or an advertisement without options
)

// Packet is a neighbour solicitation or advertisement, as it is on the link.
type Packet struct {
	Data     []byte           // from the IPv6 header on
	Hardware net.HardwareAddr // whom it comes from, or goes to
}

// message is what a Packet says.
type message struct {
	advertisement bool
	source        netip.Addr // unspecified: duplicate address detection (RFC 4862 section 5.4.2)
	target        netip.Addr
	hardware      net.HardwareAddr // of the sender
}

var (
	errMessage = errors.New("discarded")
	allNodes   = netip.MustParseAddr("ff02::1")
)

// parse reads a packet and checks it as RFC 4861 sections 7.1.1 and 7.1.2 demand; the checksum is left to the kernel of whoever is meant.
func parse(p Packet) (m message, err error) {
	header, err := ipv6.ParseHeader(p.Data)
	if err != nil {
		return m, fmt.Errorf("%w: %w", errMessage, err)
	}
	source, _ := netip.AddrFromSlice(header.Src)
	destination, _ := netip.AddrFromSlice(header.Dst)
	body := p.Data[ipv6.HeaderLen:]
	body = body[:min(len(body), header.PayloadLen)]
	switch {
	case header.Version != ipv6.Version || header.NextHeader != unix.IPPROTO_ICMPV6 || header.HopLimit != hopLimit:
		return m, fmt.Errorf("%w: it is no ICMPv6 of this link", errMessage)
	case len(body) < minMessage || body[1] != 0:
		return m, fmt.Errorf("%w: it is cut short, or of another code", errMessage)
	case source.IsMulticast():
		return m, fmt.Errorf("%w: its source is %v", errMessage, source)
	}
	m = message{source: source, target: netip.AddrFrom16([16]byte(body[8:24])), hardware: p.Hardware}
	switch ipv6.ICMPType(body[0]) {
	case ipv6.ICMPTypeNeighborSolicitation:
		if source.IsUnspecified() && destination != inet.SolicitedNode(m.target) {
			return m, fmt.Errorf("%w: it has no source and goes to %v", errMessage, destination)
		}
	case ipv6.ICMPTypeNeighborAdvertisement:
		m.advertisement = true
	default:
		return m, fmt.Errorf("%w: it is of type %d", errMessage, body[0])
	}
	if m.target.IsMulticast() || m.target.IsUnspecified() || m.target.Is4In6() {
		return m, fmt.Errorf("%w: it is about %v", errMessage, m.target)
	}
	return m, nil
}

// question is a solicitation that is to be sent; with duplicates it is one of duplicate address detection, which has no source.
type question struct {
	target     netip.Addr
	duplicates bool
}

// answer is an advertisement that is to be sent to whoever has asked; an asker without an address has all nodes told.
type answer struct {
	target netip.Addr
	to     message
}

// packet makes the solicitation.
func (q question) packet(from Link) (Packet, error) {
	source := from.Addr
	m := &ndp.NeighborSolicitation{TargetAddress: q.target}
	if q.duplicates {
		source = netip.IPv6Unspecified()
	} else {
		m.Options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: from.Hardware}}
	}
	group := inet.SolicitedNode(q.target)
	return build(m, source, group, multicastHardware(group))
}

// packet makes the advertisement. It does not override what the asker knows (RFC 4861 section 7.2.8).
func (a answer) packet(from Link) (Packet, error) {
	m := &ndp.NeighborAdvertisement{TargetAddress: a.target, Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: from.Hardware}}}
	if a.to.source.IsUnspecified() {
		return build(m, from.Addr, allNodes, multicastHardware(allNodes))
	}
	m.Solicited = true
	return build(m, from.Addr, a.to.source, a.to.hardware)
}

func build(m ndp.Message, source, destination netip.Addr, hardware net.HardwareAddr) (Packet, error) {
	body, err := ndp.MarshalMessageChecksum(m, source, destination)
	if err != nil {
		return Packet{}, err
	}
	data := make([]byte, ipv6.HeaderLen, ipv6.HeaderLen+len(body))
	data[0] = ipv6.Version << 4
	data[4], data[5] = byte(len(body)>>8), byte(len(body))
	data[6], data[7] = unix.IPPROTO_ICMPV6, hopLimit
	copy(data[8:], source.AsSlice())
	copy(data[24:], destination.AsSlice())
	return Packet{append(data, body...), hardware}, nil
}

// multicastHardware is where a multicast address goes on Ethernet (RFC 2464 section 7).
func multicastHardware(group netip.Addr) net.HardwareAddr {
	b := group.As16()
	return net.HardwareAddr{0x33, 0x33, b[12], b[13], b[14], b[15]}
}
