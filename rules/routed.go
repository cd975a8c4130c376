package rules

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"slices"
	"sort"

	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// RoutedNetworks are networks of one family that others' routes in main lead to by local networks: see
// Kernel.LeadsToLocal. Routing daemons and VPNs make 100 000 and more of them, and change hundreds a second, while planning asks little
// of them. They are kept in little space, in an order that answers without looking at all. They never change; nil has none.
type RoutedNetworks struct {
	list []routedNetwork // in the order of netcfg.ComparePrefixes, so that each stands behind those that cover it
	ways []netcfg.Route  // what routes have besides destination and metric, each once
}

type routedNetwork struct {
	dst    netip.Prefix
	metric uint32
	way    uint32 // index
	outer  int32  // index of the smallest that covers it, -1 for none
}

// LeadsToLocal reports whether a route may be one of RoutedNetworks: it is of somebody else, in main, to a part of the Internet or to a
// private network, and by devices of which near, which says so of uplinks and of those in our link group, is false.
func (k Kernel) LeadsToLocal(r *netcfg.Route, near func(device string) bool) bool {
	return r.Table == netcfg.TableMain && r.Protocol != k.Protocol && r.Protocol != protocolKernel && r.Type == netcfg.Unicast && len(r.Nexthops) > 0 &&
		!r.DefaultLike() && r.Dst.Addr().IsGlobalUnicast() &&
		!slices.ContainsFunc(r.Nexthops, func(n netcfg.Nexthop) bool { return near(n.Device) })
}

// NewRoutedNetworks collects them from routes, which it does not keep; about says how many there will be.
func NewRoutedNetworks(routes iter.Seq[*netcfg.Route], about int) *RoutedNetworks {
	n := &RoutedNetworks{list: make([]routedNetwork, 0, about)}
	known := make(map[string]uint32)
	var key []byte
	for r := range routes {
		key = appendWay(key[:0], r)
		way, ok := known[string(key)]
		if !ok {
			way = uint32(len(n.ways))
			known[string(key)] = way
			kept := *r
			kept.Dst, kept.Metric, kept.Nexthops = netip.Prefix{}, 0, slices.Clone(r.Nexthops)
			n.ways = append(n.ways, kept)
		}
		n.list = append(n.list, routedNetwork{dst: r.Dst, metric: r.Metric, way: way})
	}
	slices.SortFunc(n.list, func(a, b routedNetwork) int { return netcfg.ComparePrefixes(a.dst, b.dst) })
	for i := range n.list {
		outer := int32(i) - 1
		for outer >= 0 && !n.list[outer].covers(n.list[i].dst) {
			outer = n.list[outer].outer
		}
		n.list[i].outer = outer
	}
	return n
}

// appendWay writes what makes a way another one.
func appendWay(b []byte, r *netcfg.Route) []byte {
	text := func(s string) { b = append(append(b, byte(len(s))), s...) } // names of devices are shorter
	b = append(b, r.Protocol, r.Scope)
	b = binary.NativeEndian.AppendUint32(b, uint32(r.MTU))
	text(string(r.Src.AsSlice()))
	for i := range r.Nexthops {
		h := &r.Nexthops[i]
		text(h.Device)
		text(string(h.Gateway.AsSlice()))
		b = binary.NativeEndian.AppendUint16(b, uint16(h.Weight))
		if h.Onlink {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
	}
	return b
}

func (n *routedNetwork) covers(p netip.Prefix) bool {
	return n.dst.Bits() <= p.Bits() && n.dst.Contains(p.Addr())
}

// Len is how many there are.
func (n *RoutedNetworks) Len() int {
	if n == nil {
		return 0
	}
	return len(n.list)
}

// Routes gives the routes, each valid until the next.
func (n *RoutedNetworks) Routes() iter.Seq[*netcfg.Route] {
	return func(yield func(*netcfg.Route) bool) {
		for i := range n.Len() {
			if r := n.route(int32(i)); !yield(&r) {
				return
			}
		}
	}
}

// protocols lists who has made the routes, some more than once.
func (n *RoutedNetworks) protocols() (list []uint8) {
	if n != nil {
		for i := range n.ways {
			list = append(list, n.ways[i].Protocol)
		}
	}
	return list
}

// Devices lists the devices that the routes lead by.
func (n *RoutedNetworks) Devices() []string {
	if n == nil {
		return nil
	}
	var list []string
	for i := range n.ways {
		for _, h := range n.ways[i].Nexthops {
			if !slices.Contains(list, h.Device) {
				list = append(list, h.Device)
			}
		}
	}
	return list
}

func (n *RoutedNetworks) route(i int32) netcfg.Route {
	r := n.ways[n.list[i].way]
	r.Dst, r.Metric = n.list[i].dst, n.list[i].metric
	return r
}

// covering gives those that have all of a prefix, the smallest first.
func (n *RoutedNetworks) covering(p netip.Prefix) iter.Seq[int32] {
	return func(yield func(int32) bool) {
		if n == nil {
			return
		}
		// Whatever covers p stands before it, and covers what stands between.
		at := int32(n.after(p)) - 1
		for at >= 0 && !n.list[at].covers(p) {
			at = n.list[at].outer
		}
		for at >= 0 && yield(at) {
			at = n.list[at].outer
		}
	}
}

// after is the index of the first that stands behind a prefix.
func (n *RoutedNetworks) after(p netip.Prefix) int {
	return sort.Search(len(n.list), func(i int) bool { return netcfg.ComparePrefixes(n.list[i].dst, p) > 0 })
}

// has reports whether an address is in one of them that leads by some device for which by is true; nil: any.
func (n *RoutedNetworks) has(a netip.Addr, by func(device string) bool) bool {
	for i := range n.covering(netip.PrefixFrom(a, a.BitLen())) {
		if by == nil || slices.ContainsFunc(n.ways[n.list[i].way].Nexthops, func(h netcfg.Nexthop) bool { return by(h.Device) }) {
			return true
		}
	}
	return false
}

// overlaps reports whether one of them has a part of a prefix.
func (n *RoutedNetworks) overlaps(p netip.Prefix) bool {
	if n == nil {
		return false
	}
	for range n.covering(p) {
		return true
	}
	next := n.after(p)
	return next < len(n.list) && p.Contains(n.list[next].dst.Addr())
}

// within lists those that are parts of a prefix, at most some of them.
func (n *RoutedNetworks) within(p netip.Prefix, most int) (list []netip.Prefix) {
	if n == nil {
		return nil
	}
	for at := n.after(p); at < len(n.list) && p.Contains(n.list[at].dst.Addr()) && len(list) < most; at++ {
		list = append(list, n.list[at].dst)
	}
	return list
}

// find finds the route of a key, which is of main.
func (n *RoutedNetworks) find(key netcfg.RouteKey) (netcfg.Route, bool) {
	for i := range n.covering(key.Dst) {
		if n.list[i].dst != key.Dst {
			break
		}
		if n.list[i].metric == key.Metric {
			return n.route(i), true
		}
	}
	return netcfg.Route{}, false
}

// without leaves those out that lead by a device.
func (n *RoutedNetworks) without(device string) *RoutedNetworks {
	if !slices.Contains(n.Devices(), device) {
		return n
	}
	return NewRoutedNetworks(func(yield func(*netcfg.Route) bool) {
		for r := range n.Routes() {
			if !slices.ContainsFunc(r.Nexthops, func(h netcfg.Nexthop) bool { return h.Device == device }) && !yield(r) {
				return
			}
		}
	}, n.Len())
}
