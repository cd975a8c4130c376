package rules

import (
	"fmt"
	"strings"
)

// inactivePolicies names the policies that none of their uplinks carries now: their traffic leaves by another way, or is refused.
func (p *planner) inactivePolicies() {
	for i := range p.report.Policies {
		group := p.groups[p.cfg.Policies[i].Group]
		var families, names []string
		for _, f := range Families {
			choice, about := p.report.Policies[i].Choice[f]
			if !about || len(choice.Members) > 0 {
				continue
			}
			if all := p.carriersOf(group.Group, f); len(all) > 0 { // a kill switch is about both families
				families, names = append(families, f.Name()), append(names, all...)
			}
		}
		if len(families) == 0 {
			continue
		}
		becomes, cure := "leaves as if the policy did not exist", `; to have it refused instead, fallback = "unreachable"`
		if group.KillSwitch {
			becomes, cure = "is refused", ""
		}
		p.problem("policy-inactive", "warning",
			fmt.Sprintf("policy %s: none of its uplinks (%s) works in %s, so its traffic %s", p.report.Policies[i].Name, strings.Join(sorted(names), ", "), strings.Join(families, " and "), becomes),
			"see uplinkd status for what its uplinks lack"+cure)
	}
}

// carriersOf names the uplinks of a group that have a family. Many providers have no IPv6, which is nothing to complain of.
func (p *planner) carriersOf(g *Group, f Family) []string {
	var names []string
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		if g.tier(u.ID) == 0 || !u.Family(f).Enabled {
			continue
		}
		if info := p.info(u, f); f == IPv4 || info.Source().IsValid() {
			names = append(names, u.Name)
		}
	}
	return names
}
