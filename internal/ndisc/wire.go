package ndisc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/rules/inet"
)

// Packet is an ICMPv6 message as it came in.
type Packet struct {
	Data     []byte
	From     netip.Addr // without a zone
	HopLimit int
}

// Message and option types (RFC 4861, 4191, 8106, 8781).
const (
	typeSolicit = 133
	typeAdvert  = 134

	optSource = 1
	optPrefix = 3
	optMTU    = 5
	optRoute  = 24
	optRDNSS  = 25
	optDNSSL  = 31
	optPREF64 = 38
)

const (
	hopLimit     = 255 // proves that no router has forwarded the message
	advertHeader = 16  // bytes
	solicitSize  = 8   // bytes
	optionUnit   = 8   // bytes
	minMTU       = 1280
	maxDomain    = 230 // bytes of a search domain: what the codec's largest option holds
)

// forever is the lifetime that does not end.
const forever = math.MaxUint32 * time.Second

// errMessage is wrapped by every reason to discard a whole message.
var errMessage = errors.New("discarded")

// advert is a router advertisement. Reachable Time and Retrans Timer are left to the kernel, which has the
// neighbour cache.
type advert struct {
	hopLimit       int // of our packets; 0: unspecified
	managed, other bool
	preference     Preference
	lifetime       time.Duration
	mtu            int // 0: not said
	prefixes       []prefixOption
	routes         []routeOption
	servers        []serverOption
	domains        []domainOption
	translators    []translatorOption
	ignored        []string // options that are not used, and why
}

type prefixOption struct {
	prefix             netip.Prefix
	onLink, autonomous bool
	preferred, valid   time.Duration
}

type routeOption struct {
	prefix     netip.Prefix
	preference Preference
	lifetime   time.Duration
}

type serverOption struct {
	server   netip.Addr
	lifetime time.Duration
}

type domainOption struct {
	domain   string
	lifetime time.Duration
}

type translatorOption struct {
	prefix   netip.Prefix
	lifetime time.Duration
}

// parseAdvert checks a router advertisement as RFC 4861 section 6.1.2 demands and reads it. An option that
// makes no sense is left out and named in ignored: one mistake of an ISP shall not cost its router.
func parseAdvert(p Packet) (advert, error) {
	switch {
	case p.HopLimit != hopLimit:
		return advert{}, fmt.Errorf("%w: its hop limit is %d, it may come from beyond the link", errMessage, p.HopLimit)
	case !p.From.Is6() || !p.From.IsLinkLocalUnicast():
		return advert{}, fmt.Errorf("%w: its source %v is not link-local", errMessage, p.From)
	case len(p.Data) < advertHeader || p.Data[0] != typeAdvert:
		return advert{}, fmt.Errorf("%w: it is no router advertisement", errMessage)
	case p.Data[1] != 0:
		return advert{}, fmt.Errorf("%w: its code is %d", errMessage, p.Data[1])
	}
	b := p.Data
	a := advert{
		hopLimit: int(b[4]), managed: b[5]&0x80 != 0, other: b[5]&0x40 != 0,
		lifetime: time.Duration(binary.BigEndian.Uint16(b[6:])) * time.Second,
	}
	a.preference, _ = preferenceOf(b[5]) // the reserved value counts as medium here (RFC 4191 section 2.2)
	err := walk(b[advertHeader:], func(kind byte, option []byte) {
		if err := a.take(kind, option); err != nil {
			a.ignored = append(a.ignored, err.Error())
		}
	})
	if err != nil {
		return advert{}, err
	}
	return a, nil
}

// parseSolicit checks a router solicitation (RFC 4861 section 6.1.1).
func parseSolicit(p Packet) error {
	switch {
	case p.HopLimit != hopLimit:
		return fmt.Errorf("%w: its hop limit is %d, it may come from beyond the link", errMessage, p.HopLimit)
	case len(p.Data) < solicitSize || p.Data[0] != typeSolicit:
		return fmt.Errorf("%w: it is no router solicitation", errMessage)
	case p.Data[1] != 0:
		return fmt.Errorf("%w: its code is %d", errMessage, p.Data[1])
	case !p.From.Is6() || p.From.IsMulticast():
		return fmt.Errorf("%w: its source is %v", errMessage, p.From)
	}
	named := false
	err := walk(p.Data[solicitSize:], func(kind byte, _ []byte) { named = named || kind == optSource })
	if err == nil && named && p.From.IsUnspecified() {
		return fmt.Errorf("%w: it has a link-layer address but no source", errMessage)
	}
	return err
}

// walk shows each option with its two bytes of type and length. An option of length zero condemns the whole
// message (RFC 4861 section 4.6); one that goes beyond the end is left out, for nothing can follow it.
func walk(b []byte, show func(kind byte, option []byte)) error {
	whole := b
	for len(b) >= 2 {
		size := int(b[1]) * optionUnit
		if size == 0 {
			return fmt.Errorf("%w: an option has length zero", errMessage)
		}
		if size > len(b) {
			break
		}
		b = b[size:]
	}
	for b = whole; len(b) >= 2 && int(b[1])*optionUnit <= len(b); {
		size := int(b[1]) * optionUnit
		show(b[0], b[:size])
		b = b[size:]
	}
	return nil
}

// take reads one option.
func (a *advert) take(kind byte, o []byte) error {
	switch kind {
	case optPrefix:
		return a.takePrefix(o)
	case optRoute:
		return a.takeRoute(o)
	case optRDNSS:
		return a.takeServers(o)
	case optDNSSL:
		return a.takeDomains(o)
	case optPREF64:
		return a.takeTranslator(o)
	case optMTU:
		if len(o) != optionUnit {
			return fmt.Errorf("MTU option of %d bytes", len(o))
		}
		mtu := binary.BigEndian.Uint32(o[4:])
		if mtu < minMTU || mtu > math.MaxInt32 {
			return fmt.Errorf("MTU %d", mtu)
		}
		a.mtu = int(mtu)
	}
	return nil
}

