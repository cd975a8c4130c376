package importer

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// everything are the prefixes of all addresses of a family, by halves: a configuration takes no /0.
var everything = [2][]string{{"0.0.0.0/1", "128.0.0.0/1"}, {"::/1", "8000::/1"}}

// parseAddresses reads an address, a prefix or a range ("192.0.2.1-192.0.2.9") as prefixes without bits behind their lengths.
// All of a family is the two halves of it.
func parseAddresses(s string) ([]netip.Prefix, bool) {
	if first, last, isRange := strings.Cut(s, "-"); isRange {
		a, errA := netip.ParseAddr(strings.TrimSpace(first))
		b, errB := netip.ParseAddr(strings.TrimSpace(last))
		if errA != nil || errB != nil || a.Is4() != b.Is4() || a.Is4In6() || b.Is4In6() || a.Zone()+b.Zone() != "" || b.Less(a) {
			return nil, false
		}
		return between(a, b), true
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" && !a.Is4In6() {
		return []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}, true
	}
	p, err := netip.ParsePrefix(dotted(s))
	if err != nil || p.Addr().Is4In6() {
		return nil, false
	}
	p = p.Masked()
	if p.Bits() > 0 {
		return []netip.Prefix{p}, true
	}
	half, _ := p.Addr().Prefix(1)
	top := p.Addr().AsSlice()
	top[0] = 0x80
	upper, _ := netip.AddrFromSlice(top)
	return []netip.Prefix{half, netip.PrefixFrom(upper, 1)}, true
}

