package dhcp4

import (
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// option6RD is OPTION_6RD (RFC 5969 section 7.1.1).
const option6RD = dhcpv4.GenericOptionCode(212)

// SixRD is what a provider says to all his customers.
type SixRD struct {
	Prefix     netip.Prefix `json:"prefix"`           // of all of them, masked
	MaskLength int          `json:"ipv4_mask_length"` // leading bits that their IPv4 addresses have in common; 0..32
	Relay      netip.Addr   `json:"border_relay"`     // the first one
}

// sixRD reads the option: the two lengths, the prefix, and one border relay or several. Nil is for what is of no use; unlike a lease, it can be
// done without.
func sixRD(b []byte) *SixRD {
	const fixed = 2 + 16
	if len(b) < fixed+4 || (len(b)-fixed)%4 != 0 {
		return nil
	}
	s := &SixRD{MaskLength: int(b[0]), Relay: netip.AddrFrom4([4]byte(b[fixed:]))}
	s.Prefix = netip.PrefixFrom(netip.AddrFrom16([16]byte(b[2:])), int(b[1])).Masked() // bits behind the length are to be ignored
	if !s.usable() {
		return nil
	}
	return s
}

// usable reports whether a router gets a /64 or more of it.
func (s *SixRD) usable() bool {
	return s.Prefix.IsValid() && s.Prefix.Addr().Is6() && !s.Prefix.Addr().Is4In6() && s.Prefix == s.Prefix.Masked() && s.Prefix.Addr().IsGlobalUnicast() &&
		s.MaskLength >= 0 && s.MaskLength <= 32 && s.Prefix.Bits()+32-s.MaskLength <= 64 && s.Relay.Is4() && s.Relay.IsGlobalUnicast()
}
