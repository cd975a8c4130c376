package rules

import (
	"net/netip"

	"github.com/uplinkd/uplinkd/rules/inet"
)

// Family is an address family.
type Family = inet.Family

// The two families that policy routing knows.
const (
	IPv4 = inet.IPv4
	IPv6 = inet.IPv6
)

// Families lists both families in the order in which everything reports them.
var Families = [2]Family{IPv4, IPv6}

// FamilyOf returns the family of an address; an IPv4-mapped IPv6 address is IPv4.
func FamilyOf(a netip.Addr) Family { return inet.Of(a) }
