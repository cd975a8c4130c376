package config

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/uplinkd/uplinkd/rules/inet"
)

// maxSelector is how many addresses a condition may list, and maxNumbers how many of anything else: a set of
// nftables holds so many ranges.
const (
	maxSelector = 4096
	maxNumbers  = 500
)

// Protocol numbers (IANA) that conditions name.
const (
	protocolTCP  = 6
	protocolUDP  = 17
	protocolDCCP = 33
	protocolSCTP = 132
)

var protocolNames = map[string]uint8{
	"icmp": 1, "tcp": protocolTCP, "udp": protocolUDP, "dccp": protocolDCCP, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58,
	"sctp": protocolSCTP,
}

// scalarOrList makes a list accept one element without brackets.
func (f field) scalarOrList() field {
	return field{name: f.name, takes: f.takes + ", or one of it", read: func(r *reader, v *value) {
		if v.kind != kindString && v.kind != kindInteger {
			f.read(r, v)
			return
		}
		one := *v
		list := &value{kind: kindList, key: v.key, off: v.off, elems: []*value{&one}}
		f.read(r, list)
		v.bad = list.bad
	}}
}

// numbers is a list of numbers, given as such or as words that parse knows, or one of them.
func numbers[T comparable](name string, dst *[]T, example string, parse func(name, s string) (T, string)) field {
	f := field{name: name, takes: "a list of numbers or strings, such as [" + strings.Trim(example, "[]") + "]", read: func(r *reader, v *value) {
		if v.kind != kindList {
			r.wrongType(v, name, "a number, a string, or a list of them", example)
			return
		}
		if len(v.elems) == 0 || len(v.elems) > maxNumbers {
			r.fail(v, v.off, "%s has %d elements: there must be 1 to %d", name, len(v.elems), maxNumbers)
			return
		}
		var list []T
		for _, e := range v.elems {
			if e.kind != kindString && e.kind != kindInteger {
				r.fail(v, e.off, "%s must be a number or a string, not %s: write %s = %s", name, e.kind, name, example)
				return
			}
			x, msg := parse(name, strings.ReplaceAll(e.text, "_", ""))
			if msg == "" && slices.Contains(list, x) {
				msg = fmt.Sprintf("%s %s is given twice", name, quote(e.text))
			}
			if msg != "" {
				r.fail(v, e.off, "%s", msg)
				return
			}
			list = append(list, x)
		}
		*dst = list
	}}
	return f.scalarOrList()
}

func parseProtocol(name, s string) (uint8, string) {
	if p, ok := protocolNames[s]; ok {
		return p, ""
	}
	if n, err := strconv.ParseUint(s, 10, 8); err == nil && n > 0 {
		return uint8(n), ""
	}
	known := make([]string, 0, len(protocolNames))
	for n := range protocolNames {
		known = append(known, n)
	}
	slices.Sort(known)
	hint := ": write " + orList(known) + ", or a number from 1 to 255"
	if n := nearest(s, known); n != "" {
		hint = fmt.Sprintf(", did you mean %q?", n)
	}
	return 0, fmt.Sprintf("unknown %s %s%s", name, quote(s), hint)
}

func parsePorts(name, s string) (Range, string) {
	r, ok := parseRange(s, 1<<16-1)
	if !ok || r.First == 0 {
		return Range{}, fmt.Sprintf(`%s %s is not a port: write a number from 1 to 65535, or a range such as "8000-8080"`, name, quote(s))
	}
	return r, ""
}

func parseUIDs(name, s string) (Range, string) {
	r, ok := parseRange(s, 1<<32-2) // the last one means nobody (INVALID_UID)
	if !ok {
		return Range{}, fmt.Sprintf(`%s %s is not a user number: write the one that "id -u NAME" prints, or a range such as "1000-1999"`, name, quote(s))
	}
	return r, ""
}

// parseRange reads "7" and "7-9".
func parseRange(s string, limit uint64) (Range, bool) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	a, errA := strconv.ParseUint(first, 10, 32)
	b, errB := strconv.ParseUint(last, 10, 32)
	return Range{uint32(a), uint32(b)}, errA == nil && errB == nil && a <= b && b <= limit
}

