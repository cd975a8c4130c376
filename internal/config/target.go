package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

const (
	// maxTargets bounds what one uplink asks: each one is asked at the calm pace, for ever.
	maxTargets    = 32
	exampleTarget = "192.0.2.1"
)

// target is a probe target as far as the configuration must understand it.
type target struct {
	addr      netip.Addr
	scheme    string // "" for one that is pinged
	canonical string // equal for targets that ask the same
}

// schemes are the ones that a target may begin with, with an example and the port that need not be written.
var schemes = []struct{ name, port, example string }{
	{"tcp", "", "tcp://192.0.2.2:443"},
	{"http", "80", "http://192.0.2.3/generate_204"},
	{"https", "443", "https://192.0.2.3/"},
	{"dns", "53", "dns://192.0.2.53?name=example.net"},
	{schemeHandshake, "0", exampleHandshake},
}

const (
	// schemeHandshake asks nothing: WireGuard tells whether the peer that has the address answers it.
	schemeHandshake  = "handshake"
	exampleHandshake = "handshake://10.0.31.1"
)

// parseTarget reads a probe target. The message is "" if it is right.
func parseTarget(s string) (target, string) {
	scheme, rest, isURL := strings.Cut(s, "://")
	if !isURL {
		return parsePing(s)
	}
	i := slices.IndexFunc(schemes, func(x struct{ name, port, example string }) bool { return x.name == scheme })
	if i < 0 {
		return target{}, unknownScheme(s, scheme, rest)
	}
	wrong := func(format string, args ...any) (target, string) {
		return target{}, "target " + quote(s) + " " + fmt.Sprintf(format, args...)
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority, tail := rest[:end], rest[end:]
	if strings.Contains(authority, "@") {
		return wrong("has a user in it: leave out what stands before the @")
	}
	host, port, msg := splitAuthority(authority, scheme)
	if msg != "" {
		return wrong("%s", msg)
	}
	addr, msg := parseHost(host)
	if msg != "" {
		return wrong("%s", msg)
	}
	if scheme == schemeHandshake && (port != "" || tail != "") {
		return wrong("has something behind the address: write nothing but that, as in %q", exampleHandshake)
	}
	if port == "" {
		if port = schemes[i].port; port == "" {
			return wrong("has no port: write one, as in %q", schemes[i].example)
		}
	} else if msg := checkPort("target "+quote(s), port); msg != "" {
		return target{}, msg
	}
	path, msg := checkTail(scheme, tail)
	if msg != "" {
		return wrong("%s", msg)
	}
	port = strings.TrimLeft(port, "0")
	return target{addr, scheme, scheme + "://" + addr.String() + " " + port + " " + path}, ""
}

// parsePing reads a plain address, which is pinged.
func parsePing(s string) (target, string) {
	wrong := func(what string) (target, string) { return target{}, "target " + quote(s) + " " + what }
	if s == "" {
		return target{}, fmt.Sprintf("a target is empty: write an address, as in %q", exampleTarget)
	}
	if _, err := netip.ParseAddr(s); err != nil {
		if p, err := netip.ParsePrefix(s); err == nil {
			host := p.Addr()
			if host == p.Masked().Addr() && !p.IsSingleIP() {
				host = host.Next()
			}
			return wrong(fmt.Sprintf("is a network: write one address of it, as in %q", host))
		}
		if ap, err := netip.ParseAddrPort(s); err == nil && ap.Addr().Zone() == "" {
			return wrong(fmt.Sprintf("has a port but no protocol: write %q", "tcp://"+ap.String()))
		}
	}
	addr, msg := parseHost(s)
	if msg != "" {
		return wrong(msg)
	}
	return target{addr, "", "ping " + addr.String()}, ""
}

func unknownScheme(s, scheme, rest string) string {
	msg := "target " + quote(s) + " begins with an unknown protocol"
	switch strings.ToLower(scheme) {
	case "icmp", "ping", "icmp4", "icmp6":
		return fmt.Sprintf("%s: a plain address is pinged, write %s", msg, quote(rest))
	}
	names := make([]string, len(schemes))
	for i, x := range schemes {
		names[i] = x.name
	}
	if n := nearest(scheme, names); n != "" {
		return fmt.Sprintf("%s, did you mean %q?", msg, n+"://")
	}
	return msg + ": write an address alone to ping it, or tcp://, http://, https://, dns:// or handshake:// before it"
}

// splitAuthority splits the host and the port, which may be absent, of a URL.
func splitAuthority(s, scheme string) (host, port, msg string) {
	if s == "" {
		return "", "", "has no address"
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Is6() {
		meant := "[" + s + "]"
		if i := strings.LastIndexByte(s, ':'); scheme == "tcp" { // a port is what a tcp target cannot do without
			if _, err := netip.ParseAddr(s[:i]); err == nil && checkPort("", s[i+1:]) == "" {
				meant = "[" + s[:i] + "]" + s[i:]
			}
		}
		return "", "", fmt.Sprintf("needs brackets around its IPv6 address: write %s", quote(scheme+"://"+meant))
	}
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		if inner := s[1 : len(s)-1]; strings.Contains(inner, ":") {
			return inner, "", ""
		}
		return "", "", "has brackets around something that is no IPv6 address"
	}
	if host, port, ok := splitHostPort(s); ok {
		return host, port, portGiven(port)
	}
	if strings.Contains(s, ":") {
		return "", "", fmt.Sprintf("has brackets or colons in the wrong place: write an IPv6 address as in %q",
			scheme+"://[2001:db8::2]:443")
	}
	return s, "", ""
}

func portGiven(port string) string {
	if port == "" {
		return "has a colon but no port behind it"
	}
	return ""
}

// parseHost reads the literal address of a target.
func parseHost(s string) (netip.Addr, string) {
	a, err := netip.ParseAddr(s)
	switch {
	case s == "":
		return a, "has no address"
	case err != nil:
		return a, fmt.Sprintf("must have a literal IP address, and %s is none: a probe that needs name resolution first "+
			"fails with it", quote(s))
	case a.Zone() != "":
		return a, "has a zone, but the device is known: leave out the % and what follows"
	case a.Is4In6():
		return a, fmt.Sprintf("is an IPv4 address in IPv6 clothes: write %s", a.Unmap())
	}
	return a, unusable(a)
}

// checkTail checks what follows the address of a URL and returns it in a form to compare by.
func checkTail(scheme, tail string) (canonical, msg string) {
	if strings.Contains(tail, "#") {
		return "", "has a fragment, which is never sent: leave out the # and what follows"
	}
	path, query, _ := strings.Cut(tail, "?")
	switch scheme {
	case "tcp":
		if tail != "" {
			return "", fmt.Sprintf("has %s behind the port: a tcp target is an address and a port only", quote(tail))
		}
		return "", ""
	case "dns":
		if path != "" {
			return "", fmt.Sprintf("has a path, %s: write ?name= and a name right behind the address", quote(path))
		}
		return dnsQuery(query)
	}
	if strings.ContainsFunc(tail, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return "", "has a character that must be written as % and two hexadecimal digits"
	}
	if _, err := url.PathUnescape(path); err != nil {
		return "", "has a % that two hexadecimal digits must follow"
	}
	if tail == "" || tail[0] == '?' {
		tail = "/" + tail
	}
	return tail, ""
}

// dnsQuery reads the name=... of a dns target.
func dnsQuery(query string) (canonical, msg string) {
	const example = "dns://192.0.2.53?name=example.net"
	if query == "" {
		return "", fmt.Sprintf("has no name to ask for: write one, as in %q", example)
	}
	var name string
	for i, pair := range strings.Split(query, "&") {
		key, val, _ := strings.Cut(pair, "=")
		if key != "name" {
			return "", fmt.Sprintf("has an unknown parameter %s: a dns target has name only, as in %q", quote(key), example)
		}
		if i > 0 {
			return "", "has two names: give each a target of its own"
		}
		name = val
	}
	if !validDomain(name) {
		return "", fmt.Sprintf("asks for %s, which is no domain name", quote(name))
	}
	return strings.ToLower(strings.TrimSuffix(name, ".")), ""
}

// validDomain reports whether s is a domain name of letters, digits, hyphens and underscores (RFC 1035, section 2.3.4,
// for the lengths); "." is the root.
func validDomain(s string) bool {
	if s == "." {
		return true
	}
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, func(c rune) bool {
				return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_')
			}) {
			return false
		}
	}
	return true
}
