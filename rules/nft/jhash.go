package nft

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"github.com/uplinkd/uplinkd/rules/inet"
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
	step := func(x, y, z *uint32, by int) { // x -= z, x ^= z turned, z += y
		*x -= *z
		*x ^= bits.RotateLeft32(*z, by)
		*z += *y
	}
	step(&a, &b, &c, 4)
	step(&b, &c, &a, 6)
	step(&c, &a, &b, 8)
	step(&a, &b, &c, 16)
	step(&b, &c, &a, 19)
	step(&c, &a, &b, 4)
	return a, b, c
}

func jhashFinal(a, b, c uint32) uint32 {
	step := func(x *uint32, y uint32, by int) {
		*x ^= y
		*x -= bits.RotateLeft32(y, by)
	}
	step(&c, b, 14)
	step(&a, c, 11)
	step(&b, a, 25)
	step(&c, b, 16)
	step(&a, c, 4)
	step(&b, a, 14)
	step(&c, b, 24)
	return c
}

// Has reports whether a source falls to the share (net/netfilter/nft_hash.c nft_jhash_eval).
func (e SourceShare) Has(source netip.Addr) bool {
	if !source.IsValid() || inet.Of(source) != e.Family {
		return false
	}
	share := uint32(uint64(jhash(source.AsSlice(), sourceHashSeed)) * uint64(e.Total) >> 32) // reciprocal_scale
	return e.First <= share && share <= e.Last
}
