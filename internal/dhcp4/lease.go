package dhcp4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Lease is an address that a server lent us. Times are absolute, so that a lease survives a restart.
type Lease struct {
	Address netip.Prefix `json:"address"`          // with host bits
	Gateway netip.Addr   `json:"gateway"`          // zero: none was given
	Routes  []Route      `json:"routes,omitempty"` // of option 121, the default left out
	Server  netip.Addr   `json:"server"`
	MTU     int          `json:"mtu,omitempty"` // bytes; 0: none was given
	DNS     []netip.Addr `json:"dns,omitempty"` // servers (option 6), as they were given
	// Client is the identifier (option 61) under which it was lent; empty: that of an earlier version, which did not note it.
	Client []byte `json:"client,omitempty"`
	// SixRD is what the provider says of IPv6 by 6rd, nil for nothing, or where nobody asked.
	SixRD   *SixRD    `json:"sixrd,omitempty"`
	Renew   time.Time `json:"renew"`  // T1: ask the server that lent it
	Rebind  time.Time `json:"rebind"` // T2: ask any server
	Expires time.Time `json:"expires"`
}

// Route is a destination that the server offers besides the Internet (RFC 3442).
type Route struct {
	Dst     netip.Prefix `json:"dst"`
	Gateway netip.Addr   `json:"gateway"` // zero: its hosts are on the link
}

// Bounds of what is taken over from a server.
const (
	// minLease keeps a server's nonsense from making us ask without pause, in seconds.
	minLease = 10
	// maxServers is how many DNS servers are taken over; the option has room for some sixty.
	maxServers = 16
	// maxRoutes is how many routes of option 121 are taken over; the option has room for some fifty.
	maxRoutes = 32
	// infinite is the lease time that never ends (RFC 2131 section 3.3); we look again after a year.
	infinite     = math.MaxUint32
	infiniteTime = 365 * 24 * time.Hour
)

// errOffer is wrapped by every reason to ignore an OFFER or ACK.
var errOffer = errors.New("unusable lease")

// leaseOf reads the lease out of an OFFER or ACK.
func leaseOf(m *dhcpv4.DHCPv4, now time.Time) (*Lease, error) {
	ip, ok := netip.AddrFromSlice(m.YourIPAddr.To4())
	if !ok || !ip.IsGlobalUnicast() {
		return nil, fmt.Errorf("%w: its address is %v", errOffer, m.YourIPAddr)
	}
	server, ok := address(m.ServerIdentifier())
	if !ok {
		return nil, fmt.Errorf("%w: it names no server", errOffer)
	}
	seconds, ok := option32(m, dhcpv4.OptionIPAddressLeaseTime)
	if !ok || seconds < minLease {
		return nil, fmt.Errorf("%w: it lasts %d s", errOffer, seconds)
	}
	l := &Lease{Address: netip.PrefixFrom(ip, prefixLength(m)), Server: server}
	l.Gateway, l.Routes = routes(m)
	if l.Gateway == ip {
		return nil, fmt.Errorf("%w: its router is its own address %v", errOffer, ip)
	}
	if mtu := m.Options.Get(dhcpv4.OptionInterfaceMTU); len(mtu) == 2 {
		l.MTU = int(binary.BigEndian.Uint16(mtu)) // planning believes what is possible, and names the rest
	}
	for _, ip := range m.DNS() {
		if a, ok := netip.AddrFromSlice(ip.To4()); ok && len(l.DNS) < maxServers && !slices.Contains(l.DNS, a) {
			l.DNS = append(l.DNS, a)
		}
	}
	span := infiniteTime
	if seconds != infinite {
		span = time.Duration(seconds) * time.Second
	}
	l.SixRD = sixRD(m.Options.Get(option6RD))
	l.Expires = now.Add(span)
	l.Renew, l.Rebind = now.Add(span/2), now.Add(span/8*7) // RFC 2131 section 4.4.5
	t1, ok1 := option32(m, dhcpv4.OptionRenewTimeValue)
	t2, ok2 := option32(m, dhcpv4.OptionRebindingTimeValue)
	if renew, rebind := now.Add(time.Duration(t1)*time.Second), now.Add(time.Duration(t2)*time.Second); ok1 && ok2 &&
		t1 > 0 && t1 < t2 && rebind.Before(l.Expires) {
		l.Renew, l.Rebind = renew, rebind
	}
	return l, nil
}

// Usable returns a lease that was read from a file, with its ends on the monotonic clock, so that setting the time of day neither
// ends it nor prolongs it; false when no server can have given it or it is over.
func (l Lease) Usable(now time.Time) (Lease, bool) {
	a := l.Address
	if !a.IsValid() || !a.Addr().Is4() || !a.Addr().IsGlobalUnicast() || a.Bits() == 0 || l.Gateway == a.Addr() ||
		l.Gateway.IsValid() && (!l.Gateway.Is4() || l.Gateway.IsUnspecified()) || !l.Server.Is4() || l.MTU < 0 || l.MTU > math.MaxUint16 || len(l.Routes) > maxRoutes {
		return Lease{}, false
	}
	if slices.ContainsFunc(l.Routes, func(r Route) bool {
		return !r.Dst.IsValid() || !r.Dst.Addr().Is4() || r.Dst.Bits() == 0 || r.Gateway.IsValid() && !r.Gateway.Is4()
	}) {
		return Lease{}, false
	}
	left := min(l.Expires.Sub(now), infiniteTime)
	if left <= 0 {
		return Lease{}, false
	}
	if l.SixRD != nil && !l.SixRD.usable() {
		l.SixRD = nil
	}
	until := func(end time.Time) time.Time { return now.Add(min(left, max(0, end.Sub(now)))) }
	l.Renew, l.Rebind, l.Expires = until(l.Renew), until(l.Rebind), now.Add(left)
	return l, true
}

// routes reads the default router, zero for none, and further routes. A client that reads the classless routes must ignore
// the router option, also when none of them is a default (RFC 3442).
func routes(m *dhcpv4.DHCPv4) (gateway netip.Addr, more []Route) {
	classless := m.ClasslessStaticRoute()
	if len(classless) == 0 {
		if routers := m.Router(); len(routers) > 0 {
			gateway, _ = address(routers[0])
		}
		return gateway, nil
	}
	for _, r := range classless {
		router, _ := address(r.Router)
		ones, bits := r.Dest.Mask.Size()
		dst, ok := netip.AddrFromSlice(r.Dest.IP.To4())
		switch {
		case !ok || bits != 32:
		case ones == 0 && !gateway.IsValid():
			gateway = router
		case ones > 0 && len(more) < maxRoutes:
			more = append(more, Route{netip.PrefixFrom(dst, ones).Masked(), router})
		}
	}
	return gateway, more
}

// address reads an IPv4 address; unspecified is none.
func address(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip.To4())
	if !ok || a.IsUnspecified() {
		return netip.Addr{}, false
	}
	return a, true
}

// prefixLength reads the subnet mask. Without a usable one the address stands alone.
func prefixLength(m *dhcpv4.DHCPv4) int {
	mask := m.Options.Get(dhcpv4.OptionSubnetMask)
	if ones, bits := net.IPMask(mask).Size(); bits == 32 && ones > 0 {
		return ones
	}
	return 32
}

func option32(m *dhcpv4.DHCPv4, code dhcpv4.OptionCode) (uint32, bool) {
	b := m.Options.Get(code)
	if len(b) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(b), true
}
