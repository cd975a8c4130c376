package rules

import (
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// PathInfo is what the kernel says of one path, before anybody judges whether it works.
type PathInfo struct {
	Present bool // the device exists
	Index   int  // its interface index, which changes when it is made anew
	Up      bool // administratively: the kernel takes no route through a device that is down
	Carrier bool // administratively up with carrier
	// Addresses holds the usable addresses of the path with their prefix lengths, the source of new packets first.
	Addresses []netip.Prefix
	// NoSource is true while none of them may be that source: the one that is configured or leased is not there.
	NoSource bool
	// RouteSource is the source when our routes have to name it, because the kernel would choose another by itself.
	RouteSource netip.Addr
	// HasDefault is true when there is a way to the Internet: a gateway, or an on-link default.
	HasDefault bool
	Gateway    netip.Addr // zero: on-link
	Onlink     bool       // the gateway is not covered by a connected route
	LinkLocal  bool       // IPv6: the device has a link-local address
	NoNAT64    bool       // IPv4 is translated, and the prefix of the provider's NAT64 is not known
	// Borrows is true when an IPv6 path without an address of its own sends with that of a network behind this
	// machine (RFC 7084 WAA-7).
	Borrows   bool
	MTU       int // of the default route, 0 for the device's
	DeviceMTU int // bytes; 0 while there is no device
	// DeviceHardware is the link-layer address that the device has; zero: none.
	DeviceHardware netcfg.Hardware
}

// PathMTU is the most bytes that a packet may have to leave by the path, 0 when that is not known.
func (info *PathInfo) PathMTU() int {
	if info.MTU > 0 && (info.DeviceMTU == 0 || info.MTU < info.DeviceMTU) {
		return info.MTU
	}
	return info.DeviceMTU
}

// HasAddress reports whether packets can leave with a source that belongs here.
func (info *PathInfo) HasAddress() bool { return info.Source().IsValid() || info.Borrows }

// Source returns the address that probes and new packets of this machine leave with; zero: none is fit.
func (info *PathInfo) Source() netip.Addr {
	if len(info.Addresses) == 0 || info.NoSource {
		return netip.Addr{}
	}
	return info.Addresses[0].Addr()
}

// ReadPaths reads what the kernel says of every enabled path out of a snapshot.
func ReadPaths(cfg Config, obs *Observed) map[Path]PathInfo {
	cfg, _ = checkInput(cfg, obs)
	return readPaths(cfg, obs, neighbourhoods(obs))
}

func readPaths(cfg Config, obs *Observed, neighbours map[deviceFamily][]netip.Prefix) map[Path]PathInfo {
	paths := make(map[Path]PathInfo, 2*len(cfg.Uplinks))
	links := make(map[string]Link, len(obs.Links))
	for _, l := range obs.Links {
		links[l.Name] = l
	}
	addrs := make(map[string][]Addr, len(obs.Links))
	for _, a := range obs.Addrs {
		addrs[a.Device] = append(addrs[a.Device], a)
	}
	defaults := foreignDefaults(cfg, obs)
	for i := range cfg.Uplinks {
		u := &cfg.Uplinks[i]
		link, present := links[u.Device]
		for _, family := range Families {
			a := u.Family(family)
			if !a.Enabled {
				continue
			}
			f := PathInfo{Present: present, Index: link.Index, Up: link.Up, Carrier: link.Up && link.Carrier, DeviceMTU: link.MTU, DeviceHardware: link.Hardware}
			if present && !(family == IPv6 && obs.ipv6Off(u.Device)) {
				f.Addresses, f.LinkLocal = UsableAddresses(family, addrs[u.Device])
				at := deviceFamily{u.Device, family}
				if defaults[at].ownGateway(obs) {
					delete(defaults, at)
				}
				f.readDefault(a, defaults[at], neighbours[at])
				if family == IPv4 && a.Assign == nil && !a.Managed && link.PointToPoint && len(f.Addresses) > 0 {
					// There is one way over such a line, whoever did not dare to say so: pppd installs no default
					// while another one, such as ours, stands in main.
					f.HasDefault = true
				}
				f.leaveOut(a)
				f.findSource(family, a, u.Device, obs, cfg.Kernel, defaults[at])
				f.nameDeprecated(family, u.Device, obs)
				f.Borrows = family == IPv6 && len(f.Addresses) == 0 && f.HasDefault && borrows(cfg, obs, u)
			}
			paths[Path{u.ID, family}] = f
		}
	}
	for i := range cfg.Uplinks {
		if u := &cfg.Uplinks[i]; u.IsCLAT() {
			f := paths[Path{u.ID, IPv4}]
			f.needsLine(u.CLAT, paths[Path{u.ID, IPv6}], cfg.isGivenAddress(Path{u.ID, IPv6}))
			paths[Path{u.ID, IPv4}] = f
		}
	}
	return paths
}

// info returns what is known of a path.
func (p *planner) info(u *Uplink, f Family) PathInfo { return p.report.Paths[Path{u.ID, f}] }

// plannedPath is a path with what planning looks up again and again.
type plannedPath struct {
	u      *Uplink
	family Family
	info   PathInfo
}

// findPaths lists every family of every uplink that is enabled and that the kernel knows, and the devices.
func (p *planner) findPaths() {
	p.paths = make([]plannedPath, 0, len(Families)*len(p.cfg.Uplinks))
	p.devices = make(map[string]bool, len(p.cfg.Uplinks))
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		p.devices[u.Device] = true
		for _, family := range Families {
			if u.Family(family).Enabled && !(family == IPv6 && p.obs.NoIPv6) {
				p.paths = append(p.paths, plannedPath{u, family, p.info(u, family)})
			}
		}
	}
}

