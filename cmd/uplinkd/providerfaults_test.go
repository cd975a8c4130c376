package main

import (
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/mdlayher/ndp"
)

// providerFaults are what a provider's DHCP server and router say that is wrong, hostile, or merely odd. Addresses are
// the honest one, or such that no host may have: one of another customer would be dropped by every provider.
func (c *chaos) providerFaults() []fault {
	var list []fault
	add := func(name string, change func(p *provider)) {
		list = append(list, fault{name: "fiber: " + name, uplink: "fiber",
			do:   func(c *chaos) { c.provider.set(func() { change(c.provider) }); c.again() },
			undo: func(c *chaos) { c.provider.honest(); c.again() }})
	}
	for name, alter := range leases {
		add("a lease with "+name, func(p *provider) { p.lease = alter })
	}
	add("a silent DHCP server", func(p *provider) { p.silent = true })
	for name, alter := range advertisements {
		add("an advertisement with "+name, func(p *provider) { p.announce = alter })
	}
	add("no advertisements", func(p *provider) { p.mute = true })
	for name, alter := range delegations {
		add("a delegation with "+name, func(p *provider) { p.delegate = alter })
	}
	add("a silent DHCPv6 server", func(p *provider) { p.silent6 = true })
	sortFaults(list)
	return list
}

// again has fiber's link lost for a moment, so that its clients ask again.
func (c *chaos) again() {
	c.sh(c.provider.uplink.ISP, "ip link set cust1 down; ip link set cust1 up; ip address replace fe80::1/64 dev cust1 nodad")
}

func router4(a string) func(*dhcpv4.DHCPv4) {
	return func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptRouter(net.ParseIP(a).To4())) }
}

func address4(a string) func(*dhcpv4.DHCPv4) {
	return func(m *dhcpv4.DHCPv4) { m.YourIPAddr = net.ParseIP(a).To4() }
}

func mask4(bits int) func(*dhcpv4.DHCPv4) {
	return func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(bits, 32))) }
}

func mtu4(n uint16) func(*dhcpv4.DHCPv4) {
	return func(m *dhcpv4.DHCPv4) {
		m.UpdateOption(dhcpv4.Option{Code: dhcpv4.OptionInterfaceMTU, Value: dhcpv4.Uint16(n)})
	}
}

func routes4(routes ...*dhcpv4.Route) func(*dhcpv4.DHCPv4) {
	return func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptClasslessStaticRoute(routes...)) }
}

func route4(dst, by string) *dhcpv4.Route {
	_, network, _ := net.ParseCIDR(dst)
	return &dhcpv4.Route{Dest: network, Router: net.ParseIP(by).To4()}
}

