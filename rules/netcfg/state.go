package netcfg

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// State is kernel state that is ours: what Plan wants, or what Ours found.
type State struct {
	Addrs    []AddrAssignment
	Routes   []Route
	Rules    []Rule
	Table    *nft.Table // nftables; nil for none
	Policies *nft.Table // nftables for policies and proxies; nil for none
	Groups   []LinkGroup
	Hardware []LinkHardware // of what Ours found, of all devices that have one
	Sysctls  []Sysctl
	Egress   []EgressFilter // by device
	// Qdiscs are devices: of what Ours found, those with the qdisc that filters hang on; of what Plan wants, those whose
	// qdisc is our own and goes with the filter.
	Qdiscs []string
	// Tunnels are devices: of what Ours found, those of others too.
	Tunnels   []TunnelLink
	Up        []string // devices: of what Plan wants, those that are our business
	WireGuard []WireGuard
	Endpoints []Endpoint // of Multipath TCP, by id
	Subflows  *uint32    // limit of Multipath TCP; nil: it is nobody's business
	Proxied   []ProxyNeighbour
}

// AddrAssignment is an address that we put on a device.
type AddrAssignment struct {
	Device     string       `json:"device"`
	Prefix     netip.Prefix `json:"prefix"` // with host bits
	Deprecated bool         `json:"-"`      // IPv6: not for new connections (preferred lifetime 0)
	// NoPrefixRoute has the kernel make no connected route in main.
	NoPrefixRoute bool `json:"-"`
	// LinkScope is true for an IPv4 address that is the source of nothing.
	LinkScope bool `json:"-"`
}

// Key returns what identifies the assignment, whatever its lifetimes.
func (a AddrAssignment) Key() AddrAssignment {
	return AddrAssignment{Device: a.Device, Prefix: a.Prefix}
}

// LinkGroup is the group that a device is in, or shall be in.
type LinkGroup struct {
	Device  string
	Group   uint32
	Why     string
	Restore bool // the group is a recorded one that is given back
}

// Sysctl is a kernel parameter, by its path below /proc/sys.
type Sysctl struct {
	Name    string
	Value   string
	Why     string
	Restore bool // the value is a recorded one that is given back
}

// RouteType is the kernel's route type (linux/rtnetlink.h RTN_*).
type RouteType uint8

// The route types that we install or have to understand.
const (
	Unicast     RouteType = 1
	Local       RouteType = 2
	Broadcast   RouteType = 3
	Anycast     RouteType = 4
	Multicast   RouteType = 5
	Blackhole   RouteType = 6
	Unreachable RouteType = 7
	Prohibit    RouteType = 8
	Throw       RouteType = 9
)

// The table and scopes of linux/rtnetlink.h that are named here.
const (
	TableMain     uint32 = 254
	ScopeUniverse uint8  = 0
	ScopeLink     uint8  = 253
	ScopeHost     uint8  = 254
)

// Nexthop is one way that a route leads.
type Nexthop struct {
	Device  string
	Gateway netip.Addr // zero: on-link
	Weight  int        // 1..256; 1 for a route with one nexthop
	Onlink  bool       // the gateway need not be covered by a connected route
}

// Route is a route as the kernel identifies it (family, table, destination, source or TOS, metric) and where it leads.
type Route struct {
	Family   inet.Family
	Table    uint32
	Type     RouteType
	Dst      netip.Prefix
	Metric   uint32
	Protocol uint8
	Scope    uint8      // IPv4 only
	Src      netip.Addr // preferred source
	MTU      int        // locked or learned path MTU of the route, 0 for none
	Nexthops []Nexthop  // empty unless Unicast
	// From is of IPv6: only for packets with such a source; zero for all. TOS is of IPv4: only for packets with this field; 0 for all.
	From netip.Prefix
	TOS  uint8
	// Object is the nexthop object (ip nexthop) that the nexthops were found in, 0 for none. It matters to a request to delete the
	// route alone, which must name it in IPv4 (net/ipv4/fib_semantics.c fib_nh_match); routes of ours have none.
	Object uint32
}