// eachPath calls fn for every path.
func (p *planner) eachPath(fn func(u *Uplink, family Family, info PathInfo)) {
	for i := range p.paths {
		fn(p.paths[i].u, p.paths[i].family, p.paths[i].info)
	}
}

func (info *PathInfo) readDefault(a Addressing, foreign foreignDefault, neighbours []netip.Prefix) {
	switch {
	case a.Assign != nil:
		info.HasDefault = !a.Assign.NoDefault
		info.Gateway, info.MTU = a.Assign.Gateway, a.Assign.MTU
		info.Onlink = info.Gateway.IsValid() && !info.Gateway.IsLinkLocalUnicast() && !a.Assign.covers(info.Gateway)
	case a.Managed || foreign.Route == nil:
	default:
		info.HasDefault = true
		info.Gateway, info.MTU = foreign.hop.Gateway, foreign.MTU
		// A route outlives the connected route that its gateway was found by; the kernel would refuse
		// a copy of it, and with it a default that is shared with healthy uplinks.
		info.Onlink = foreign.hop.Onlink || uncovered(info.Gateway, neighbours)
	}
}

// uncovered reports whether the kernel would refuse a route through the gateway unless it is told that
// the gateway is on the link (fib_check_nh_v4_gw).
func uncovered(gateway netip.Addr, neighbours []netip.Prefix) bool {
	return gateway.IsValid() && !gateway.IsLinkLocalUnicast() &&
		!slices.ContainsFunc(neighbours, func(n netip.Prefix) bool { return n.Contains(gateway) })
}

// neighbourhoods lists, per device and family, what main reaches without a gateway, and what is no wider than a segment:
// by our rules others need not find a gateway in the rest.
func neighbourhoods(obs *Observed) map[deviceFamily][]netip.Prefix {
	found := make(map[deviceFamily][]netip.Prefix, len(Families)*len(obs.Links))
	for i := range obs.Routes {
		r := &obs.Routes[i]
		if r.Table == netcfg.TableMain && r.Type == netcfg.Unicast && len(r.Nexthops) == 1 && !r.Nexthops[0].Gateway.IsValid() && !wide(r) {
			at := deviceFamily{r.Nexthops[0].Device, r.Family}
			found[at] = append(found[at], r.Dst)
		}
	}
	return found
}

type deviceFamily struct {
	device string
	family Family
}

// foreignDefault is one way of a default route.
type foreignDefault struct {
	*netcfg.Route
	hop *netcfg.Nexthop
}

