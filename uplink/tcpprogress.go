package uplink

import (
	"encoding/binary"
	"net/netip"
)

// maxTCPFlows bounds the connections that a [TCPProgress] follows.
const maxTCPFlows = 512

// TCPSegment is a TCP segment that came in, without its data.
type TCPSegment struct {
	Source, Destination netip.AddrPort
	Sequence            uint32 // of the first byte of data (RFC 9293)
	Acknowledgment      uint32
	Length              int // bytes of data
}

// ParseTCPSegment reads an IPv4 or IPv6 packet that may be cut behind the TCP header. Ok is false for anything but a segment
// with ACK and without SYN or RST, for fragments, and for IPv6 with extension headers.
func ParseTCPSegment(packet []byte) (s TCPSegment, ok bool) {
	if len(packet) == 0 {
		return s, false
	}
	var source, destination netip.Addr
	var header, total int
	switch packet[0] >> 4 {
	case 4: // RFC 791
		header = int(packet[0]&0xf) * 4
		if header < 20 || len(packet) < header || packet[9] != 6 || binary.BigEndian.Uint16(packet[6:])&0x3fff != 0 {
			return s, false
		}
		source, destination = netip.AddrFrom4([4]byte(packet[12:])), netip.AddrFrom4([4]byte(packet[16:]))
		total = int(binary.BigEndian.Uint16(packet[2:]))
	case 6: // RFC 8200
		header = 40
		if len(packet) < header || packet[6] != 6 {
			return s, false
		}
		source, destination = netip.AddrFrom16([16]byte(packet[8:])), netip.AddrFrom16([16]byte(packet[24:]))
		total = header + int(binary.BigEndian.Uint16(packet[4:]))
	default:
		return s, false
	}
	tcp := packet[header:]
	const synRstAck, ack = 0x16, 0x10
	if len(tcp) < 20 || tcp[13]&synRstAck != ack {
		return s, false
	}
	return TCPSegment{
		Source:         netip.AddrPortFrom(source, binary.BigEndian.Uint16(tcp)),
		Destination:    netip.AddrPortFrom(destination, binary.BigEndian.Uint16(tcp[2:])),
		Sequence:       binary.BigEndian.Uint32(tcp[4:]),
		Acknowledgment: binary.BigEndian.Uint32(tcp[8:]),
		Length:         max(0, total-header-int(tcp[12]>>4)*4),
	}, true
}

// TCPProgress follows connections by the segments that come in, and finds those that get on in both directions. Retransmissions
// show nothing: a peer sends them to a line that is dead towards it. An acknowledgment of more than before does, and so
// does twice new data: without acknowledgments from here a peer repeats what it has sent (RFC 6298). Make one with [NewTCPProgress].
type TCPProgress struct {
	flows map[[2]netip.AddrPort]*tcpFlow
}

type tcpFlow struct {
	acknowledged uint32 // the highest acknowledgment
	end          uint32 // the byte behind the highest data
	advances     int    // how often there was new data
}

// NewTCPProgress returns a TCPProgress that has seen nothing.
func NewTCPProgress() *TCPProgress {
	return &TCPProgress{make(map[[2]netip.AddrPort]*tcpFlow)}
}

// Observe takes a segment and reports whether its connection gets on in both directions.
func (p *TCPProgress) Observe(s TCPSegment) bool {
	key := [2]netip.AddrPort{s.Source, s.Destination}
	end := s.Sequence + uint32(s.Length)
	f := p.flows[key]
	if f == nil {
		if len(p.flows) < maxTCPFlows {
			p.flows[key] = &tcpFlow{acknowledged: s.Acknowledgment, end: end}
		}
		return false
	}
	getsOn := false
	if int32(s.Acknowledgment-f.acknowledged) > 0 {
		f.acknowledged, getsOn = s.Acknowledgment, true
	}
	if int32(end-f.end) > 0 {
		f.end = end
		f.advances++
		getsOn = getsOn || f.advances >= 2
	}
	return getsOn
}
