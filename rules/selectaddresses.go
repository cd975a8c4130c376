package rules

import (
	"net/netip"

	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// SelectAddresses is about sources or destinations.
type SelectAddresses struct {
	Dest     bool
	Prefixes []netip.Prefix
	Sets     []string // of our table, that other programs fill with addresses
}

// Key is from or to.
func (a SelectAddresses) Key() string { return bySide(a.Dest, "from", "to") }

func (a SelectAddresses) about() packets {
	about := allPackets
	for _, f := range Families {
		if len(a.Sets) == 0 && len(inet.OfFamily(a.Prefixes, f)) == 0 {
			about &^= packetsIPv4 << f.Index()
		}
	}
	return about
}

func (a SelectAddresses) inRules(f Family) ruleForm {
	if len(a.Sets) > 0 {
		return ruleForm{cannot: "rules cannot look into sets that other programs fill"}
	}
	set := func(r *netcfg.Rule, p netip.Prefix) { r.From = p }
	if a.Dest {
		set = func(r *netcfg.Rule, p netip.Prefix) { r.To = p }
	}
	return each(inet.OfFamily(a.Prefixes, f), false, set)
}

func (a SelectAddresses) expressions(f Family) (list []nft.Expr) {
	for _, part := range inSets(inet.OfFamily(a.Prefixes, f)) {
		list = append(list, nft.Addresses{Dest: a.Dest, Prefixes: part})
	}
	for _, set := range a.Sets {
		list = append(list, nft.ExternalSet{Dest: a.Dest, Family: f, Set: SetName(set, f)})
	}
	return list
}

func (a SelectAddresses) tracked(*planner) func(*Connection) bool {
	switch {
	case len(a.Sets) > 0:
		return nil
	case a.Dest:
		return func(c *Connection) bool { return inet.Within(a.Prefixes, c.Dest) }
	}
	return func(c *Connection) bool { return inet.Within(a.Prefixes, c.Source) }
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
