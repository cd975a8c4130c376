package inet

import (
	"net/netip"
	"slices"
)

// nat64Lengths are those that the prefix of a NAT64 may have (RFC 6052 section 2.2).
var nat64Lengths = [...]int{96, 64, 56, 48, 40, 32}

// IsNAT64 reports whether a prefix, which is masked, can be that of a NAT64.
func IsNAT64(p netip.Prefix) bool {
	return p.IsValid() && p.Addr().Is6() && !p.Addr().Is4In6() && p.Addr().IsGlobalUnicast() && slices.Contains(nat64Lengths[:], p.Bits()) && p.Addr().As16()[8] == 0
}

// embedded returns the IPv4 address in an IPv6 address of a NAT64 whose prefix has a length. Octet 8 has no part of it, and is zero
// (RFC 6052 section 2.2).
func embedded(a netip.Addr, bits int) (netip.Addr, bool) {
	b := a.As16()
	if b[8] != 0 {
		return netip.Addr{}, false
	}
	var v4 [4]byte
	at := bits / 8
	for i := range v4 {
		if at == 8 {
			at++
		}
		v4[i] = b[at]
		at++
	}
	return netip.AddrFrom4(v4), true
}

// wellKnown4 are the IPv4 addresses of ipv4only.arpa (RFC 7050 section 8.2).
var wellKnown4 = [...]netip.Addr{netip.AddrFrom4([4]byte{192, 0, 0, 170}), netip.AddrFrom4([4]byte{192, 0, 0, 171})}

// NAT64Prefixes returns the prefixes that a DNS64 has made IPv6 addresses of ipv4only.arpa with (RFC 7050 section 3), in order, each once.
// An address that fits more than one length tells nothing.
func NAT64Prefixes(addresses []netip.Addr) []netip.Prefix {
	var list []netip.Prefix
	for _, a := range addresses {
		if !a.Is6() || a.Is4In6() {
			continue
		}
		var fits []netip.Prefix
		for _, bits := range nat64Lengths {
			if v4, ok := embedded(a, bits); ok && slices.Contains(wellKnown4[:], v4) {
				fits = append(fits, netip.PrefixFrom(a, bits).Masked())
			}
		}
		if len(fits) == 1 && IsNAT64(fits[0]) {
			list = append(list, fits[0])
		}
	}
	slices.SortFunc(list, netip.Prefix.Compare)
	return slices.Compact(list)
}
