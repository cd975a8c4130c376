package addressing

import (
	"crypto/rand"
	"net/netip"

	"github.com/uplinkd/uplinkd/dhcp6"
	"github.com/uplinkd/uplinkd/internal/config"
)

// identity is what this router is known by on its links. It is drawn once and kept for life.
type identity struct {
	DUID   dhcp6.DUID   `json:"duid"`   // to DHCPv6 servers
	Secret []byte       `json:"secret"` // keys the addresses that it forms (RFC 7217)
	ULA    netip.Prefix `json:"ula"`    // its own prefix, a /48
}

const (
	secretBytes = 32
	maxSecret   = 1024
	// RFC 9915 section 11.1: a type of two octets, and up to 128 more.
	minDUID, maxDUID = 3, 130
)

// complete draws what is missing and reports whether anything was.
func (i *identity) complete() (drawn bool) {
	if len(i.DUID) < minDUID || len(i.DUID) > maxDUID {
		i.DUID, drawn = dhcp6.NewDUID(), true
	}
	if len(i.Secret) < secretBytes || len(i.Secret) > maxSecret {
		i.Secret, drawn = make([]byte, secretBytes), true
		_, _ = rand.Read(i.Secret) // never fails
	}
	if i.ULA.Bits() != 48 || i.ULA != i.ULA.Masked() || i.ULA.Addr().As16()[0] != 0xfd {
		// RFC 4193 section 3.2: fd00::/8 and 40 random bits.
		b := [16]byte{0: 0xfd}
		_, _ = rand.Read(b[1:6])
		i.ULA, drawn = netip.PrefixFrom(netip.AddrFrom16(b), 48), true
	}
	return drawn
}

// ULA returns the prefix that LANs have unique-local addresses of; invalid: none, or not drawn yet.
func (e *Engine) ULA(c config.ULA) netip.Prefix {
	switch {
	case c.Off:
		return netip.Prefix{}
	case c.Prefix.IsValid():
		return c.Prefix
	case e.pair.ULA.IsValid():
		return e.pair.ULA
	}
	return e.identity.ULA
}
