package rules

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/rules/encap"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Tunnel is a device that is wanted.
type Tunnel struct {
	Device string
	For    string // the uplink, or what else it is for; for people
	encap.Params
	MTU    int    // bytes; 0 is what fits the carrier, or with a bridge the bridge's
	Bridge string // that the device shall be a port of; "" for none
}

// mtu works out a device's MTU; false when what carries it is not there. A bridge hands each port what the others take,
// so there the bridge's counts; the tunnel's packets are fragmented where they do not fit.
func (t *Tunnel) mtu(cfg *Config, obs *Observed) (int, bool) {
	carrier := usualMTU
	if t.Spec().Ends() {
		var ok bool
		if carrier, ok = carrierMTU(cfg, obs, t.Local); !ok {
			return 0, false
		}
	}
	switch {
	case t.MTU > 0:
		return t.MTU, true
	case t.Bridge != "" && t.Fragment:
		bridge, _ := obs.Link(t.Bridge)
		return bridge.MTU, true
	}
	return max(carrier-t.Overhead(), minMTU6), true
}

// carrierMTU returns the MTU of the device that has an address, or is about to be given it.
func carrierMTU(cfg *Config, obs *Observed, local netip.Addr) (int, bool) {
	for _, a := range obs.Addrs {
		if link, _ := obs.Link(a.Device); a.Prefix.Addr() == local && link.MTU > 0 {
			return link.MTU, true
		}
	}
	for i := range cfg.Uplinks {
		a := cfg.Uplinks[i].Family(FamilyOf(local))
		if !a.Enabled || a.Assign == nil || !slices.ContainsFunc(a.Assign.Addresses, func(a Address) bool { return a.Prefix.Addr() == local }) {
			continue
		}
		if link, _ := obs.Link(cfg.Uplinks[i].Device); link.MTU > 0 {
			return link.MTU, true
		}
	}
	return 0, false
}

// tunnelPlan is what becomes of a device that is wanted.
type tunnelPlan struct {
	want    *netcfg.TunnelLink // nil: nothing can be done yet
	made    bool               // for the first time, or anew
	problem Problem            // zero: none
}

// plan says what a device must become. Those of others are never changed, except that one which is wanted may become a
// port of its bridge.
func (t *Tunnel) plan(cfg *Config, obs *Observed) tunnelPlan {
	have := netcfg.FindTunnel(obs.Tunnels, t.Device)
	waiting := func(fix, format string, args ...any) tunnelPlan {
		return tunnelPlan{want: have, problem: Problem{"tunnel", "warning", fmt.Sprintf(format, args...), fix}}
	}
	if _, present := obs.Link(t.Bridge); t.Bridge != "" && !present {
		return waiting("create it, or name another", "the bridge %s of tunnel %s does not exist", t.Bridge, t.Device)
	}
	mtu, ok := t.mtu(cfg, obs)
	if !ok {
		return waiting("nothing: the tunnel is created as soon as a device has the address", "no device has the address %v, the local end of tunnel %s", t.Local, t.Device)
	}
	made := tunnelPlan{made: true, want: &netcfg.TunnelLink{Device: t.Device, Params: t.Params, MTU: mtu, Up: true, Bridge: t.Bridge, Alias: netcfg.AliasPrefix + t.For}}
	_, present := obs.Link(t.Device)
	switch {
	case have == nil && present && !obs.foreseen[t.Device], have != nil && have.Params != t.Params && !have.Ours():
		// It is tried all the same, in vain, so that the plan is not taken for carried out.
		made.want.Up, made.want.Bridge = false, ""
		return tunnelPlan{want: made.want, problem: Problem{"tunnel", "error",
			fmt.Sprintf("%s already exists and is not the %s that the configuration describes", t.Device, t.Kind),
			fmt.Sprintf("delete it (ip link delete dev %s), or remove its section from the configuration", t.Device)}}
	case have == nil, have.Params != t.Params:
		return made
	}
	want := *have
	if have.Ours() {
		want.MTU = mtu
	}
	if t.Bridge != "" {
		want.Bridge = t.Bridge
	}
	// What its owner has set down stays down.
	want.Up = have.Up || slices.ContainsFunc(obs.RefusedDevices, func(r *netcfg.Refusal) bool { return r.Op == netcfg.Op(netcfg.SetUp{Device: t.Device}) })
	return tunnelPlan{want: &want}
}

