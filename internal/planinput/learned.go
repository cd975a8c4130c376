package planinput

import (
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Learned is, per uplink name, what leases, routers and tunnels give it.
type Learned map[string]*LearnedUplink

// LearnedUplink is what the providers' servers and routers give one uplink.
type LearnedUplink struct {
	IPv4, IPv6  *rules.Assignment
	Watched     *rules.WatchedRouters // where others follow the routers
	Delegations []rules.Delegation    // with the networks of its own line, which not every uplink gives to LANs
	// Undelegated is true when it is known that there is no delegation.
	Undelegated bool
	// Stale are addresses of networks that the line has no more, if it is one with share.
	Stale     []netip.Addr
	Resolvers []Resolver // the first to be asked first
	// Offers6RD is what its DHCP server says of 6rd over it.
	Offers6RD *config.SixRD
	// NAT64 is the prefix of the provider's translator, as its routers say (RFC 8781) or, where they do not, its DNS servers (RFC 7050).
	NAT64 netip.Prefix
	// Calls are the other ends that a WireGuard device calls whose packets have no mark.
	Calls     []netip.AddrPort
	WireGuard *netcfg.WireGuard // what the device holds; nil: it is none
}

// Resolver is a DNS server of an uplink, and who says that it is one.
type Resolver struct {
	Addr netip.Addr
	From ResolverSource
}

// ResolverSource says who names a DNS server.
type ResolverSource string

// The sources that this daemon hears itself, and what the configuration names. Others are files of other programs.
const (
	FromConfig ResolverSource = "configuration"
	FromDHCP   ResolverSource = "dhcp"
	FromRouter ResolverSource = "router"
	FromDHCPv6 ResolverSource = "dhcpv6"
)

// ResolversOf lists the DNS servers of an uplink: those that were learned where that is wanted, and those that are configured.
func ResolversOf(u *config.Uplink, learned []Resolver) []Resolver {
	if !u.DNS.Auto {
		learned = nil
	}
	list := slices.Clone(learned)
	for _, a := range u.DNS.Named {
		list = append(list, Resolver{a, FromConfig})
	}
	return list
}

// Of returns what an uplink has learned, for it to be filled.
func (s Learned) Of(uplink string) *LearnedUplink {
	if s[uplink] == nil {
		s[uplink] = new(LearnedUplink)
	}
	return s[uplink]
}
