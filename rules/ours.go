package rules

import (
	"maps"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Ours picks the state that is ours out of a snapshot. Groups and sysctls, which carry no tag, are
// listed as they are: Diff looks only at those that are wanted.
func Ours(k Kernel, obs *Observed) netcfg.State {
	s := netcfg.State{Table: obs.Table, Policies: obs.Policies}
	for _, a := range obs.Addrs {
		if obs.owns(k, a) {
			s.Addrs = append(s.Addrs, netcfg.AddrAssignment{Device: a.Device, Prefix: a.Prefix, Deprecated: a.Deprecated, NoPrefixRoute: a.NoPrefixRoute})
		}
	}
	s.Routes = pick(obs.Routes, func(r *netcfg.Route) bool { return r.Protocol == k.Protocol })
	s.Rules = pick(obs.Rules, func(r *netcfg.Rule) bool { return r.Protocol == k.Protocol })
	s.Groups = slices.Grow(s.Groups, len(obs.Links))
	for _, l := range obs.Links {
		s.Groups = append(s.Groups, netcfg.LinkGroup{Device: l.Name, Group: l.Group})
		if l.Hardware != (netcfg.Hardware{}) {
			s.Hardware = append(s.Hardware, netcfg.LinkHardware{Device: l.Name, Address: l.Hardware})
		}
	}
	s.Sysctls = slices.Grow(s.Sysctls, len(obs.Sysctls))
	for _, name := range slices.SortedFunc(maps.Keys(obs.Sysctls), strings.Compare) { // names are easier to sort
		s.Sysctls = append(s.Sysctls, netcfg.Sysctl{Name: name, Value: obs.Sysctls[name]})
	}
	if obs.Egress != nil {
		s.Egress = slices.Clone(obs.Egress.Filters)
		s.Qdiscs = slices.Sorted(maps.Keys(obs.Egress.Qdiscs))
	}
	if obs.MPTCP != nil {
		s.Endpoints, s.Subflows = pick(obs.MPTCP.Endpoints, func(e *netcfg.Endpoint) bool { return isOurEndpoint(*e) }), &obs.MPTCP.Subflows
	}
	s.Proxied = pick(obs.Proxied, func(n *netcfg.ProxyNeighbour) bool { return n.Protocol == k.Protocol })
	s.Tunnels = obs.Tunnels
	for i := range obs.WireGuard {
		s.WireGuard = append(s.WireGuard, obs.WireGuard[i].state())
	}
	s.Sort(k.TableBase)
	return s
}

// pick copies those that are ours, nil for none. They are large: a list that grew would cost as much again.
func pick[T any](list []T, ours func(*T) bool) []T {
	n := 0
	for i := range list {
		if ours(&list[i]) {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	picked := make([]T, 0, n)
	for i := range list {
		if ours(&list[i]) {
			picked = append(picked, list[i])
		}
	}
	return picked
}