// RouteKey is what makes two routes the same object to "ip route replace".
type RouteKey struct {
	Family inet.Family
	Table  uint32
	Dst    netip.Prefix
	Metric uint32
	From   netip.Prefix
	TOS    uint8
}

// SameKey reports whether the kernel has room for only one of the two.
func (r *Route) SameKey(o *Route) bool { return r.Key() == o.Key() }

// Key is what the kernel has room for once.
func (r *Route) Key() RouteKey { return RouteKey{r.Family, r.Table, r.Dst, r.Metric, r.From, r.TOS} }

// Equal reports whether both routes would forward alike and carry the same tag.
func (r Route) Equal(o Route) bool { return r.equal(&o) }

func (r *Route) equal(o *Route) bool {
	return r.Key() == o.Key() && r.Type == o.Type && r.Protocol == o.Protocol && r.Scope == o.Scope &&
		r.Src == o.Src && r.MTU == o.MTU && slices.Equal(r.Nexthops, o.Nexthops)
}

// Removes reports whether the kernel takes a request to delete the IPv4 route for one to delete another: it compares what
// the request says, and not whether a gateway needs no connected route (net/ipv4/fib_trie.c fib_table_delete,
// fib_semantics.c fib_nh_match and fib_metrics_match).
func (r *Route) Removes(o *Route) bool {
	return r.Key() == o.Key() && r.Type == o.Type && r.Protocol == o.Protocol && r.Scope == o.Scope && r.Object == o.Object &&
		(!r.Src.IsValid() || r.Src == o.Src) && (r.MTU == 0 || r.MTU == o.MTU) &&
		slices.EqualFunc(r.Nexthops, o.Nexthops, func(a, b Nexthop) bool {
			return a.Device == b.Device && (!a.Gateway.IsValid() || a.Gateway == b.Gateway) && (len(r.Nexthops) == 1 || a.Weight == b.Weight)
		})
}

// IsDefault reports whether the route is a default route proper.
func (r *Route) IsDefault() bool { return r.Dst.Bits() == 0 }

// DefaultLike reports whether the route covers so much that it stands for "the Internet": the default
// itself, the 0/1 + 128/1 pair and 2000::/3 that VPN clients install.
func (r *Route) DefaultLike() bool { return r.Dst.Bits() <= r.Family.DefaultBits() }

// Rule is a policy routing rule that looks up a table. Rules of other programs may have actions that ours
// never have, and selectors that nobody here understands.
type Rule struct {
	Priority          int
	From, To          netip.Prefix // zero: any
	IIF, OIF          string
	SuppressPrefixLen int    // -1: none; else routes of at most this length do not count
	SuppressGroup     int64  // -1: none; else routes through devices of this group do not count
	Mark, Mask        uint32 // Mask 0: no mark selector
	Table             uint32
	Family            inet.Family
	Protocol          uint8
	Selectors         RuleSelectors
}

// compareRules orders rules as the kernel would walk them, IPv4 before IPv6. Rules that it finds equal are equal
// but for what no rule of ours has.
func compareRules(a, b *Rule) int {
	if c := cmp.Compare(a.Family, b.Family); c != 0 {
		return c
	}
	if c := cmp.Compare(a.Priority, b.Priority); c != 0 {
		return c
	}
	if c := ComparePrefixes(a.From, b.From); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(a.Table, b.Table), ComparePrefixes(a.To, b.To),
		strings.Compare(a.IIF, b.IIF), strings.Compare(a.OIF, b.OIF), cmp.Compare(a.Mask, b.Mask), cmp.Compare(a.Mark, b.Mark),
		a.Selectors.compare(&b.Selectors))
}

// sortRules sorts by preference first, without comparisons: a rule is large, and few share one.
func sortRules(list []Rule) {
	if inOrder(list) {
		return
	}
	compare := func(a, b Rule) int { return compareRules(&a, &b) }
	lowest, highest := list[0].Priority, list[0].Priority
	for i := range list {
		lowest, highest = min(lowest, list[i].Priority), max(highest, list[i].Priority)
	}
	width := highest - lowest + 1
	if width > 1<<16 { // somebody has made rules with our tag anywhere
		slices.SortFunc(list, compare)
		return
	}
	next := make([]int, 2*width+1) // where the next rule of a family and a preference goes
	to := make([]int, len(list))
	for i := range list {
		to[i] = list[i].Family.Index()*width + list[i].Priority - lowest
		next[to[i]+1]++
	}
	for at := 1; at < len(next); at++ {
		next[at] += next[at-1]
	}
	for i, at := range to {
		to[i] = next[at]
		next[at]++
	}
	permute(list, to)
	begin := 0
	for _, end := range next[:2*width] { // each is where the one after it began
		if same := list[begin:end]; !inOrder(same) {
			slices.SortFunc(same, compare)
		}
		begin = end
	}
}

