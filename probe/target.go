package probe

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Target is a host to probe and how to do it. Targets are comparable; the
// zero Target is not valid. Make one with [ParseTarget].
type Target struct {
	text string
	kind *kind
	addr netip.Addr
	port uint16
	host string // HTTP: the Host header
	uri  string // HTTP: path and query
	want int    // HTTP: the only good status, or 0 for any 2xx and 3xx
	name string // DNS: fully qualified; "." asks for the root's name servers
	// empty says that an answer with an address is a wrong one: DNS only.
	empty bool
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
//	dns://192.0.2.53?name=example.net       query; "." asks for the root's NS
//	handshake://10.0.31.1                   the WireGuard peer that has the address
//
// Hosts are literal addresses, because a name would have to be resolved over
// the very uplink in question. Addresses that no uplink leads to (loopback,
// multicast, unspecified, broadcast) are refused, and so are zones: the device
// is the uplink's. The error is a sentence about the target for who wrote it;
// one of an unknown scheme is an [UnknownScheme].
func ParseTarget(s string) (Target, error) {
	t, err := parseTarget(s)
	if err != nil {
		return Target{}, err
	}
	t.text = s
	return t, nil
}

// UnknownScheme is the error for a target that begins with a scheme of no kind.
type UnknownScheme struct{ Target, Scheme, Rest string }

// Error implements error.
func (e UnknownScheme) Error() string {
	msg := "target " + quote(e.Target) + " begins with an unknown protocol"
	switch strings.ToLower(e.Scheme) {
	case "icmp", "ping", "icmp4", "icmp6":
		return fmt.Sprintf("%s: a plain address is pinged, write %s", msg, quote(e.Rest))
	}
	schemes := Schemes()
	for i := range schemes {
		schemes[i] += "://"
	}
	last := len(schemes) - 1
	return msg + ": write only an address to ping it, or " + strings.Join(schemes[:last], ", ") + " or " + schemes[last] + " before it"
}

func parseTarget(s string) (Target, error) {
	wrong := func(format string, args ...any) (Target, error) {
		return Target{}, fmt.Errorf("target %s "+format, append([]any{quote(s)}, args...)...)
	}
	if len(s) > maxTarget {
		return wrong("is longer than %d bytes", maxTarget)
	}
	scheme, rest, isURL := strings.Cut(s, "://")
	if !isURL {
		return parsePlain(s)
	}
	i := 1 + slices.IndexFunc(kinds[1:], func(k *kind) bool { return string(k.name) == scheme })
	if i == 0 {
		return Target{}, UnknownScheme{s, scheme, rest}
	}
	k := kinds[i]
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority, tail := rest[:end], rest[end:]
	if strings.Contains(authority, "@") {
		return wrong("contains a user: remove what precedes the @")
	}
	host, port, err := splitAuthority(authority, scheme)
	if err != nil {
		return wrong("%w", err)
	}
	t := Target{kind: k, port: k.port}
	if t.addr, err = parseHost(host); err != nil {
		return wrong("%w", err)
	}
	switch {
	case !k.ports && (port != "" || tail != ""):
		return wrong("has something after the address: write only that, as in %q", k.example)
	case k.ports && port != "":
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return wrong("has port %s: it must be 1 to 65535", quote(port))
		}
		t.port = uint16(n)
	case k.ports && k.port == 0:
		return wrong("has no port: write one, as in %q", k.example)
	}
	if strings.Contains(tail, "#") {
		return wrong("has a fragment, which is never sent: remove the # and what follows")
	}
	if k.rest != nil {
		if err := k.rest(&t, tail); err != nil {
			return wrong("%w", err)
		}
	}
	return t, nil
}

// parsePlain reads an address alone, which is pinged.
func parsePlain(s string) (Target, error) {
	wrong := func(format string, args ...any) (Target, error) {
		return Target{}, fmt.Errorf("target %s "+format, append([]any{quote(s)}, args...)...)
	}
	if s == "" {
		return Target{}, fmt.Errorf("a target is empty: write an address, as in %q", echo.example)
	}
	if _, err := netip.ParseAddr(s); err != nil {
		if p, err := netip.ParsePrefix(s); err == nil {
			host := p.Addr()
			if host == p.Masked().Addr() && !p.IsSingleIP() {
				host = host.Next()
			}
			return wrong("is a network: write one address of it, as in %q", host)
		}
		if ap, err := netip.ParseAddrPort(s); err == nil && ap.Addr().Zone() == "" {
			return wrong("has a port but no protocol: write %q", "tcp://"+ap.String())
		}
	}
	addr, err := parseHost(s)
	if err != nil {
		return wrong("%w", err)
	}
	return Target{kind: &echo, addr: addr}, nil
}