// refusedDevice returns the refusal of a change to a device, but for that of its link-layer address; nil when there was none.
func (o *Observed) refusedDevice(device string) *netcfg.Refusal {
	for _, r := range o.RefusedDevices {
		if _, is := r.Op.(netcfg.SetHardware); !is && netcfg.DeviceOf(r.Op) == device {
			return r
		}
	}
	return nil
}

// Foresee returns the snapshot as it will be when the wanted tunnel devices are there and devices are up, so that what they
// carry is planned along with them; the list of tunnels stays as it is. What was refused a moment ago is not counted on.
func (o *Observed) Foresee(cfg Config) *Observed {
	up := toBringUp(&cfg, o)
	if len(cfg.Tunnels)+len(up) == 0 {
		return o
	}
	cfg, _ = checkInput(cfg, o)
	f := *o
	f.Links, f.foreseen, f.Sysctls = slices.Clone(o.Links), make(map[string]bool), maps.Clone(o.Sysctls)
	for i := range f.Links {
		if l := &f.Links[i]; slices.Contains(up, l.Name) && o.refusedDevice(l.Name) == nil {
			l.Up, f.up = true, append(f.up, l.Name)
		}
	}
	for changed := true; changed; { // one may carry another
		changed = false
		for i := range cfg.Tunnels {
			t := &cfg.Tunnels[i]
			p := t.plan(&cfg, &f)
			if p.want == nil || p.problem != (Problem{}) || o.refusedDevice(t.Device) != nil {
				continue
			}
			at := slices.IndexFunc(f.Links, func(l Link) bool { return l.Name == t.Device })
			switch {
			case p.made && !f.foreseen[t.Device]:
				f.remove(t.Device)
				f.add(p.want)
				changed = true
			case at >= 0 && f.Links[at].MTU != p.want.MTU:
				f.Links[at].MTU, changed = p.want.MTU, true
			}
		}
	}
	return &f
}

// toBringUp lists the devices of uplinks that are down, and our business: those that were never seen up.
func toBringUp(cfg *Config, obs *Observed) []string {
	var list []string
	for i := range cfg.Uplinks {
		u := &cfg.Uplinks[i]
		if link, present := obs.Link(u.Device); present && !link.Up && !obs.SeenUp[link.Index] && (u.IPv4.Managed || u.IPv6.Managed) {
			list = append(list, u.Device)
		}
	}
	return list
}

// remove takes a device and what hangs on it away.
func (o *Observed) remove(device string) {
	o.Links = slices.DeleteFunc(o.Links, func(l Link) bool { return l.Name == device })
	o.Addrs = slices.DeleteFunc(slices.Clone(o.Addrs), func(a Addr) bool { return a.Device == device })
	o.Routes = slices.DeleteFunc(slices.Clone(o.Routes), func(r netcfg.Route) bool {
		return slices.ContainsFunc(r.Nexthops, func(n netcfg.Nexthop) bool { return n.Device == device })
	})
	for i := range o.Routed {
		o.Routed[i] = o.Routed[i].without(device)
	}
	if o.Egress != nil {
		egress := Egress{Qdiscs: maps.Clone(o.Egress.Qdiscs), Impossible: o.Egress.Impossible}
		egress.Filters = slices.DeleteFunc(slices.Clone(o.Egress.Filters), func(f netcfg.EgressFilter) bool { return f.Device == device })
		delete(egress.Qdiscs, device)
		o.Egress = &egress
	}
}

// add adds a device as the kernel makes it.
func (o *Observed) add(l *netcfg.TunnelLink) {
	o.foreseen[l.Device] = true
	o.Links = append(o.Links, Link{Name: l.Device, Up: true, Carrier: true, MTU: l.MTU})
	take := func(name func(device, key string) string, key string) {
		if value, known := o.Sysctls[name("default", key)]; known {
			o.Sysctls[name(l.Device, key)] = value
		}
	}
	for _, key := range perDevice {
		take(devSysctl, key)
	}
	for _, key := range perDevice6 {
		take(devSysctl6, key)
	}
	if l.Spec().LinkLocal && !o.NoIPv6 && !o.ipv6Off(l.Device) && o.Sysctls[devSysctl6("default", addrGenMode)] != addrGenNone {
		o.Routes = append(o.Routes, netcfg.Route{Family: IPv6, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: linkLocal6, Metric: 256, Protocol: protocolKernel,
			Nexthops: []netcfg.Nexthop{{Device: l.Device, Weight: 1}}})
	}
}