var nameOfHost = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$`)

// hostName reports whether a word may be the name of a host: an address that is cut is none.
func hostName(s string) bool {
	return nameOfHost.MatchString(s) && strings.Trim(s, "0123456789.") != ""
}

// dotted turns "192.168.1.0/255.255.255.0" into a length.
func dotted(s string) string {
	address, mask, ok := strings.Cut(s, "/")
	m, err := netip.ParseAddr(mask)
	if !ok || err != nil || !m.Is4() {
		return s
	}
	for bits := 0; bits <= 32; bits++ {
		if netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), bits).Masked().Addr() == m {
			return address + "/" + strconv.Itoa(bits)
		}
	}
	return s
}

// between are the prefixes that make up a range of addresses.
func between(first, last netip.Addr) (list []netip.Prefix) {
	for first.IsValid() && !last.Less(first) {
		bits := first.BitLen()
		for bits > 1 {
			wider := netip.PrefixFrom(first, bits-1)
			if wider.Masked().Addr() != first || last.Less(lastOf(wider)) {
				break
			}
			bits--
		}
		p := netip.PrefixFrom(first, bits)
		list = append(list, p)
		first = lastOf(p).Next()
	}
	return list
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < p.Addr().BitLen(); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// complement are all addresses of the family of the first prefix that are in none of them.
func complement(list []netip.Prefix) (out []netip.Prefix) {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	zero, _ := list[0].Addr().Prefix(0)
	next := zero.Addr()
	for _, p := range list {
		if next.IsValid() && next.Less(p.Addr()) {
			out = append(out, between(next, p.Addr().Prev())...)
		}
		if end := lastOf(p); !next.IsValid() || !end.Less(next) {
			next = end.Next()
		}
		if !next.IsValid() {
			return out
		}
	}
	return append(out, between(next, lastOf(zero))...)
}

func texts(list []netip.Prefix) []string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = p.String()
		if p.IsSingleIP() {
			out[i] = p.Addr().String()
		}
	}
	return out
}

// all reports whether prefixes cover a family, and which.
func all(list []netip.Prefix) (is4 bool, ok bool) {
	for _, six := range []bool{false, true} {
		var of []netip.Prefix
		for _, p := range list {
			if p.Addr().Is6() == six {
				of = append(of, p)
			}
		}
		if len(of) > 0 && len(complement(of)) == 0 {
			return !six, true
		}
	}
	return false, false
}

// portRange is a range of ports, ends included.
type portRange struct{ first, last int }

// parsePorts reads lists of ports, ranges ("1024:2048", "8000-8080") and names of services.
func parsePorts(words []string) ([]portRange, error) {
	var list []portRange
	for _, w := range words {
		first, last, isRange := strings.Cut(strings.ReplaceAll(w, ":", "-"), "-")
		a, errA := portNumber(first)
		b := a
		var errB error
		if isRange {
			b, errB = portNumber(last)
		}
		if errA != nil || errB != nil || a > b {
			return nil, fmt.Errorf("%s is no port", quoted(w))
		}
		list = append(list, portRange{a, b})
	}
	slices.SortFunc(list, func(a, b portRange) int { return a.first - b.first })
	merged := list[:0]
	for _, r := range list {
		if n := len(merged); n > 0 && r.first <= merged[n-1].last+1 {
			merged[n-1].last = max(merged[n-1].last, r.last)
			continue
		}
		merged = append(merged, r)
	}
	if len(merged) > 0 && merged[0].first == 0 {
		merged[0].first = 1 // no connection has port 0
		if merged[0].last == 0 {
			merged = merged[1:]
		}
	}
	return merged, nil
}

// services are names of ports (IANA) that rules are written with.
var services = map[string]int{
	"ftp-data": 20, "ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "domain": 53, "dns": 53, "tftp": 69, "http": 80, "www": 80, "kerberos": 88, "pop3": 110,
	"ntp": 123, "imap": 143, "imap2": 143, "snmp": 161, "bgp": 179, "ldap": 389, "https": 443, "smtps": 465, "submissions": 465, "isakmp": 500, "syslog": 514,
	"submission": 587, "ldaps": 636, "domain-s": 853, "ftps": 990, "imaps": 993, "pop3s": 995, "openvpn": 1194, "l2tp": 1701, "pptp": 1723, "radius": 1812,
	"mqtt": 1883, "nfs": 2049, "stun": 3478, "mysql": 3306, "ms-wbt-server": 3389, "rdp": 3389, "ipsec-nat-t": 4500, "sip": 5060, "sips": 5061, "sip-tls": 5061,
	"xmpp-client": 5222, "postgresql": 5432, "http-alt": 8080,
}

func portNumber(s string) (int, error) {
	if n, ok := services[strings.ToLower(s)]; ok {
		return n, nil
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err
}

// otherPorts are those that are in none of the ranges.
func otherPorts(list []portRange) (out []portRange) {
	next := 1
	for _, r := range list {
		if r.first > next {
			out = append(out, portRange{next, r.first - 1})
		}
		next = r.last + 1
	}
	if next <= 65535 {
		out = append(out, portRange{next, 65535})
	}
	return out
}

func portTexts(list []portRange) []string {
	out := make([]string, len(list))
	for i, r := range list {
		out[i] = strconv.Itoa(r.first)
		if r.last > r.first {
			out[i] += "-" + strconv.Itoa(r.last)
		}
	}
	return out
}

// protocolNames are those that a configuration knows by name; others are known by their number (IANA).
var protocolNumbers = map[string]int{
	"icmp": 1, "igmp": 2, "ipip": 4, "ipencap": 4, "tcp": 6, "egp": 8, "igp": 9, "udp": 17, "dccp": 33, "ipv6": 41, "gre": 47, "esp": 50, "ah": 51,
	"icmpv6": 58, "ipv6-icmp": 58, "eigrp": 88, "ospf": 89, "pim": 103, "vrrp": 112, "l2tp": 115, "sctp": 132, "udplite": 136,
}

// protocolText is a protocol as a configuration has it: "tcp", or a number.
func protocolText(s string) (string, bool) {
	s = strings.ToLower(s)
	n, known := protocolNumbers[s]
	if !known {
		u, err := strconv.ParseUint(s, 10, 8)
		if err != nil || u == 0 {
			return "", false
		}
		n = int(u)
	}
	for _, name := range []string{"icmp", "tcp", "udp", "dccp", "gre", "esp", "ah", "icmpv6", "sctp"} {
		if protocolNumbers[name] == n {
			return name, true
		}
	}
	return strconv.Itoa(n), true
}
