package rules

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// forwardKillSwitch is the second half of kill switches: what is forwarded and belongs to one leaves by no uplink but its
// own, whatever its source, its pin or a rule of somebody else says. Answers to what came in from outside are
// no traffic of its own. Policies before it may send some of it elsewhere.
func (p *planner) forwardKillSwitch() []nft.Chain {
	forwarded := func(policy *Policy) bool { return policy.Select.about()&packetsArrived != 0 }
	refuse := map[Family]nft.Expr{IPv4: nft.Refuse{}, IPv6: nft.Reject{}} // which makes hosts choose another source, as rejectForeign says
	base := nft.Chain{Name: "forward", Type: "filter", Hook: "forward", Priority: prioForward}
	return p.killSwitchChains(base, "killswitch", forwarded, refuse)
}

// localKillSwitch is the same for local sockets of users. Those of root are left out, for among them are the
// probes, which leave by each uplink.
func (p *planner) localKillSwitch() []nft.Chain {
	owned := func(policy *Policy) bool {
		uids := conditionOf[SelectUIDs](policy.Select)
		return len(uids) > 0 && !slices.ContainsFunc(uids, func(u netcfg.UIDs) bool { return u.First == 0 })
	}
	base := nft.Chain{Name: "postrouting", Type: "filter", Hook: "postrouting", Priority: prioPolicy}
	return p.killSwitchChains(base, "localkillswitch", owned, map[Family]nft.Expr{IPv4: nft.Drop{}, IPv6: nft.Drop{}})
}

// killSwitchRun is a row of policies of one group, as a chain. It refuses what would leave by none of the group's uplinks, or
// lets pass what leaves by one of them, before a kill switch that comes later.
type killSwitchRun struct {
	group   *plannedGroup
	refuses bool
	chain   nft.Chain
}

func (r *killSwitchRun) concerns(u *Uplink) bool {
	return r.refuses != (r.group.tier(u.ID) > 0) || r.group.LeftTo != LeftToNobody
}

// killSwitchChains makes the chains that keep the traffic of kill switches in, as far as it concerns the given policies. The
// device that a packet leaves by leads to a chain with those rows of policies that are about it; uplinks with the same
// rows share one. What several chains have is a chain of its own, else the rules would grow with uplinks times policies.
func (p *planner) killSwitchChains(base nft.Chain, kind string, concerned func(*Policy) bool, end map[Family]nft.Expr) []nft.Chain {
	runs := p.killSwitchRuns(kind, concerned, end)
	var leaving []nft.Chain
	var rowsOf [][]int               // of each of these, in runs
	shared := make([]int, len(runs)) // how many of these a row is in
	branch := nft.Branch{Out: true}
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		rows := make([]int, 0, len(runs))
		locked := 0 // rows up to the last kill switch: what comes after it keeps nothing in
		for j := range runs {
			if !runs[j].concerns(u) {
				continue
			}
			rows = append(rows, j)
			if runs[j].refuses {
				locked = len(rows)
			}
		}
		if rows = rows[:locked]; locked == 0 {
			continue
		}
		at := slices.IndexFunc(rowsOf, func(known []int) bool { return slices.Equal(known, rows) })
		if at < 0 {
			at = len(leaving)
			leaving, rowsOf = append(leaving, nft.Chain{Name: kind + "es_" + u.chain()}), append(rowsOf, rows)
			for _, j := range rows {
				shared[j]++
			}
		}
		branch.Devices, branch.Chains = append(branch.Devices, u.Device), append(branch.Chains, leaving[at].Name)
	}
	if len(leaving) == 0 {
		return nil
	}
	base.DispatchByDevice("kill switches, by the uplink", branch)
	for i := range leaving {
		c := &leaving[i]
		c.Add("answers are nobody's policy", nft.Reply{}, nft.Return{})
		for _, j := range rowsOf[i] {
			if shared[j] == 1 {
				c.Rules = append(c.Rules, runs[j].chain.Rules...)
			} else {
				c.Add("what belongs to them", nft.Jump{Chain: runs[j].chain.Name})
			}
		}
	}
	chains := append([]nft.Chain{base}, leaving...)
	for j := range runs {
		if shared[j] > 1 {
			chains = append(chains, runs[j].chain)
		}
	}
	return chains
}

