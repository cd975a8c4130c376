package rules

import (
	"fmt"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/rules/nft"
)

// wildcard ends the name of a device that stands for all devices whose names begin so, as nftables writes it.
const wildcard = "*"

// isPattern reports whether a name stands for several devices.
func isPattern(name string) bool { return strings.HasSuffix(name, wildcard) }

// matchesDevice reports whether a device is one of those that names and patterns stand for.
func matchesDevice(names []string, device string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return nft.Device{Name: name}.Matches(device) })
}

// absentDevices names the devices of policies that are not there, or have no hardware addresses where the policy is about such: what comes
// in by another one is none of their traffic, and a kill switch that was meant for it keeps nothing in.
func (p *planner) absentDevices() {
	for i := range p.cfg.Policies {
		policy := &p.cfg.Policies[i]
		hosts := len(conditionOf[SelectMACs](policy.Select)) > 0
		for _, name := range conditionOf[SelectDevices](policy.Select) {
			lacks := "there is no such device"
			if slices.ContainsFunc(p.obs.Links, func(l Link) bool {
				is := matchesDevice([]string{name}, l.Name)
				if is && hosts && l.Hardware == [6]byte{} {
					is, lacks = false, "its packets carry no hardware address"
				}
				return is
			}) {
				continue
			}
			severity, meaning := "warning", "it matches nothing"
			if p.groups[policy.Group].KillSwitch {
				severity, meaning = "error", "its kill switch blocks nothing"
			}
			p.report.Absent = append(p.report.Absent, Problem{"policy-device", severity,
				fmt.Sprintf("policy %s selects what comes in on %s, and %s: %s", policy.Name, name, lacks, meaning),
				"name the device that the hosts are behind" + p.similarDevices()})
		}
	}
}

// similarDevices lists what may have been meant: the devices that have addresses and are no uplinks.
func (p *planner) similarDevices() string {
	var names []string
	for _, a := range p.obs.Addrs {
		if p.isLocal(a.Device, a.Prefix) && !slices.Contains(names, a.Device) {
			names = append(names, a.Device)
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return ": " + strings.Join(names, ", ")
}
