package rules_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// tableLocal is the table of linux/rtnetlink.h that holds the addresses of the machine itself.
const tableLocal uint32 = 255

// machine is a small model of a Linux router: what it holds (in the words of a snapshot), how it
// changes when it is told to (modelstate_test.go), where it sends packets (this file), and what its
// packet filter does to them (modelnft_test.go).
//
// It follows the kernel functions that are named with each part, as we understand them, and nothing of
// the planner: where both would share a mistake, a property would prove nothing. The goldens run on a
// real kernel.
type machine struct {
	numbers rules.Kernel
	obs     rules.Observed // Routes holds every table; Rules are in the order in which they are walked
	// othersFail is true when the firewalls that are said to translate do not.
	othersFail bool
}

// query is what the kernel looks a route up by.
type query struct {
	src, dst netip.Addr // no src: not chosen yet
	iif, oif string     // iif "lo": made by a local socket; oif: bound to a device
	mark     uint32
	protocol uint8
	sport    uint16
	dport    uint16
	dscp     uint8
	mac      [6]byte // of the frame that it came in with
}

func (q query) String() string {
	s := fmt.Sprintf("%v -> %v mark %#x iif %s", q.src, q.dst, q.mark, q.iif)
	if q.oif != "" {
		s += " oif " + q.oif
	}
	return s
}

// way is one possible outcome of a lookup.
type way struct {
	local    bool // for the machine itself
	rejected bool // no route, or one that says no
	device   string
	gateway  netip.Addr

	bits  int    // length of the prefix that matched
	first string // device of the route's first nexthop, which is what IPv4 suppression looks at
}

func (w way) String() string {
	switch {
	case w.local:
		return "local"
	case w.rejected:
		return "rejected"
	case w.gateway.IsValid():
		return "via " + w.gateway.String() + " dev " + w.device
	}
	return "dev " + w.device
}

// lookup walks the policy rules (net/core/fib_rules.c fib_rules_lookup) and returns every way that the
// packet may go: several, when the load is shared.
func (m *machine) lookup(q query) []way {
	family := rules.FamilyOf(q.dst)
	start := slices.IndexFunc(m.obs.Rules, func(r netcfg.Rule) bool { return r.Family == family })
	if start < 0 {
		return []way{{rejected: true}}
	}
	return m.walk(m.obs.Rules[start:], family, q)
}

func (m *machine) walk(list []netcfg.Rule, family rules.Family, q query) []way {
	for i := range list {
		r := &list[i]
		if r.Family != family {
			break
		}
		if r.Selectors.Unknown || selects(r, q) == r.Selectors.Not {
			continue
		}
		switch r.Selectors.Action {
		case 0:
		case netcfg.RefuseNoRoute:
			return []way{{rejected: true}}
		default:
			continue
		}
		found := m.tableLookup(r.Table, q)
		kept := slices.DeleteFunc(slices.Clone(found), func(w way) bool { return m.suppressed(r, family, w) })
		switch {
		case len(kept) == 0:
			continue
		case len(kept) == len(found):
			return kept
		}
		// Routes of one metric, of which the kernel may take one that is suppressed: then it walks on.
		return append(kept, m.walk(list[i+1:], family, q)...)
	}
	return []way{{rejected: true}}
}

// selects is fib_rule_match. A zero source is no address and matches only a rule without a source.
func selects(r *netcfg.Rule, q query) bool {
	switch {
	case r.From.IsValid() && !(q.src.IsValid() && r.From.Contains(q.src)),
		r.To.IsValid() && !r.To.Contains(q.dst),
		r.IIF != "" && r.IIF != q.iif,
		r.OIF != "" && r.OIF != q.oif,
		(r.Mark^q.mark)&r.Mask != 0,
		r.Selectors.Protocol != 0 && r.Selectors.Protocol != q.protocol,
		r.Selectors.SPort != netcfg.Ports{} && (q.sport < r.Selectors.SPort.First || q.sport > r.Selectors.SPort.Last),
		r.Selectors.DPort != netcfg.Ports{} && (q.dport < r.Selectors.DPort.First || q.dport > r.Selectors.DPort.Last),
		r.Selectors.UIDs.Set && r.Selectors.UIDs.First != 0: // root makes all packets here
		return false
	}
	return true
}

