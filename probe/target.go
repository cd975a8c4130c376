package probe

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// Kind is how a target is probed.
type Kind uint8

// The kinds of target.
const (
	ICMP      Kind = iota + 1 // echo request, ICMP or ICMPv6
	TCP                       // a connection is opened and reset
	HTTP                      // GET without redirects
	HTTPS                     // the same over TLS, certificates not verified
	DNS                       // one query over UDP
	Handshake                 // what WireGuard counts of the peer that has the address; not for [Net]
)

// String returns the scheme of the kind; "icmp" for the one that has none.
func (k Kind) String() string {
	switch k {
	case ICMP:
		return "icmp"
	case TCP:
		return "tcp"
	case HTTP:
		return "http"
	case HTTPS:
		return "https"
	case DNS:
		return "dns"
	case Handshake:
		return "handshake"
	}
	return "kind(" + strconv.Itoa(int(k)) + ")"
}

// Target is a host to probe and how to do it. Targets are comparable; the
// zero Target is not valid. Make one with [ParseTarget].
type Target struct {
	text string
	kind Kind
	addr netip.Addr
	port uint16
	host string // HTTP: the Host header
	uri  string // HTTP: path and query
	want int    // HTTP: the only good status, or 0 for any 2xx and 3xx
	name string // DNS: fully qualified; "." asks for the root's name servers
}

// maxTarget bounds a target's text: longer ones are a mistake, and each probe
// of one would be a large packet.
const maxTarget = 512

// ParseTarget reads one of
//
//	192.0.2.1    2001:db8::1                echo request
//	tcp://192.0.2.2:443                     connection
//	http://192.0.2.3/generate_204           GET; 204 for this path, else 2xx or 3xx
//	https://[2001:db8::3]/                  the same over TLS
//	dns://192.0.2.53?name=example.net       query; without a name, the root's NS
//	handshake://10.0.31.1                   the WireGuard peer that has the address
//
// Hosts are literal addresses, because a name would have to be resolved over
// the very uplink in question. Addresses that no uplink leads to (loopback,
// multicast, unspecified, broadcast) are refused, and so are zones: the device
// is the uplink's.
func ParseTarget(s string) (Target, error) {
	t, err := parseTarget(s)
	if err != nil {
		return Target{}, fmt.Errorf("probe target %q: %w", s, err)
	}
	t.text = s
	return t, nil
}

func parseTarget(s string) (Target, error) {
	if s == "" {
		return Target{}, errors.New("is empty")
	}
	if len(s) > maxTarget {
		return Target{}, fmt.Errorf("is longer than %d bytes", maxTarget)
	}
	if !strings.Contains(s, "://") {
		addr, err := parseAddr(s)
		return Target{kind: ICMP, addr: addr}, err
	}
	u, err := url.Parse(s)
	if err != nil {
		var parse *url.Error
		if errors.As(err, &parse) {
			err = parse.Err
		}
		return Target{}, err
	}
	if u.User != nil {
		return Target{}, errors.New("must not carry a user name")
	}
	if u.Fragment != "" || strings.Contains(s, "#") {
		return Target{}, errors.New("must not have a fragment")
	}
	var t Target
	if t.addr, err = parseAddr(u.Hostname()); err != nil {
		return Target{}, err
	}
	if t.addr.Is6() != strings.HasPrefix(u.Host, "[") {
		return Target{}, errors.New("an IPv6 address, and only that, stands in brackets in a URL")
	}
	if t.port, err = parsePort(u); err != nil {
		return Target{}, err
	}
	// url.Parse has lowered the scheme; only the plain spelling is accepted so
	// that one target has one form.
	switch scheme, _, _ := strings.Cut(s, ":"); scheme {
	case "tcp":
		return t.tcp(u)
	case "http", "https":
		return t.http(u)
	case "dns":
		return t.dns(u)
	case "handshake":
		t.kind = Handshake
		if t.port != 0 || u.Path != "" || u.RawQuery != "" || u.ForceQuery {
			return Target{}, errors.New("has nothing behind the address")
		}
		return t, nil
	default:
		return Target{}, fmt.Errorf("unknown scheme %q; known are tcp, http, https, dns and handshake, and a plain address for echo requests", scheme)
	}
}

