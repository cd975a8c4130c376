package status

import (
	"encoding/json"
	"net/netip"
)

// LAN is a network of hosts, as the status lists it under "lans".
type LAN struct {
	Device    string            `json:"device"`
	SubnetID  int               `json:"subnet_id"`
	Advertise bool              `json:"advertise"` // we are its router; else another program is, or shall be
	Online    bool              `json:"online"`    // its hosts can reach the Internet by IPv6
	ULA       string            `json:"ula"`       // its prefix that no provider can take away; "" for none
	MTU       int               `json:"mtu"`       // bytes, of the narrowest path; 0: that of the link
	DNS       List[netip.Addr]  `json:"dns"`
	Prefixes  List[LANPrefix]   `json:"prefixes"`
	Others    List[OtherRouter] `json:"other_routers"`
	// Downstream are prefixes that routers on it have been given.
	Downstream List[Downstream] `json:"downstream"`
}

// Downstream is a prefix that a router on a LAN has been given.
type Downstream struct {
	Prefix netip.Prefix `json:"prefix"`
	Uplink string       `json:"uplink"` // of the delegation that it is part of; "" for the router's own prefix, or one that is gone
	Router netip.Addr   `json:"router"` // link-local
	Client string       `json:"client"` // its DUID
	IAID   uint32       `json:"iaid"`
	Usable bool         `json:"usable"` // for new connections; else the router is told that it is deprecated, or to leave it
	ValidS int64        `json:"valid_s"`
}

// LANPrefix is what a LAN has of one delegation.
type LANPrefix struct {
	Prefix     netip.Prefix `json:"prefix"`
	Uplink     string       `json:"uplink"`
	Usable     bool         `json:"usable"`      // for new connections; else hosts are told that it is deprecated
	PreferredS int64        `json:"preferred_s"` // seconds that remain of the delegation
	ValidS     int64        `json:"valid_s"`
}

// OtherRouter is another router that advertises on a LAN.
type OtherRouter struct {
	Router    netip.Addr         `json:"router"` // link-local
	LifetimeS int64              `json:"lifetime_s"`
	Prefixes  List[netip.Prefix] `json:"prefixes"`
	Conflicts List[string]       `json:"conflicts"` // where it contradicts us (RFC 4861 section 6.2.7)
}

// Raw returns the LAN as the status carries it.
func (l LAN) Raw() json.RawMessage {
	text, _ := json.Marshal(l) // there is nothing in it that JSON cannot say
	return text
}
