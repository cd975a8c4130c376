package rules

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// The parameters by which the kernel tells the neighbours of a new link-layer address (net/ipv4/devinet.c inetdev_event,
// net/ipv6/ndisc.c ndisc_netdev_event): one that another router had until now has another port of their switch.
const (
	arpNotify   = "arp_notify"
	ndiscNotify = "ndisc_notify"
)

// FormerHardware is the link-layer address of a device before it was given ours.
type FormerHardware struct {
	Former netcfg.Hardware `json:"former"`
	Ours   netcfg.Hardware `json:"ours"`
}

// hardware gives the devices of uplinks their link-layer addresses. Where that cannot be, a device stays as it is.
func (p *planner) hardware() {
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		link, present := p.obs.Link(u.Device)
		if u.Hardware == (netcfg.Hardware{}) || !present || p.obs.foreseen[u.Device] {
			continue
		}
		if link.Hardware == (netcfg.Hardware{}) {
			p.problem("hardware-address-none", "error", fmt.Sprintf("%s has no hardware address, so %s cannot have %v", u.Device, u.Name, u.Hardware),
				"remove hardware_address; for PPPoE, set it for the Ethernet device below, where the system configures that")
			continue
		}
		want := netcfg.LinkHardware{Device: u.Device, Address: u.Hardware, Why: u.Name + "'s hardware_address"}
		if link.Hardware != u.Hardware && !p.settable(u.Name, &want, &link) {
			want.Address = link.Hardware
		}
		p.state.Hardware = append(p.state.Hardware, want)
	}
	p.sameHardware()
}

// settable reports whether a device may be given another address, and how; what keeps it from that is named.
func (p *planner) settable(uplink string, want *netcfg.LinkHardware, link *Link) bool {
	if p.obs.HardwareContested[want.Device] {
		p.problem("hardware-address-contested", "warning",
			fmt.Sprintf("another program gives %s the hardware address %v whenever it has %s's, %v: it is left alone for a while", want.Device, netcfg.Hardware(link.Hardware), uplink, want.Address),
			"set the address there (NetworkManager: cloned-mac-address; systemd-networkd: MACAddress=), or remove hardware_address")
		return false
	}
	refused := p.obs.refusedHardware(want)
	switch {
	case refused == nil:
		return true
	case !refused.Down && errors.Is(refused.err, syscall.EBUSY) && !link.Up:
		return true // it was up a moment ago
	case !refused.Down && errors.Is(refused.err, syscall.EBUSY):
		lost := p.lostByDown(want.Device)
		if want.Down = len(lost) == 0; want.Down {
			return true
		}
		p.problem("hardware-address-busy", "error",
			fmt.Sprintf("the driver of %s changes the hardware address only while the device is down, and what other programs have set up there would be lost: %s", want.Device, strings.Join(lost, ", ")),
			fmt.Sprintf("set %v where the system configures %s, or have uplinkd configure it: method = \"dhcp\" or \"static\"", want.Address, want.Device))
		return false
	}
	p.problem("hardware-address-refused", "error", fmt.Sprintf("%s cannot have the hardware address %v: %v", want.Device, want.Address, refused.err),
		"remove hardware_address, or choose another")
	return false
}

// refusedHardware is a change that the kernel refused a moment ago.
type refusedHardware struct {
	netcfg.SetHardware
	err error
}

// refusedHardware returns the refusal of an address, nil when there was none.
func (o *Observed) refusedHardware(want *netcfg.LinkHardware) *refusedHardware {
	for _, r := range o.RefusedDevices {
		if op, is := r.Op.(netcfg.SetHardware); is && op.Device == want.Device && op.Address == want.Address {
			return &refusedHardware{op, r.Err}
		}
	}
	return nil
}

// lostByDown lists what the kernel removes from a device that is set down, and nobody brings back: IPv6 addresses and routes
// that others have set. What routers announce comes again.
func (p *planner) lostByDown(device string) (lost []string) {
	for i := range p.obs.Addrs {
		a := &p.obs.Addrs[i]
		if a.Device == device && a.Prefix.Addr().Is6() && !a.LinkScope && !a.Dynamic && !p.obs.owns(p.k, *a) {
			lost = append(lost, a.Prefix.String())
		}
	}
	for i := range p.obs.Routes {
		r := &p.obs.Routes[i]
		if r.Protocol != p.k.Protocol && r.Protocol != protocolKernel && r.Protocol != protocolRA &&
			slices.ContainsFunc(r.Nexthops, func(n netcfg.Nexthop) bool { return n.Device == device }) {
			lost = append(lost, "route "+r.Dst.String())
		}
	}
	return lost
}

