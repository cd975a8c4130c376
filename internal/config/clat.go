package config

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/inet"
)

// MaxCLAT is how many uplinks may have MethodCLAT: each has an address of 192.0.0.0/29 (RFC 7335), the first of which is the network's.
const MaxCLAT = 7

const exampleNAT64 = "64:ff9b::/96"

// DeviceOf returns the device that carries a family of the uplink.
func (u *Uplink) DeviceOf(f inet.Family) string {
	if f == inet.IPv4 && u.IPv4.Method == MethodCLAT {
		return u.clatDevice()
	}
	return u.Device
}

// clatDevice is the tun device of the uplink's translator.
func (u *Uplink) clatDevice() string {
	name := "clat-" + u.Name
	return name[:min(len(name), maxIfname)]
}

// parseNAT64 reads the prefix of a translator.
func parseNAT64(name, s string) (netip.Prefix, string) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || !p.Addr().Is6() || p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Sprintf("%s %s is not an IPv6 prefix: write the one of the provider's NAT64, as in %q", name, quote(s), exampleNAT64)
	case !inet.IsNAT64(p.Masked()):
		return netip.Prefix{}, fmt.Sprintf("%s %s cannot be that of a NAT64, which is global and has a length of 32, 40, 48, 56, 64 or 96 (RFC 6052)", name, quote(s))
	case p.Masked() != p:
		return netip.Prefix{}, fmt.Sprintf("%s %s has host bits set: write %q", name, quote(s), p.Masked())
	}
	return p, ""
}

// clat checks what goes with MethodCLAT.
func (r *reader) clat(t *table, u *Uplink) {
	s := t.values["ipv4"]
	if s == nil || s.table == nil || !s.table.usable("method") {
		return
	}
	if u.IPv4.Method != MethodCLAT {
		if v := s.table.values["nat64_prefix"]; v != nil && !v.bad {
			r.fail(v, v.key, `nat64_prefix needs method = "clat", and the method here is %q`, u.IPv4.Method)
		}
		return
	}
	method := s.table.values["method"]
	switch {
	case u.Kind != KindISP && t.usable("kind"):
		r.fail(method, method.off, `method "clat" needs kind = %q, and the kind here is %q: a tunnel carries IPv4 itself`, KindISP, u.Kind)
	case u.IPv6.Method == MethodOff:
		r.fail(method, method.off, `method "clat" carries IPv4 by the uplink's IPv6, which is off: write method = "auto" or "ra" in %s`, titleIPv6)
	}
	for _, key := range []string{"masquerade", "masquerade_from"} {
		if v := s.table.values[key]; v != nil && !v.bad && (key != "masquerade" || u.IPv4.Masquerade == Off) {
			r.fail(v, v.key, `method "clat" always translates sources: remove %s`, key)
		}
	}
}

// clats checks that their devices and addresses suffice, when all uplinks are known.
func (r *reader) clats(root *table, c *Config) {
	var devices []string
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		if u.IPv4.Method != MethodCLAT {
			continue
		}
		device, at := u.clatDevice(), nameOffset(root, "uplink", u.Name)
		taken := slices.Contains(devices, device) || slices.ContainsFunc(c.Uplinks, func(o Uplink) bool { return o.Device == device }) ||
			slices.ContainsFunc(c.LANs, func(l LAN) bool { return l.Device == device }) || slices.ContainsFunc(c.Tunnels, func(o Tunnel) bool { return o.Device == device })
		if devices = append(devices, device); taken {
			r.errorf(at, `uplink %s with method "clat" has the device %s, which is named elsewhere too: give the uplink another name`, quote(u.Name), quote(device))
		} else if len(devices) == MaxCLAT+1 {
			r.errorf(at, `there can be at most %d uplinks with method "clat": each needs an address of 192.0.0.0/29 (RFC 7335)`, MaxCLAT)
		}
	}
}
