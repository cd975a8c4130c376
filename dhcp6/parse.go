package dhcp6

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

// The library's parser gives up on a whole message for one bad option, so options are walked here. What is
// malformed is left out and noted in faults; the rest counts.

// iaKey names an identity association: the number spaces of IA_NA and IA_PD are separate (RFC 9915 section
// 12).
type iaKey struct {
	pd bool
	id uint32
}

func (k iaKey) String() string {
	if k.pd {
		return fmt.Sprintf("IA_PD %d", k.id)
	}
	return fmt.Sprintf("IA_NA %d", k.id)
}

// message is what a server says, or a client.
type message struct {
	kind           dhcpv6.MessageType
	asks           bool // it is of a client, whose T1 and T2 mean nothing
	xid            dhcpv6.TransactionID
	client, server DUID
	preference     uint8
	rapid          bool
	status         status
	solMaxRT       time.Duration // 0 for none
	ias            []ia
	dns            []netip.Addr
	domains        []string
	// badDNS and badDomains: the option was there but malformed.
	badDNS, badDomains bool

	faults []string // the first of what was malformed
	flaws  int      // all of it
}

// status is a Status Code option; the zero value is success.
type status struct {
	code iana.StatusCode
	text string
}

func (s status) String() string {
	if s.text == "" {
		return s.code.String()
	}
	return s.code.String() + ": " + s.text
}

// ia is an identity association in a message.
type ia struct {
	iaKey
	t1, t2 time.Duration
	status status
	grants []grant
	bad    bool // something in it was malformed
}

// grant is an IA_PREFIX, or an IA_ADDR as a prefix of 128 bits.
type grant struct {
	prefix, exclude  netip.Prefix
	preferred, valid time.Duration
	status           status
}

const headerSize = 4 // message type and transaction id

// maxStatus bounds a status message, in bytes: it goes to logs and to the status page.
const maxStatus = 200

var errNotForClients = errors.New("not a message from a server to a client")

// parse reads a datagram.
func parse(b []byte) (*message, error) {
	if len(b) < headerSize {
		return nil, fmt.Errorf("reading a DHCPv6 message: %d bytes", len(b))
	}
	m := &message{kind: dhcpv6.MessageType(b[0]), xid: dhcpv6.TransactionID(b[1:headerSize])}
	if m.kind != dhcpv6.MessageTypeAdvertise && m.kind != dhcpv6.MessageTypeReply {
		return nil, errNotForClients
	}
	m.walk("message", b[headerSize:], m.option)
	return m, nil
}

// walk calls each for every option of b, and notes what it finds wrong.
func (m *message) walk(where string, b []byte, each func(code dhcpv6.OptionCode, data []byte) error) {
	for len(b) > 0 {
		if len(b) < 4 || len(b) < 4+int(binary.BigEndian.Uint16(b[2:])) {
			m.fault("%s: truncated in an option", where)
			return
		}
		code, size := dhcpv6.OptionCode(binary.BigEndian.Uint16(b)), int(binary.BigEndian.Uint16(b[2:]))
		if err := each(code, b[4:4+size]); err != nil {
			m.fault("%s: %v: %v", where, code, err)
		}
		b = b[4+size:]
	}
}

func (m *message) fault(format string, args ...any) {
	const enough = 8
	if m.flaws++; m.flaws <= enough {
		m.faults = append(m.faults, fmt.Sprintf(format, args...))
	}
}

var errLength = errors.New("wrong length")

