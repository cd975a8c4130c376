package rules

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// MaxResolvers is how many DNS servers of one uplink are used: each is a rule, and a provider may name any number.
const MaxResolvers = 8

// Resolver is a DNS server of an uplink, and how well the path to it works.
type Resolver struct {
	Uplink int
	Device string
	Addr   netip.Addr // a link-local one has the device as its zone
	Code   ChoiceCode
	Tier   int
	// Aside is true for an uplink that never carries the default: its servers are no answer to what everybody asks.
	Aside bool
}

// Family is the family that a server is asked in.
func (r *Resolver) Family() Family { return FamilyOf(r.Addr) }

// Dead reports whether nothing comes back by the path to a server.
func (r *Resolver) Dead() bool { return r.Code == ChoiceDead || r.Code == ChoiceNone }

// resolvers returns those DNS servers of an uplink that can be asked.
func (o *inputCheck) resolvers(u *Uplink) []netip.Addr {
	var list []netip.Addr
	for i, a := range u.Resolvers {
		if slices.Contains(u.Resolvers[:i], a) {
			continue
		}
		why := o.resolverFault(u, a)
		if why == "" && len(list) == MaxResolvers {
			why = fmt.Sprintf("one more than the %d that are used", MaxResolvers)
		}
		if why != "" {
			o.report("unusable-resolver", fmt.Sprintf("%s was given the DNS server %v, which is %s: ignored", u.Name, a, why), u)
			continue
		}
		list = append(list, a)
	}
	return list
}

// resolverFault says why nobody can be asked at an address, "" when somebody can.
func (o *inputCheck) resolverFault(u *Uplink, a netip.Addr) string {
	switch {
	case noHost(a) != "":
		return noHost(a)
	case a.Is4In6():
		return "an IPv4 address in IPv6 form"
	case a.Zone() != "" && a.Zone() != u.Device:
		return "on another link"
	case a.Is4() && a.IsLinkLocalUnicast(): // IPv6 knows the link by the zone, IPv4 has none
		return "a link-local address without a zone"
	case slices.Contains(o.assigned, a.WithZone("")) || o.obs.isOurs(a.WithZone(""), u.Device):
		return "this machine's own"
	case a.IsLinkLocalUnicast() || u.Site || u.hasPeers():
		return ""
	}
	return o.onLAN(a, a.BitLen())
}

// resolvers leads what is sent to the DNS servers of an uplink out by it, whoever carries the default: most providers answer their own
// customers alone. The rules stand behind those of policies, which are the owner's will, but for a server in the network of another
// uplink: main's rule would lead there first.
func (p *planner) resolvers() {
	classes := make(map[Path]int, len(p.paths))
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		for _, a := range u.Resolvers {
			path := Path{u.ID, FamilyOf(a)}
			r := Resolver{Uplink: u.ID, Device: u.Device, Addr: a, Code: ChoiceNone, Tier: u.Tier, Aside: u.PoliciesOnly || u.Site}
			if a.IsLinkLocalUnicast() {
				r.Addr = a.WithZone(u.Device)
			}
			classes[path] = -1
			if info, enabled := p.report.Paths[path]; enabled && u.Family(path.Family).Enabled && p.routesInternet(u, path.Family, info) {
				classes[path] = class(p.verdicts[path], info)
				r.Code = classCodes[classes[path]]
			}
			p.report.Resolvers = append(p.report.Resolvers, r)
		}
	}
	rank := func(r *Resolver) int { return classes[Path{r.Uplink, r.Family()}] }
	slices.SortStableFunc(p.report.Resolvers, func(a, b Resolver) int {
		return cmp.Or(cmp.Compare(rank(&b), rank(&a)), cmp.Compare(a.Tier, b.Tier), cmp.Compare(p.uplink(b.Uplink).Weight, p.uplink(a.Uplink).Weight))
	})
	led := make(map[netip.Addr]bool)
	for i := range p.report.Resolvers {
		r := &p.report.Resolvers[i]
		u, family := p.uplinkOf(Path{r.Uplink, r.Family()}), r.Family()
		if r.Addr.IsLinkLocalUnicast() || led[r.Addr] || !u.Family(family).Enabled || !p.based[family.Index()] {
			continue
		}
		led[r.Addr] = true // several uplinks may have one: the best leads to it
		if r.Dead() && answersAnybody(r.Addr) {
			continue
		}
		at := prefResolver
		switch {
		case !p.nearAnother(u, r.Addr):
		case p.sharesAddress(u, family):
			at = prefTwinResolver
		default:
			at = prefNearResolver
		}
		rule := p.rule(family, at, p.k.Table(u.ID))
		rule.To = netip.PrefixFrom(r.Addr, r.Addr.BitLen())
		if at != prefResolver {
			p.nearResolvers = append(p.nearResolvers, rule.To)
		}
		p.state.Rules = append(p.state.Rules, rule)
	}
	slices.SortFunc(p.nearResolvers, netcfg.ComparePrefixes) // else the packet filter would change with their order
}

// answersAnybody reports whether a server may answer by other uplinks too: many providers name a public one, which hosts have been
// configured with besides. While its uplink is dead those shall not be cut off.
func answersAnybody(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate() && !sharedSpace().Contains(a)
}

// sharesAddress reports whether another uplink has an address of one. A local socket is routed by its source when that has been chosen
// (include/net/route.h ip_route_connect): it would be led to the first of both.
func (p *planner) sharesAddress(u *Uplink, family Family) bool {
	own := p.addressesOf(u, family, p.info(u, family))
	for i := range p.cfg.Uplinks {
		other := &p.cfg.Uplinks[i]
		if other.ID != u.ID && other.Family(family).Enabled && slices.ContainsFunc(p.addressesOf(other, family, p.info(other, family)), func(a netip.Prefix) bool {
			return slices.ContainsFunc(own, func(o netip.Prefix) bool { return o.Addr() == a.Addr() })
		}) {
			return true
		}
	}
	return false
}

// nearAnother reports whether an address is in the network of another uplink than its own.
func (p *planner) nearAnother(u *Uplink, a netip.Addr) bool {
	family := FamilyOf(a)
	for i := range p.cfg.Uplinks {
		other := &p.cfg.Uplinks[i]
		if other.ID == u.ID {
			continue
		}
		if slices.ContainsFunc(p.neighbours[deviceFamily{other.Device, family}], func(n netip.Prefix) bool { return n.Contains(a) }) {
			return true
		}
		owned := p.addressesOf(other, family, p.info(other, family))
		if !other.Family(family).Enabled { // but the kernel still has it
			for j := range p.obs.Addrs {
				if held := &p.obs.Addrs[j]; held.Device == other.Device && FamilyOf(held.Prefix.Addr()) == family {
					owned = append(owned, held.Prefix)
				}
			}
		}
		for _, own := range owned {
			if segment := segmentOf(own.Masked(), own.Addr(), false); segment.IsValid() && segment.Contains(a) {
				return true
			}
		}
	}
	return false
}