// restoreHardware gives back what devices had that are to have nothing of ours any more. What has another address by now is left alone.
func (p *planner) restoreHardware() {
	for device, recorded := range p.obs.Recorded.Hardware {
		link, present := p.obs.Link(device)
		if !present || link.Hardware != recorded.Ours || recorded.Former == recorded.Ours ||
			slices.ContainsFunc(p.cfg.Uplinks, func(u Uplink) bool { return u.Device == device && u.Hardware != (netcfg.Hardware{}) }) {
			continue
		}
		former := netcfg.LinkHardware{Device: device, Address: recorded.Former, Why: "given back", Restore: true}
		if !p.settable("another uplink", &former, &link) { // it is tried all the same, so that the plan is not taken for carried out
			former.Down = false
		}
		p.state.Hardware = append(p.state.Hardware, former)
	}
}

// sameHardware names uplinks that are one and the same host to their neighbours, who then send to either what is for the other.
func (p *planner) sameHardware() {
	for i := range p.cfg.Uplinks {
		for j := range p.cfg.Uplinks[:i] {
			a, b := &p.cfg.Uplinks[j], &p.cfg.Uplinks[i]
			if a.Hardware == (netcfg.Hardware{}) && b.Hardware == (netcfg.Hardware{}) || a.Device == b.Device {
				continue
			}
			if own := p.hardwareOf(a); own != (netcfg.Hardware{}) && own == p.hardwareOf(b) && p.oneSegment(a, b) {
				p.problem("hardware-address-twice", "warning", fmt.Sprintf("%s and %s are in one network with the same hardware address %v: what is for one of them may reach the other", a.Name, b.Name, own),
					"another hardware_address for one of them")
			}
		}
	}
}

// hardwareOf is the address that an uplink's device is to have.
func (p *planner) hardwareOf(u *Uplink) netcfg.Hardware {
	if u.Hardware != (netcfg.Hardware{}) {
		return u.Hardware
	}
	link, _ := p.obs.Link(u.Device)
	return link.Hardware
}

// oneSegment reports whether two uplinks are in the same bridge, share a device below (macvlan), or a subnet.
func (p *planner) oneSegment(a, b *Uplink) bool {
	la, hasA := p.obs.Link(a.Device)
	lb, hasB := p.obs.Link(b.Device)
	switch {
	case !hasA || !hasB:
		return false
	case la.Master != 0 && la.Master == lb.Master, la.Kind == "macvlan" && lb.Kind == "macvlan" && la.Parent != 0 && la.Parent == lb.Parent:
		return true
	}
	for _, family := range Families {
		if !a.Family(family).Enabled || !b.Family(family).Enabled {
			continue
		}
		theirs := p.addressesOf(b, family, p.info(b, family))
		if slices.ContainsFunc(p.addressesOf(a, family, p.info(a, family)), func(x netip.Prefix) bool {
			return slices.ContainsFunc(theirs, func(y netip.Prefix) bool {
				return !x.Addr().IsLinkLocalUnicast() && !x.IsSingleIP() && x.Masked() == y.Masked()
			})
		}) {
			return true
		}
	}
	return false
}

// notifyHardware has the neighbours of such a device told of its address.
func (p *planner) notifyHardware() {
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		if link, _ := p.obs.Link(u.Device); u.Hardware == (netcfg.Hardware{}) || link.Hardware == (netcfg.Hardware{}) {
			continue
		}
		const why = "the neighbours of %s are told of its hardware address at once"
		if u.IPv4.Enabled && p.sysctl(devSysctl(u.Device, arpNotify)) == 0 {
			p.wantSysctl(u.Device, arpNotify, 1, fmt.Sprintf(why, u.Name))
		}
		name := devSysctl6(u.Device, ndiscNotify)
		if _, known := p.obs.Sysctls[name]; known && u.IPv6.Enabled && p.sysctl(name) == 0 {
			p.state.Sysctls = append(p.state.Sysctls, netcfg.Sysctl{Name: name, Value: "1", Why: fmt.Sprintf(why, u.Name)})
		}
	}
}

// HardwareContest notices a program that gives a device another link-layer address whenever it has got ours. The zero value has
// noticed nothing. It is not safe for concurrent use.
type HardwareContest struct {
	devices map[string]*hardwareContest
}

type hardwareContest struct {
	dispute
	index  int
	wanted netcfg.Hardware
	had    bool // it had the wanted one
}

// Observe takes the next snapshot and returns the devices that have to be left alone.
func (c *HardwareContest) Observe(cfg Config, obs *Observed, now time.Time) (contested map[string]bool) {
	former := c.devices
	c.devices = nil
	for i := range cfg.Uplinks {
		u := &cfg.Uplinks[i]
		link, _ := obs.Link(u.Device)
		if u.Hardware == (netcfg.Hardware{}) {
			continue
		}
		d := former[u.Device]
		if d == nil || d.wanted != u.Hardware {
			d = &hardwareContest{wanted: u.Hardware}
		}
		has := link.Hardware == u.Hardware
		if d.had && !has && link.Index == d.index { // one that was made anew begins with its own
			d.lose(now)
		}
		d.index, d.had = link.Index, has
		if c.devices == nil {
			c.devices, contested = make(map[string]*hardwareContest), make(map[string]bool)
		}
		c.devices[u.Device] = d
		contested[u.Device] = d.holds(now)
	}
	return contested
}
