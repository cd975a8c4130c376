package config

import (
	"fmt"
	"net"
	"slices"
	"strings"
)

// AbsentDevice is a device that the configuration names and that is not there.
type AbsentDevice struct {
	User   string // what needs it, as in "uplink fiber"
	Device string
	Like   string // a device that is there and has a similar name; "" for none
	There  string // the devices that are there, for people: "enp1s0, wwx0"
	Leaks  bool   // a kill switch keeps nothing in without it
}

func (a AbsentDevice) String() string {
	s := fmt.Sprintf("%s: %s", a.User, NoDevice(a.Device, a.There))
	if a.Leaks {
		s += ": its kill switch blocks nothing"
	}
	if a.Like != "" {
		s += "; did you mean " + a.Like + "?"
	}
	return s
}

// NoDevice is the sentence about a device that does not exist.
func NoDevice(name, there string) string {
	if there == "" {
		return "there is no device " + name
	}
	return fmt.Sprintf("there is no device %s (there are %s)", name, there)
}

// PresentDevices lists the network devices of this machine, as far as they are known.
func PresentDevices() []string {
	var names []string
	list, _ := net.Interfaces() // without it all are absent, which is a warning
	for i := range list {
		names = append(names, list[i].Name)
	}
	return names
}

// maxNamed is how many devices a message lists; a container host has hundreds.
const maxNamed = 8

// DeviceList names devices that could be meant, for a message.
func DeviceList(present []string) string {
	names := slices.DeleteFunc(slices.Clone(present), func(n string) bool { return n == "lo" })
	slices.Sort(names)
	if n := len(names); n > maxNamed {
		names = append(names[:maxNamed], fmt.Sprintf("%d more", n-maxNamed))
	}
	return strings.Join(names, ", ")
}

// AbsentDevices lists the devices of uplinks, LANs and forwards that are not among the present ones. Tunnels that are made from the
// configuration need not be there.
func (c *Config) AbsentDevices(present []string) []AbsentDevice {
	var absent []AbsentDevice
	there := DeviceList(present)
	note := func(user, device string) {
		if device != "" && !slices.Contains(present, device) {
			absent = append(absent, AbsentDevice{User: user, Device: device, Like: nearest(device, present), There: there})
		}
	}
	for i := range c.Uplinks {
		if u := &c.Uplinks[i]; u.WireGuard == nil && u.Encap == nil && u.IPv6.SixRD == nil {
			note("uplink "+u.Name, u.Device)
		}
	}
	for i := range c.LANs {
		note("lan "+c.LANs[i].Device, c.LANs[i].Device)
	}
	for i := range c.Forwards {
		if f := &c.Forwards[i]; !slices.ContainsFunc(c.LANs, func(l LAN) bool { return l.Device == f.LAN }) {
			note("forward "+f.Name, f.LAN)
		}
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
				absent = append(absent, AbsentDevice{User: "policy " + p.Name, Device: name, Like: nearest(name, present), There: DeviceList(present), Leaks: p.Fallback == FallbackUnreachable})
			}
		}
	}
	return absent
}