const (
	addrGenMode = "addr_gen_mode"
	addrGenNone = "1" // IN6_ADDR_GEN_MODE_NONE of linux/if_link.h
)

var linkLocal6 = netip.MustParsePrefix("fe80::/64")

// tunnels plans the devices, and names what keeps one from being as it is wanted.
func (p *planner) tunnels() {
	for i := range p.cfg.Tunnels {
		t := &p.cfg.Tunnels[i]
		plan := t.plan(&p.cfg, p.obs)
		if plan.want != nil {
			p.state.Tunnels = append(p.state.Tunnels, *plan.want)
		}
		refused := p.obs.refusedDevice(t.Device)
		switch {
		case plan.problem != (Problem{}):
			p.report.Problems = append(p.report.Problems, plan.problem)
		case refused != nil:
			p.tunnelRefused(refused)
		}
		p.tunnelWarnings(t)
	}
}

// getsLinkLocal reports whether a device is a tunnel of ours that has a link-local address in a moment when it has none yet.
func (p *planner) getsLinkLocal(device string) bool {
	return !p.off(device, IPv6) && slices.ContainsFunc(p.cfg.Tunnels, func(t Tunnel) bool { return t.Device == device && t.Spec().LinkLocal })
}

// tunnelRefused names a change that the kernel has refused.
func (p *planner) tunnelRefused(r *netcfg.Refusal) {
	if _, is := r.Op.(netcfg.SetWireGuard); is {
		p.problemOnce("wireguard", "error", r.Error(), "it is retried")
		return
	}
	p.problemOnce("tunnel", "error", r.Error(), "check that the kernel has the module for it (modprobe); it is retried")
}

// bridgeFilters are the parameters by which bridged traffic goes through the firewall of routed traffic (br_netfilter).
var bridgeFilters = [...]string{"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"}

// tunnelWarnings names what breaks a tunnel of Ethernet frames without a word, by the device as it is.
func (p *planner) tunnelWarnings(t *Tunnel) {
	device := netcfg.FindTunnel(p.obs.Tunnels, t.Device)
	if device == nil || t.Spec().Carries != encap.Frames {
		return
	}
	warn := func(code, fix, format string, args ...any) {
		p.problem(code, "warning", fmt.Sprintf(format, args...), fix)
	}
	const lost = "neighbour discovery, router advertisements and DHCPv6 cannot pass, so IPv6 does not work"
	if !device.Multicast {
		warn("tunnel-multicast", "ip link set dev "+t.Device+" multicast on", "%s accepts no multicast: %s", t.Device, lost)
	}
	bridge, present := p.obs.Link(t.Bridge)
	if !present {
		return
	}
	if device.Bridge == t.Bridge && !device.Floods {
		warn("tunnel-multicast", "bridge link set dev "+t.Device+" mcast_flood on", "%s forwards no multicast to %s: %s", t.Bridge, t.Device, lost)
	}
	var filters []string
	for _, name := range bridgeFilters {
		if p.obs.Sysctls[name] == "1" {
			filters = append(filters, name)
		}
	}
	if len(filters) > 0 {
		warn("bridge-filter", "sysctl -w "+strings.ReplaceAll(strings.Join(filters, "=0 "), "/", ".")+"=0, or accept it there",
			"what %s bridges passes the firewall's forward chain, which may drop it silently: %s", t.Bridge, strings.Join(filters, " and "))
	}
	if device.MTU < bridge.MTU {
		warn("bridge-mtu", "use kind = \"gretap\" over IPv4, which fragments what does not fit, or lower the MTU of the bridge and all its hosts",
			"%s carries %d bytes and %s sends up to %d: longer frames are dropped silently", t.Device, device.MTU, t.Bridge, bridge.MTU)
	}
}