// dscpNames are the code points of RFC 2474, 2597, 3246, 5865 and 8622.
var dscpNames = map[string]uint8{
	"cs0": 0, "cs1": 8, "cs2": 16, "cs3": 24, "cs4": 32, "cs5": 40, "cs6": 48, "cs7": 56, "be": 0, "ef": 46, "va": 44, "le": 1,
	"af11": 10, "af12": 12, "af13": 14, "af21": 18, "af22": 20, "af23": 22, "af31": 26, "af32": 28, "af33": 30, "af41": 34, "af42": 36, "af43": 38,
}

func parseDSCP(name, s string) (uint8, string) {
	if d, ok := dscpNames[strings.ToLower(s)]; ok {
		return d, ""
	}
	if n, err := strconv.ParseUint(s, 0, 8); err == nil && n <= 63 {
		return uint8(n), ""
	}
	return 0, fmt.Sprintf(`%s %s is not a DSCP value: write a number from 0 to 63, or a name such as "ef", "af41" or "cs5"`, name, quote(s))
}

func parseMAC(name, s string) (mac [6]byte, msg string) {
	switch a, err := net.ParseMAC(s); {
	case err != nil:
		return mac, fmt.Sprintf("%s %s is not a hardware address: write one as in %q", name, quote(s), exampleMAC)
	case len(a) != len(mac):
		return mac, fmt.Sprintf("%s %s has %d bytes, and an address of Ethernet has %d", name, quote(s), len(a), len(mac))
	case a[0]&1 != 0:
		return mac, fmt.Sprintf("%s %s is a multicast address: no host sends from one", name, quote(s))
	case [6]byte(a) == mac:
		return mac, fmt.Sprintf("%s %s is all zeros: write the one that \"ip neighbour\" shows beside its address", name, quote(s))
	default:
		return [6]byte(a), ""
	}
}

// allBits is the mask of a mark that is given without one.
const allBits = 1<<32 - 1

// fwmark reads "0x1" and "0x1/0xff".
func (r *reader) fwmark(v *value, m *Match) {
	if v.kind != kindString && v.kind != kindInteger {
		r.wrongType(v, "fwmark", "a string or a number", `"0x1/0xff"`)
		return
	}
	mark, mask, masked := strings.Cut(v.text, "/")
	if !masked {
		mask = "0xffffffff"
	}
	a, errA := strconv.ParseUint(strings.ReplaceAll(mark, "_", ""), 0, 32)
	b, errB := strconv.ParseUint(mask, 0, 32)
	switch {
	case errA != nil || errB != nil || b == 0:
		r.fail(v, v.off, "fwmark %s is not a mark: write one with its mask, such as \"0x1/0xff\"", quote(v.text))
	case a&^b != 0:
		r.fail(v, v.off, "fwmark %s can never match: the mark has bits outside its mask", quote(v.text))
	default:
		m.Mark, m.MarkMask = uint32(a), uint32(b)
	}
}

// addresses is a list of addresses, prefixes and sets, or one of them.
func addresses(name string, dst *Addresses, sets []Set) field {
	var words []string
	list := texts(name, &words, examplePrefix, maxSelector, nil).scalarOrList()
	return field{name: name, takes: list.takes, read: func(r *reader, v *value) {
		list.read(r, v)
		if v.bad {
			return
		}
		if len(words) == 0 {
			r.fail(v, v.off, "%s is empty: leave it out, or name some addresses", name)
			return
		}
		for i, w := range words {
			at := v.off
			if v.kind == kindList {
				at = v.elems[i].off
			}
			set, isSet := strings.CutPrefix(w, "@")
			if !isSet {
				p, msg := parseAddresses(name, w)
				if msg != "" {
					r.fail(v, at, "%s", msg)
					return
				}
				dst.Prefixes = append(dst.Prefixes, p...)
				continue
			}
			n := slices.IndexFunc(sets, func(s Set) bool { return s.Name == set })
			switch {
			case n < 0:
				r.fail(v, at, "there is no set %s: write a section [[set]] with that name", quote(set))
				return
			case sets[n].Filled:
				dst.Filled = append(dst.Filled, set)
			case sets[n].Source() != "addresses":
				dst.Lists = append(dst.Lists, set)
				if sets[n].Dnsmasq {
					dst.Filled = append(dst.Filled, set)
				}
			default:
				dst.Prefixes = append(dst.Prefixes, sets[n].Addresses...)
			}
		}
		dst.Prefixes = inet.Disjoint(dst.Prefixes)
	}}
}