func (a *advert) takePrefix(o []byte) error {
	if len(o) != 4*optionUnit {
		return fmt.Errorf("prefix option of %d bytes", len(o))
	}
	p := prefixOption{onLink: o[3]&0x80 != 0, autonomous: o[3]&0x40 != 0, valid: seconds(o[4:]), preferred: seconds(o[8:])}
	var err error
	if p.prefix, err = prefixOf(o[2], o[16:32]); err != nil {
		return err
	}
	if p.prefix.Bits() == 0 {
		return errors.New("prefix of 0 bits") // would put the whole Internet on the link
	}
	// RFC 4862 section 5.5.3 c; a link-local prefix is ignored (section 5.5.3 b, RFC 4861 section 6.3.4).
	if p.preferred > p.valid {
		return fmt.Errorf("prefix %v is preferred for longer than it is valid", p.prefix)
	}
	a.prefixes = append(a.prefixes, p)
	return nil
}

// takeRoute reads a route (RFC 4191 section 2.3), of which as many bytes are present as its length needs, or
// more.
func (a *advert) takeRoute(o []byte) error {
	length := o[2]
	if len(o) > 3*optionUnit || length > 0 && len(o) < 2*optionUnit || length > 64 && len(o) < 3*optionUnit {
		return fmt.Errorf("route option of %d bytes for a prefix of %d bits", len(o), length)
	}
	preference, ok := preferenceOf(o[3])
	if !ok {
		return errors.New("route with the reserved preference") // RFC 4191 section 2.3: ignored, not medium
	}
	prefix, err := prefixOf(length, o[8:])
	if err != nil {
		return err
	}
	a.routes = append(a.routes, routeOption{prefix, preference, seconds(o[4:])})
	return nil
}

func (a *advert) takeServers(o []byte) error {
	if len(o) < 3*optionUnit || len(o)%(2*optionUnit) != optionUnit {
		return fmt.Errorf("DNS server option of %d bytes", len(o))
	}
	for b := o[8:]; len(b) > 0; b = b[16:] {
		server := netip.AddrFrom16([16]byte(b[:16]))
		if server.IsUnspecified() || server.IsMulticast() || server.IsLoopback() || server.Is4In6() {
			return fmt.Errorf("DNS server %v", server)
		}
		a.servers = append(a.servers, serverOption{server, seconds(o[4:])})
	}
	return nil
}

// takeDomains reads a search list (RFC 8106 section 5.2): names of labels, uncompressed, padded with zeros.
func (a *advert) takeDomains(o []byte) error {
	var labels []string
	for b := o[8:]; len(b) > 0; {
		size := int(b[0])
		if size >= len(b) {
			return errors.New("search domain beyond the end of its option")
		}
		if size > 0 {
			labels = append(labels, strings.ToLower(string(b[1:1+size])))
			b = b[1+size:]
			continue
		}
		b = b[1:]
		if labels == nil {
			continue // padding
		}
		domain := strings.Join(labels, ".")
		labels = nil
		if !validDomain(domain) {
			return fmt.Errorf("search domain %q", domain)
		}
		a.domains = append(a.domains, domainOption{domain, seconds(o[4:])})
	}
	if labels != nil {
		return errors.New("search domain without an end")
	}
	return nil
}

// pref64Lengths are the lengths of prefixes by their code, and pref64Unit is what lifetimes are counted in (RFC 8781 section 4).
var pref64Lengths = [...]byte{96, 64, 56, 48, 40, 32}

const pref64Unit = 8 * time.Second

// takeTranslator reads the prefix of the provider's NAT64 (RFC 8781): 13 bits of lifetime, 3 of the length's code, 96 of the prefix.
func (a *advert) takeTranslator(o []byte) error {
	if len(o) != 2*optionUnit {
		return fmt.Errorf("PREF64 option of %d bytes", len(o))
	}
	word := binary.BigEndian.Uint16(o[2:])
	code := int(word & 7)
	if code >= len(pref64Lengths) {
		return fmt.Errorf("PREF64 with the length code %d", code)
	}
	prefix, err := prefixOf(pref64Lengths[code], o[4:])
	if err != nil {
		return err
	}
	if !inet.IsNAT64(prefix) {
		return fmt.Errorf("PREF64 %v", prefix)
	}
	a.translators = append(a.translators, translatorOption{prefix, time.Duration(word>>3) * pref64Unit})
	return nil
}

// prefixOf reads a prefix of which some bytes may be missing, and clears the bits behind its length.
func prefixOf(length byte, b []byte) (netip.Prefix, error) {
	var full [16]byte
	copy(full[:], b)
	if length > 128 {
		return netip.Prefix{}, fmt.Errorf("prefix of %d bits", length)
	}
	p := netip.PrefixFrom(netip.AddrFrom16(full), int(length)).Masked()
	if p.Addr().IsLinkLocalUnicast() || p.Addr().IsMulticast() || p.Addr().IsLoopback() || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("prefix %v", p)
	}
	return p, nil
}

func seconds(b []byte) time.Duration {
	return time.Duration(binary.BigEndian.Uint32(b)) * time.Second
}

// validDomain accepts lower-case host names: a search domain may end up in files and in programs' hands.
func validDomain(name string) bool {
	if name == "" || len(name) > maxDomain {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}
