package config

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

const (
	exampleAddress4 = "198.51.100.2/24"
	exampleGateway4 = "198.51.100.1"
	exampleAddress6 = "2001:db8::2/64"
	exampleGateway6 = "2001:db8::1"
)

func parseAddress4(name, s string) (netip.Prefix, string) {
	return parseAddress(name, s, "ipv4", exampleAddress4)
}

func parseAddress6(name, s string) (netip.Prefix, string) {
	return parseAddress(name, s, "ipv6", exampleAddress6)
}

func parseGateway4(name, s string) (netip.Addr, string) {
	return parseGateway(name, s, "ipv4", exampleGateway4)
}

func parseGateway6(name, s string) (netip.Addr, string) {
	return parseGateway(name, s, "ipv6", exampleGateway6)
}

// parseAddress reads a host's address with its prefix length.
func parseAddress(name, s, family, example string) (netip.Prefix, string) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		if msg := checkFamily(name, a, family, example); msg != "" {
			return netip.Prefix{}, msg
		}
		return netip.Prefix{}, fmt.Sprintf("%s %s has no prefix length: add the one of the provider's network, as in %q",
			name, quote(s), example)
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Sprintf("%s %s is not an address with a prefix length: write one as in %q",
			name, quote(s), example)
	}
	a := p.Addr()
	if msg := checkFamily(name, a, family, example); msg != "" {
		return netip.Prefix{}, msg
	}
	what := unusable(a)
	switch {
	case p.Bits() == 0:
		what = "has a prefix length of 0, which is all of the Internet"
	case what != "":
	case a.Is6() && a.IsLinkLocalUnicast():
		what = "is link-local and cannot reach the Internet"
	case p.Bits() < a.BitLen()-1 && p.Masked().Addr() == a:
		what = "is the network, not the address of a host in it"
	case isBroadcast(p, a):
		what = "is the broadcast address of its network"
	}
	if what != "" {
		return netip.Prefix{}, fmt.Sprintf("%s %s %s: write this router's own address", name, quote(s), what)
	}
	return p, ""
}

// parseGateway reads a next hop; "" is none, as on point-to-point devices.
func parseGateway(name, s, family, example string) (netip.Addr, string) {
	if s == "" {
		return netip.Addr{}, ""
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		hint := fmt.Sprintf("write one as in %q", example)
		if addr, _, slash := strings.Cut(s, "/"); slash {
			if _, err := netip.ParseAddr(addr); err == nil {
				hint = fmt.Sprintf("write it without the prefix length, %q", addr)
			}
		}
		return netip.Addr{}, fmt.Sprintf("%s %s is not an address: %s", name, quote(s), hint)
	}
	if msg := checkFamily(name, a, family, example); msg != "" {
		return netip.Addr{}, msg
	}
	if a.Zone() != "" {
		return netip.Addr{}, fmt.Sprintf("%s %s needs no zone, for the device is known: write %q", name, quote(s),
			a.WithZone("").String())
	}
	if what := unusable(a); what != "" {
		return netip.Addr{}, fmt.Sprintf("%s %s %s: write the provider's router", name, quote(s), what)
	}
	return a, ""
}

// checkFamily reports an address of the other family, and IPv4 dressed up as IPv6.
func checkFamily(name string, a netip.Addr, family, example string) string {
	is := "IPv6"
	switch {
	case a.Is4In6():
		return fmt.Sprintf("%s %s is an IPv4-mapped address: write it as IPv4, %s, in [uplink.ipv4]", name,
			quote(a.String()), a.Unmap())
	case a.Is4():
		is = "IPv4"
	}
	if a.Is4() != (family == "ipv4") {
		return fmt.Sprintf("%s %s is an %s address, but this is [uplink.%s]: write one as in %q", name,
			quote(a.String()), is, family, example)
	}
	return ""
}

// unusable says why an address can be nobody's on a network, or "".
func unusable(a netip.Addr) string {
	switch {
	case a.IsUnspecified():
		return "is the unspecified address"
	case a.IsLoopback():
		return "is a loopback address, which never leaves the router"
	case a.IsMulticast():
		return "is a multicast address"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "is the broadcast address"
	}
	return ""
}

// checkGateway checks a next hop against the address that it is reached from.
func checkGateway(gw netip.Addr, address netip.Prefix) string {
	switch {
	case gw == address.Addr():
		return fmt.Sprintf("gateway %s is this router's own address: write the provider's router", gw)
	case gw.Is6() && gw.IsLinkLocalUnicast():
		return ""
	case !address.Contains(gw):
		return fmt.Sprintf("gateway %s is not in the network of address %s: correct one of them, or omit the gateway "+
			"on a point-to-point device", gw, address)
	case isBroadcast(address, gw) || gw.Is4() && address.Bits() < 31 && address.Masked().Addr() == gw:
		return fmt.Sprintf("gateway %s is not a host address in the network of %s: write the provider's router", gw, address)
	}
	return ""
}

// isBroadcast reports whether a is the last address of an IPv4 network; /31 and /32 have no broadcast (RFC 3021).
func isBroadcast(p netip.Prefix, a netip.Addr) bool {
	return a.Is4() && p.Bits() < 31 && p.Contains(a) && !p.Contains(a.Next())
}

const exampleHardware = "02:00:00:00:00:01"

// parseHardware reads the address that a device is given.
func parseHardware(name, s string) ([6]byte, string) {
	if a, err := net.ParseMAC(s); err == nil && bytes.Equal(a, make([]byte, len(a))) {
		return [6]byte{}, fmt.Sprintf("%s %s is all zeros, which no device may have: leave it out for the device's own", name, quote(s))
	}
	return parseMAC(name, s)
}
