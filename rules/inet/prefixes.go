package inet

import (
	"net/netip"
	"slices"
)

// Within reports whether a prefix of the list covers the address.
func Within(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Disjoint sorts prefixes and drops those that others cover: a set of the kernel takes no overlaps.
func Disjoint(list []netip.Prefix) []netip.Prefix {
	list = slices.Clone(list)
	slices.SortFunc(list, netip.Prefix.Compare)
	kept := list[:0]
	for _, p := range list {
		// In this order a prefix stands behind the one that covers it, and behind nothing but what that covers too.
		if len(kept) == 0 || !(kept[len(kept)-1].Bits() <= p.Bits() && kept[len(kept)-1].Contains(p.Addr())) {
			kept = append(kept, p)
		}
	}
	return kept
}

// OfFamily picks the prefixes of a family. Lists are mostly sorted, so that it need not copy.
func OfFamily(list []netip.Prefix, f Family) []netip.Prefix {
	is := func(p netip.Prefix) bool { return Of(p.Addr()) == f }
	first := slices.IndexFunc(list, is)
	if first < 0 {
		return nil
	}
	end := first
	for end < len(list) && is(list[end]) {
		end++
	}
	of := list[first:end:end]
	for _, p := range list[end:] {
		if is(p) {
			of = append(of, p)
		}
	}
	return of
}
