package rules

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// perDevice names the parameters that planning may read or set on an uplink device. Names are paths
// below /proc/sys: a device name may hold dots ("eth0.7"), never a slash.
var perDevice = [...]string{"rp_filter", "src_valid_mark", "arp_ignore", "arp_announce", "promote_secondaries"}

// perDevice6 are those of IPv6.
var perDevice6 = [...]string{"accept_ra", "forwarding", disable6}

// forwarding6 is whether this machine routes IPv6 at all.
const forwarding6 = "net/ipv6/conf/all/forwarding"

// hashPolicy is what the kernel picks a nexthop of a shared route by (Documentation/networking/ip-sysctl.rst): 0 is the
// addresses alone, 1 the ports too.
func hashPolicy(f Family) string { return "net/" + f.String() + "/fib_multipath_hash_policy" }

func devSysctl(device, key string) string  { return "net/ipv4/conf/" + device + "/" + key }
func devSysctl6(device, key string) string { return "net/ipv6/conf/" + device + "/" + key }

// sysctlNames lists what a snapshot must read for Plan: paths below /proc/sys, of devices that may not
// exist at the moment.
func sysctlNames(cfg Config) []string {
	names := make([]string, 0, (len(perDevice)+len(perDevice6))*(len(cfg.Uplinks)+1))
	for _, key := range perDevice {
		names = append(names, devSysctl("all", key))
		for i := range cfg.Uplinks {
			names = append(names, devSysctl(cfg.Uplinks[i].Device, key))
		}
	}
	names = append(names, forwarding6, hashPolicy(IPv4), hashPolicy(IPv6))
	for i := range cfg.Uplinks {
		if u := &cfg.Uplinks[i]; u.Hardware != (netcfg.Hardware{}) {
			names = append(names, devSysctl(u.Device, arpNotify), devSysctl6(u.Device, ndiscNotify))
		}
		for _, key := range perDevice6 {
			names = append(names, devSysctl6(cfg.Uplinks[i].Device, key))
		}
	}
	for i := range cfg.LANs {
		names = append(names, devSysctl6(cfg.LANs[i].Device, disable6))
	}
	for i := range cfg.Uplinks {
		if u := &cfg.Uplinks[i]; len(u.sharedNetworks()) > 0 {
			names = slices.AppendSeq(names, maps.Keys(proxySysctls(u.Device)))
			for j := range cfg.LANs {
				names = slices.AppendSeq(names, maps.Keys(proxySysctls(cfg.LANs[j].Device)))
			}
		}
	}
	if len(cfg.Tunnels) > 0 { // what a new device takes over
		for _, key := range perDevice {
			names = append(names, devSysctl("default", key))
		}
		for _, key := range append(perDevice6[:], addrGenMode) {
			names = append(names, devSysctl6("default", key))
		}
		names = append(names, bridgeFilters[:]...)
	}
	return names
}

// sysctls sets only what this box needs, and per device: what is set for "all" belongs to the owner.
func (p *planner) sysctls() {
	p.acceptRA()
	p.multipathHash()
	p.notifyHardware()
	tunnelFirst := p.tunnelFirst()
	addresses := make([][]netip.Prefix, len(p.cfg.Uplinks))
	for i := range p.cfg.Uplinks {
		if u := &p.cfg.Uplinks[i]; u.IPv4.Enabled {
			addresses[i] = p.addressesOf(u, IPv4, p.info(u, IPv4))
		}
	}
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		if _, present := p.obs.Link(u.Device); !present || !u.IPv4.Enabled {
			continue
		}
		// The kernel uses the larger of "all" and the device (include/linux/inetdevice.h
		// IN_DEV_MAXCONF), for src_valid_mark either (IN_DEV_ORCONF).
		if p.effective(u.Device, "rp_filter") > 0 && p.sysctl(devSysctl("all", "src_valid_mark")) == 0 {
			p.wantSysctl(u.Device, "src_valid_mark", 1, "reverse path filtering must see the mark that brings replies to "+u.Name)
		}
		if u.IPv4.Assign != nil && p.effective(u.Device, "promote_secondaries") == 0 {
			// Else the removal of an old address takes a new one of the same subnet along (devinet.c).
			p.wantSysctl(u.Device, "promote_secondaries", 1, u.Name+"'s new address must outlive its old one")
		}
		sameSubnet, sameAddress := p.sharing(i, addresses)
		if why := failsStrictFilter(u, sameAddress, tunnelFirst); why != "" && p.effective(u.Device, "rp_filter") == 1 {
			p.wantSysctl(u.Device, "rp_filter", 2, why)
		}
		if sameSubnet {
			if p.effective(u.Device, "arp_ignore") < 1 {
				p.wantSysctl(u.Device, "arp_ignore", 1, u.Name+" shares its subnet with another uplink: each device answers for its own address")
			}
			if p.effective(u.Device, "arp_announce") < 2 {
				p.wantSysctl(u.Device, "arp_announce", 2, u.Name+" shares its subnet with another uplink: each device asks with its own address")
			}
		}
	}
}

