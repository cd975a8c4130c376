package dhcp6

import (
	"bytes"
	"slices"
)

// offer is an Advertise with something usable.
type offer struct {
	server     DUID
	preference uint8
	entries    []entry // what it would give
	prefixes   int     // associations that it fills
	addresses  int
}

// maxOffers bounds the servers that are remembered of one Solicit.
const maxOffers = 16

// offerOf reads an Advertise.
func offerOf(m *message, wanted []iaKey) offer {
	o := offer{server: m.server, preference: m.preference}
	for _, out := range m.results(wanted) {
		for _, g := range out.live {
			o.entries = append(o.entries, entry{ia: out.iaKey, prefix: g.prefix})
		}
		switch {
		case len(out.live) == 0:
		case out.pd:
			o.prefixes++
		default:
			o.addresses++
		}
	}
	return o
}

// usable reports whether an offer has anything that is wanted (RFC 9915 section 18.2.9).
func (o offer) usable() bool { return len(o.entries) > 0 }

// whole reports whether an offer has prefixes and addresses, as far as they are wanted. A sure preference
// (255) ends the collecting only for such a one.
func (o offer) whole(wanted []iaKey) bool {
	return !slices.ContainsFunc(wanted, func(k iaKey) bool { return k.pd && o.prefixes == 0 || !k.pd && o.addresses == 0 })
}

// addOffer remembers an offer, best first. A prefix goes before none, for that is what an uplink needs; then
// the server's preference rules (RFC 9915 section 18.2.9), then how much it gives, then who came first. The
// latest word of a server replaces its earlier one.
func addOffer(offers []offer, o offer) []offer {
	offers = slices.DeleteFunc(offers, func(have offer) bool { return bytes.Equal(have.server, o.server) })
	if len(offers) == maxOffers {
		return offers
	}
	at := slices.IndexFunc(offers, func(have offer) bool { return better(o, have) })
	if at < 0 {
		at = len(offers)
	}
	return slices.Insert(offers, at, o)
}

func better(a, b offer) bool {
	switch {
	case (a.prefixes > 0) != (b.prefixes > 0):
		return a.prefixes > 0
	case a.preference != b.preference:
		return a.preference > b.preference
	case a.prefixes != b.prefixes:
		return a.prefixes > b.prefixes
	}
	return a.addresses > b.addresses
}