var leases = map[string]func(*dhcpv4.DHCPv4){
	"no router":                        func(m *dhcpv4.DHCPv4) { m.Options.Del(dhcpv4.OptionRouter) },
	"our own address as router":        router4("198.51.100.2"),
	"our LAN's address as router":      router4("203.0.113.129"),
	"a LAN host as router":             router4("203.0.113.130"),
	"127.0.0.1 as router":              router4("127.0.0.1"),
	"0.0.0.0 as router":                router4("0.0.0.0"),
	"a multicast router":               router4("224.0.0.1"),
	"a broadcast router":               router4("255.255.255.255"),
	"the subnet's broadcast as router": router4("198.51.100.63"),
	"a router that nobody is":          router4("198.51.100.61"),
	"a router beyond its network":      router4("192.0.2.200"),
	"our LAN's address":                address4("203.0.113.129"),
	"a LAN host's address":             func(m *dhcpv4.DHCPv4) { address4("203.0.113.130")(m); mask4(25)(m) },
	"an address of loopback":           address4("127.0.0.9"),
	"a multicast address":              address4("239.1.2.3"),
	"the address 0.0.0.0":              address4("0.0.0.0"),
	"a mask of 2 bits":                 mask4(2),
	"a mask of 8 bits":                 mask4(8),
	"a mask of 0 bits":                 mask4(0),
	"a mask of 31 bits":                mask4(31),
	"a mask of 32 bits":                mask4(32),
	"an MTU of 68":                     mtu4(68),
	"an MTU of 65535":                  mtu4(65535),
	"an MTU of 0":                      mtu4(0),
	"routes and no default":            routes4(route4("192.0.2.0/25", "198.51.100.1")),
	"a route to our LAN":               routes4(route4("203.0.113.128/25", "198.51.100.1"), route4("0.0.0.0/0", "198.51.100.1")),
	"routes for half of the Internet":  routes4(route4("0.0.0.0/1", "198.51.100.1"), route4("128.0.0.0/1", "198.51.100.1")),
	"a default by 127.0.0.1":           routes4(route4("0.0.0.0/0", "127.0.0.1")),
	"a lease of a second":              func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptIPAddressLeaseTime(time.Second)) },
	"a lease of no time":               func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptIPAddressLeaseTime(0)) },
	"a refusal":                        func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeNak)) },
	"another's transaction":            func(m *dhcpv4.DHCPv4) { m.TransactionID = dhcpv4.TransactionID{1, 2, 3, 4} },
	"T1 behind T2": func(m *dhcpv4.DHCPv4) {
		m.UpdateOption(dhcpv4.OptRenewTimeValue(time.Hour))
		m.UpdateOption(dhcpv4.OptRebindingTimeValue(time.Second))
	},
}

func prefix6(change func(*ndp.PrefixInformation), more ...string) func(*ndp.RouterAdvertisement) {
	return func(ra *ndp.RouterAdvertisement) {
		for _, text := range more { // it is over soon, or healing would not end it
			p := onLink(netip.MustParsePrefix(text))
			p.ValidLifetime, p.PreferredLifetime = 3*time.Second, 2*time.Second
			ra.Options = append(ra.Options, p)
		}
		for _, o := range ra.Options {
			if p, ok := o.(*ndp.PrefixInformation); ok && change != nil {
				change(p)
			}
		}
	}
}

var advertisements = map[string]func(*ndp.RouterAdvertisement){
	"a lifetime of 0":          func(ra *ndp.RouterAdvertisement) { ra.RouterLifetime = 0 },
	"a lifetime of 2 s":        func(ra *ndp.RouterAdvertisement) { ra.RouterLifetime = 2 * time.Second },
	"an MTU of 1000":           func(ra *ndp.RouterAdvertisement) { ra.Options[2] = &ndp.MTU{MTU: 1000} },
	"an MTU of 1280":           func(ra *ndp.RouterAdvertisement) { ra.Options[2] = &ndp.MTU{MTU: 1280} },
	"an MTU of 65535":          func(ra *ndp.RouterAdvertisement) { ra.Options[2] = &ndp.MTU{MTU: 65535} },
	"no prefix":                func(ra *ndp.RouterAdvertisement) { ra.Options = ra.Options[:1] },
	"its prefix taken back":    prefix6(func(p *ndp.PrefixInformation) { p.ValidLifetime, p.PreferredLifetime = 0, 0 }),
	"its prefix deprecated":    prefix6(func(p *ndp.PrefixInformation) { p.PreferredLifetime = 0 }),
	"preferred beyond valid":   prefix6(func(p *ndp.PrefixInformation) { p.ValidLifetime = time.Minute }),
	"half of IPv6 on the link": prefix6(nil, "2000::/3"),
	"all of IPv6 on the link":  prefix6(nil, "::/0"),
	"the targets on the link":  prefix6(nil, "2001:db8:ffff::/64"),
	"our LAN on the link":      prefix6(nil, "2001:db8:1::/64"),
	"a link-local prefix":      prefix6(nil, "fe80::/64"),
	"a multicast prefix":       prefix6(nil, "ff02::/16"),
	"a prefix of 127 bits":     prefix6(nil, "2001:db8:a:7::/127"),
	"a route to our LAN": func(ra *ndp.RouterAdvertisement) {
		ra.Options = append(ra.Options, &ndp.RouteInformation{PrefixLength: 64, Prefix: netip.MustParseAddr("2001:db8:1::"), RouteLifetime: 3 * time.Second})
	},
	"a route to everything": func(ra *ndp.RouterAdvertisement) {
		ra.Options = append(ra.Options, &ndp.RouteInformation{PrefixLength: 0, Prefix: netip.IPv6Unspecified(), RouteLifetime: 3 * time.Second})
	},
	"low preference": func(ra *ndp.RouterAdvertisement) { ra.RouterSelectionPreference = ndp.Low },
}

