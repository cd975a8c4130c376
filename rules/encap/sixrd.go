package encap

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// SixRD is IPv6 in IPv4 of a provider's customers among themselves and with his border relay (RFC 5969). Its other ends are in the IPv6
// addresses, so that a device has a local one alone; the kernel drops what comes from another than its address says (section 12,
// net/ipv6/sit.c is_spoofed_6rd).
const SixRD = "6rd"

// Attributes of linux/if_tunnel.h.
const (
	sit6rdPrefix      = 11
	sit6rdRelayPrefix = 12
	sit6rdPrefixLen   = 13
	sit6rdRelayLen    = 14
)

// sixToFour is what each sit has that was given no other prefix (RFC 3056).
var sixToFour = netip.MustParsePrefix("2002::/16")

// The kernel calls it a sit: see finishSIT. It gives it no link-local address, but the local one as ::192.0.2.1.
var sixRD = Kind{Name: SixRD, Device: SIT, Module: "sit", Carries: Packets6,
	header: func(*Params) int { return 0 },
	args:   func(p *Params) string { return fmt.Sprintf(" 6rd-prefix %v 6rd-relay_prefix %v", p.Prefix6, p.Prefix4) },
	attributes: func(p *Params) []Attribute {
		return []Attribute{{sitLocal, p.Local.AsSlice()}, {sitTTL, []byte{p.TTL}}, {sitPMTUDisc, []byte{1}},
			{sit6rdPrefix, p.Prefix6.Addr().AsSlice()}, {sit6rdRelayPrefix, p.Prefix4.Addr().AsSlice()},
			{sit6rdPrefixLen, native16(uint16(p.Prefix6.Bits()))}, {sit6rdRelayLen, native16(uint16(p.Prefix4.Bits()))}}
	},
	decode: func(*Params, Attribute) {},
}

// decode6rd reads what a sit is told of 6rd, addresses before lengths.
func decode6rd(p *Params, a Attribute) {
	switch a.Type {
	case sit6rdPrefix:
		p.Prefix6 = netip.PrefixFrom(a.addr(), 0)
	case sit6rdRelayPrefix:
		p.Prefix4 = netip.PrefixFrom(a.addr(), 0)
	case sit6rdPrefixLen:
		p.Prefix6 = netip.PrefixFrom(p.Prefix6.Addr(), int(a.u16(binary.NativeEndian)))
	case sit6rdRelayLen:
		p.Prefix4 = netip.PrefixFrom(p.Prefix4.Addr(), int(a.u16(binary.NativeEndian)))
	}
}

// finishSIT tells a 6rd from a sit with another end.
func finishSIT(p *Params) {
	none := !p.Remote.IsValid() || p.Remote.IsUnspecified()
	if none && p.Prefix6.IsValid() && p.Prefix6 != sixToFour {
		p.Kind, p.Remote = SixRD, netip.Addr{}
		return
	}
	p.Prefix6, p.Prefix4 = netip.Prefix{}, netip.Prefix{}
}

// Delegated6RD returns the prefix that a customer has: that of the provider, followed by what his IPv4 address has behind the part that all
// have in common (RFC 5969 section 4). It is false where the address is not in that part, or where less than a /64 is left for a network.
func Delegated6RD(prefix6, prefix4 netip.Prefix, local netip.Addr) (netip.Prefix, bool) {
	bits := prefix6.Bits() + 32 - prefix4.Bits()
	if !prefix6.IsValid() || !prefix4.IsValid() || !prefix6.Addr().Is6() || !local.Is4() || !prefix4.Contains(local) || bits > 64 {
		return netip.Prefix{}, false
	}
	b, v4 := prefix6.Masked().Addr().As16(), local.As4()
	host := uint64(binary.BigEndian.Uint32(v4[:])<<prefix4.Bits()) << 32 // left-aligned in 64 bits
	binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])|host>>prefix6.Bits())
	return netip.PrefixFrom(netip.AddrFrom16(b), bits), true
}
