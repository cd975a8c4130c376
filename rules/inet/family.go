// Package inet has the two families of addresses, and what can be said of lists of prefixes. It is pure.
package inet

import "net/netip"

// Family is an address family. Each uplink is judged and routed separately in each.
type Family uint8

// The two families that policy routing knows.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// String returns "ipv4" or "ipv6", the names used in the configuration and in JSON.
func (f Family) String() string { return f.pick("ipv4", "ipv6") }

// Name is the family as sentences have it.
func (f Family) Name() string { return f.pick("IPv4", "IPv6") }

// Flag is the family in ip(8), "-4" or "-6".
func (f Family) Flag() string { return f.pick("-4", "-6") }

// Header is the family's header in nft(8), "ip" or "ip6".
func (f Family) Header() string { return f.pick("ip", "ip6") }

func (f Family) pick(four, six string) string {
	if f == IPv6 {
		return six
	}
	return four
}

// Of returns the family of an address; an IPv4-mapped IPv6 address is IPv4.
func Of(a netip.Addr) Family {
	if a.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// Default returns the prefix of the default route, 0.0.0.0/0 or ::/0.
func (f Family) Default() netip.Prefix {
	if f == IPv6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// DefaultBits is the length of the longest prefix that stands for "the Internet": the default itself, the 0/1 + 128/1 pair and
// 2000::/3 that VPN clients install.
func (f Family) DefaultBits() int {
	if f == IPv6 {
		return 3
	}
	return 1
}

// Index numbers the families from 0.
func (f Family) Index() int { return int(f-IPv4) / 2 }

// SolicitedNode returns the multicast address that hears neighbour solicitations of an IPv6 address (RFC 4291 section 2.7.1).
func SolicitedNode(target netip.Addr) netip.Addr {
	b := target.As16()
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}
