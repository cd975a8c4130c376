package encap

// SIT is IPv6 in IPv4, protocol 41 (RFC 4213 section 3; 6in4), as tunnel brokers have it.
const SIT = "sit"

// Attributes of linux/if_tunnel.h.
const (
	sitLocal    = 2
	sitRemote   = 3
	sitTTL      = 4
	sitPMTUDisc = 10
)

// The link-local address has the local one in it (net/ipv6/addrconf.c add_v4_addrs).
var sit = Kind{Name: SIT, Module: "sit", Carries: Packets6, LinkLocal: true,
	header: func(*Params) int { return 0 },
	args:   func(*Params) string { return "" },
	attributes: func(p *Params) []Attribute {
		return []Attribute{{sitLocal, p.Local.AsSlice()}, {sitRemote, p.Remote.AsSlice()}, {sitTTL, []byte{p.TTL}}, {sitPMTUDisc, []byte{1}}}
	},
	decode: func(p *Params, a Attribute) {
		switch a.Type {
		case sitLocal:
			p.Local = a.addr()
		case sitRemote:
			p.Remote = a.addr()
		case sitTTL:
			p.TTL = a.u8()
		default:
			decode6rd(p, a)
		}
	},
	finish: finishSIT,
}