func parseAddr(s string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("%q is not an IP address; targets are literal addresses, names would need the uplink to be resolved", s)
	case addr.Zone() != "":
		return netip.Addr{}, errors.New("must not have a zone; the device is the uplink's")
	case addr.Is4In6():
		return netip.Addr{}, errors.New("is an IPv4 address in IPv6 form; write it in dotted form")
	case addr.IsUnspecified(), addr.IsLoopback(), addr.IsMulticast(), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return netip.Addr{}, fmt.Errorf("%s is not a host beyond an uplink", addr)
	}
	return addr, nil
}

func parsePort(u *url.URL) (uint16, error) {
	if u.Port() == "" {
		if strings.HasSuffix(u.Host, ":") {
			return 0, errors.New("has an empty port")
		}
		return 0, nil
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port %q is not within 1..65535", u.Port())
	}
	return uint16(n), nil
}

func (t Target) tcp(u *url.URL) (Target, error) {
	t.kind = TCP
	if t.port == 0 {
		return Target{}, errors.New("needs a port, as in tcp://192.0.2.2:443")
	}
	if u.Path != "" || u.RawQuery != "" || u.ForceQuery {
		return Target{}, errors.New("has nothing after the port")
	}
	return t, nil
}

func (t Target) http(u *url.URL) (Target, error) {
	t.kind, t.host, t.uri = HTTP, u.Host, u.RequestURI()
	port := uint16(80)
	if u.Scheme == "https" {
		t.kind, port = HTTPS, 443
	}
	if t.port == 0 {
		t.port = port
	}
	if strings.HasSuffix(u.Path, "/generate_204") {
		t.want = 204
	}
	return t, nil
}

func (t Target) dns(u *url.URL) (Target, error) {
	t.kind, t.name = DNS, "."
	if t.port == 0 {
		t.port = 53
	}
	if u.Path != "" || u.ForceQuery {
		return Target{}, errors.New("has only ?name= after the address")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Target{}, err
	}
	for key, values := range query {
		if key != "name" || len(values) != 1 {
			return Target{}, fmt.Errorf("unknown or repeated parameter %q; only one name is known", key)
		}
		if _, ok := dns.IsDomainName(values[0]); !ok {
			return Target{}, fmt.Errorf("%q is not a domain name", values[0])
		}
		t.name = dns.Fqdn(values[0])
	}
	return t, nil
}

// String returns the target as it was given to [ParseTarget].
func (t Target) String() string { return t.text }

// Addr returns the host's address, without a zone; its family is the family
// that the target can speak for.
func (t Target) Addr() netip.Addr { return t.addr }

// Kind returns how the target is probed.
func (t Target) Kind() Kind { return t.kind }

// Wants204 reports whether only status 204 is an answer, so that another one
// tells of a captive portal.
func (t Target) Wants204() bool { return t.want == 204 }

// Bytes estimates what one answered probe moves in both directions, with its IP
// headers and without the link layer's: for metered uplinks.
func (t Target) Bytes() int {
	packets, payload := 2, 0
	switch t.kind {
	case ICMP:
		payload = 2 * (8 + echoSize)
	case TCP: // SYN, SYN-ACK, ACK, RST
		packets, payload = 4, 40+40+32+20
	case HTTP:
		packets, payload = 8, 8*32+100+len(t.host)+len(t.uri)+300
	case HTTPS: // a certificate chain is most of it
		packets, payload = 14, 14*32+600+4500+len(t.host)+len(t.uri)+300
	case Handshake: // an echo request, and an empty packet for it
		payload = 8 + echoSize
	case DNS:
		payload = 2*(8+12+len(t.name)+5) + 48
	}
	header := 20
	if t.addr.Is6() {
		header = 40
	}
	return packets*header + payload
}

// MarshalText returns the form given to [ParseTarget].
func (t Target) MarshalText() ([]byte, error) { return []byte(t.text), nil }

// UnmarshalText is [ParseTarget].
func (t *Target) UnmarshalText(text []byte) error {
	parsed, err := ParseTarget(string(text))
	if err != nil {
		return err
	}
	*t = parsed
	return nil
}
