package rules

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// Observed is a snapshot of the kernel, as far as planning looks at it.
type Observed struct {
	Links []Link
	Addrs []Addr
	// Routes holds every route of table main, but for those of Routed, and every route that carries our protocol number, in
	// any table, and foreign routes in our tables.
	Routes []netcfg.Route
	// Routed holds, by index of the family, further routes of main: where there are very many, those that are not in Routes.
	Routed [2]*RoutedNetworks
	// Rules holds every rule of both families.
	Rules []netcfg.Rule
	// Neighbours holds the hosts whose hardware addresses are known, when it was asked for.
	Neighbours []Neighbour
	// Table is our nftables table as it stands, nil when there is none.
	Table *nft.Table
	// Policies is our nftables table of policies, nil when there is none.
	Policies *nft.Table
	// Translations says which sources other programs' packet filters rewrite, and PartialTranslations, for which packets they do it
	// where it is not for all that leave by a device.
	Translations, PartialTranslations []Translation
	// Sysctls holds current values by path below /proc/sys ("net/ipv4/conf/eth1/rp_filter").
	Sysctls map[string]string
	// RefusedSysctls says of parameters why the kernel would not have them set, by path.
	RefusedSysctls map[string]string
	// NoTables says why nftables cannot be read, "" when it can.
	NoTables string
	// Egress is nil where egress filters are not looked for.
	Egress *Egress
	// XFRM is true when the kernel can do IPsec.
	XFRM bool
	// NoIPv6 is true when the kernel runs without IPv6 (ipv6.disable=1).
	NoIPv6 bool
	// MainContested is true, by index of the family, while a default of ours must not stand in table main: see MainContest.
	MainContested [2]bool
	// HardwareContested is true of devices that must not be given a link-layer address: see HardwareContest.
	HardwareContested map[string]bool
	// Recorded is what stood in the kernel before we changed it.
	Recorded Recorded
	// Tunnels are the tunnel devices of kinds that we make, and all that are ours.
	Tunnels []netcfg.TunnelLink
	// WireGuard holds the devices that were asked for.
	WireGuard []WireGuardDevice
	// RefusedDevices are the changes to devices that the kernel has refused a moment ago.
	RefusedDevices []*netcfg.Refusal
	// MPTCP is nil where it was not asked for.
	MPTCP *MPTCP
	// Proxied are the IPv6 addresses that this machine answers neighbours for, whoever wanted that; nil where it was not asked for.
	Proxied []netcfg.ProxyNeighbour
	// NoOffload says why the kernel has no flowtables, "" when it has some, or where nobody asked.
	NoOffload string
	// Former are addresses that uplinks had a moment ago, and nobody here has now: packets that were sent before may still be on their way out.
	Former []netip.Addr
	// SeenUp holds the interface indexes of devices that were up once: what its owner has set down since stays down.
	SeenUp map[int]bool

	foreseen map[string]bool // devices that are not there yet: see Foresee
	up       []string        // devices that are not up yet
}

// Query says what a snapshot shall read besides what it always does.
type Query struct {
	Sysctls   []string // paths below /proc/sys
	WireGuard []string // devices
	// Neighbours is true when policies are about hardware addresses.
	Neighbours bool
	// MPTCP is true when endpoints of Multipath TCP are ours, or were.
	MPTCP bool
	// Proxied is true when there may be addresses that we have the kernel answer for.
	Proxied bool
	// Offload is true where it must be known whether there are flowtables.
	Offload bool
	// Near are the devices whose routes must be known as they are now, where there are too many to list all each time: the uplinks'.
	Near []string
	// Urgent is true when those may be as they were, unless a change of them has been heard of: of 100 000 routes, the kernel takes
	// 10 ms and more to find some.
	Urgent bool
}

// QueryOf asks for what Plan needs.
func QueryOf(cfg Config, r Recorded) Query {
	q := Query{Sysctls: slices.AppendSeq(sysctlNames(cfg), maps.Keys(r.Sysctls))}
	q.Neighbours = slices.ContainsFunc(cfg.Policies, func(p Policy) bool { return len(conditionOf[SelectMACs](p.Select)) > 0 })
	q.Offload = cfg.Offload
	q.MPTCP = cfg.MPTCP || r.MPTCP || r.Subflows != nil
	q.Proxied = r.Proxied || slices.ContainsFunc(cfg.Uplinks, func(u Uplink) bool { return len(u.sharedNetworks()) > 0 })
	for i := range cfg.Uplinks {
		q.Near = append(q.Near, cfg.Uplinks[i].Device)
	}
	for i := range cfg.WireGuard {
		q.WireGuard = append(q.WireGuard, cfg.WireGuard[i].Device)
	}
	return q
}

