package inet

import (
	"encoding/binary"
	"net/netip"
)

// LastPart returns a part of an IPv6 prefix, of bits at most 64, by its number, counted from the last; false: there are not so many, or it would
// be the whole.
func LastPart(whole netip.Prefix, bits, number int) (netip.Prefix, bool) {
	more := bits - whole.Bits()
	if more <= 0 || bits > 64 || number < 0 || uint64(number)>>min(more, 63) != 0 {
		return netip.Prefix{}, false
	}
	b := whole.Masked().Addr().As16()
	high := binary.BigEndian.Uint64(b[:])
	high |= (uint64(1)<<(64-whole.Bits()) - 1) &^ (uint64(1)<<(64-bits) - 1)
	high -= uint64(number) << (64 - bits)
	binary.BigEndian.PutUint64(b[:], high)
	return netip.PrefixFrom(netip.AddrFrom16(b), bits), true
}