// suppressed is fib4_rule_suppress and fib6_rule_suppress. Both look at a route that was found, never at
// an error: an unreachable route ends the walk whatever its length.
func (m *machine) suppressed(r *netcfg.Rule, family rules.Family, w way) bool {
	if w.rejected {
		return false
	}
	if w.bits <= r.SuppressPrefixLen {
		return true
	}
	device := w.device
	if family == rules.IPv4 {
		device = w.first
	}
	link, ok := m.obs.Link(device)
	return ok && r.SuppressGroup >= 0 && int64(link.Group) == r.SuppressGroup
}

// tableLookup is fib_table_lookup and fib6_table_lookup: the longest prefix, then the least metric, with
// a nexthop on the device that the packet is bound to. None means that the next rule is asked.
func (m *machine) tableLookup(table uint32, q query) []way {
	if table == tableLocal {
		return m.localLookup(q)
	}
	family := rules.FamilyOf(q.dst)
	var candidates []*netcfg.Route
	for i := range m.obs.Routes {
		r := &m.obs.Routes[i]
		if r.Table == table && r.Family == family && r.Dst.Contains(q.dst) {
			candidates = append(candidates, r)
		}
	}
	slices.SortStableFunc(candidates, func(a, b *netcfg.Route) int {
		if a.Dst.Bits() != b.Dst.Bits() {
			return b.Dst.Bits() - a.Dst.Bits()
		}
		return int(int64(a.Metric) - int64(b.Metric))
	})
	for i, r := range candidates {
		switch r.Type {
		case netcfg.Throw:
			return nil
		case netcfg.Unicast:
		default:
			return []way{{rejected: true, bits: r.Dst.Bits()}}
		}
		ways := m.usable(r, q.oif)
		if len(ways) == 0 {
			continue
		}
		if family == rules.IPv6 {
			// Of several routes of one metric any may be taken (net/ipv6/route.c find_rr_leaf).
			for _, o := range candidates[i+1:] {
				if o.Dst == r.Dst && o.Metric == r.Metric && o.Type == netcfg.Unicast {
					ways = append(ways, m.usable(o, q.oif)...)
				}
			}
		}
		return ways
	}
	return nil
}

// usable lists the nexthops of a route that are up, and on the device that is asked for.
func (m *machine) usable(r *netcfg.Route, oif string) []way {
	var ways []way
	for _, hop := range r.Nexthops {
		if link, ok := m.obs.Link(hop.Device); ok && link.Up && (oif == "" || oif == hop.Device) {
			ways = append(ways, way{device: hop.Device, gateway: hop.Gateway, bits: r.Dst.Bits(), first: r.Nexthops[0].Device})
		}
	}
	return ways
}

func (m *machine) localLookup(q query) []way {
	for _, a := range m.obs.Addrs {
		if a.Prefix.Addr() == q.dst && !a.Tentative && (q.oif == "" || q.oif == a.Device) {
			return []way{{local: true, bits: q.dst.BitLen()}}
		}
	}
	return nil
}

// arrives is IPv4's source validation (net/ipv4/fib_frontend.c __fib_validate_source): whether a packet
// that came in on a device, with this mark by now, is let through. Out is the device that it would be
// forwarded by, "lo" when it is for the machine itself.
func (m *machine) arrives(src, dst netip.Addr, in, out string, mark uint32) bool {
	filter := max(m.sysctl("all", "rp_filter"), m.sysctl(in, "rp_filter"))
	if filter == 0 || rules.FamilyOf(src) == rules.IPv6 {
		return true
	}
	if m.sysctl("all", "src_valid_mark")+m.sysctl(in, "src_valid_mark") == 0 {
		mark = 0
	}
	q := query{src: dst, dst: src, iif: out, mark: mark}
	ways := m.lookup(q)
	switch {
	case ways[0].rejected || ways[0].local:
		return false // even a loose filter wants some route
	case m.usesDevice(ways, in):
		return true
	}
	return filter == 2 && m.hasIPv4(in)
}

// usesDevice is fib_info_nh_uses_dev: one nexthop on the device is enough.
func (m *machine) usesDevice(ways []way, device string) bool {
	return slices.ContainsFunc(ways, func(w way) bool { return w.device == device })
}

func (m *machine) hasIPv4(device string) bool {
	return slices.ContainsFunc(m.obs.Addrs, func(a rules.Addr) bool { return a.Device == device && a.Prefix.Addr().Is4() })
}

func (m *machine) sysctl(device, key string) int {
	n := 0
	fmt.Sscan(m.obs.Sysctls["net/ipv4/conf/"+device+"/"+key], &n)
	return n
}

// devices names where the ways lead, each once and in order.
func devices(ways []way) string {
	var names []string
	for _, w := range ways {
		name := w.device
		if name == "" {
			name = w.String()
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), " ")
}