// Translation is source translation, by somebody else, of what leaves by some devices in a family.
type Translation struct {
	Family       Family
	Only, Except []string // devices; Only nil: any
	By           string   // nftables family and table
	// Sources are what a partial one is about: nil when nobody knows.
	Sources []netip.Prefix
}

func (t *Translation) concerns(device string, f Family) bool {
	return t.Family == f && (t.Only == nil || slices.Contains(t.Only, device)) && !slices.Contains(t.Except, device)
}

// TranslatedBy returns who rewrites the sources of all that leaves by a device, "" for nobody.
func (o *Observed) TranslatedBy(device string, f Family) string {
	for i := range o.Translations {
		if t := &o.Translations[i]; t.concerns(device, f) {
			return t.By
		}
	}
	return ""
}

// MayTranslate returns who rewrites the sources of some of what leaves by a device, "" for nobody; listed is true when that is said to be
// for this source.
func (o *Observed) MayTranslate(device string, source netip.Addr) (by string, listed bool) {
	for i := range o.PartialTranslations {
		switch t := &o.PartialTranslations[i]; {
		case !t.concerns(device, FamilyOf(source)):
		case inet.Within(t.Sources, source):
			return t.By, true
		case t.Sources == nil:
			by = t.By
		}
	}
	return by, false
}

// mayTranslate returns which sources others may rewrite when they leave by a device, besides those that they rewrite for certain; any is
// true for all of them.
func (o *Observed) mayTranslate(device string, f Family) (sources []netip.Prefix, any bool) {
	for i := range o.PartialTranslations {
		if t := &o.PartialTranslations[i]; t.concerns(device, f) {
			sources, any = append(sources, t.Sources...), any || t.Sources == nil
		}
	}
	return sources, any
}

// Recorded holds what we changed and must give back.
type Recorded struct {
	Sysctls map[string]string `json:"sysctls,omitempty"` // path below /proc/sys to former value
	Groups  map[string]uint32 `json:"groups,omitempty"`  // device name to former link group
	// Hardware holds, by device name, former link-layer addresses.
	Hardware map[string]FormerHardware `json:"hardware,omitempty"`
	// Addrs are addresses that we assigned. Kernels before 5.18 keep no tag with an address.
	Addrs []netcfg.AddrAssignment `json:"addrs,omitempty"`
	// MainOwners holds, by family, the routing protocol number of the daemon that has a default in table main.
	MainOwners map[string]uint8 `json:"main_owners,omitempty"`
	// Qdiscs are the devices that egress filters of ours have brought the qdisc they hang on.
	Qdiscs []string `json:"qdiscs,omitempty"`
	// MPTCP is true when there may be endpoints of ours. Subflows is how many further subflows a connection might have; nil: we did not change that.
	MPTCP    bool    `json:"mptcp,omitempty"`
	Subflows *uint32 `json:"mptcp_subflows,omitempty"`
	// Proxied is true when there may be addresses that we have the kernel answer for.
	Proxied bool `json:"proxied,omitempty"`
}

// Record records what the changes are about to overwrite, and reports whether that is anything new. It
// must be kept safe before the changes are carried out.
func (r *Recorded) Record(ops []netcfg.Op) bool {
	changed := false
	for _, op := range ops {
		switch op := op.(type) {
		case netcfg.SetSysctl:
			changed = !op.Restore && record(&r.Sysctls, op.Name, op.From) || changed
		case netcfg.SetGroup:
			changed = !op.Restore && record(&r.Groups, op.Device, op.From) || changed
		case netcfg.SetHardware:
			changed = !op.Restore && r.recordHardware(op) || changed
		case netcfg.AddAddr:
			if at := op.Key(); !slices.Contains(r.Addrs, at) {
				r.Addrs, changed = append(r.Addrs, at), true
			}
		case netcfg.AddEndpoint:
			r.MPTCP, changed = true, changed || !r.MPTCP
		case netcfg.AddProxyNeighbour:
			r.Proxied, changed = true, changed || !r.Proxied
		case netcfg.SetSubflows:
			if r.Subflows == nil {
				r.Subflows, changed = &op.From, true
			}
		case netcfg.PutEgress:
			if op.Qdisc && !slices.Contains(r.Qdiscs, op.Device) {
				r.Qdiscs, changed = append(r.Qdiscs, op.Device), true
			}
		}
	}
	return changed
}

// recordHardware records the address that a device has: the former one, unless that is ours.
func (r *Recorded) recordHardware(op netcfg.SetHardware) bool {
	before, known := r.Hardware[op.Device]
	next := FormerHardware{op.From, op.Address}
	if known && op.From == before.Ours {
		next.Former = before.Former
	}
	if known && next == before {
		return false
	}
	if r.Hardware == nil {
		r.Hardware = make(map[string]FormerHardware)
	}
	r.Hardware[op.Device] = next
	return true
}

