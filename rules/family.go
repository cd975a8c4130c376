package rules

import "net/netip"

// Family is an address family. Each uplink is judged and routed separately in each.
type Family uint8

// The two families that policy routing knows.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Families lists both families in the order in which everything reports them.
var Families = [2]Family{IPv4, IPv6}

// String returns "ipv4" or "ipv6", the names used in the configuration and in JSON.
func (f Family) String() string {
	if f == IPv6 {
		return "ipv6"
	}
	return "ipv4"
}

// FamilyOf returns the family of an address; an IPv4-mapped IPv6 address is IPv4.
func FamilyOf(a netip.Addr) Family {
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

// index numbers the families as Families lists them.
func (f Family) index() int { return int(f-IPv4) / 2 }
