package planinput

import (
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/encap"
)

// ttl6RD is that of the outer packets.
const ttl6RD = 64

// SixRD is what a 6rd uplink is now (RFC 5969).
type SixRD struct {
	Local            netip.Addr   // IPv4 address of what carries it
	Prefix6, Prefix4 netip.Prefix // of all customers
	Relay            netip.Addr   // IPv4 address of the border relay
	Delegated        netip.Prefix // what this customer has of Prefix6
	Configured       bool         // the configuration says so, not a server
}

// SixRDOf returns what a 6rd uplink is while its carrier has an address; false: it is nothing now.
func SixRDOf(c *config.Config, u *config.Uplink, learned Learned) (SixRD, bool) {
	at := slices.IndexFunc(c.Uplinks, func(o config.Uplink) bool { return o.Name == u.Over })
	if u.IPv6.SixRD == nil || at < 0 {
		return SixRD{}, false
	}
	carrier := &c.Uplinks[at]
	says, local := u.IPv6.SixRD, carrier.IPv4.Address.Addr() // zero unless it is static
	configured := says.Prefix.IsValid()
	if given := learned[carrier.Name]; given != nil {
		if !configured {
			says = given.Offers6RD
		}
		if a := given.IPv4; carrier.IPv4.Method == config.MethodDHCP && a != nil && len(a.Addresses) > 0 {
			local = a.Addresses[0].Prefix.Addr()
		}
	}
	if says == nil || !local.Is4() {
		return SixRD{}, false
	}
	prefix4, err := local.Prefix(says.MaskLength)
	if err != nil {
		return SixRD{}, false
	}
	s := SixRD{Local: local, Prefix6: says.Prefix, Prefix4: prefix4, Relay: says.Relay, Configured: configured}
	var ok bool
	s.Delegated, ok = encap.Delegated6RD(s.Prefix6, s.Prefix4, local)
	return s, ok
}

// addressing6RD gives a 6rd uplink its ways: to other customers straight, to everybody else by the border relay, whose address the kernel
// takes out of the gateway's (net/ipv6/sit.c ipip6_tunnel_xmit).
func addressing6RD(out *rules.Uplink, c *config.Config, u *config.Uplink, learned Learned) {
	out.IPv6.Managed, out.IPv6.Assign, out.Delegations = true, nil, nil
	s, ok := SixRDOf(c, u, learned)
	if !ok {
		return
	}
	out.Delegations = []rules.Delegation{{Prefix: s.Delegated, Configured: s.Configured}}
	relay := [16]byte{}
	v4 := s.Relay.As4()
	copy(relay[12:], v4[:])
	out.IPv6.Assign = &rules.Assignment{Gateway: netip.AddrFrom16(relay), Routes: []rules.AssignedRoute{{Dst: s.Prefix6}}}
}
