package importer

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func (m *match) clone() match {
	c := *m
	for _, list := range []*[]string{&c.from, &c.to, &c.iif, &c.protocols, &c.sport, &c.dport, &c.dscp, &c.mac, &c.except} {
		*list = slices.Clone(*list)
	}
	return c
}

// words says what is selected, for sentences.
func (m *match) words() string {
	var parts []string
	add := func(key string, list []string) {
		if len(list) > 0 {
			parts = append(parts, key+" "+clipped(strings.Join(list, ", "), 60))
		}
	}
	add("from", m.from)
	add("to", m.to)
	add("by", m.iif)
	add("protocol", m.protocols)
	add("source port", m.sport)
	add("port", m.dport)
	if len(parts) == 0 {
		return "everything"
	}
	return strings.Join(parts, ", ")
}

// restrict makes a policy one of certain families, where it could take the other too. It returns why that is not possible.
func (p *policy) restrict(f families) string {
	if f == both || f == (families{}) {
		return ""
	}
	own := 0
	if f[1] {
		own = 1
	}
	if !p.killSwitch && !slices.ContainsFunc(p.ways.uplinks(), func(u *uplink) bool { return u.carries[1-own] }) {
		return ""
	}
	only := func(list []string) ([]string, bool) { // literals of the family; false where a set has both
		var kept []string
		certain := len(list) > 0
		for _, s := range list {
			if strings.HasPrefix(s, "@") {
				kept, certain = append(kept, s), false
				continue
			}
			if strings.Contains(s, ":") == (own == 1) {
				kept = append(kept, s)
			}
		}
		return kept, certain
	}
	from, certainFrom := only(p.match.from)
	to, certainTo := only(p.match.to)
	if len(p.match.from) > 0 && len(from) > 0 {
		p.match.from = from
	}
	if len(p.match.to) > 0 && len(to) > 0 {
		p.match.to = to
	}
	switch {
	case certainFrom || certainTo:
	case len(p.match.to) == 0:
		p.match.to = slices.Clone(everything[own])
		p.note(Kept, origin{}, "to is all of %s: the rule is for that alone", f.words())
	case len(p.match.from) == 0:
		p.match.from = slices.Clone(everything[own])
		p.note(Kept, origin{}, "from is all of %s: the rule is for that alone", f.words())
	default:
		return "it was about " + f.words() + " alone; sets have both families, so that it is about both here"
	}
	return ""
}

// mayMeet reports whether a packet may be selected by both; where it is not clear, it may.
func (m *match) mayMeet(o *match) bool {
	apart := func(a, b []string) bool {
		return len(a) > 0 && len(b) > 0 && !slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
	}
	if apart(m.protocols, o.protocols) || apart(m.iif, o.iif) || apart(m.dscp, o.dscp) {
		return false
	}
	for _, sides := range [][2][]string{{m.from, o.from}, {m.to, o.to}} {
		if len(sides[0]) > 0 && len(sides[1]) > 0 && !anyOverlap(sides[0], sides[1]) {
			return false
		}
	}
	for _, sides := range [][2][]string{{m.sport, o.sport}, {m.dport, o.dport}} {
		a, _ := parsePorts(sides[0])
		b, _ := parsePorts(sides[1])
		if len(a) > 0 && len(b) > 0 && !slices.ContainsFunc(a, func(x portRange) bool {
			return slices.ContainsFunc(b, func(y portRange) bool { return x.first <= y.last && y.first <= x.last })
		}) {
			return false
		}
	}
	return true
}

func anyOverlap(a, b []string) bool {
	prefixes := func(list []string) (out []netip.Prefix, unknown bool) {
		for _, s := range list {
			p, ok := parseAddresses(s)
			out, unknown = append(out, p...), unknown || !ok
		}
		return out, unknown
	}
	x, unknownX := prefixes(a)
	y, unknownY := prefixes(b)
	return unknownX || unknownY || slices.ContainsFunc(x, func(p netip.Prefix) bool { return slices.ContainsFunc(y, p.Overlaps) })
}
