package rules

import (
	"testing"

	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
	"pgregory.net/rapid"
)

// A set of intervals that comes with its rule is empty for a moment after the rule is there: what policies select is in none, and is still what
// was asked for.
func TestWhatAPolicySelectsIsInNoSetOfIntervals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ports SelectPorts
		var uids SelectUIDs
		for range rapid.IntRange(1, 8).Draw(t, "ranges") {
			first := rapid.Uint16Range(1, 200).Draw(t, "first")
			last := first + rapid.Uint16Range(0, 5).Draw(t, "length")
			ports.List = append(ports.List, netcfg.Ports{First: first, Last: last})
			uids = append(uids, netcfg.UIDs{First: uint32(first), Last: uint32(last)})
		}
		selected := make(map[uint32]bool)
		for name, list := range map[string][]nft.Expr{"ports": ports.expressions(IPv4), "uids": uids.expressions(IPv4)} {
			clear(selected)
			for _, e := range list {
				var of []nft.Range
				switch e := e.(type) {
				case nft.Ports:
					of = e.List
				case nft.Owners:
					of = e.List
				}
				for _, r := range of {
					if len(of) > 1 && r.First != r.Last {
						t.Fatalf("%s: %v is a set of intervals", name, of)
					}
					for n := r.First; n <= r.Last; n++ {
						selected[n] = true
					}
				}
			}
			for n := uint32(0); n < 300; n++ {
				want := false
				for _, p := range ports.List {
					want = want || p.Has(uint16(n))
				}
				if selected[n] != want {
					t.Fatalf("%s: %d is selected: %v, asked for: %v", name, n, selected[n], want)
				}
			}
		}
	})
}
