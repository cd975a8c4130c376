package rules

import (
	"fmt"
	"net/netip"
	"slices"
)

// The least MTU that is believed, in bytes: what IPv4 hosts must take (RFC 791), and what every IPv6 link must carry
// (RFC 8200 section 5).
const (
	minMTU4 = 576
	minMTU6 = 1280
)

// inputCheck checks what a DHCP server, a router or the configuration gives the uplinks, before any of it is planned. One
// value that the kernel refuses, or that would take something away from the hosts of a LAN, costs its own uplink alone.
type inputCheck struct {
	obs      *Observed
	cfg      *Config
	lan4     []*Addr // of this machine in networks behind it
	lan6     []*Addr
	assigned []netip.Addr // by all uplinks
	problems []Problem
}

// checkInput returns the configuration without the values that are of no use, and what there is to say of them.
func checkInput(cfg Config, obs *Observed) (Config, []Problem) {
	o := inputCheck{obs: obs, cfg: &cfg}
	for i := range cfg.Uplinks {
		u := &cfg.Uplinks[i]
		for _, family := range Families {
			if a := u.Family(family).Assign; a != nil {
				for _, address := range a.Addresses {
					o.assigned = append(o.assigned, address.Prefix.Addr())
				}
			}
		}
	}
	o.lan4, o.lan6 = addrsBehind(&cfg, obs)
	cfg.Uplinks = slices.Clone(cfg.Uplinks)
	for i := range cfg.Uplinks {
		cfg.Uplinks[i].Delegations = o.delegations(&cfg.Uplinks[i])
		cfg.Uplinks[i].Resolvers = o.resolvers(&cfg.Uplinks[i])
		for _, family := range Families {
			a := cfg.Uplinks[i].Family(family)
			if !a.Enabled || a.Assign == nil {
				continue
			}
			checked := o.assignment(&cfg.Uplinks[i], a.Assign)
			if family == IPv6 {
				cfg.Uplinks[i].IPv6.Assign = checked
			} else {
				cfg.Uplinks[i].IPv4.Assign = checked
			}
		}
		cfg.Uplinks[i].share(cfg.LANs)
		o.nat64(&cfg.Uplinks[i])
	}
	return cfg, o.problems
}

// delegations returns those of an uplink that may be planned. One that holds a target would make hosts of the Internet ours.
func (o *inputCheck) delegations(u *Uplink) []Delegation {
	return slices.DeleteFunc(slices.Clone(u.Delegations), func(d Delegation) bool {
		i := slices.IndexFunc(o.cfg.Targets, func(t netip.Addr) bool { return d.Prefix.Contains(t) && !d.Exclude.Contains(t) })
		if i < 0 || d.Configured {
			return false
		}
		o.report("unusable-prefix", fmt.Sprintf("%s was given the prefix %v, which contains the target %v: ignored", u.Name, d.Prefix, o.cfg.Targets[i]), u)
		return true
	})
}

// assignment returns what of an assignment may be planned: itself when all of it may.
func (o *inputCheck) assignment(u *Uplink, a *Assignment) *Assignment {
	checked := *a
	changed := false
	checked.Addresses = slices.DeleteFunc(slices.Clone(a.Addresses), func(address Address) bool {
		why := o.addressFault(u, address.Prefix)
		if why != "" {
			o.report("unusable-address", fmt.Sprintf("%s was given the address %v, which is %s: ignored", u.Name, address.Prefix, why), u)
		}
		return why != ""
	})
	changed = len(checked.Addresses) != len(a.Addresses)
	for _, address := range checked.Addresses {
		if network := address.Prefix.Masked(); network.Addr().Is4() && withoutConnected(u, IPv4, address.Prefix) {
			o.problems = append(o.problems, Problem{"wide-network", "notice",
				fmt.Sprintf("%s was given the network %v, which covers destinations of other uplinks: only %v is treated as on-link", u.Name, network, segmentOf(network, address.Prefix.Addr(), false)),
				"nothing, unless hosts there are unreachable: then set the netmask that the network really has"})
		}
	}
	if why := o.gatewayFault(u, a, a.Gateway); why != "" {
		o.report("unusable-gateway", fmt.Sprintf("%s was given the gateway %v, which is %s: it has no way to the Internet", u.Name, a.Gateway, why), u)
		checked.Gateway, checked.NoDefault, changed = netip.Addr{}, true, true
	}
	checked.Routes = slices.DeleteFunc(slices.Clone(a.Routes), func(r AssignedRoute) bool {
		why := o.gatewayFault(u, a, r.Gateway)
		if why != "" {
			o.report("unusable-gateway", fmt.Sprintf("%s was given a route to %v via %v, which is %s: ignored", u.Name, r.Dst, r.Gateway, why), u)
		} else if why = o.routeFault(r.Dst); why != "" {
			o.report("unusable-route", fmt.Sprintf("%s was given a route to %v, which is %s: ignored", u.Name, r.Dst, why), u)
		}
		return why != ""
	})
	changed = changed || len(checked.Routes) != len(a.Routes)
	if why := o.mtuFault(u, a); why != "" {
		o.report("unusable-mtu", fmt.Sprintf("%s was given an MTU of %d bytes, which is %s: the device's MTU is used", u.Name, a.MTU, why), u)
		checked.MTU, changed = 0, true
	}
	if !changed {
		return a
	}
	return &checked
}