// option takes in an option of the message itself. Unknown ones are ignored (section 16).
func (m *message) option(code dhcpv6.OptionCode, data []byte) (err error) {
	switch code {
	case dhcpv6.OptionClientID:
		m.client, err = readDUID(m.client, data)
	case dhcpv6.OptionServerID:
		m.server, err = readDUID(m.server, data)
	case dhcpv6.OptionPreference:
		if len(data) != 1 {
			return errLength
		}
		m.preference = data[0]
	case dhcpv6.OptionRapidCommit:
		m.rapid = true
	case dhcpv6.OptionStatusCode:
		m.status, err = readStatus(data)
	case dhcpv6.OptionSolMaxRT:
		if len(data) != 4 {
			return errLength
		}
		v := time.Duration(binary.BigEndian.Uint32(data)) * time.Second
		if v < minSolMaxRT || v > maxSolMaxRT {
			return fmt.Errorf("%v is outside of %v to %v", v, minSolMaxRT, maxSolMaxRT)
		}
		m.solMaxRT = v
	case dhcpv6.OptionDNSRecursiveNameServer:
		m.dns, err = readAddresses(data)
		m.badDNS = err != nil
	case dhcpv6.OptionDomainSearchList:
		m.domains, err = readDomains(data)
		m.badDomains = err != nil
	case dhcpv6.OptionIANA, dhcpv6.OptionIAPD:
		return m.association(code == dhcpv6.OptionIAPD, data)
	}
	return err
}

// association reads an IA. One with T1 > T2 > 0 is taken as not there (sections 21.4 and 21.21).
func (m *message) association(pd bool, data []byte) error {
	if len(data) < 12 {
		return errLength
	}
	a := ia{iaKey: iaKey{pd, binary.BigEndian.Uint32(data)}, t1: lifetime(data[4:]), t2: lifetime(data[8:])}
	if a.t1 > a.t2 && a.t2 > 0 && !m.asks {
		return fmt.Errorf("%v has T1 %v > T2 %v", a.iaKey, a.t1, a.t2)
	}
	before := m.flaws
	m.walk(a.String(), data[12:], func(code dhcpv6.OptionCode, data []byte) (err error) {
		var g grant
		switch {
		case code == dhcpv6.OptionStatusCode:
			a.status, err = readStatus(data)
			return err
		case code == dhcpv6.OptionIAPrefix && pd:
			g, err = m.prefix(data)
		case code == dhcpv6.OptionIAAddr && !pd:
			g, err = m.address(data)
		default:
			return nil
		}
		if err == nil {
			a.grants = append(a.grants, g)
		}
		return err
	})
	a.bad = m.flaws > before
	m.ias = append(m.ias, a)
	return nil
}

func (m *message) prefix(data []byte) (grant, error) {
	if len(data) < 25 {
		return grant{}, errLength
	}
	if data[8] > 128 {
		return grant{}, fmt.Errorf("prefix length %d", data[8])
	}
	g := grant{preferred: lifetime(data), valid: lifetime(data[4:])}
	// Some servers leave bits set behind the prefix.
	g.prefix = netip.PrefixFrom(netip.AddrFrom16([16]byte(data[9:25])), int(data[8])).Masked()
	if err := g.check(); err != nil {
		return grant{}, err
	}
	m.walk(g.prefix.String(), data[25:], func(code dhcpv6.OptionCode, data []byte) (err error) {
		switch code {
		case dhcpv6.OptionStatusCode:
			g.status, err = readStatus(data)
		case dhcpv6.OptionPDExclude:
			g.exclude, err = readExclude(g.prefix, data)
		}
		return err
	})
	return g, nil
}

func (m *message) address(data []byte) (grant, error) {
	if len(data) < 24 {
		return grant{}, errLength
	}
	g := grant{preferred: lifetime(data[16:]), valid: lifetime(data[20:])}
	g.prefix = netip.PrefixFrom(netip.AddrFrom16([16]byte(data)), 128)
	if err := g.check(); err != nil {
		return grant{}, err
	}
	m.walk(g.prefix.Addr().String(), data[24:], func(code dhcpv6.OptionCode, data []byte) (err error) {
		if code == dhcpv6.OptionStatusCode {
			g.status, err = readStatus(data)
		}
		return err
	})
	return g, nil
}

// shortestPrefix is the length below which no delegation is believed: whole registries' customers hold a
// /16, and a rule for anything shorter would take in other people's networks.
const shortestPrefix = 16

