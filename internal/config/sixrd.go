package config

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/encap"
)

// KindSixRD is an uplink whose prefix, and whose other ends, are in the IPv4 addresses of a provider's customers (RFC 5969).
const KindSixRD = encap.SixRD

// SixRD is [uplink.6rd]: what the provider says to all his customers.
type SixRD struct {
	// Prefix is what all of them have in common. The zero Prefix: what the DHCP server of the carrier says (option 212).
	Prefix     netip.Prefix // prefix
	MaskLength int          // ipv4_mask_length: leading bits that all their IPv4 addresses have in common; 0..32
	Relay      netip.Addr   // border_relay: IPv4; valid if Prefix is
}

const (
	titleSixRD   = "[uplink.6rd]"
	exampleSixRD = "2001:db8::/32"
	exampleRelay = "192.0.2.1"
)

func sixRDSection(s *SixRD) section {
	return section{titleSixRD, []field{
		parsed("prefix", &s.Prefix, exampleSixRD, parseRouted),
		integer("ipv4_mask_length", &s.MaskLength, 0, 32, nil),
		parsed("border_relay", &s.Relay, exampleRelay, parseRelay),
	}}
}

func parseRelay(name, s string) (netip.Addr, string) {
	a, msg := parseEnd(name, s)
	if msg == "" && !a.Is4() {
		msg = fmt.Sprintf("%s %s must be an IPv4 address, as in %q", name, quote(s), exampleRelay)
	}
	return a, msg
}

// sixRD checks what goes with kind = "6rd".
func (r *reader) sixRD(t *table, u *Uplink) {
	if u.Kind != KindSixRD || !t.usable("kind") {
		return
	}
	if u.IPv6.SixRD == nil {
		u.IPv6.SixRD = new(SixRD)
	}
	s := u.IPv6.SixRD
	if t.values["over"] == nil {
		r.errorf(t.off, `this uplink has no over: write over = "fiber" below, with the uplink whose IPv4 address the prefix is made of`)
	}
	if v := t.values["ipv6"]; v != nil && v.table != nil {
		for _, key := range v.table.names {
			if k := v.table.values[key]; !k.bad && !slices.Contains([]string{"masquerade", "masquerade_from"}, key) {
				r.fail(k, k.key, "%s is of no use with kind = %q: addresses and prefix follow from the IPv4 address", key, u.Kind)
			}
		}
	}
	section := t.values[KindSixRD]
	if section == nil || section.table == nil || section.bad {
		return
	}
	at := section.table
	for _, pair := range [][2]string{{"prefix", "border_relay"}, {"border_relay", "prefix"}, {"ipv4_mask_length", "prefix"}} {
		if v := at.values[pair[0]]; v != nil && !v.bad && at.values[pair[1]] == nil {
			r.fail(v, v.key, "%s needs %s: write both, or neither for what the DHCP server says", pair[0], pair[1])
		}
	}
	if bits := s.Prefix.Bits() + 32 - s.MaskLength; s.Prefix.IsValid() && bits > 64 && at.usable("ipv4_mask_length") {
		r.errorf(at.offset("prefix"), "prefix %v leaves this router a /%d: it must be a /64 at least, so the length of the prefix and that of the IPv4 addresses (32 less ipv4_mask_length) may be 64 together", s.Prefix, bits)
	}
}

// sixRDCarriers checks what carries 6rd, when all uplinks are known.
func (r *reader) sixRDCarriers(root *table, c *Config) {
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		at := slices.IndexFunc(c.Uplinks, func(o Uplink) bool { return o.Name == u.Over })
		if u.IPv6.SixRD == nil || at < 0 {
			continue
		}
		switch method := c.Uplinks[at].IPv4.Method; {
		case method != MethodDHCP && method != MethodStatic:
			r.errorf(nameOffset(root, "uplink", u.Name), `uplink %s is made of the IPv4 address of %s, whose method must be "dhcp" or "static", and is %q`, quote(u.Name), quote(u.Over), method)
		case method == MethodStatic && !u.IPv6.SixRD.Prefix.IsValid():
			r.errorf(nameOffset(root, "uplink", u.Name), `uplink %s has no prefix: write it in [uplink.6rd], since no DHCP server of %s is asked`, quote(u.Name), quote(u.Over))
		}
	}
}