func (o *inputCheck) report(code, message string, u *Uplink) {
	severity := "warning"
	if code == "unusable-mtu" { // it costs nothing
		severity = "notice"
	}
	o.problems = append(o.problems, Problem{code, severity, message,
		fmt.Sprintf("correct what %s is given: by its DHCP server, its router, or its section in the configuration", u.Name)})
}

// noHost says why no host can have an address, "" when one can.
func noHost(a netip.Addr) string {
	switch {
	case a.IsUnspecified():
		return "the unspecified address"
	case a.IsLoopback():
		return "a loopback address"
	case a.IsMulticast():
		return "a multicast address"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "the broadcast address"
	case a.Is4() && a.As4()[0] == 0:
		return "in 0.0.0.0/8, where there are no hosts (RFC 6890)"
	}
	return ""
}

// edge says that an IPv4 address stands for its subnet or for all hosts of it.
func edge(a netip.Addr, subnet netip.Prefix) string {
	if !a.Is4() || !subnet.Addr().Is4() || subnet.Bits() >= 31 || !subnet.Contains(a) { // RFC 3021
		return ""
	}
	switch {
	case a == subnet.Masked().Addr():
		return fmt.Sprintf("the network %v itself", subnet.Masked())
	case !subnet.Contains(a.Next()) || !a.Next().IsValid():
		return fmt.Sprintf("the broadcast address of %v", subnet.Masked())
	}
	return ""
}

// addressFault says why an address may not become ours, "" when it may. What the peers of a tunnel are told is the owner's
// own choice.
func (o *inputCheck) addressFault(u *Uplink, address netip.Prefix) string {
	if why := noHost(address.Addr()); why != "" {
		return why
	}
	if why := edge(address.Addr(), address); why != "" {
		return why
	}
	if slices.Contains(o.cfg.Targets, address.Addr()) {
		return "that of a target"
	}
	if u.Site || u.hasPeers() {
		return ""
	}
	return o.onLAN(address.Addr(), address.Bits())
}

// onLAN says that an address belongs to a network behind this machine. A network of ours that is wider than the
// uplink's is none that the uplink takes anything from but its own segment.
func (o *inputCheck) onLAN(address netip.Addr, bits int) string {
	for _, a := range o.behind(address.BitLen()) {
		network := a.segment()
		switch {
		case a.Prefix.Addr() == address:
			return "this machine's own address on " + a.Device
		case network.Contains(address) && (network.Bits() >= bits || bits >= address.BitLen()-1):
			return fmt.Sprintf("in the network %v behind %s", network, a.Device)
		}
	}
	return ""
}

// routeFault says that a destination belongs to a network behind this machine as a whole.
func (o *inputCheck) routeFault(dst netip.Prefix) string {
	for _, a := range o.behind(dst.Addr().BitLen()) {
		if network := a.segment(); network.Bits() <= dst.Bits() && network.Contains(dst.Addr()) {
			return fmt.Sprintf("in the network %v behind %s", network, a.Device)
		}
	}
	return ""
}

func (o *inputCheck) behind(bits int) []*Addr {
	if bits == 32 {
		return o.lan4
	}
	return o.lan6
}

