package rules

import (
	"net/netip"
	"slices"
)

// SelectAddresses is about sources or destinations.
type SelectAddresses struct {
	Dest     bool
	Prefixes []netip.Prefix
	Sets     []string // of our table, that other programs fill with addresses
}

// Key is from or to.
func (a SelectAddresses) Key() string { return direction(a.Dest, "from", "to") }

func (a SelectAddresses) about() packets {
	about := allPackets
	for _, f := range Families {
		if len(a.Sets) == 0 && len(ofFamily(a.Prefixes, f)) == 0 {
			about &^= packetsIPv4 << f.index()
		}
	}
	return about
}

func (a SelectAddresses) inRules(f Family) ruleForm {
	if len(a.Sets) > 0 {
		return ruleForm{cannot: "rules cannot look into sets that other programs fill"}
	}
	set := func(r *Rule, p netip.Prefix) { r.From = p }
	if a.Dest {
		set = func(r *Rule, p netip.Prefix) { r.To = p }
	}
	return each(ofFamily(a.Prefixes, f), false, set)
}

func (a SelectAddresses) expressions(f Family) (list []NftExpr) {
	for _, part := range inSets(ofFamily(a.Prefixes, f)) {
		list = append(list, NftAddresses{Dest: a.Dest, Prefixes: part})
	}
	for _, set := range a.Sets {
		list = append(list, NftExternalSet{Dest: a.Dest, Family: f, Set: SetName(set, f)})
	}
	return list
}

func (a SelectAddresses) tracked(*planner) func(*Connection) bool {
	switch {
	case len(a.Sets) > 0:
		return nil
	case a.Dest:
		return func(c *Connection) bool { return within(a.Prefixes, c.Dest) }
	}
	return func(c *Connection) bool { return within(a.Prefixes, c.Source) }
}

// sources lists the prefixes of sources that the selector is about, none when it is about all.
func (s Selector) sources() []netip.Prefix {
	for _, c := range s {
		if a, ok := c.(SelectAddresses); ok && !a.Dest {
			return a.Prefixes
		}
	}
	return nil
}

// onlyPrefixes returns the prefixes of a selector that looks at nothing else.
func (s Selector) onlyPrefixes() (from, to []netip.Prefix, ok bool) {
	for _, c := range s {
		switch a, ok := c.(SelectAddresses); {
		case !ok || len(a.Sets) > 0:
			return nil, nil, false
		case a.Dest:
			to = a.Prefixes
		default:
			from = a.Prefixes
		}
	}
	return from, to, true
}

// ofFamily picks the prefixes of a family. Lists are mostly sorted, so that it need not copy.
func ofFamily(list []netip.Prefix, f Family) []netip.Prefix {
	is := func(p netip.Prefix) bool { return FamilyOf(p.Addr()) == f }
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