// prefixes is addresses without sets that others fill: the routing table cannot look into those.
func prefixes(name string, dst *[]netip.Prefix, sets []Set) field {
	var all Addresses
	list := addresses(name, &all, sets)
	return field{name: name, takes: list.takes, read: func(r *reader, v *value) {
		list.read(r, v)
		if names := append(all.Filled, all.Lists...); !v.bad && len(names) > 0 {
			r.fail(v, v.off, "%s names %s, which changes: exceptions become routes, so they must be known here", name, quote("@"+names[0]))
			return
		}
		*dst = all.Prefixes
	}}
}

var domainName = regexp.MustCompile(`^(\*\.)?([a-zA-Z0-9-]+\.)+[a-zA-Z]{2,}\.?$`)

// selectorHint says how to write what was given in the place of an address: a MAC address and a domain have other keys.
func selectorHint(name, s string) string {
	if _, err := net.ParseMAC(s); err == nil && name == "from" {
		return fmt.Sprintf("a hardware address goes into mac = [%s]", quote(s))
	} else if err == nil {
		return "hardware addresses can be selected as sources alone, by mac"
	}
	if domainName.MatchString(s) {
		return fmt.Sprintf(`a domain takes a set: a [[set]] with domains = [%s], and %s = "@NAME" here`, quote(s), name)
	}
	return fmt.Sprintf("write one as in %q, or a set as in \"@name\"", examplePrefix)
}

// parseAddresses reads an address, a prefix, or a range such as "192.0.2.10-192.0.2.20", which becomes the prefixes that cover it.
func parseAddresses(name, s string) ([]netip.Prefix, string) {
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		p, msg := parsePrefix(name, s)
		return []netip.Prefix{p}, msg
	}
	first, errFirst := netip.ParseAddr(strings.TrimSpace(from))
	last, errLast := netip.ParseAddr(strings.TrimSpace(to))
	if errFirst != nil && errLast != nil { // a name with a hyphen, or the like
		p, msg := parsePrefix(name, s)
		return []netip.Prefix{p}, msg
	}
	usable := func(a netip.Addr) bool { return a.Zone() == "" && !a.Is4In6() }
	switch {
	case errFirst != nil || errLast != nil || !usable(first) || !usable(last):
		return nil, fmt.Sprintf("%s %s is no range of addresses: write one as in \"192.0.2.10-192.0.2.20\"", name, quote(s))
	case first.Is4() != last.Is4():
		return nil, fmt.Sprintf("%s %s begins in one family and ends in the other", name, quote(s))
	case last.Less(first):
		return nil, fmt.Sprintf("%s %s ends before it begins: write %q", name, quote(s), last.String()+"-"+first.String())
	}
	list := inet.Range{First: first, Last: last}.Prefixes()
	if list[0].Bits() == 0 {
		return nil, fmt.Sprintf("%s %s is all of the Internet: leave it out", name, quote(s))
	}
	return list, ""
}

// parsePrefix reads an address, or a prefix without bits behind its length.
func parsePrefix(name, s string) (netip.Prefix, string) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" && !a.Is4In6() {
		return netip.PrefixFrom(a, a.BitLen()), ""
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Sprintf("%s %s is not an address or prefix: %s", name, quote(s), selectorHint(name, s))
	case p.Bits() == 0:
		return netip.Prefix{}, fmt.Sprintf("%s %s is the whole Internet: leave it out", name, quote(s))
	case p.Masked() != p:
		return netip.Prefix{}, fmt.Sprintf("%s %s has host bits set: write %q", name, quote(s), p.Masked())
	}
	return p, ""
}
