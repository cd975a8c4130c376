package inet_test

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/rules/inet"
)

func drawAddr(t *rapid.T) netip.Addr {
	n := byte(rapid.IntRange(0, 255).Draw(t, "host"))
	if rapid.Bool().Draw(t, "IPv6") {
		return netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, 15: n})
	}
	return netip.AddrFrom4([4]byte{192, 0, 2, n})
}

// drawRanges draws few addresses close together, so that much of it overlaps and touches.
func drawRanges(t *rapid.T) (list []inet.Range) {
	for range rapid.IntRange(0, 30).Draw(t, "ranges") {
		first := drawAddr(t)
		last := first
		for range rapid.IntRange(0, 20).Draw(t, "more") {
			if next := last.Next(); inet.Of(next) == inet.Of(last) && next.IsValid() {
				last = next
			}
		}
		list = append(list, inet.Range{First: first, Last: last})
	}
	return list
}

func TestASetHasWhatItsRangesHaveInTheFewestRanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := drawRanges(t)
		in := func(a netip.Addr) bool {
			for _, r := range list {
				if inet.Of(r.First) == inet.Of(a) && r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0 {
					return true
				}
			}
			return false
		}
		s := inet.NewSet(append([]inet.Range(nil), list...))
		for range 50 {
			if a := drawAddr(t); s.Contains(a) != in(a) {
				t.Fatalf("%v: %v, and of the ranges %v", a, s.Contains(a), list)
			}
		}
		for _, f := range []inet.Family{inet.IPv4, inet.IPv6} {
			var last netip.Addr
			for _, r := range s.Ranges(f) {
				if last.IsValid() && !last.Next().Less(r.First) {
					t.Fatalf("%v touches what ends with %v", r, last)
				}
				last = r.Last
			}
		}
		reordered := inet.NewSet(append(append([]inet.Range(nil), list[len(list)/2:]...), list[:len(list)/2]...))
		if !s.Equal(reordered) {
			t.Fatal("the order of the ranges is seen in the digest")
		}
	})
}

func TestTheFewestPrefixesOfARange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := inet.Range{First: drawAddr(t), Last: drawAddr(t)}
		if inet.Of(r.First) != inet.Of(r.Last) {
			return
		}
		if r.Last.Less(r.First) {
			r.First, r.Last = r.Last, r.First
		}
		list := r.Prefixes()
		at := r.First
		for _, p := range list {
			if p.Masked() != p || p.Addr() != at {
				t.Fatalf("%v: %v does not begin with %v", r, p, at)
			}
			at = inet.RangeOf(p).Last.Next()
		}
		if at != r.Last.Next() {
			t.Fatalf("%v: %v ends before %v", r, list, at)
		}
		if len(list) > 2*8 {
			t.Fatalf("%v: %v are too many", r, list)
		}
	})
	for want, r := range map[int][2]string{1: {"0.0.0.0", "255.255.255.255"}, 62: {"0.0.0.1", "255.255.255.254"}, 4: {"192.0.2.10", "192.0.2.20"}, 2: {"255.255.255.253", "255.255.255.255"}} {
		if list := (inet.Range{First: netip.MustParseAddr(r[0]), Last: netip.MustParseAddr(r[1])}).Prefixes(); len(list) != want {
			t.Errorf("%v: %v, want %d of them", r, list, want)
		}
	}
}
