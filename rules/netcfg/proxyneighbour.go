package netcfg

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ProxyNeighbour is an IPv6 address that is on another link, and for which the kernel answers neighbour solicitations on a device
// (net/ipv6/ndisc.c pndisc_is_router, ip-neighbour(8)): proxy_ndp must be on there.
type ProxyNeighbour struct {
	Device   string
	Addr     netip.Addr
	Protocol uint8 // who made it; 0: not said
}

type (
	// AddProxyNeighbour has the kernel answer for an address.
	AddProxyNeighbour struct{ ProxyNeighbour }
	// DelProxyNeighbour ends that.
	DelProxyNeighbour struct{ ProxyNeighbour }
)

// Command writes the change as a line for a shell.
func (o AddProxyNeighbour) Command() string {
	return fmt.Sprintf("ip -6 neighbour replace proxy %v dev %s protocol %d", o.Addr, o.Device, o.Protocol)
}

// Command writes the change as a line for a shell.
func (o DelProxyNeighbour) Command() string {
	return fmt.Sprintf("ip -6 neighbour del proxy %v dev %s", o.Addr, o.Device)
}

// CompareProxyNeighbours orders by device and address.
func CompareProxyNeighbours(a, b ProxyNeighbour) int {
	return cmp.Or(strings.Compare(a.Device, b.Device), a.Addr.Compare(b.Addr))
}

// proxyNeighbours removes and adds. Both lists are in the order of CompareProxyNeighbours.
func (d *differ) proxyNeighbours(have, want []ProxyNeighbour) {
	without := func(list, others []ProxyNeighbour, each func(ProxyNeighbour)) {
		for _, n := range list {
			if _, found := slices.BinarySearchFunc(others, n, CompareProxyNeighbours); !found {
				each(n)
			}
		}
	}
	without(have, want, func(n ProxyNeighbour) { d.ops = append(d.ops, DelProxyNeighbour{n}) })
	without(want, have, func(n ProxyNeighbour) { d.ops = append(d.ops, AddProxyNeighbour{n}) })
}
