package importer

import (
	"math/big"
	"slices"
)

// maxWeight is the largest weight of an uplink.
const maxWeight = 256

// weigh gives uplinks weights such that tiers share as they did: as the default does first, then policies in their order. A tier of
// a policy that does not fit has weights of its own.
func (d *draft) weigh() {
	known := make(map[*uplink]*big.Rat)
	group := make(map[*uplink]int) // uplinks whose weights depend on one another
	fit := func(tier []share) bool {
		if len(tier) < 2 {
			return true
		}
		scale := big.NewRat(1, 1)
		at := len(group) + 1
		if i := slices.IndexFunc(tier, func(s share) bool { return known[s.uplink] != nil }); i >= 0 {
			scale.Quo(known[tier[i].uplink], big.NewRat(int64(tier[i].weight), 1))
			at = group[tier[i].uplink]
		}
		wanted := func(s share) *big.Rat { return new(big.Rat).Mul(big.NewRat(int64(s.weight), 1), scale) }
		for _, s := range tier {
			if k := known[s.uplink]; k != nil && (k.Cmp(wanted(s)) != 0 || group[s.uplink] != at) {
				return false
			}
		}
		for _, s := range tier {
			known[s.uplink], group[s.uplink] = wanted(s), at
		}
		return true
	}
	for f, w := range d.defaults {
		for _, tier := range w {
			if !fit(tier) {
				d.note(Changed, origin{d.system, 0}, "%s shared the default as %s; an uplink has one weight here, which is that of %s", families{f == 0, f == 1}.words(), w.words(), families{true, false}.words())
			}
		}
	}
	for _, p := range d.policies {
		p.weighed = make(map[int]bool)
		for i, tier := range p.ways {
			if !p.off && !fit(tier) {
				p.weighed[i] = true
			}
		}
	}
	for u := range known {
		var members []*uplink
		for _, o := range d.uplinks {
			if known[o] != nil && group[o] == group[u] {
				members = append(members, o)
			}
		}
		whole(members, known)
	}
}

// bounded are the weights of a tier as a configuration takes them.
func bounded(tier []share) []int {
	most := 0
	for _, s := range tier {
		most = max(most, s.weight)
	}
	list := make([]int, len(tier))
	for i, s := range tier {
		list[i] = s.weight
		if most > maxWeight {
			list[i] = max(1, int(float64(s.weight)/float64(most)*maxWeight+0.5))
		}
	}
	return list
}

// whole turns the weights of uplinks that depend on one another into whole numbers, the smallest that will do.
func whole(members []*uplink, known map[*uplink]*big.Rat) {
	lcm, gcd := big.NewInt(1), new(big.Int)
	for _, u := range members {
		den := known[u].Denom()
		lcm.Mul(lcm, new(big.Int).Quo(den, new(big.Int).GCD(nil, nil, lcm, den)))
	}
	for _, u := range members {
		n := new(big.Int).Quo(new(big.Int).Mul(known[u].Num(), lcm), known[u].Denom())
		gcd.GCD(nil, nil, gcd, n)
	}
	most := new(big.Int)
	values := make([]*big.Int, len(members))
	for i, u := range members {
		values[i] = new(big.Int).Quo(new(big.Int).Quo(new(big.Int).Mul(known[u].Num(), lcm), known[u].Denom()), gcd)
		if values[i].Cmp(most) > 0 {
			most = values[i]
		}
	}
	for i, u := range members {
		u.weight = 1
		if most.Cmp(big.NewInt(maxWeight)) > 0 {
			ratio, _ := new(big.Rat).SetFrac(values[i], most).Float64()
			u.weight = max(1, int(ratio*maxWeight+0.5))
		} else {
			u.weight = int(values[i].Int64())
		}
	}
}
