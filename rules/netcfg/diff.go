package netcfg

import (
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// Op is one change to the kernel. Command writes it as a line for people's shells.
type Op interface {
	Command() string
}

// The changes that Diff produces.
type (
	// AddAddr puts an address on a device.
	AddAddr struct{ AddrAssignment }
	// ChangeAddr says anew whether an address of ours is deprecated.
	ChangeAddr struct{ AddrAssignment }
	// DelAddr takes an address of ours off a device.
	DelAddr struct{ AddrAssignment }
	// PutRoute installs a route. It replaces the one of ours in the same place, except that Prepend
	// puts it in front of others of the same destination and metric.
	PutRoute struct {
		Route
		Prepend bool
	}
	// DelRoute removes a route of ours.
	DelRoute struct{ Route }
	// AddRule adds a rule.
	AddRule struct{ Rule }
	// DelRule removes a rule of ours.
	DelRule struct{ Rule }
	// PutTable replaces our nftables table as a whole, in one transaction; nil removes it.
	PutTable struct{ *nft.Table }
	// PutPolicies replaces the rules of our nftables table of policies in one transaction, and leaves in its
	// sets what is there; nil removes the table. What stands there and is not wanted any more is dropped: sets, and
	// chains, also those that are to be at another hook.
	PutPolicies struct {
		*nft.Table
		DropSets   []nft.Set
		DropChains []string
		// Loaded are sets of known addresses that stand there: they stay as they are, for they may be large.
		Loaded []string
	}
	// SetGroup moves a device into a link group. From is the group that it was in.
	SetGroup struct {
		LinkGroup
		From uint32
	}
	// SetSysctl sets a kernel parameter. From is its former value.
	SetSysctl struct {
		Sysctl
		From string
	}
)

// Diff lists the changes that turn have into want, in an order in which every step is safe. What makes
// way is added before what it replaces is removed, and each part stands before what sends packets to it:
// the uplinks' tables, the marks, the rules that look up an uplink, the weighted default, main's
// default. A state without any of ours (clean) is reached in the reverse order. Diff of equal states is
// empty. Both are in the order in which Plan and Ours leave them.
func Diff(have, want State) []Op {
	var d differ
	up, unwanted := d.addTunnels(have, want)
	d.sysctls(have, want, false)
	d.groups(have, want)
	d.hardware(have, want, false)
	d.ops = append(d.ops, up...)
	removedAddrs := d.addrs(have.Addrs, want.Addrs)
	shared := sharedTables(have, want)
	ruleTable := func(r *Rule) uint32 { return r.Table }
	added := part(missing(have.Rules, want.Rules), ruleTable, shared)
	routeTable := func(r *Route) uint32 { return r.Table }
	haveRoutes, wantRoutes := part(pointers(have.Routes), routeTable, shared), part(pointers(want.Routes), routeTable, shared)

	// Rules that look up main come before any default of ours: with it and without them (after somebody
	// deleted rules) the local networks would be looked for on the Internet.
	d.addRules(added.main)
	// Whether a gateway of a group's route is a neighbour the kernel asks as a socket that is bound to the device: the rule
	// for those leads to the uplink's table.
	tables := boundTables(want.Rules)
	ofUplinks, ofGroups := split(changed(haveRoutes.selected, wantRoutes.selected), func(r *Route) bool { return tables[r.Table] })
	bound, selecting := split(added.selected, func(r *Rule) bool { return r.OIF != "" || r.Selectors.Action != 0 })
	// What is foreign is dropped before anything of ours may translate it or lead it to another router, and until nothing does any more.
	d.putEgress(have, want)
	d.putRoutes(ofUplinks)
	d.addRules(bound)
	d.putRoutes(ofGroups)
	// A mark without a rule does nothing, while a source rule without marks misleads the replies of
	// uplinks that share an address.
	table := !want.Table.Matches(have.Table)
	policies := !want.Policies.Matches(have.Policies)
	// After somebody's flush of the ruleset kill switches come back before what translates: until then nothing leaves.
	flushed := policies && want.Policies != nil && have.Policies == nil && have.Table == nil && len(added.selected) == 0
	if flushed {
		d.ops = append(d.ops, putPolicies(nil, want.Policies))
	}
	// Where containers come and go it changes all the time, and takes much longer than routes.
	afterRoutes := table && want.Table != nil && !policies && len(added.main)+len(added.selected)+len(added.shared) == 0 && want.Table.MatchesButForLocals(have.Table)
	if table && want.Table != nil && !afterRoutes {
		d.ops = append(d.ops, PutTable{want.Table})
	}
	d.addRules(selecting)
	d.resetEndpoints(have, want, ofGroups)
	if policies && want.Policies != nil && !flushed { // marks of policies lead somewhere from now on
		d.ops = append(d.ops, putPolicies(have.Policies, want.Policies))
	}
	d.putRoutes(changed(haveRoutes.shared, wantRoutes.shared))
	d.addRules(added.shared)
	// Main's default changes while all rules stand: without them replies follow it, whatever uplink
	// they belong to.
	d.mainRoutes(haveRoutes.main, wantRoutes.main)
	if afterRoutes {
		d.ops = append(d.ops, PutTable{want.Table})
	}
	d.endpoints(have, want)
	d.proxyNeighbours(have.Proxied, want.Proxied) // packets that come now have their routes
	if policies && want.Policies == nil {
		d.ops = append(d.ops, PutPolicies{})
	}
	// Last rules first: traffic falls through to what stands behind ours, never past our first rule
	// into the middle of them.
	removed := missing(want.Rules, have.Rules)
	slices.Reverse(removed)
	for _, r := range removed {
		d.ops = append(d.ops, DelRule{*r})
	}
	if table && want.Table == nil {
		d.ops = append(d.ops, PutTable{})
	}
	d.delEgress(have, want)
	d.delRoutes(haveRoutes.shared, wantRoutes.shared)
	d.delRoutes(haveRoutes.selected, wantRoutes.selected)
	for _, a := range removedAddrs {
		d.ops = append(d.ops, DelAddr{a})
	}
	d.ops = append(d.ops, d.deferred...)
	d.hardware(have, want, true)
	d.sysctls(have, want, true)
	return append(d.ops, unwanted...)
}

func putPolicies(have, want *nft.Table) PutPolicies {
	op := PutPolicies{Table: want}
	if have == nil {
		return op
	}
	for _, s := range have.Sets {
		at := slices.IndexFunc(want.Sets, s.Same)
		switch {
		case at < 0:
			op.DropSets = append(op.DropSets, s)
		case want.Sets[at].Known != nil && !want.Sets[at].Lacks(&s):
			op.Loaded = append(op.Loaded, s.Name)
		}
	}
	for i := range have.Chains {
		c := &have.Chains[i]
		if w := want.Chain(c.Name); w == nil || !w.SameHead(c) {
			op.DropChains = append(op.DropChains, c.Name)
		}
	}
	return op
}

// parts tells apart what belongs to table main, what is chosen by some selector, and the weighted
// default that all else falls through to.
type parts[T any] struct{ main, selected, shared []*T }

// pointers points to the elements of a list: rules and routes are large, and mostly none of them changes.
func pointers[T any](list []T) []*T {
	to := make([]*T, len(list))
	for i := range list {
		to[i] = &list[i]
	}
	return to
}

func part[T any](list []*T, table func(*T) uint32, shared map[uint32]bool) parts[T] {
	var p parts[T]
	for _, x := range list {
		switch {
		case table(x) == TableMain:
			p.main = append(p.main, x)
		case shared[table(x)]:
			p.shared = append(p.shared, x)
		default:
			p.selected = append(p.selected, x)
		}
	}
	return p
}

// boundTables are those that the rules for packets of sockets lead to which are bound to a device: the uplinks' own.
func boundTables(list []Rule) map[uint32]bool {
	tables := make(map[uint32]bool)
	for i := range list {
		if list[i].OIF != "" {
			tables[list[i].Table] = true
		}
	}
	return tables
}

// split tells those of a list from the rest for which first holds.
func split[T any](list []*T, first func(*T) bool) (firsts, rest []*T) {
	for _, x := range list {
		if first(x) {
			firsts = append(firsts, x)
		} else {
			rest = append(rest, x)
		}
	}
	return firsts, rest
}

// sharedTables are those that a rule without selectors leads to.
func sharedTables(states ...State) map[uint32]bool {
	shared := make(map[uint32]bool)
	for _, s := range states {
		for i := range s.Rules {
			if r := &s.Rules[i]; r.Table != TableMain && !r.From.IsValid() && !r.To.IsValid() && r.IIF == "" && r.OIF == "" && r.Mask == 0 && r.Selectors == (RuleSelectors{}) {
				shared[r.Table] = true
			}
		}
	}
	return shared
}

type differ struct {
	ops      []Op
	deferred []Op // groups given back, after the rules that look at them are gone
}

// missing lists the rules of b that a lacks. Both are in the order of compareRules.
func missing(a, b []Rule) []*Rule {
	var list []*Rule
	next := 0
	for i := range b {
		if next+1 < len(a) && a[next+1] == b[i] { // mostly
			next++
			continue
		}
		for next < len(a) && compareRules(&a[next], &b[i]) < 0 {
			next++
		}
		found := false
		for j := next; j < len(a) && !found && compareRules(&a[j], &b[i]) == 0; j++ {
			found = a[j] == b[i]
		}
		if !found {
			list = append(list, &b[i])
		}
	}
	return list
}

// addrs adds and changes addresses, and returns those that are to be removed.
func (d *differ) addrs(have, want []AddrAssignment) (remove []AddrAssignment) {
	before := make(map[AddrAssignment]AddrAssignment, len(have))
	for _, a := range have {
		before[a.Key()] = a
	}
	wanted := make(map[AddrAssignment]bool, len(want))
	for _, a := range want {
		wanted[a.Key()] = true
		switch now, exists := before[a.Key()]; {
		case !exists:
			d.ops = append(d.ops, AddAddr{a})
		case now.Deprecated != a.Deprecated, now.NoPrefixRoute != a.NoPrefixRoute && a.Prefix.Addr().Is6(): // IPv4 keeps it for life
			d.ops = append(d.ops, ChangeAddr{a})
		}
	}
	return slices.DeleteFunc(slices.Clone(have), func(a AddrAssignment) bool { return wanted[a.Key()] })
}

func (d *differ) addRules(list []*Rule) {
	d.ops = slices.Grow(d.ops, len(list))
	for _, r := range list {
		d.ops = append(d.ops, AddRule{*r})
	}
}

// changed lists the routes that are missing or different.
func changed(have, want []*Route) []*Route {
	have, want = trimEqual(have, want)
	index := indexRoutes(have)
	return slices.DeleteFunc(slices.Clone(want), func(w *Route) bool { return slices.ContainsFunc(index[w.Key()], w.equal) })
}

// putRoutes installs what is missing or different. Diff never replaces a route in main: an IPv4 route
// of the same metric there may be somebody else's, and replacing takes the first.
func (d *differ) putRoutes(list []*Route) {
	d.ops = slices.Grow(d.ops, len(list))
	for _, r := range list {
		d.ops = append(d.ops, PutRoute{Route: *r, Prepend: prepends(r)})
	}
}

// mainRoutes puts routes in front of others before it removes those that are not wanted any more, unless the kernel would
// then remove the new one: of two that it does not tell apart it takes the first.
func (d *differ) mainRoutes(have, want []*Route) {
	put := changed(have, want)
	have = slices.DeleteFunc(slices.Clone(have), func(h *Route) bool {
		first := !slices.ContainsFunc(want, h.equal) && slices.ContainsFunc(put, func(w *Route) bool { return prepends(w) && h.Removes(w) })
		if first {
			d.ops = append(d.ops, DelRoute{*h})
		}
		return first
	})
	d.putRoutes(put)
	d.delRoutes(have, want)
}

// trimEqual leaves away what both begin and end with: mostly all.
func trimEqual(a, b []*Route) (restA, restB []*Route) {
	for len(a) > 0 && len(b) > 0 && a[0].equal(b[0]) {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1].equal(b[len(b)-1]) {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return a, b
}

func prepends(r *Route) bool { return r.Table == TableMain && r.Family == inet.IPv4 }

// delRoutes removes what is not wanted, except what a put has replaced by then: the first in its place.
// RuleSelectors specific routes go first of the last table first, the mirror image of how they came.
func (d *differ) delRoutes(have, want []*Route) {
	have, want = trimEqual(have, want)
	wanted := indexRoutes(want)
	index := indexRoutes(have)
	replaced := make(map[RouteKey]bool)
	for _, w := range want {
		replaced[w.Key()] = !prepends(w) && !slices.ContainsFunc(index[w.Key()], w.equal)
	}
	var removed []Op
	for _, h := range have {
		key := h.Key()
		switch {
		case slices.ContainsFunc(wanted[key], h.equal):
		case replaced[key]:
			replaced[key] = false
		default:
			removed = append(removed, DelRoute{*h})
		}
	}
	slices.Reverse(removed)
	d.ops = append(d.ops, removed...)
}

func indexRoutes(routes []*Route) map[RouteKey][]*Route {
	index := make(map[RouteKey][]*Route, len(routes))
	for _, r := range routes {
		index[r.Key()] = append(index[r.Key()], r)
	}
	return index
}

func (d *differ) groups(have, want State) {
	groups := make(map[string]uint32, len(have.Groups))
	for _, g := range have.Groups {
		groups[g.Device] = g.Group
	}
	for _, g := range want.Groups {
		from, exists := groups[g.Device]
		if !exists || from == g.Group {
			continue
		}
		op := SetGroup{LinkGroup: g, From: from}
		if g.Restore {
			d.deferred = append(d.deferred, op)
		} else {
			d.ops = append(d.ops, op)
		}
	}
}

func (d *differ) sysctls(have, want State, restore bool) {
	for _, s := range want.Sysctls {
		if s.Restore != restore {
			continue
		}
		at, exists := slices.BinarySearchFunc(have.Sysctls, s.Name, func(h Sysctl, name string) int { return strings.Compare(h.Name, name) })
		if exists && have.Sysctls[at].Value != s.Value {
			d.ops = append(d.ops, SetSysctl{Sysctl: s, From: have.Sysctls[at].Value})
		}
	}
}
