package rules

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// MPTCP is what a snapshot says of the kernel's path manager for Multipath TCP.
type MPTCP struct {
	Endpoints []netcfg.Endpoint
	Subflows  uint32 // how many further ones a connection may have
	// Impossible says why there is none, "" when there is.
	Impossible string
}

// maxEndpoints is how many endpoints, and subflows, the kernel has room for (net/mptcp/protocol.h MPTCP_PM_ADDR_MAX and
// net/mptcp/pm_netlink.c: 8).
const maxEndpoints = 8

// endpointID is that of a path: its place among ours.
func endpointID(u *Uplink, family Family) uint8 {
	return netcfg.FirstEndpoint + uint8(2*(u.ID-1)+family.Index())
}

// isOurEndpoint reports whether an endpoint has an id that endpointID gives.
func isOurEndpoint(e netcfg.Endpoint) bool { return e.ID >= netcfg.FirstEndpoint }

// multipath plans an endpoint for each path that works: connections of this machine's own programs go on by another when one dies
// (RFC 8684). Those that carry no new traffic now are backups. Addresses that others have made endpoints of are theirs.
func (p *planner) multipath() {
	have := p.obs.MPTCP
	if have == nil {
		return
	}
	if former := p.obs.Recorded.Subflows; former != nil && have.Impossible == "" {
		p.state.Subflows = former
	}
	if !p.cfg.MPTCP {
		return
	}
	if have.Impossible != "" {
		p.problem("no-mptcp", "warning", "mptcp = true has no effect: "+have.Impossible,
			"use a kernel with CONFIG_MPTCP, and set net.mptcp.enabled = 1 (net.mptcp.pm_type = 0); or remove mptcp from [daemon]")
		return
	}
	room := maxEndpoints
	for _, e := range have.Endpoints {
		if !isOurEndpoint(e) {
			room--
		}
	}
	type candidate struct {
		netcfg.Endpoint
		tier int
	}
	var all []candidate
	p.eachPath(func(u *Uplink, family Family, info PathInfo) {
		verdict := p.verdicts[Path{u.ID, family}]
		if verdict.Health == Dead || verdict.Drained || u.Site || !info.HasDefault || !info.Source().IsValid() {
			return
		}
		theirs := slices.ContainsFunc(have.Endpoints, func(e netcfg.Endpoint) bool { return !isOurEndpoint(e) && e.Addr == info.Source() })
		if !theirs {
			choice := p.report.Defaults[family]
			all = append(all, candidate{netcfg.Endpoint{ID: endpointID(u, family), Addr: info.Source(), Device: u.Device, Backup: !choice.Has(u.ID)}, u.Tier})
		}
	})
	slices.SortStableFunc(all, func(a, b candidate) int { return cmp.Compare(a.tier, b.tier) })
	if len(all) > max(room, 0) {
		p.problem("mptcp-room", "notice", fmt.Sprintf("the kernel has room for %d endpoints of Multipath TCP: %d paths of higher tiers have none", maxEndpoints, len(all)-max(room, 0)), "nothing, unless connections shall go on by those")
		all = all[:max(room, 0)]
	}
	for _, c := range all {
		p.state.Endpoints = append(p.state.Endpoints, c.Endpoint)
	}
	former := have.Subflows
	if recorded := p.obs.Recorded.Subflows; recorded != nil {
		former = *recorded
	}
	limit := max(former, uint32(min(len(all)+maxEndpoints-room, maxEndpoints)))
	p.state.Subflows = &limit
}