// foreignDefaults finds, per device and family, the default route of lowest metric in table main that
// somebody else installed. A multipath default counts for each of its devices. On a device without one, routes that
// stand for a default together do. One by a gateway that is known not to answer comes after all others.
func foreignDefaults(cfg Config, obs *Observed) map[deviceFamily]foreignDefault {
	best := make(map[deviceFamily]foreignDefault)
	watched := make(map[string]*WatchedRouters)
	for i := range cfg.Uplinks {
		watched[cfg.Uplinks[i].Device] = cfg.Uplinks[i].IPv6.Watched
	}
	var parts []*netcfg.Route
	for i := range obs.Routes {
		r := &obs.Routes[i]
		if cfg.Kernel.foreignPart(r) {
			parts = append(parts, r)
		}
		if !cfg.Kernel.foreignDefault(r) {
			continue
		}
		for n := range r.Nexthops {
			found := foreignDefault{r, &r.Nexthops[n]}
			key := deviceFamily{found.hop.Device, r.Family}
			if have, ok := best[key]; !ok || found.before(have, watched[key.device]) {
				best[key] = found
			}
		}
	}
	for at, first := range wholeByParts(parts) {
		if _, ok := best[at]; !ok {
			best[at] = foreignDefault{first, &first.Nexthops[0]}
		}
	}
	return best
}

// before reports whether a default is to be used rather than another one that came earlier.
func (d foreignDefault) before(o foreignDefault, w *WatchedRouters) bool {
	if a, b := w.silent(d.hop.Gateway), w.silent(o.hop.Gateway); a != b {
		return b
	}
	return d.Metric < o.Metric || d.Metric == o.Metric && w != nil && d.hop.Gateway == w.Use && o.hop.Gateway != w.Use
}

// leaveOut puts addresses last that other routers of the link than the gateway have given: it would drop what has
// such a source. While one is there our routes name the source, for the kernel does not know which router gave which
// (RFC 6724 rule 5.5).
func (info *PathInfo) leaveOut(a Addressing) {
	if a.Watched == nil || !info.HasDefault || info.Gateway != a.Watched.Use {
		return
	}
	others := func(p netip.Prefix) bool { return a.Watched.foreign(p.Addr()) }
	if own := slices.DeleteFunc(slices.Clone(info.Addresses), others); len(own) > 0 && len(own) < len(info.Addresses) {
		info.Addresses = append(own, slices.DeleteFunc(slices.Clone(info.Addresses), func(p netip.Prefix) bool { return !others(p) })...)
		info.RouteSource = own[0].Addr()
	}
}

// nameDeprecated has our routes name an IPv6 source whose preferred lifetime is over when the path has no other: the
// kernel would rather take the address of another device (RFC 6724 section 5 rule 3 goes before rule 5), which may be
// another provider's.
func (info *PathInfo) nameDeprecated(family Family, device string, obs *Observed) {
	source := info.Source()
	if family == IPv6 && !info.RouteSource.IsValid() && slices.ContainsFunc(obs.Addrs, func(a Addr) bool {
		return a.Device == device && a.Prefix.Addr() == source && a.Deprecated
	}) {
		info.RouteSource = source
	}
}

// UsableAddresses picks the addresses of one family that may be the source of packets to the Internet,
// selectBest source first: preferred before deprecated, permanent before temporary (probes shall not change
// their source every day), global before unique-local.
func UsableAddresses(family Family, addrs []Addr) (usable []netip.Prefix, linkLocal bool) {
	var ranked [8][]netip.Prefix
	for _, a := range addrs {
		ip := a.Prefix.Addr()
		switch {
		case FamilyOf(ip) != family || a.Tentative:
		case ip.IsLinkLocalUnicast():
			linkLocal = linkLocal || family == IPv6
		case a.LinkScope || !ip.IsGlobalUnicast() || compatible(ip):
		default:
			rank := 0
			if a.Deprecated {
				rank += 4
			}
			if ip.Is6() && ip.IsPrivate() {
				rank += 2
			}
			if a.Temporary {
				rank++
			}
			ranked[rank] = append(ranked[rank], a.Prefix)
		}
	}
	for _, group := range ranked {
		usable = append(usable, group...)
	}
	return usable, linkLocal
}

// HasAddress reports whether an uplink has an address.
func (r *Report) HasAddress(family Family, a netip.Addr) bool {
	for path, info := range r.Paths {
		if path.Family == family && slices.ContainsFunc(info.Addresses, func(o netip.Prefix) bool { return o.Addr() == a }) {
			return true
		}
	}
	return false
}

// compatible reports whether an address is an IPv4 address in IPv6's form, by which the kernel names the local end of a tunnel to several others
// (net/ipv6/addrconf.c add_v4_addrs). Nobody is reached by it.
func compatible(a netip.Addr) bool { return compatibles.Contains(a) }

var compatibles = netip.MustParsePrefix("::/96")