func record[V any](m *map[string]V, name string, former V) bool {
	if _, known := (*m)[name]; known {
		return false
	}
	if *m == nil {
		*m = make(map[string]V)
	}
	(*m)[name] = former
	return true
}

// Prune drops what has been given back, or has gone with its device, once the wanted state is reached.
// It reports whether anything was dropped.
func (r *Recorded) Prune(want *netcfg.State) bool {
	before := len(r.Sysctls) + len(r.Groups) + len(r.Hardware) + len(r.Addrs) + len(r.MainOwners) + len(r.Qdiscs)
	if len(want.Rules) == 0 { // nothing is ours any more
		r.MainOwners = nil
	}
	maps.DeleteFunc(r.Sysctls, func(name, _ string) bool {
		return !slices.ContainsFunc(want.Sysctls, func(s netcfg.Sysctl) bool { return s.Name == name && !s.Restore })
	})
	maps.DeleteFunc(r.Groups, func(device string, _ uint32) bool {
		return !slices.ContainsFunc(want.Groups, func(g netcfg.LinkGroup) bool { return g.Device == device && !g.Restore })
	})
	maps.DeleteFunc(r.Hardware, func(device string, _ FormerHardware) bool {
		return !slices.ContainsFunc(want.Hardware, func(h netcfg.LinkHardware) bool { return h.Device == device && !h.Restore })
	})
	r.Addrs = slices.DeleteFunc(r.Addrs, func(a netcfg.AddrAssignment) bool {
		return !slices.ContainsFunc(want.Addrs, func(w netcfg.AddrAssignment) bool { return w.Key() == a })
	})
	r.Qdiscs = slices.DeleteFunc(r.Qdiscs, func(device string) bool {
		return !slices.ContainsFunc(want.Egress, func(f netcfg.EgressFilter) bool { return f.Device == device })
	})
	unused := len(want.Endpoints) == 0 && (r.MPTCP || r.Subflows != nil) && (r.Subflows == nil || want.Subflows != nil && *want.Subflows == *r.Subflows)
	if unused {
		r.MPTCP, r.Subflows = false, nil
	}
	if r.Proxied && len(want.Proxied) == 0 {
		r.Proxied, unused = false, true
	}
	return unused || len(r.Sysctls)+len(r.Groups)+len(r.Hardware)+len(r.Addrs)+len(r.MainOwners)+len(r.Qdiscs) != before
}

// Clone returns a copy that shares nothing with r.
func (r Recorded) Clone() Recorded {
	return Recorded{maps.Clone(r.Sysctls), maps.Clone(r.Groups), maps.Clone(r.Hardware), slices.Clone(r.Addrs), maps.Clone(r.MainOwners), slices.Clone(r.Qdiscs), r.MPTCP, r.Subflows, r.Proxied}
}

// Link is a network device.
type Link struct {
	Index        int
	Name         string
	Group        uint32
	Up           bool // administratively
	Carrier      bool // lower layer up, and operational state not down
	MTU          int
	Loopback     bool
	PointToPoint bool
	NoNeighbours bool    // nobody on it is asked for: point-to-point, or without neighbour discovery
	Hardware     [6]byte // the link-layer address; zero: it has none, or another sort
	Kind         string  // of a software device, as ip(8) says it: "bridge", "vlan", "wireguard"; "" for hardware
	Master       int     // index of the bridge or the bond that it is a port of; 0: none
	Parent       int     // index of the device below a VLAN, a tunnel or PPPoE; 0: none, or in another namespace
}

// Neighbour is a host on a link, which has the address.
type Neighbour struct {
	Address  netip.Addr
	Hardware [6]byte
}

// Addr is an address on a device.
type Addr struct {
	Device     string
	Prefix     netip.Prefix // with host bits
	Peer       netip.Prefix // the other end of a point-to-point address, with its network; zero: none
	LinkScope  bool
	Temporary  bool // RFC 8981, or an IPv4 secondary address
	Deprecated bool // preferred lifetime over
	Tentative  bool // duplicate address detection not passed, or failed
	Failed     bool // it has failed: somebody else on the link has the address
	Dynamic    bool // it has lifetimes: router advertisements or a DHCP client gave it
	// NoPrefixRoute is true when the kernel makes no connected route with it.
	NoPrefixRoute bool
	Protocol      uint8
}

// owns reports whether an address is ours: by its tag, or where the kernel keeps none, by our record.
func (o *Observed) owns(k Kernel, a Addr) bool {
	return a.Protocol == k.Protocol || a.Protocol == 0 && slices.Contains(o.Recorded.Addrs, netcfg.AddrAssignment{Device: a.Device, Prefix: a.Prefix})
}

// Link returns the device of that name.
func (o *Observed) Link(name string) (Link, bool) {
	for i := range o.Links {
		if o.Links[i].Name == name {
			return o.Links[i], true
		}
	}
	return Link{}, false
}
