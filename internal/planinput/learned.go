package planinput

import (
	"net/netip"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Learned is, per uplink name, what leases, routers and tunnels give it.
type Learned map[string]*LearnedUplink

// LearnedUplink is what the providers' servers and routers give one uplink.
type LearnedUplink struct {
	IPv4, IPv6  *rules.Assignment
	Watched     *rules.WatchedRouters // where others follow the routers
	Delegations []rules.Delegation
	// Calls are the other ends that a WireGuard device calls whose packets have no mark.
	Calls     []netip.AddrPort
	WireGuard *netcfg.WireGuard // what the device holds; nil: it is none
}

// Of returns what an uplink has learned, for it to be filled.
func (s Learned) Of(uplink string) *LearnedUplink {
	if s[uplink] == nil {
		s[uplink] = new(LearnedUplink)
	}
	return s[uplink]
}
