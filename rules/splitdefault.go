package rules

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// foreignPart reports whether a route that somebody else put into main covers a great part of the Internet without
// being a default: VPN clients install several of them, which precede the default and do not replace it (OpenVPN's
// redirect-gateway def1: 0.0.0.0/1 and 128.0.0.0/1; 2000::/3, which is all of the IPv6 Internet there is).
func (k Kernel) foreignPart(r *netcfg.Route) bool {
	return r.Table == netcfg.TableMain && r.Protocol != k.Protocol && r.Type == netcfg.Unicast && !r.IsDefault() && r.DefaultLike() && len(r.Nexthops) == 1
}

// globalUnicast is what IANA has given out of IPv6 for use in the Internet.
var globalUnicast = netip.MustParsePrefix("2000::/3")

// wholeByParts returns, for each device and family where such routes together cover the Internet, the first of them.
func wholeByParts(parts []*netcfg.Route) map[deviceFamily]*netcfg.Route {
	covered := make(map[deviceFamily][]*netcfg.Route)
	for _, r := range parts {
		at := deviceFamily{r.Nexthops[0].Device, r.Family}
		covered[at] = append(covered[at], r)
	}
	whole := make(map[deviceFamily]*netcfg.Route)
	for at, list := range covered {
		has := func(p netip.Prefix) bool {
			return slices.ContainsFunc(list, func(r *netcfg.Route) bool { return r.Dst.Bits() <= p.Bits() && r.Dst.Contains(p.Addr()) })
		}
		if at.family == IPv6 && has(globalUnicast) || has(half(at.family, 0)) && has(half(at.family, 0x80)) {
			whole[at] = list[0]
		}
	}
	return whole
}

// half returns the half of a family's addresses that begins with the given byte.
func half(f Family, first byte) netip.Prefix {
	if f == IPv6 {
		return netip.PrefixFrom(netip.AddrFrom16([16]byte{first}), 1)
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{first}), 1)
}

// bypassedVPN reports such routes through a device that is no uplink: our default precedes them, so that nothing takes
// that way.
func (p *planner) bypassedVPN() {
	byDevice := make(map[string][]string)
	for i := range p.obs.Routes {
		if r := &p.obs.Routes[i]; p.k.foreignPart(r) && !p.devices[r.Nexthops[0].Device] {
			byDevice[r.Nexthops[0].Device] = append(byDevice[r.Nexthops[0].Device], r.Dst.String())
		}
	}
	for _, device := range slices.Sorted(maps.Keys(byDevice)) {
		p.problem("vpn-bypassed", "warning",
			fmt.Sprintf("%s has routes for large parts of the Internet (%s), as VPN clients install them, but our default precedes them: traffic bypasses %s", device, strings.Join(byDevice[device], ", "), device),
			fmt.Sprintf("to send all traffic there, add an [[uplink]] with device = %[1]q in a lower tier than the others; to send some of it, the same with default = false and a [[policy]]; "+
				"to send none, stop the client from installing them (OpenVPN: pull-filter ignore redirect-gateway)", device))
	}
}
