package inet

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"sort"
)

// Range is a range of addresses of one family, ends included.
type Range struct{ First, Last netip.Addr }

// RangeOf returns the addresses that a prefix covers.
func RangeOf(p netip.Prefix) Range {
	first, last := p.Masked().Addr(), p.Addr().AsSlice()
	for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	end, _ := netip.AddrFromSlice(last)
	return Range{first, end}
}

// Prefixes returns the fewest prefixes that cover the range and nothing else, in order.
func (r Range) Prefixes() (list []netip.Prefix) {
	for first := r.First; ; {
		bits := first.BitLen()
		p := netip.PrefixFrom(first, bits)
		for bits > 0 {
			wider, _ := first.Prefix(bits - 1)
			if wider.Addr() != first || RangeOf(wider).Last.Compare(r.Last) > 0 {
				break
			}
			p, bits = wider, bits-1
		}
		list = append(list, p)
		last := RangeOf(p).Last
		if last.Compare(r.Last) >= 0 {
			return list
		}
		first = last.Next()
	}
}

// Set is a set of addresses of both families, which never changes. A nil one is empty.
type Set struct {
	ranges [2][]Range // by the index of the family: in order, none overlaps or touches another
	digest [2]string
}

// NewSet makes a set of ranges, which may overlap. It takes the list for its own.
func NewSet(list []Range) *Set {
	slices.SortFunc(list, func(a, b Range) int { return a.First.Compare(b.First) }) // IPv4 first
	kept := list[:0]
	for _, r := range list {
		if n := len(kept); n > 0 && Of(kept[n-1].First) == Of(r.First) && (kept[n-1].Last.Compare(r.First) >= 0 || kept[n-1].Last.Next() == r.First) {
			if kept[n-1].Last.Less(r.Last) {
				kept[n-1].Last = r.Last
			}
			continue
		}
		kept = append(kept, r)
	}
	four := sort.Search(len(kept), func(i int) bool { return Of(kept[i].First) == IPv6 })
	s := new(Set)
	s.ranges = [2][]Range{slices.Clip(slices.Clone(kept[:four])), slices.Clip(slices.Clone(kept[four:]))}
	for i := range s.ranges {
		digest := sha256.New()
		for _, r := range s.ranges[i] {
			digest.Write(r.First.AsSlice())
			digest.Write(r.Last.AsSlice())
		}
		s.digest[i] = hex.EncodeToString(digest.Sum(nil)[:8])
	}
	return s
}

// Ranges lists the addresses of a family as the fewest ranges, in order. The list must not be changed.
func (s *Set) Ranges(f Family) []Range {
	if s == nil {
		return nil
	}
	return s.ranges[f.Index()]
}

// Digest names what the set has of a family: of two that have the same name, the addresses are the same.
func (s *Set) Digest(f Family) string {
	if s == nil {
		return NewSet(nil).Digest(f)
	}
	return s.digest[f.Index()]
}

// Len is of how many ranges the set is.
func (s *Set) Len() int { return len(s.Ranges(IPv4)) + len(s.Ranges(IPv6)) }

// Equal reports whether two sets have the same addresses.
func (s *Set) Equal(o *Set) bool {
	return s.Digest(IPv4) == o.Digest(IPv4) && s.Digest(IPv6) == o.Digest(IPv6)
}

// Contains reports whether an address is in the set.
func (s *Set) Contains(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return false
	}
	list := s.Ranges(Of(a))
	at := sort.Search(len(list), func(i int) bool { return a.Less(list[i].First) })
	return at > 0 && a.Compare(list[at-1].Last) <= 0
}
