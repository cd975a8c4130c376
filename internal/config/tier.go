package config

import (
	"slices"
)

// Tier is one [[tier]] section: how the uplinks of a tier share the default's new flows.
type Tier struct {
	Tier    int     // tier: 1..255, the one of some uplink, unique among them
	Balance Balance // balance
	// Overflow is the part of an uplink's Bandwidth above which new flows use others too, the next tier's where none is left in its
	// own; 0 is none.
	Overflow float64 // overflow: 0.1..1
}

// Overflow returns the part of an uplink's bandwidth above which new flows use others too; 0: it has none.
func (c *Config) Overflow(u *Uplink) float64 {
	i := slices.IndexFunc(c.Tiers, func(t Tier) bool { return t.Tier == u.Tier })
	if i < 0 || u.Bandwidth == (Bandwidth{}) || !u.Default {
		return 0
	}
	return c.Tiers[i].Overflow
}

// Balance says by what the uplinks of a tier share new flows.
type Balance string

// What they may share by.
const (
	BalanceWeight  Balance = "weight"  // all of them, by their weights
	BalanceLatency Balance = "latency" // the fastest has them
)

// Bandwidth is what a line carries, in bits a second; 0 is not known.
type Bandwidth struct {
	Down, Up int64 // down, up: 100 kbit/s to 1 Tbit/s
}

const (
	titleTier      = "[[tier]]"
	titleBandwidth = "[uplink.bandwidth]"

	minOverflow, maxOverflow = 0.1, 1
	minRate, maxRate         = 100e3, 1e12
)

func tierSection(t *Tier) section {
	return section{titleTier, []field{
		integer("tier", &t.Tier, 1, 255, nil),
		choice("balance", &t.Balance, []Balance{BalanceWeight, BalanceLatency}, nil),
		ratio("overflow", &t.Overflow, minOverflow, maxOverflow),
	}}
}

func bandwidthSection(b *Bandwidth) section {
	return section{titleBandwidth, []field{
		parsed("down", &b.Down, "500Mbit", parseRate),
		parsed("up", &b.Up, "100Mbit", parseRate),
	}}
}

// rateUnits are powers of ten, as in the contracts of providers and for tc.
var rateUnits = []unit{{"kbit", 1e3}, {"Mbit", 1e6}, {"Gbit", 1e9}, {"Tbit", 1e12}}

// parseRate reads a number of bits a second with its unit.
func parseRate(name, s string) (int64, string) {
	return parseUnits(name, s, rateUnits, "bits a second with a unit (kbit, Mbit, Gbit)", minRate, maxRate, "100kbit to 1Tbit a second", "100Mbit")
}

// tier reads one section and checks that it has uplinks to be about.
func (r *reader) tier(t *table, c *Config, seen map[int]int) Tier {
	x := Tier{Balance: BalanceWeight}
	r.section(t, tierSection(&x))
	at := t.values["tier"]
	if at == nil {
		if t.usable("tier") {
			r.errorf(t.off, "this tier has no number: write tier = 1 below, with that of its uplinks")
		}
		return x
	}
	if at.bad {
		return x
	}
	if first, taken := seen[x.Tier]; taken {
		r.fail(at, at.off, "tier %d has a section already, at %s", x.Tier, r.where(first))
		return x
	}
	seen[x.Tier] = at.off
	members := slices.DeleteFunc(slices.Clone(c.Uplinks), func(u Uplink) bool { return u.Tier != x.Tier || !u.Default })
	if len(members) == 0 {
		r.fail(at, at.off, "no uplink that carries the default has tier %d", x.Tier)
		return x
	}
	if v := t.values["overflow"]; v != nil && !v.bad && !slices.ContainsFunc(members, func(u Uplink) bool { return u.Bandwidth != Bandwidth{} }) {
		r.fail(v, v.off, `overflow is a part of the uplinks' bandwidth, and none of tier %d has one: write bandwidth = { down = "500Mbit", up = "100Mbit" } in [[uplink]], with your own`, x.Tier)
	}
	if v := t.values["balance"]; v != nil && !v.bad && x.Balance == BalanceLatency && len(members) == 1 {
		r.fail(v, v.off, "uplink %s is alone in tier %d, so that there is nothing to choose by latency: give another one the same tier", quote(members[0].Name), x.Tier)
	}
	return x
}