// addrsBehind returns the addresses that this machine has in networks behind it: on no device of an uplink, and on none that leads
// to the Internet otherwise. What we have put there ourselves follows from what the uplinks are given, and is left out.
func addrsBehind(cfg *Config, obs *Observed) (v4, v6 []*Addr) {
	none := make(map[string]bool, len(cfg.Uplinks)) // the devices with no network behind them
	for i := range cfg.Uplinks {
		none[cfg.Uplinks[i].Device] = true
	}
	for at := range foreignDefaults(*cfg, obs) {
		none[at.device] = true
	}
	for _, link := range obs.Links {
		if link.Loopback {
			none[link.Name] = true
		}
	}
	for i := range obs.Addrs {
		a := &obs.Addrs[i]
		ip := a.Prefix.Addr()
		switch {
		case none[a.Device] || a.LinkScope || !ip.IsGlobalUnicast() || obs.owns(cfg.Kernel, *a):
		case ip.Is4():
			v4 = append(v4, a)
		default:
			v6 = append(v6, a)
		}
	}
	return v4, v6
}

// gatewayFault says why packets cannot be sent by a gateway, "" when they can or when there is none.
func (o *inputCheck) gatewayFault(u *Uplink, a *Assignment, gateway netip.Addr) string {
	if !gateway.IsValid() {
		return ""
	}
	if why := noHost(gateway); why != "" {
		return why
	}
	if slices.Contains(o.assigned, gateway) || o.obs.isOurs(gateway, u.Device) {
		return "one of this machine's own addresses"
	}
	bits := 0 // of the narrowest network that the gateway is a neighbour in
	for _, address := range a.Addresses {
		if why := edge(gateway, address.Prefix); why != "" {
			return why
		}
		if address.Prefix.Contains(gateway) {
			bits = max(bits, address.Prefix.Bits())
		}
	}
	if gateway.IsLinkLocalUnicast() {
		return ""
	}
	return o.onLAN(gateway, bits)
}

// isOurs reports whether this machine has the address. A link-local one counts on its own device only
// (ip6_route_check_nh, ipv6_chk_addr_and_flags).
func (o *Observed) isOurs(address netip.Addr, device string) bool {
	return slices.ContainsFunc(o.Addrs, func(a Addr) bool {
		return a.Prefix.Addr() == address && (a.Device == device || !address.IsLinkLocalUnicast())
	})
}

// mtuFault says why an MTU is not believed, "" when it is.
func (o *inputCheck) mtuFault(u *Uplink, a *Assignment) string {
	least := minMTU4
	if a.Gateway.Is6() || len(a.Addresses) > 0 && a.Addresses[0].Prefix.Addr().Is6() {
		least = minMTU6
	}
	link, present := o.obs.Link(u.Device)
	switch {
	case a.MTU == 0:
		return ""
	case a.MTU < least:
		return fmt.Sprintf("less than the minimum of %d", least)
	case present && link.MTU > 0 && a.MTU > link.MTU:
		return fmt.Sprintf("more than the %d of %s", link.MTU, u.Device)
	}
	return ""
}

// ownGateway reports whether a default of others leads to an address that has become this machine's own since. The
// kernel would refuse a copy of it.
func (d foreignDefault) ownGateway(obs *Observed) bool {
	return d.Route != nil && d.hop.Gateway.IsValid() && obs.isOurs(d.hop.Gateway, d.hop.Device)
}

// strayDefaults names the defaults of others that lead to this machine itself.
func (p *planner) strayDefaults() {
	if !slices.ContainsFunc(p.paths, func(at plannedPath) bool { return !at.info.HasDefault }) {
		return
	}
	defaults := foreignDefaults(p.cfg, p.obs)
	p.eachPath(func(u *Uplink, family Family, _ PathInfo) {
		if a := u.Family(family); a.Assign != nil || a.Managed {
			return
		}
		if d := defaults[deviceFamily{u.Device, family}]; d.ownGateway(p.obs) {
			p.problem("unusable-gateway", "warning", fmt.Sprintf("the default route of %s leads to %v, which is one of this machine's own addresses: it has no way to the Internet", u.Name, d.hop.Gateway),
				"remove that address from this machine, or correct what installs the route")
		}
	})
}
