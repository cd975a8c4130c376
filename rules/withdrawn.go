package rules

import (
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// withdrawn sees to it that hosts which go on with a prefix that its provider has taken back are told at once, by
// [planner.rejectWithdrawn]: that answer needs a way back to them, which went with the address of the router.
func (p *planner) withdrawn() {
	for i := range p.cfg.LANs {
		lan := &p.cfg.LANs[i]
		link, present := p.obs.Link(lan.Device)
		if !present || !link.Up || p.obs.NoIPv6 || p.obs.ipv6Off(lan.Device) {
			continue
		}
		for _, w := range lan.Withdrawn {
			if p.inUse(w) {
				continue
			}
			p.withdrawnPrefixes = append(p.withdrawnPrefixes, w)
			p.state.Routes = append(p.state.Routes, netcfg.Route{Family: IPv6, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: w, Metric: metricWithdrawn,
				Protocol: p.k.Protocol, Nexthops: []netcfg.Nexthop{{Device: lan.Device, Weight: 1}}})
		}
	}
}

// metricWithdrawn differs from that of the connected route, which stands there until the address is gone.
const metricWithdrawn = 2048

// inUse reports whether somebody has a prefix now that was taken from a LAN: another LAN, or a network that others
// have set up.
func (p *planner) inUse(prefix netip.Prefix) bool {
	return slices.Contains(p.withdrawnPrefixes, prefix) ||
		slices.ContainsFunc(p.report.Subnets, func(s Subnet) bool { return s.Prefix.Overlaps(prefix) }) ||
		slices.ContainsFunc(p.state.Addrs, func(a netcfg.AddrAssignment) bool { return p.devices[a.Device] && a.Prefix.Masked().Overlaps(prefix) }) ||
		slices.ContainsFunc(p.obs.Addrs, func(a Addr) bool {
			return a.Prefix.Addr().Is6() && !a.Prefix.Addr().IsLinkLocalUnicast() && !p.obs.owns(p.k, a) && a.Prefix.Masked().Overlaps(prefix)
		}) ||
		slices.ContainsFunc(p.obs.Routes, func(r netcfg.Route) bool {
			return r.Family == IPv6 && r.Table == netcfg.TableMain && r.Type == netcfg.Unicast && r.Protocol != p.k.Protocol && r.Protocol != protocolKernel &&
				!r.DefaultLike() && r.Dst.Overlaps(prefix)
		}) || p.obs.Routed[IPv6.Index()].overlaps(prefix)
}

// rejectWithdrawn keeps withdrawn prefixes from leaving by an uplink that would send them as they are: no provider routes the
// answers (RFC 7084 L-14).
func (p *planner) rejectWithdrawn(u *Uplink, foreign *branches) {
	if u.IPv6.Masquerade {
		return
	}
	for _, part := range inSets(p.withdrawnPrefixes) {
		foreign.of(u, "foreign").Add("withdrawn by their provider: take another source", nft.Addresses{Prefixes: part}, nft.Counter{}, nft.Reject{})
	}
}
