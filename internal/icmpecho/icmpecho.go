// Package icmpecho makes ICMP and ICMPv6 echo requests, and knows what comes back for them on a raw socket. It is pure; whoever asks has a
// socket of its own: probe one for all calm probes of a family, internal/doctor one by which no packet is split, internal/lab one in the
// namespace of a host.
package icmpecho

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// HeaderSize is that of an echo request, in bytes.
const HeaderSize = 8

// Protocol numbers of IANA.
const (
	protocolICMP   = 1
	protocolICMPv6 = 58
)

// Request is one echo request.
type Request struct {
	IPv6    bool
	ID, Seq uint16
}

// Message returns it with a payload of a number of bytes, all zero.
func (r Request) Message(payload int) ([]byte, error) { return r.Carrying(make([]byte, payload)) }

// Carrying returns it with a payload, which its answer brings back (RFC 792, RFC 4443, section 4.2). The kernel makes the checksum of ICMPv6.
func (r Request) Carrying(payload []byte) ([]byte, error) {
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(r.ID), Seq: int(r.Seq), Data: payload}}
	if r.IPv6 {
		m.Type = ipv6.ICMPTypeEchoRequest
	}
	b, err := m.Marshal(nil)
	if err != nil {
		return nil, fmt.Errorf("making an echo request: %w", err)
	}
	return b, nil
}

// Answer is what a message says of a request.
type Answer uint8

// The answers.
const (
	None   Answer = iota // it is about something else
	Reply                // it has arrived, and been answered
	TooBig               // it was larger than a link on its way passes
)

// Read reads an ICMP message.
func (r Request) Read(message []byte) Answer {
	protocol := protocolICMP
	if r.IPv6 {
		protocol = protocolICMPv6
	}
	m, err := icmp.ParseMessage(protocol, message)
	if err != nil {
		return None
	}
	switch body := m.Body.(type) {
	case *icmp.Echo:
		if (m.Type == ipv4.ICMPTypeEchoReply || m.Type == ipv6.ICMPTypeEchoReply) && body.ID == int(r.ID) && body.Seq == int(r.Seq) {
			return Reply
		}
	case *icmp.PacketTooBig:
		if len(body.Data) > ipv6.HeaderLen && r.quoted(body.Data[ipv6.HeaderLen:]) {
			return TooBig
		}
	case *icmp.DstUnreach:
		const fragmentationNeeded = 4 // RFC 792
		if m.Type == ipv4.ICMPTypeDestinationUnreachable && m.Code == fragmentationNeeded {
			if at := headerLen4(body.Data); at > 0 && r.quoted(body.Data[at:]) {
				return TooBig
			}
		}
	}
	return None
}

// quoted reports whether an error quotes the request; of more than its header nobody can be sure (RFC 792).
func (r Request) quoted(message []byte) bool {
	return len(message) >= HeaderSize && binary.BigEndian.Uint16(message[4:]) == r.ID && binary.BigEndian.Uint16(message[6:]) == r.Seq
}

// WithoutHeader returns the message of an IPv4 packet as a raw socket gives it, nil when it is cut short.
func WithoutHeader(packet []byte) []byte {
	if at := headerLen4(packet); at > 0 {
		return packet[at:]
	}
	return nil
}

// headerLen4 is how many bytes the header of an IPv4 packet has, 0 when there are less.
func headerLen4(packet []byte) int {
	if len(packet) < ipv4.HeaderLen || len(packet) < int(packet[0]&0xf)*4 {
		return 0
	}
	return int(packet[0]&0xf) * 4
}