// killSwitchRuns makes the rows: what kill switches refuse, and what policies before them let pass.
func (p *planner) killSwitchRuns(kind string, concerned func(*Policy) bool, end map[Family]nft.Expr) []killSwitchRun {
	last := map[Family]int{IPv4: -1, IPv6: -1}   // kill switch
	before := map[Family]int{IPv4: -1, IPv6: -1} // the last one of another group than that
	for i := range p.cfg.Policies {
		policy := &p.cfg.Policies[i]
		if !concerned(policy) || !p.groups[policy.Group].KillSwitch {
			continue
		}
		for family := range p.report.Policies[i].Choice {
			if n := last[family]; n >= 0 && p.cfg.Policies[n].Group != policy.Group {
				before[family] = n
			}
			last[family] = i
		}
	}
	lastOther := func(family Family, group int) int { // the last kill switch that may refuse what a policy of the group sends by its uplinks
		if n := last[family]; n < 0 || p.cfg.Policies[n].Group != group {
			return n
		}
		return before[family]
	}
	var runs []killSwitchRun
	for i := 0; i <= max(last[IPv4], last[IPv6]); i++ {
		policy := &p.cfg.Policies[i]
		if !concerned(policy) {
			continue
		}
		group := p.groups[policy.Group]
		more, all, choices := "", policy.Select, p.report.Policies[i].Choice
		if n := p.mergeable(i, max(last[IPv4], last[IPv6])); n > 0 { // few rules with sets are better than many
			more = fmt.Sprintf(" and %d more", n)
			all = Selector{SelectAddresses{Prefixes: sourcesOf(p.cfg.Policies[i : i+n+1])}}
			if _, to, _ := policy.Select.onlyPrefixes(); len(to) > 0 {
				all = append(all, SelectAddresses{Dest: true, Prefixes: to})
			}
			i += n
		}
		row := func(name string, refuses bool) *nft.Chain { // policies of one group share a row, and a kill switch has one of each sort
			for j := len(runs) - 1; j >= 0 && runs[j].group == group; j-- {
				if runs[j].refuses == refuses {
					return &runs[j].chain
				}
			}
			runs = append(runs, killSwitchRun{group, refuses, nft.Chain{Name: name}})
			return &runs[len(runs)-1].chain
		}
		for _, family := range Families {
			choice, about := choices[family]
			if !about || !group.decides(&choice) {
				continue
			}
			for _, match := range all.matches(group.Except, family) {
				if group.KillSwitch {
					row(kind+"_"+policy.Name, true).AddFor(policy.Name, more+": by no other uplink", append(slices.Clip(match), nft.Counter{}, end[family])...)
				}
				if i < lastOther(family, policy.Group) {
					row(kind+"own_"+policy.Name, false).AddFor(policy.Name, more+" first", append(slices.Clip(match), nft.Accept{})...)
				}
			}
		}
	}
	return slices.DeleteFunc(runs, func(r killSwitchRun) bool { return len(r.chain.Rules) == 0 })
}

// sourcesOf lists the sources of policies, family by family: so, ofFamily need not copy them.
func sourcesOf(policies []Policy) []netip.Prefix {
	n := 0
	for i := range policies {
		n += len(policies[i].Select.sources())
	}
	all := make([]netip.Prefix, 0, n)
	for _, family := range Families {
		for i := range policies {
			all = append(all, inet.OfFamily(policies[i].Select.sources(), family)...)
		}
	}
	return all
}

// mergeable counts how many policies behind one differ from it in nothing but their sources.
func (p *planner) mergeable(at, last int) int {
	first := &p.cfg.Policies[at]
	from, to, ok := first.Select.onlyPrefixes()
	if len(from) == 0 || !ok {
		return 0
	}
	n := 0
	for at+n < last {
		next := &p.cfg.Policies[at+n+1]
		if from, same, ok := next.Select.onlyPrefixes(); next.Group != first.Group || len(from) == 0 || !ok || !slices.Equal(same, to) ||
			!slices.Equal(p.placements[at+n+1].families, p.placements[at].families) {
			break
		}
		n++
	}
	return n
}