// delegating has the server delegate other prefixes for a moment: one that a client must not take, or that is over soon.
func delegating(prefixes ...string) func(*dhcpv6.Message, *dhcpv6.OptIAPD) {
	return func(_ *dhcpv6.Message, ia *dhcpv6.OptIAPD) {
		ia.Options.Del(dhcpv6.OptionIAPrefix)
		for _, p := range prefixes {
			ia.Options.Add(iaPrefix(netip.MustParsePrefix(p), 2*time.Second, 3*time.Second))
		}
	}
}

func lifetimes6(t1, t2, preferred, valid time.Duration) func(*dhcpv6.Message, *dhcpv6.OptIAPD) {
	return func(_ *dhcpv6.Message, ia *dhcpv6.OptIAPD) {
		ia.T1, ia.T2 = t1, t2
		ia.Options.Update(iaPrefix(delegatedByFiber, preferred, valid))
	}
}

func status6(code iana.StatusCode) func(*dhcpv6.Message, *dhcpv6.OptIAPD) {
	return func(_ *dhcpv6.Message, ia *dhcpv6.OptIAPD) {
		ia.Options.Del(dhcpv6.OptionIAPrefix)
		ia.Options.Add(&dhcpv6.OptStatusCode{StatusCode: code, StatusMessage: "\x1b[31mno"})
	}
}

var delegations = map[string]func(*dhcpv6.Message, *dhcpv6.OptIAPD){
	"no prefix":              delegating(),
	"all of IPv6":            delegating("::/0"),
	"an eighth of IPv6":      delegating("2000::/3"),
	"our LAN's own network":  delegating("2001:db8:1::/64"),
	"its own line's network": delegating("2001:db8:a::/64"),
	"a unique-local prefix":  delegating("fd77::/48"),
	"a link-local prefix":    delegating("fe80::/56"),
	"a multicast prefix":     delegating("ff0e::/56"),
	"the targets' network":   delegating("2001:db8:ffff::/64"),
	"a prefix of 127 bits":   delegating("2001:db8:f000:177::/127"),
	"T1 behind T2":           lifetimes6(time.Hour, time.Second, delegationTime/2, delegationTime),
	"T1 and T2 of 0":         lifetimes6(0, 0, delegationTime/2, delegationTime),
	"preferred beyond valid": lifetimes6(0, 0, delegationTime, delegationTime/2),
	"no binding":             status6(iana.StatusNoBinding),
	"no prefix available":    status6(iana.StatusNoPrefixAvail),
	"an unspecified failure": status6(iana.StatusUnspecFail),
	"another's association":  func(_ *dhcpv6.Message, ia *dhcpv6.OptIAPD) { ia.IaId = [4]byte{9, 9, 9, 9} },
	"another's transaction":  func(m *dhcpv6.Message, _ *dhcpv6.OptIAPD) { m.TransactionID = dhcpv6.TransactionID{1, 2, 3} },
	"no server's name":       func(m *dhcpv6.Message, _ *dhcpv6.OptIAPD) { m.Options.Del(dhcpv6.OptionServerID) },
	"another client's name": func(m *dhcpv6.Message, _ *dhcpv6.OptIAPD) {
		m.UpdateOption(dhcpv6.OptClientID(&dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}))
	},
}
