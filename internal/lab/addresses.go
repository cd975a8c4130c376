package lab

import (
	"fmt"
	"net/netip"
)

// The world's fixed addresses, all from the documentation ranges of RFC 5737 and RFC 3849.
const (
	LANRouter4 = "203.0.113.129" // the router on lan0
	LANHost4   = "203.0.113.130" // the LAN host
	LANRouter6 = "2001:db8:1::1"
	LANHost6   = "2001:db8:1::2"

	Echo4   = "192.0.2.1" // answers pings and echoes, TCP and UDP port 7
	Echo6   = "2001:db8:ffff::1"
	TCP4    = "192.0.2.2" // accepts TCP on port 443
	TCP6    = "2001:db8:ffff::2"
	HTTP4   = "192.0.2.3" // 204 for /generate_204 on port 80
	HTTP6   = "2001:db8:ffff::3"
	DNS4    = "192.0.2.53"
	DNS6    = "2001:db8:ffff::53"
	Client4 = "192.0.2.100" // a remote client that opens connections inwards
	Client6 = "2001:db8:ffff::100"
)

// EchoPort is the port of the echo servers in the Internet.
const EchoPort = 7

// gatewayLinkLocal is every ISP's IPv6 gateway.
const gatewayLinkLocal = "fe80::1"

// Names of the hosts and of the first two uplinks.
const (
	LAN      = "lan"
	Router   = "router"
	Internet = "inet"
	Fiber    = "fiber"
	LTE      = "lte"
)

// addressing is what one uplink's customer has: the router's addresses with their prefix lengths and the gateways.
type addressing struct {
	addr4, addr6 netip.Prefix
	gw4, gw6     netip.Addr
}

func plan(gw4, addr4, gw6, addr6 string) addressing {
	return addressing{
		gw4: netip.MustParseAddr(gw4), addr4: netip.MustParsePrefix(addr4),
		gw6: netip.MustParseAddr(gw6), addr6: netip.MustParsePrefix(addr6),
	}
}

// plans returns uplink i's addressing (from 0) before and after a renumbering.
func plans(i int) [2]addressing {
	switch i {
	case 0:
		return [2]addressing{
			plan("198.51.100.1", "198.51.100.2/26", "2001:db8:a::1", "2001:db8:a::2/64"),
			plan("198.51.100.65", "198.51.100.66/26", "2001:db8:a:1::1", "2001:db8:a:1::2/64"),
		}
	case 1:
		return [2]addressing{
			plan("203.0.113.1", "203.0.113.2/26", "2001:db8:b::1", "2001:db8:b::2/64"),
			plan("203.0.113.97", "203.0.113.98/27", "2001:db8:b:1::1", "2001:db8:b:1::2/64"),
		}
	case 2:
		return [2]addressing{
			plan("198.51.100.145", "198.51.100.146/28", "2001:db8:c::1", "2001:db8:c::2/64"),
			plan("198.51.100.161", "198.51.100.162/28", "2001:db8:c:1::1", "2001:db8:c:1::2/64"),
		}
	default:
		return [2]addressing{
			plan("198.51.100.177", "198.51.100.178/28", "2001:db8:d::1", "2001:db8:d::2/64"),
			plan("198.51.100.193", "198.51.100.194/28", "2001:db8:d:1::1", "2001:db8:d:1::2/64"),
		}
	}
}

// sameSubnetPlans returns the second customer of the first ISP.
func sameSubnetPlans() [2]addressing {
	p := plans(0)
	p[0].addr4, p[0].addr6 = netip.MustParsePrefix("198.51.100.3/26"), netip.MustParsePrefix("2001:db8:a::3/64")
	p[1].addr4, p[1].addr6 = netip.MustParsePrefix("198.51.100.67/26"), netip.MustParsePrefix("2001:db8:a:1::3/64")
	return p
}

// twinPlans returns the second of two sticks with the same IPv4 addresses; IPv6 differs, as prefixes do.
func twinPlans() [2]addressing {
	p, twin := plans(1), plans(0)
	for i := range p {
		p[i].addr4, p[i].gw4 = twin[i].addr4, twin[i].gw4
	}
	return p
}

// transit is the link between an ISP and the Internet.
type transit struct{ isp4, inet4, isp6, inet6 netip.Prefix }

// transits returns the link of ISP i, from 0.
func transits(i int) transit {
	base := [...]string{"198.51.100.128/30", "203.0.113.64/30", "198.51.100.132/30", "198.51.100.136/30"}[i]
	net4 := netip.MustParsePrefix(base)
	net6 := netip.MustParsePrefix(fmt.Sprintf("2001:db8:fff%d::/64", i+1))
	first4, first6 := net4.Addr().Next(), net6.Addr().Next()
	return transit{
		isp4: netip.PrefixFrom(first4, net4.Bits()), inet4: netip.PrefixFrom(first4.Next(), net4.Bits()),
		isp6: netip.PrefixFrom(first6, net6.Bits()), inet6: netip.PrefixFrom(first6.Next(), net6.Bits()),
	}
}

func internetAddresses() []netip.Addr {
	var all []netip.Addr
	for _, a := range []string{Echo4, TCP4, HTTP4, DNS4, Client4, Echo6, TCP6, HTTP6, DNS6, Client6} {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}
