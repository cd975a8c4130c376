package rules

import (
	"net/netip"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// MaxUplinks is how many uplinks and groups together the default mark mask can tell apart: 62 ids,
// because 0 means "not pinned" and the next one is routedID.
const MaxUplinks = 62

// routedID is in the marks of packets that main leads to a network behind some uplink.
const routedID = MaxUplinks + 1

// Offsets of our rules from Kernel.RulePriority; see docs/architecture.md for what each is for.
const (
	prefLocalNets = 0   // main, without uplink routes and without defaults
	prefArrived   = 5   // what an uplink brings: main without defaults
	prefRouted    = 8   // packets with routedID: main without defaults
	prefUnrouted  = 9   // or else nothing
	prefMark      = 9   // + uplink id: pinned connections
	prefDevice    = 99  // + uplink id: sockets bound to the device
	prefSource    = 199 // + uplink id: packets that carry an address of the uplink
	prefMain      = 300 // main without defaults: static routes through uplink devices
	prefDefault   = 900 // the weighted default

	prefTwinResolver = 199 // DNS servers of an uplink that are in the network of another with the same address
	prefNearResolver = 299 // DNS servers of an uplink that are in the network of another
	prefResolver     = 899 // all other DNS servers of uplinks
)

// Kernel says which numbers and names in the kernel are ours.
type Kernel struct {
	Protocol     uint8  // routing protocol number on every route, rule and address of ours
	RulePriority int    // preference of our first rule
	TableBase    uint32 // table of the weighted default; uplink i has TableBase + i
	MarkMask     uint32 // contiguous bits of packet and connection marks that we use
	LinkGroup    uint32 // link group that uplink devices are put into
}

// Table returns the routing table of the uplink with the given id.
func (k Kernel) Table(id int) uint32 { return k.TableBase + uint32(id) }

// Mark returns the packet and connection mark of the uplink with the given id, inside MarkMask.
func (k Kernel) Mark(id int) uint32 { return uint32(id) << trailingZeros(k.MarkMask) & k.MarkMask }

// ID returns the uplink id that a mark carries, 0 for none.
func (k Kernel) ID(mark uint32) int { return int(mark & k.MarkMask >> trailingZeros(k.MarkMask)) }

func trailingZeros(mask uint32) int {
	n := 0
	for mask != 0 && mask&1 == 0 {
		mask >>= 1
		n++
	}
	return n
}

// Config is the part of the configuration that decides about kernel state.
type Config struct {
	Kernel  Kernel
	Uplinks []Uplink
	LANs    []LAN
	// Site is the router's own prefix (RFC 4193), of which LANs and the routers on them have parts; zero: none.
	Site netip.Prefix
	// Policies are asked in their order; the first that matches and has a way decides.
	Policies []Policy
	Groups   []Group
	TProxies []TProxy
	// Forwards are ports that lead to hosts behind this machine. No two have a protocol and port of an uplink's family in common.
	Forwards []Forward
	// IngressQdisc leaves the place of the ingress qdisc of uplinks to other programs: no egress filter can hang there.
	IngressQdisc bool
	// MergedSets are those of the sets that other programs fill whose prefixes may overlap. Elements that expire would be
	// merged with others that do not: none of these takes any.
	MergedSets []string
	// MPTCP makes the sources of paths that work endpoints of Multipath TCP.
	MPTCP bool
	// Offload has a flowtable carry what is established.
	Offload bool
	// Underlays are those of the tunnels among the uplinks.
	Underlays []Underlay
	// Tunnels are the devices that we make, of uplinks and of others.
	Tunnels []Tunnel
	// WireGuard says what WireGuard devices hold, also those that others make.
	WireGuard []netcfg.WireGuard
	// Targets are what the uplinks' probes ask, and no uplink may be given.
	Targets []netip.Addr
	// MainDefault says whether a default of ours stands in table main.
	MainDefault MainDefault
	// LANsElsewhere is true while another router has the addresses of the LANs, and packets for their hosts may come here all the same: their IPv6
	// networks are routed to them.
	LANsElsewhere bool
	// Elsewhere are ids of uplinks that another router has now: what is pinned to them goes on there.
	Elsewhere []int
}

// Uplink is one way out, on one device. Two with the same id are the line and the translator of one: see [CLAT].
type Uplink struct {
	ID     int // 1..MaxUplinks, stable over restarts: it is in the marks of living connections
	Name   string
	Device string
	// Hardware is the link-layer address that the device shall have; zero: whichever it has.
	Hardware netcfg.Hardware
	Tier     int // lower is preferred
	Weight   int // 1..256, the share among uplinks of one tier
	// PoliciesOnly is true for an uplink that never carries the default: policies and tunnels alone use it.
	PoliciesOnly bool
	// Shared is true for an uplink whose address, and connections with it, another router may have had until now.
	Shared bool
	// Expects is true while connections of that address may not have come yet: nobody calls this machine there meanwhile.
	Expects bool
	// Inherits is true for an uplink whose connections another router may have begun, with an address that is not ours.
	Inherits bool
	// Overflows is true for an uplink that may be full: the next tier is used beside its own then.
	Overflows bool
	// NewFlowsOnly is true when what has left the uplink does not come back to it, tunnels that it carried included.
	NewFlowsOnly bool
	// TakesBack is true when it ends, elsewhere, what it would carry, as soon as it carries new traffic again.
	TakesBack bool
	IPv4      Addressing
	IPv6      Addressing
	// Delegations are the IPv6 prefixes that the provider routes to us by this uplink.
	Delegations []Delegation
	// Proxied tells which addresses of networks of the uplink's own line are where, once a LAN has such a network too.
	Proxied ProxiedHosts
	// Resolvers are the DNS servers that the uplink is given, the first to be asked first; none has a zone.
	Resolvers []netip.Addr
	// CLAT is the translator by which an uplink that has IPv6 alone carries IPv4, nil for none. See [Uplink.Translate].
	CLAT *CLAT
	// Site is true for a tunnel that leads to the networks of its peers alone. They are like LANs: what main says of them
	// goes before everything else.
	Site bool
}

// Addressing says where one family of an uplink gets its addresses and its gateway.
type Addressing struct {
	Enabled bool
	// Assign, when set, holds what we give the device ourselves (static configuration or a lease of
	// our own DHCP client). When nil, addresses and gateway are followed as others set them.
	Assign *Assignment
	// Managed is true when the device's addresses are our own business even while Assign is nil
	// (a DHCP client without a lease): routes that others installed are then not followed.
	Managed bool
	// Discovers is true when we listen to router advertisements in the kernel's place. IPv6 only.
	Discovers  bool
	Masquerade bool // rewrite sources that are not the uplink's own
	// MasqueradeFrom are sources that are rewritten even without Masquerade.
	MasqueradeFrom []netip.Prefix
	// Watched is what is known of the routers where Assign is nil and others follow them; nil: nothing of note. IPv6 only.
	Watched *WatchedRouters
	// PrefixNAT rewrites the prefixes of the LANs to the delegation's, host by host (RFC 6296). IPv6 only.
	PrefixNAT bool
}

// Assignment is what we put on a device: addresses, and ways out.
type Assignment struct {
	Addresses []Address
	NoDefault bool       // there is no way to the Internet (router lifetime 0)
	Gateway   netip.Addr // zero: the default route is on-link (point-to-point)
	MTU       int        // bytes; 0 leaves the device's
	// Routes are further destinations and their gateways on the device (RFC 4191).
	Routes []AssignedRoute
	// Peers are the networks of a tunnel's other ends.
	Peers []PeerNetwork
}

// Address is an address with host bits, and whether its preferred lifetime is over.
type Address struct {
	Prefix     netip.Prefix
	Deprecated bool
}

// AssignedRoute is a destination that a router on the uplink's link offers besides the Internet.
type AssignedRoute struct {
	Dst     netip.Prefix
	Gateway netip.Addr
}

// WatchedRouters is what router discovery sees on a link whose addresses and routes are others' business.
type WatchedRouters struct {
	Use     netip.Addr     // the router that is to be used of several; zero: none is known
	Silent  []netip.Addr   // gateways that do not answer
	Foreign []netip.Prefix // prefixes of the link that only others than Use announce
}

// foreign reports whether an address is of another router than the one in use (RFC 8028 section 3).
func (w *WatchedRouters) foreign(address netip.Addr) bool {
	return w != nil && slices.ContainsFunc(w.Foreign, func(p netip.Prefix) bool { return p.Contains(address) })
}

// silent reports whether a gateway does not answer.
func (w *WatchedRouters) silent(gateway netip.Addr) bool {
	return w != nil && slices.Contains(w.Silent, gateway)
}

// PeerNetwork is a network that hosts behind another end of a tunnel have.
type PeerNetwork struct {
	Dst   netip.Prefix
	Alive bool // that end is there, so that it is the way for everybody
}

// covers reports whether an assigned address makes another one a neighbour by a connected route in main.
func (a *Assignment) covers(neighbour netip.Addr) bool {
	return slices.ContainsFunc(a.Addresses, func(have Address) bool {
		network := have.Prefix.Masked()
		return network.Contains(neighbour) && segmentOf(network, have.Prefix.Addr(), false) == network
	})
}

// Family returns the addressing of one family.
func (u *Uplink) Family(f Family) Addressing {
	if f == IPv6 {
		return u.IPv6
	}
	return u.IPv4
}

// Path names one family of one uplink.
type Path struct {
	Uplink int
	Family Family
}

// Health orders verdicts by how far new traffic may trust a path; larger is better.
type Health uint8

// The levels of Health.
const (
	Unknown  Health = iota // not judged: treated like Dead
	Dead                   // down: used only when nothing better is left
	Doubtful               // suspect or recovering: used when nothing better is left
	Impaired               // degraded: works, and loses much
	Good                   // init or up
)

// Verdict is what planning needs to know of a path's judgement.
type Verdict struct {
	Health  Health
	State   string // the word shown to people, for example "suspect"
	Drained bool   // new traffic goes elsewhere as long as there is an elsewhere
	Ended   uint   // how often what runs there was to end since it was drained; 0: it may finish
	Unmoved bool   // it is down, and what ran there has not been moved, perhaps since an earlier run
	// Slower is true where another path of the tier, which is balanced by latency, has the new flows of the default; RTT is what they
	// were compared by, for people, 0 where they are not.
	Slower bool
	RTT    time.Duration
	// Full is true while the line carries more than the overflow of its tier: others are used too.
	Full bool
}
