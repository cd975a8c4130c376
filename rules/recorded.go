package rules

import (
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Usable drops from a record, which may have been read from a damaged file, what planning never changes: it would be "given
// back", and a value of ip_forward that nobody had ends all forwarding.
func (r Recorded) Usable() Recorded {
	r = r.Clone()
	maps.DeleteFunc(r.Sysctls, func(name, value string) bool {
		n, err := strconv.Atoi(value)
		return err != nil || n < 0 || n > maxSysctl && !strings.HasSuffix(name, proxyDelay) || !isOurSysctl(name)
	})
	maps.DeleteFunc(r.Groups, func(device string, group uint32) bool { return !isDevice(device) || group > math.MaxInt32 })
	maps.DeleteFunc(r.Hardware, func(device string, h FormerHardware) bool {
		return !isDevice(device) || !h.Former.Unicast() || !h.Ours.Unicast()
	})
	maps.DeleteFunc(r.MainOwners, func(family string, _ uint8) bool { return family != IPv4.String() && family != IPv6.String() })
	r.Addrs = slices.DeleteFunc(r.Addrs, func(a netcfg.AddrAssignment) bool { return !isDevice(a.Device) || !isHostPrefix(a.Prefix) })
	r.Qdiscs = slices.DeleteFunc(r.Qdiscs, func(device string) bool { return !isDevice(device) })
	return r
}

// maxSysctl is more than any parameter that planning sets may be, but for that time: arp_ignore has the largest.
const maxSysctl = 8

// isOurSysctl reports whether planning may ever set a parameter.
func isOurSysctl(name string) bool {
	if name == hashPolicy(IPv4) || name == hashPolicy(IPv6) {
		return true
	}
	parts := strings.Split(name, "/")
	if len(parts) != 5 || parts[0] != "net" || !isDevice(parts[3]) || parts[3] == "all" || parts[3] == "default" {
		return false
	}
	if _, proxy := proxySysctls(parts[3])[name]; proxy {
		return true
	}
	if parts[2] != "conf" {
		return false
	}
	if parts[1] == IPv6.String() {
		return parts[4] == "accept_ra" || parts[4] == ndiscNotify
	}
	return parts[1] == IPv4.String() && (parts[4] == arpNotify || slices.Contains(perDevice[:], parts[4]))
}

func isDevice(name string) bool {
	return name != "" && len(name) <= 15 && name != "." && name != ".." && !strings.ContainsAny(name, "/: \t\n\x00")
}

// isHostPrefix reports whether a prefix is the address of a host, and its network.
func isHostPrefix(p netip.Prefix) bool {
	return p.IsValid() && p.Bits() > 0 && !p.Addr().IsUnspecified() && !p.Addr().IsMulticast() && !p.Addr().IsLoopback()
}
