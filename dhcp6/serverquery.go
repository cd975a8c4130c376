package dhcp6

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// query is what a client says to servers.
type query struct {
	message
	options []dhcpv6.OptionCode // those that it wants (Option Request)
}

// maxIAs bounds the associations that are answered in one message. Routers have one, rarely two.
const maxIAs = 8

var errNotForServers = errors.New("not a message from a client to a server")

// readQuery reads a datagram, and checks what section 16 of RFC 9915 has a server discard. What comes by relays is not for us.
func readQuery(b []byte, server DUID) (*query, error) {
	if len(b) < headerSize {
		return nil, fmt.Errorf("reading a DHCPv6 message: %d bytes", len(b))
	}
	q := &query{message: message{kind: dhcpv6.MessageType(b[0]), xid: dhcpv6.TransactionID(b[1:headerSize]), asks: true}}
	named := false // whether it has to name the server
	switch q.kind {
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeRebind, dhcpv6.MessageTypeInformationRequest:
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		named = true
	default: // Confirm is about addresses: we have none, and cannot tell
		return nil, errNotForServers
	}
	q.walk("message", b[headerSize:], q.option)
	inform := q.kind == dhcpv6.MessageTypeInformationRequest
	switch {
	case q.client == nil && !inform:
		return nil, errors.New("it names no client")
	case q.server != nil && !slices.Equal(q.server, server):
		return nil, errors.New("it is for another server")
	case named && q.server == nil || !named && !inform && q.server != nil:
		return nil, errors.New("it names a server, or names none, against the protocol")
	case inform && len(q.ias) > 0:
		return nil, errors.New("a request for information has associations")
	case len(q.ias) > maxIAs:
		return nil, fmt.Errorf("it has %d associations", len(q.ias))
	}
	return q, nil
}

func (q *query) option(code dhcpv6.OptionCode, data []byte) error {
	if code != dhcpv6.OptionORO {
		return q.message.option(code, data)
	}
	if len(data)%2 != 0 {
		return errLength
	}
	for ; len(data) > 0; data = data[2:] {
		q.options = append(q.options, dhcpv6.OptionCode(binary.BigEndian.Uint16(data)))
	}
	return nil
}

// prefixIAs lists the associations of prefixes, each once.
func (q *query) prefixIAs() []ia {
	var list []ia
	for _, a := range q.ias {
		if a.pd && !slices.ContainsFunc(list, func(o ia) bool { return o.id == a.id }) {
			list = append(list, a)
		}
	}
	return list
}