// failsStrictFilter says why no strict reverse-path filter lets through what arrives at an uplink, "" when one does.
func failsStrictFilter(u *Uplink, sharesAddress, tunnelFirst bool) string {
	switch {
	case u.hasPeers():
		// Its own table of allowed addresses is as strict; and a peer that has moved is heard before the route to it has.
		return "a peer of " + u.Name + " may be heard here before main says that it is here"
	case sharesAddress:
		// ARP requests carry no mark, so the source rule of the first of both uplinks answers for
		// the second, and a strict filter drops the gateway's requests for our address.
		return u.Name + " shares its address with another uplink, which no strict filter lets through"
	case tunnelFirst:
		// The way back to whoever answers a probe leads into the tunnel (fib_validate_source).
		return "a full tunnel of another program precedes our rules, and a strict filter would drop all answers at " + u.Name
	}
	return ""
}

// multipathHash has a shared route share connections, where uplinks may ever share one. By default all that one host
// sends to another takes the same uplink, and a box whose hosts talk to few others uses one. It is set by what is
// configured, so that it does not come and go with the uplinks. Values of the owner's that are not the default stay.
func (p *planner) multipathHash() {
	for _, family := range Families {
		name := hashPolicy(family)
		value, known := p.obs.Sysctls[name]
		if former, ours := p.obs.Recorded.Sysctls[name]; ours {
			value = former
		}
		if known && value == "0" && p.usesMultipath(family) {
			p.state.Sysctls = append(p.state.Sysctls, netcfg.Sysctl{Name: name, Value: "1", Why: "uplinks of one tier share connections, not pairs of hosts"})
		}
	}
}

// usesMultipath reports whether two uplinks have a family and a tier in common, in the default or in a group, or may share because one is full.
func (p *planner) usesMultipath(family Family) bool {
	last, overflows := 0, 0 // tiers of the default: the last, and the first that may be full
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		tier := u.defaultTier()
		if tier == 0 || !u.Family(family).Enabled {
			continue
		}
		if last = max(last, tier); u.Overflows && (overflows == 0 || tier < overflows) {
			overflows = tier
		}
	}
	if overflows > 0 && last > overflows {
		return true
	}
	shared := func(tierOf func(*Uplink) int) bool {
		seen := make(map[int]bool)
		for i := range p.cfg.Uplinks {
			u := &p.cfg.Uplinks[i]
			tier := tierOf(u)
			if tier == 0 || !u.Family(family).Enabled {
				continue
			}
			if seen[tier] {
				return true
			}
			seen[tier] = true
		}
		return false
	}
	return shared((*Uplink).defaultTier) ||
		slices.ContainsFunc(p.cfg.Groups, func(g Group) bool { return shared(func(u *Uplink) int { return g.tier(u.ID) }) })
}

// acceptRA keeps the kernel from answering router advertisements where we do, and has it heed them where
// nobody else does: on a router, accept_ra=1 means no (Documentation/networking/ip-sysctl.rst).
func (p *planner) acceptRA() {
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		name := devSysctl6(u.Device, "accept_ra")
		value, known := p.obs.Sysctls[name]
		if former, ours := p.obs.Recorded.Sysctls[name]; ours {
			value = former
		}
		if _, present := p.obs.Link(u.Device); !present || !known || !u.IPv6.Enabled {
			continue
		}
		switch {
		case u.IPv6.Discovers && value != "0":
			p.state.Sysctls = append(p.state.Sysctls, netcfg.Sysctl{Name: name, Value: "0", Why: "uplinkd listens to the routers of " + u.Name + " itself"})
		case !u.IPv6.Managed && value == "1" && p.obs.Sysctls[devSysctl6(u.Device, "forwarding")] == "1":
			p.state.Sysctls = append(p.state.Sysctls, netcfg.Sysctl{Name: name, Value: "2", Why: "a router heeds the advertisements of " + u.Name + "'s routers only then"})
		}
	}
}

// sharing reports whether another uplink is connected to an IPv4 subnet of this one, or has the very
// same address.
func (p *planner) sharing(at int, addresses [][]netip.Prefix) (subnet, address bool) {
	for i := range addresses {
		if i == at {
			continue
		}
		for _, a := range addresses[at] {
			for _, b := range addresses[i] {
				subnet = subnet || a.Overlaps(b)
				address = address || a.Addr() == b.Addr()
			}
		}
	}
	return subnet, address
}

func (p *planner) wantSysctl(device, key string, value int, why string) {
	name := devSysctl(device, key)
	if _, known := p.obs.Sysctls[name]; known {
		p.state.Sysctls = append(p.state.Sysctls, netcfg.Sysctl{Name: name, Value: strconv.Itoa(value), Why: why})
	}
}

// effective is the value that would be in force without us.
func (p *planner) effective(device, key string) int {
	return max(p.sysctl(devSysctl("all", key)), p.sysctl(devSysctl(device, key)))
}

func (p *planner) sysctl(name string) int {
	value, ok := p.obs.Recorded.Sysctls[name]
	if !ok {
		value = p.obs.Sysctls[name]
	}
	n, _ := strconv.Atoi(value)
	return n
}