func inOrder(list []Rule) bool {
	for i := 1; i < len(list); i++ {
		if compareRules(&list[i-1], &list[i]) > 0 {
			return false
		}
	}
	return true
}

// permute moves each element to where it belongs, in place; it uses up the list of places.
func permute[T any](list []T, to []int) {
	for i := range list {
		displaced, at := list[i], to[i]
		for at != i { // what stood there is the next to move, until one belongs where the first stood
			list[at], displaced = displaced, list[at]
			at, to[at] = to[at], at
		}
		if to[i] != i {
			list[i] = displaced
		}
	}
}

// ComparePrefixes orders by address, then by length.
func ComparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// routeOrder is where a route stands among others: compared by its rank, then as compare does.
type routeOrder struct {
	rank uint64
	at   int // in the list as it came
	*Route
}

// order orders routes so that each can be installed after those before it: a gateway must be
// covered by a connected route of its table (or by a rule that leads to one) when its route arrives.
// Tables of uplinks come before the weighted default, main comes last, and what rejects packets comes
// after what carries them. The rank holds, from its highest bits on, the kind of table, the family, the table,
// whether the route rejects, whether it has a gateway, and how short its prefix is.
func (r *Route) order(base uint32, at int) routeOrder {
	rank := uint64(0)
	switch r.Table {
	case TableMain:
		rank = 2
	case base:
		rank = 1
	}
	rank = rank<<8 | uint64(r.Family)
	rank = rank<<32 | uint64(r.Table)
	rank <<= 1
	if r.Type != Unicast {
		rank |= 1
	}
	rank <<= 1
	if len(r.Nexthops) > 0 && r.Nexthops[0].Gateway.IsValid() {
		rank |= 1
	}
	return routeOrder{rank<<8 | uint64(128-r.Dst.Bits()), at, r}
}

func (r routeOrder) compare(o routeOrder) int {
	if c := cmp.Compare(r.rank, o.rank); c != 0 {
		return c
	}
	if c := r.Dst.Addr().Compare(o.Dst.Addr()); c != 0 {
		return c
	}
	// The kernel uses, and replaces, the first of equal ones.
	return cmp.Or(cmp.Compare(r.Metric, o.Metric), cmp.Compare(r.at, o.at))
}

// sortRoutes sorts what it compares first, and moves the routes then: they are large.
func sortRoutes(list []Route, base uint32) {
	ordered := make([]routeOrder, len(list))
	for i := range list {
		ordered[i] = list[i].order(base, i)
	}
	slices.SortFunc(ordered, routeOrder.compare)
	to := make([]int, len(list))
	for i := range ordered {
		to[ordered[i].at] = i
	}
	permute(list, to)
}

// Sort puts the state into its canonical order, so that equal states are equal values.
func (s *State) Sort(base uint32) {
	slices.SortFunc(s.Addrs, func(a, b AddrAssignment) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	sortRoutes(s.Routes, base)
	s.Routes = slices.CompactFunc(s.Routes, Route.Equal)
	sortRules(s.Rules)
	slices.SortFunc(s.Groups, func(a, b LinkGroup) int { return strings.Compare(a.Device, b.Device) })
	slices.SortFunc(s.Hardware, func(a, b LinkHardware) int { return strings.Compare(a.Device, b.Device) })
	slices.SortFunc(s.Sysctls, func(a, b Sysctl) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Endpoints, func(a, b Endpoint) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(s.Proxied, CompareProxyNeighbours)
	slices.SortFunc(s.Egress, func(a, b EgressFilter) int { return strings.Compare(a.Device, b.Device) })
}