// check refuses what no server may give (sections 21.6 and 21.22), and what could not be routed.
func (g *grant) check() error {
	if g.preferred > g.valid {
		return fmt.Errorf("%v has preferred lifetime %v > valid lifetime %v", g.prefix, g.preferred, g.valid)
	}
	if g.prefix.Bits() < shortestPrefix || !routable(g.prefix.Addr()) {
		return fmt.Errorf("%v cannot be given to a client", g.prefix)
	}
	return nil
}

// routable excludes what has a meaning of its own: ::/8 (unspecified, loopback, IPv4-mapped, NAT64),
// link-local and multicast addresses.
func routable(a netip.Addr) bool {
	return a.Is6() && a.As16()[0] != 0 && !a.IsLinkLocalUnicast() && !a.IsMulticast()
}

// readExclude reads OPTION_PD_EXCLUDE (RFC 6603 section 4.2): a length, and the bits that follow the
// delegated prefix, moved to the left.
func readExclude(delegated netip.Prefix, data []byte) (netip.Prefix, error) {
	if len(data) == 0 {
		return netip.Prefix{}, errLength
	}
	length, bits := int(data[0]), data[1:]
	extra := length - delegated.Bits()
	if extra < 1 || length > 128 || len(bits) != (extra+7)/8 {
		return netip.Prefix{}, fmt.Errorf("length %d with %d octets inside %v", length, len(bits), delegated)
	}
	a := delegated.Addr().As16()
	for i := range extra {
		if bits[i/8]&(0x80>>(i%8)) != 0 {
			at := delegated.Bits() + i
			a[at/8] |= 0x80 >> (at % 8)
		}
	}
	return netip.PrefixFrom(netip.AddrFrom16(a), length), nil
}

// lifetime reads seconds; 0xffffffff is for ever (RFC 9915 section 7.7).
func lifetime(b []byte) time.Duration {
	v := binary.BigEndian.Uint32(b)
	if v == 0xffffffff {
		return never
	}
	return time.Duration(v) * time.Second
}

// readDUID keeps the first of several.
func readDUID(have DUID, data []byte) (DUID, error) {
	switch {
	case have != nil:
		return have, errors.New("twice")
	case len(data) < minDUID || len(data) > maxDUID:
		return nil, errLength
	}
	return DUID(append([]byte(nil), data...)), nil
}

func readStatus(data []byte) (status, error) {
	if len(data) < 2 {
		return status{}, errLength
	}
	text := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, string(data[2:min(len(data), 2+maxStatus)]))
	return status{iana.StatusCode(binary.BigEndian.Uint16(data)), strings.ToValidUTF8(text, "")}, nil
}

// readAddresses reads name servers. Those that cannot be asked are left out.
func readAddresses(data []byte) ([]netip.Addr, error) {
	if len(data) == 0 || len(data)%16 != 0 {
		return nil, errLength
	}
	var out []netip.Addr
	for ; len(data) > 0; data = data[16:] {
		a := netip.AddrFrom16([16]byte(data))
		if !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() {
			out = append(out, a)
		}
	}
	return out, nil
}

// readDomains reads a search list (RFC 3646 section 4): uncompressed names. Only letters, digits, hyphens
// and underscores pass, since the names will stand in advertisements and files.
func readDomains(data []byte) ([]string, error) {
	var out []string
	var labels []string
	for len(data) > 0 {
		size := int(data[0])
		if size > 63 || len(data) < 1+size {
			return nil, errors.New("malformed name")
		}
		label := string(data[1 : 1+size])
		data = data[1+size:]
		if size > 0 {
			if strings.ContainsFunc(label, notInNames) {
				return nil, fmt.Errorf("name with label %q", label)
			}
			labels = append(labels, label)
			continue
		}
		if name := strings.Join(labels, "."); name != "" && len(name) <= 253 {
			out = append(out, name)
		}
		labels = nil
	}
	if labels != nil {
		return nil, errors.New("name without an end")
	}
	return out, nil
}

func notInNames(r rune) bool {
	letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	return !letter && (r < '0' || r > '9') && r != '-' && r != '_'
}