// splitAuthority splits the host and the port, which may be absent, of a URL.
func splitAuthority(s, scheme string) (host, port string, err error) {
	if s == "" {
		return "", "", errNoAddress
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Is6() {
		suggestion := "[" + s + "]"
		if i := strings.LastIndexByte(s, ':'); scheme == string(TCP) { // a port is what a tcp target cannot do without
			_, err := netip.ParseAddr(s[:i])
			if n, bad := strconv.ParseUint(s[i+1:], 10, 16); err == nil && bad == nil && n > 0 {
				suggestion = "[" + s[:i] + "]" + s[i:]
			}
		}
		return "", "", fmt.Errorf("needs brackets around its IPv6 address: write %s", quote(scheme+"://"+suggestion))
	}
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		if inner := s[1 : len(s)-1]; strings.Contains(inner, ":") {
			return inner, "", nil
		}
		return "", "", errors.New("has brackets around something that is not an IPv6 address")
	}
	host, port, split := SplitHostPort(s)
	switch {
	case split && port == "":
		return "", "", errors.New("has a colon but no port after it")
	case split:
		return host, port, nil
	case strings.Contains(s, ":"):
		return "", "", fmt.Errorf("has brackets or colons in the wrong place: write an IPv6 address as in %q", scheme+"://[2001:db8::2]:443")
	}
	return s, "", nil
}

// SplitHostPort splits 192.0.2.1:80 and [2001:db8::1]:80; ok is false for anything else. An IPv6 address without brackets is not split:
// net.SplitHostPort takes a host with brackets that is no address, and its errors are not ours.
func SplitHostPort(s string) (host, port string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", "", false
	}
	host, port = s[:i], s[i+1:]
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
		return host, port, strings.Contains(host, ":")
	}
	return host, port, !strings.ContainsAny(host, ":[]")
}

var errNoAddress = errors.New("has no address")

// parseHost reads the literal address of a target.
func parseHost(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case s == "":
		return a, errNoAddress
	case err != nil:
		return a, fmt.Errorf("must be an IP address, not the name %s: a probe that depends on DNS fails with it", quote(s))
	case a.Zone() != "":
		return a, fmt.Errorf("needs no zone, for the device is known: remove the %% and what follows")
	case a.Is4In6():
		return a, fmt.Errorf("is an IPv4 address in IPv6 form: write %s", a.Unmap())
	case a.IsUnspecified():
		return a, errors.New("is the unspecified address")
	case a.IsLoopback():
		return a, errors.New("is a loopback address, which never leaves the router")
	case a.IsMulticast():
		return a, errors.New("is a multicast address")
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return a, errors.New("is the broadcast address")
	}
	return a, nil
}

// maxQuoted bounds what a message repeats, in bytes.
const maxQuoted = 64

func quote(s string) string {
	if len(s) > maxQuoted {
		s = strings.ToValidUTF8(s[:maxQuoted], "") + "..."
	}
	return strconv.Quote(s)
}

// Same reports whether both targets ask the same, however they are written.
func (t Target) Same(o Target) bool {
	t.text, o.text = "", ""
	return t == o
}

// String returns the target as it was given to [ParseTarget].
func (t Target) String() string { return t.text }

// Addr returns the host's address, without a zone; its family is the family
// that the target can speak for.
func (t Target) Addr() netip.Addr { return t.addr }

// Kind returns how the target is probed.
func (t Target) Kind() Kind { return t.kind.name }

// retransmits reports whether an answer may be to what the kernel has sent again.
func (t Target) retransmits() bool { return t.kind != nil && t.kind.retransmits }

// Wants204 reports whether only status 204 is an answer, so that another one
// tells of a captive portal.
func (t Target) Wants204() bool { return t.want == 204 }

// Bytes estimates what one answered probe moves in both directions, with its IP
// headers and without the link layer's: for metered uplinks.
func (t Target) Bytes() int {
	packets, payload := t.kind.size(t)
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
