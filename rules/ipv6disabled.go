package rules

import (
	"fmt"
	"slices"
)

// disable6 is the switch that libvirt, Docker and NetworkManager's ipv6.method=disabled throw, and the kernel itself when the
// link-local address of a device is a duplicate (accept_dad=2). The kernel refuses every address and route on such a device.
const disable6 = "disable_ipv6"

// ipv6Off reports whether IPv6 is off on a device.
func (o *Observed) ipv6Off(device string) bool { return o.Sysctls[devSysctl6(device, disable6)] == "1" }

// off reports whether a family is off on a device.
func (p *planner) off(device string, family Family) bool {
	return family == IPv6 && p.obs.ipv6Off(device)
}

// devices6 names the devices on which nothing can be done in IPv6, and why.
func (p *planner) devices6() {
	if p.obs.NoIPv6 {
		return
	}
	for i := range p.cfg.LANs {
		lan := &p.cfg.LANs[i]
		switch {
		case p.obs.ipv6Off(lan.Device):
			p.switchedOff(lan.Device, "its hosts are given no IPv6", "take the [[lan]] out")
		default:
			p.duplicates(lan.Device, "hosts get no router advertisements", true)
		}
	}
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		switch {
		case u.IsCLAT():
			p.translatorDevice(u)
		case !u.IPv6.Enabled:
		case p.obs.ipv6Off(u.Device):
			if u.IPv6.Managed || len(u.Delegations) > 0 { // "auto" follows what others want, and that is nothing
				p.switchedOff(u.Device, u.Name+" has no IPv6", `write method = "off" in its [uplink.ipv6]`)
			}
		default:
			p.duplicates(u.Device, "its routers and DHCPv6 servers cannot be reached", !u.IPv6.Discovers)
		}
	}
}

func (p *planner) switchedOff(device, consequence, instead string) {
	if _, present := p.obs.Link(device); !present {
		return
	}
	name := devSysctl6(device, disable6)
	p.problemOnce("ipv6-disabled", "warning", fmt.Sprintf("IPv6 is switched off on %s (%s = 1): %s", device, name, consequence),
		fmt.Sprintf("sysctl -w %s=0, and find what sets it (libvirt, Docker, NetworkManager's ipv6.method); or %s", name, instead))
}

// duplicates names the addresses of a device that another machine on the link has too. Without a link-local one the device
// cannot do anything. Those that we form ourselves are replaced, and not named unless others is set.
func (p *planner) duplicates(device, consequence string, others bool) {
	usable := slices.ContainsFunc(p.obs.Addrs, func(a Addr) bool {
		return a.Device == device && a.Prefix.Addr().Is6() && a.Prefix.Addr().IsLinkLocalUnicast() && !a.Tentative
	})
	for _, a := range p.obs.Addrs {
		linkLocal := a.Prefix.Addr().IsLinkLocalUnicast()
		if a.Device != device || !a.Failed || !a.Prefix.Addr().Is6() || linkLocal && usable || !linkLocal && !others {
			continue
		}
		if !linkLocal {
			consequence = "the kernel does not use it"
		}
		p.problemOnce("duplicate-address", "error",
			fmt.Sprintf("another machine on the link of %s uses the address %v as well (duplicate address detection): %s", device, a.Prefix.Addr(), consequence),
			fmt.Sprintf("look for a cloned machine, a copied MAC address or a loop on that link, then ip link set %[1]s down && ip link set %[1]s up", device))
	}
}
