package config

import (
	"fmt"
	"slices"
	"strings"
)

// AbsentDevice is a device that the configuration names and that is not there.
type AbsentDevice struct {
	User   string // what needs it, as in "uplink fiber"
	Device string
	Like   string // a device that is there and has a similar name; "" for none
	Leaks  bool   // a kill switch keeps nothing in without it
}

func (a AbsentDevice) String() string {
	s := fmt.Sprintf("%s: there is no device %s", a.User, a.Device)
	if a.Like != "" {
		s += ", but " + a.Like + " is like it"
	}
	if a.Leaks {
		s += ": its kill switch keeps nothing in"
	}
	return s
}

// AbsentDevices lists the devices of uplinks and LANs that are not among the present ones. Tunnels that are made from the
// configuration need not be there.
func (c *Config) AbsentDevices(present []string) []AbsentDevice {
	var absent []AbsentDevice
	note := func(user, device string) {
		if device != "" && !slices.Contains(present, device) {
			absent = append(absent, AbsentDevice{User: user, Device: device, Like: nearest(device, present)})
		}
	}
	for i := range c.Uplinks {
		if u := &c.Uplinks[i]; u.WireGuard == nil && u.Encap == nil {
			note("uplink "+u.Name, u.Device)
		}
	}
	for i := range c.LANs {
		note("lan "+c.LANs[i].Device, c.LANs[i].Device)
	}
	return absent
}

// AbsentPolicyDevices lists the devices that policies are about, and patterns of such, of which none is among the present
// ones.
func (c *Config) AbsentPolicyDevices(present []string) []AbsentDevice {
	var absent []AbsentDevice
	for i := range c.Policies {
		p := &c.Policies[i]
		for _, name := range p.Match.IIF {
			prefix, pattern := strings.CutSuffix(name, "*")
			if !slices.ContainsFunc(present, func(d string) bool { return d == name || pattern && strings.HasPrefix(d, prefix) }) {
				absent = append(absent, AbsentDevice{User: "policy " + p.Name, Device: name, Like: nearest(name, present), Leaks: p.Fallback == FallbackUnreachable})
			}
		}
	}
	return absent
}
