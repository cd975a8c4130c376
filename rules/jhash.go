package rules

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// jhash is that of linux/jhash.h, by which nftables shares sources among uplinks.
func jhash(key []byte, seed uint32) uint32 {
	a := 0xdeadbeef + uint32(len(key)) + seed
	b, c := a, a
	for len(key) > 12 {
		a += binary.NativeEndian.Uint32(key)
		b += binary.NativeEndian.Uint32(key[4:])
		c += binary.NativeEndian.Uint32(key[8:])
		a, b, c = jhashMix(a, b, c)
		key = key[12:]
	}
	if len(key) == 0 {
		return c
	}
	var rest [12]byte
	copy(rest[:], key)
	return jhashFinal(a+binary.LittleEndian.Uint32(rest[:]), b+binary.LittleEndian.Uint32(rest[4:]), c+binary.LittleEndian.Uint32(rest[8:]))
}

func jhashMix(a, b, c uint32) (uint32, uint32, uint32) {
	turn := func(x, y, z *uint32, by int) { // x -= z, x ^= z turned, z += y
		*x -= *z
		*x ^= bits.RotateLeft32(*z, by)
		*z += *y
	}
	turn(&a, &b, &c, 4)
	turn(&b, &c, &a, 6)
	turn(&c, &a, &b, 8)
	turn(&a, &b, &c, 16)
	turn(&b, &c, &a, 19)
	turn(&c, &a, &b, 4)
	return a, b, c
}

func jhashFinal(a, b, c uint32) uint32 {
	turn := func(x *uint32, y uint32, by int) {
		*x ^= y
		*x -= bits.RotateLeft32(y, by)
	}
	turn(&c, b, 14)
	turn(&a, c, 11)
	turn(&b, a, 25)
	turn(&c, b, 16)
	turn(&a, c, 4)
	turn(&b, a, 14)
	turn(&c, b, 24)
	return c
}

// Has reports whether a source falls to the share (net/netfilter/nft_hash.c nft_jhash_eval).
func (e NftSourceShare) Has(source netip.Addr) bool {
	if !source.IsValid() || FamilyOf(source) != e.Family {
		return false
	}
	share := uint32(uint64(jhash(source.AsSlice(), seedOfShares)) * uint64(e.Total) >> 32) // reciprocal_scale
	return e.First <= share && share <= e.Last
}
