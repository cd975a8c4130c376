package config

import (
	"fmt"
	"slices"
)

// AbsentDevice is a device that the configuration names and that is not there.
type AbsentDevice struct {
	User   string // what needs it, as in "uplink fiber"
	Device string
	Like   string // a device that is there and has a similar name; "" for none
}

func (a AbsentDevice) String() string {
	s := fmt.Sprintf("%s: there is no device %s", a.User, a.Device)
	if a.Like != "" {
		s += ", but " + a.Like + " is like it"
	}
	return s
}

// AbsentDevices lists the devices of uplinks and LANs that are not among the present ones. Tunnels that are made from the
// configuration need not be there.
func (c *Config) AbsentDevices(present []string) []AbsentDevice {
	var absent []AbsentDevice
	note := func(user, device string) {
		if device != "" && !slices.Contains(present, device) {
			absent = append(absent, AbsentDevice{user, device, nearest(device, present)})
		}
	}
	for i := range c.Uplinks {
		if u := &c.Uplinks[i]; u.WireGuard == nil && u.Ethernet == nil {
			note("uplink "+u.Name, u.Device)
		}
	}
	for i := range c.LANs {
		note("lan "+c.LANs[i].Device, c.LANs[i].Device)
	}
	return absent
}
