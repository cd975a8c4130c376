package status

import "net/netip"

// Forward is a port that leads to a host behind the router.
type Forward struct {
	Name      string       `json:"name"`
	Protocols List[string] `json:"protocols"` // "tcp", "udp"
	Port      string       `json:"port"`      // "443", or a range "8000-8010"
	ToPort    int          `json:"to_port"`   // of the host; 0: the same
	LAN       string       `json:"lan"`       // device that the host is behind
	To4       netip.Addr   `json:"to4"`       // "" for none
	To6       netip.Addr   `json:"to6"`       // in the prefix that lasts the longest; "" for none, or while there is none
	Uplinks   List[string] `json:"uplinks"`   // whose addresses have the port; empty: all
}
