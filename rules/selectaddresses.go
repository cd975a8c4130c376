package rules

import (
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// SelectAddresses is about sources or destinations.
type SelectAddresses struct {
	Dest     bool
	Prefixes []netip.Prefix
	Sets     []string // of our table, that other programs fill with addresses
	Lists    []List
}

// List is a set of addresses that is known here, and loaded as a whole. It may be empty.
type List struct {
	Name string
	*inet.Set
}

// tableName returns the name that a list has in our table. It says what is in it, so that another content is another set: rules and
// sets change in one transaction, and what is loaded already is told by its name. No set of other programs has a name with a dot.
func (l *List) tableName(f Family) string { return SetName(l.Name, f) + "." + l.Digest(f) }

// Key is from or to.
func (a SelectAddresses) Key() string { return bySide(a.Dest, "from", "to") }

func (a SelectAddresses) about() packets {
	about := allPackets
	for _, f := range Families {
		listed := slices.ContainsFunc(a.Lists, func(l List) bool { return len(l.Ranges(f)) > 0 })
		if len(a.Sets) == 0 && !listed && len(inet.OfFamily(a.Prefixes, f)) == 0 {
			about &^= packetsIPv4 << f.Index()
		}
	}
	return about
}

func (a SelectAddresses) inRules(f Family) ruleForm {
	if len(a.Sets) > 0 {
		return ruleForm{cannot: "rules cannot look into sets that other programs fill"}
	}
	if len(a.Lists) > 0 {
		return ruleForm{cannot: "rules cannot look into sets"}
	}
	set := func(r *netcfg.Rule, p netip.Prefix) { r.From = p }
	if a.Dest {
		set = func(r *netcfg.Rule, p netip.Prefix) { r.To = p }
	}
	return each(inet.OfFamily(a.Prefixes, f), false, set)
}

func (a SelectAddresses) expressions(f Family) (list []nft.Expr) {
	if of := inet.OfFamily(a.Prefixes, f); len(of) > 0 {
		list = append(list, oneOf(of, f, a.Dest, false))
	}
	for _, set := range a.Sets {
		list = append(list, nft.ExternalSet{Dest: a.Dest, Family: f, Set: SetName(set, f)})
	}
	for i := range a.Lists {
		if l := &a.Lists[i]; len(l.Ranges(f)) > 0 {
			list = append(list, nft.ExternalSet{Dest: a.Dest, Family: f, Set: l.tableName(f), Known: l.Set})
		}
	}
	return list
}

// oneOf matches several prefixes of a family by a set with a name rather than by one of the rule: a set that comes with its rule is
// empty for a moment after the rule is there (Kernel.loadSets of internal/kernel), and a kill switch open.
func oneOf(prefixes []netip.Prefix, f Family, dest, not bool) nft.Expr {
	if len(prefixes) == 1 {
		return nft.Addresses{Dest: dest, Not: not, Prefixes: prefixes}
	}
	ranges := make([]inet.Range, len(prefixes))
	for i, p := range prefixes {
		ranges[i] = inet.RangeOf(p)
	}
	l := List{Name: "addresses", Set: inet.NewSet(ranges)}
	return nft.ExternalSet{Dest: dest, Not: not, Family: f, Set: l.tableName(f), Known: l.Set}
}

func (a SelectAddresses) tracked(*planner) func(*Connection) bool {
	if len(a.Sets) > 0 {
		return nil
	}
	return func(c *Connection) bool {
		if a.Dest {
			return a.has(c.Dest)
		}
		return a.has(c.Source)
	}
}

// has looks an address up in what is known here.
func (a SelectAddresses) has(addr netip.Addr) bool {
	return inet.Within(a.Prefixes, addr) || slices.ContainsFunc(a.Lists, func(l List) bool { return l.Contains(addr) })
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
		case !ok || len(a.Sets)+len(a.Lists) > 0:
			return nil, nil, false
		case a.Dest:
			to = a.Prefixes
		default:
			from = a.Prefixes
		}
	}
	return from, to, true
}
