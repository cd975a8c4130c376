package encap

import (
	"encoding/binary"
	"fmt"
)

// GRETAP is Ethernet in GRE (RFC 2784).
const GRETAP = "gretap"

// Of linux/if_tunnel.h: attributes, the flag GRE_KEY in network order, and IP6_TNL_F_IGN_ENCAP_LIMIT of linux/ip6_tunnel.h: no
// destination option.
const (
	greIFlags    = 2
	greOFlags    = 3
	greIKey      = 4
	greOKey      = 5
	greLocal     = 6
	greRemote    = 7
	greTTL       = 8
	grePMTUDisc  = 10
	greFlags     = 13
	greIgnoreDF  = 19
	greKeyFlag   = 0x2000
	noEncapLimit = 0x1
)

var gretap = Kind{Name: GRETAP, Name6: "ip6gretap", Module: "ip_gre", Carries: Frames, LinkLocal: true, Fragments: true,
	Settings: []Setting{{Key: "key", Max: 1<<32 - 1, Set: func(p *Params, n uint32) { p.Key, p.HasKey = n, true }}},
	header: func(p *Params) int {
		if p.HasKey {
			return 4 + 4 // RFC 2890 section 2.1
		}
		return 4 // RFC 2784 section 2.1
	},
	args: func(p *Params) (words string) {
		if p.HasKey {
			words = fmt.Sprintf(" key %d", p.Key)
		}
		switch {
		case p.Fragment:
			words += " nopmtudisc ignore-df"
		case p.Local.Is6():
			words += " encaplimit none"
		}
		return words
	},
	attributes: func(p *Params) (list []Attribute) {
		flags := uint16(0)
		if p.HasKey {
			flags, list = greKeyFlag, []Attribute{{greIKey, be32(p.Key)}, {greOKey, be32(p.Key)}}
		}
		list = append(list, Attribute{greIFlags, be16(flags)}, Attribute{greOFlags, be16(flags)}, Attribute{greLocal, p.Local.AsSlice()},
			Attribute{greRemote, p.Remote.AsSlice()}, Attribute{greTTL, []byte{p.TTL}})
		switch {
		case p.Local.Is6():
			return append(list, Attribute{greFlags, native32(noEncapLimit)})
		case p.Fragment:
			return append(list, Attribute{grePMTUDisc, []byte{0}}, Attribute{greIgnoreDF, []byte{1}})
		}
		return append(list, Attribute{grePMTUDisc, []byte{1}})
	},
	decode: func(p *Params, a Attribute) {
		switch a.Type {
		case greLocal:
			p.Local = a.addr()
		case greRemote:
			p.Remote = a.addr()
		case greTTL:
			p.TTL = a.u8()
		case greIFlags:
			p.HasKey = a.u16(binary.BigEndian)&greKeyFlag != 0
		case greIKey:
			p.Key = a.u32(binary.BigEndian)
		case greIgnoreDF: // the kernel refuses it together with grePMTUDisc (net/ipv4/ip_gre.c ipgre_netlink_parms)
			p.Fragment = a.u8() != 0
		}
	},
}
