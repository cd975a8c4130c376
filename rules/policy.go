package rules

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Policy sends the traffic that it selects by a group of uplinks.
type Policy struct {
	Name   string
	Select Selector
	Group  int // id of its Group
	// Sticky keeps all flows of one source on one uplink of the group for as long as the same uplinks carry
	// its traffic; else each flow for itself is kept on the uplink that it began by.
	Sticky bool
}

// Group is a choice of uplinks that policies share: those of the same uplinks, exceptions and fallback.
type Group struct {
	ID    int     // 1..MaxUplinks, no uplink's
	Tiers [][]int // ids of uplinks, the best tier first
	// Weights are by which the uplinks share a tier, by id, 1..256; those without one have the uplink's own.
	Weights map[int]int
	// LeftTo is what its policies leave their traffic to; there are no Tiers then, no KillSwitch and nothing in Except.
	LeftTo LeftTo
	// KillSwitch refuses traffic that none of the uplinks can carry, where others leave it to later policies
	// and to the default.
	KillSwitch bool
	Except     []netip.Prefix // destinations that the policies of this group are not about
}

// LeftTo is what decides about traffic that policies leave alone.
type LeftTo uint8

// What traffic may be left to.
const (
	LeftToNobody  LeftTo = iota // the group has uplinks
	LeftToMain                  // what table main says
	LeftToDefault               // the default, and no later policy
)

// leads returns the table that the group's policies lead to.
func (g *Group) leads(k Kernel) uint32 {
	switch g.LeftTo {
	case LeftToMain:
		return netcfg.TableMain
	case LeftToDefault:
		return k.TableBase
	}
	return k.Table(g.ID)
}

// decides reports whether a policy of the group has the last word about its traffic, where a choice of uplinks is the given one.
func (g *Group) decides(c *Choice) bool {
	return len(c.Members) > 0 || g.KillSwitch || g.LeftTo != LeftToNobody
}

// tier returns where in the group an uplink stands, counted from 1, and 0 when it is no part of it.
func (g *Group) tier(uplink int) int {
	return 1 + slices.IndexFunc(g.Tiers, func(ids []int) bool { return slices.Contains(ids, uplink) })
}

// weight returns by which an uplink shares its tier of the group.
func (g *Group) weight(u *Uplink) int {
	if w := g.Weights[u.ID]; w > 0 {
		return w
	}
	return u.Weight
}

// PolicyReport says how a policy was compiled, and who carries its traffic.
type PolicyReport struct {
	Name   string
	Group  int
	Reason string // why it is rules of the kernel, or marks of our packet filter
	// Choice tells, by family, who carries what it selects; a family that it is not about is left out.
	Choice map[Family]Choice
}

// Priorities of policies: prefPolicy and up to prefPolicyLast.
const (
	prefPolicy     = 400
	prefPolicyLast = 898
)

// MaxAlternations is how many runs of policies with the same group there may be in a list that is longer
// than that: each run has a preference of its own.
const MaxAlternations = prefPolicyLast - prefPolicy + 1

// policyPriorities returns the preference of each policy. While there are enough, each has one of its own,
// so that a change of one moves no other; else neighbours that lead to the same table share one, for their
// order among each other decides nothing.
func (p *planner) policyPriorities() []int {
	prefs := make([]int, len(p.cfg.Policies))
	run := 0
	for i := range p.cfg.Policies {
		switch {
		case len(prefs) <= MaxAlternations:
			run = i
		case i > 0 && p.cfg.Policies[i].Group != p.cfg.Policies[i-1].Group:
			run++
		}
		prefs[i] = p.k.RulePriority + prefPolicy + min(run, MaxAlternations-1)
	}
	return prefs
}

// policies fills the groups' tables and lays down the rules that lead there.
func (p *planner) policies() {
	if len(p.cfg.Policies) == 0 {
		return
	}
	for i := range p.cfg.Groups {
		group := p.planGroup(&p.cfg.Groups[i])
		p.groups[group.ID] = group
		p.groupTables(group)
	}
	p.delegates = slices.ContainsFunc(p.cfg.Uplinks, func(u Uplink) bool { return u.IPv6.Enabled && len(u.Delegations) > 0 })
	prefs := p.policyPriorities()
	p.report.Policies = make([]PolicyReport, len(p.cfg.Policies))
	p.placements = make([]placement, len(p.cfg.Policies))
	for i := range p.cfg.Policies {
		policy := &p.cfg.Policies[i]
		group := p.groups[policy.Group]
		list := p.familiesOf(policy)
		pl := &p.placements[i]
		pl.families = list
		choice := group.choice // mostly shared by all policies of the group
		if len(list) < len(choice) {
			choice = make(map[Family]Choice, 1)
			for _, family := range list {
				choice[family] = group.choice[family]
			}
		}
		for _, family := range list {
			p.baseRules(family)
			pl.of(p, policy, family)
			if !pl.needsNft[family.Index()] && !policy.Sticky {
				p.state.Rules = policy.Select.appendRules(p.state.Rules, p.rule(family, prefs[i]-p.k.RulePriority, group.leads(p.k)))
			}
		}
		p.report.Policies[i] = PolicyReport{Name: policy.Name, Group: policy.Group, Choice: choice, Reason: pl.describe(policy, list)}
	}
}

// familiesOf lists the families that a policy has rules in. One whose uplinks do not carry a family leaves
// it alone, unless it is a kill switch: nothing may leak by the other family either.
func (p *planner) familiesOf(policy *Policy) []Family {
	group := p.groups[policy.Group]
	about := func(f Family) bool { return group.possible[f.Index()] && policy.Select.covers(f) }
	switch four, six := about(IPv4), about(IPv6); {
	case four && six:
		return Families[:]
	case four:
		return Families[:1]
	case six:
		return Families[1:]
	}
	return nil
}

// plannedGroup is a group with what planning looks up again and again.
type plannedGroup struct {
	*Group
	choice map[Family]Choice
	// Of each family, by its index:
	possible [2]bool // policies of the group may be about it
	marked   [2]bool // packets are marked for it
}

func (p *planner) planGroup(g *Group) *plannedGroup {
	planned := &plannedGroup{Group: g, choice: make(map[Family]Choice)}
	for i := range p.cfg.Uplinks {
		u := &p.cfg.Uplinks[i]
		for f, family := range Families {
			planned.possible[f] = planned.possible[f] || g.tier(u.ID) > 0 && u.Family(family).Enabled
		}
	}
	for f, family := range Families {
		planned.possible[f] = (planned.possible[f] || g.KillSwitch || g.LeftTo != LeftToNobody) && !(family == IPv6 && p.obs.NoIPv6)
	}
	return planned
}

// groupTables fills the table of a group in both families: who carries it, its exceptions, and behind a
// kill switch what refuses the rest.
func (p *planner) groupTables(g *plannedGroup) {
	table := p.k.Table(g.ID)
	for _, family := range Families {
		if family == IPv6 && p.obs.NoIPv6 {
			continue
		}
		if g.LeftTo != LeftToNobody {
			g.choice[family] = p.choiceLeftTo(g.LeftTo, family)
			continue
		}
		choice := p.selectForGroup(g.Group, family)
		g.choice[family] = choice
		if len(choice.Members) > 0 {
			p.state.Routes = append(p.state.Routes, p.shared(family, table, &choice))
		}
		metric := uint32(0)
		if family == IPv6 {
			metric = metricV6
		}
		for _, except := range inet.OfFamily(g.Except, family) {
			p.state.Routes = append(p.state.Routes, netcfg.Route{Family: family, Table: table, Type: netcfg.Throw, Dst: except, Metric: metric, Protocol: p.k.Protocol})
		}
		if g.KillSwitch {
			p.state.Routes = append(p.state.Routes, netcfg.Route{Family: family, Table: table, Type: netcfg.Unreachable,
				Dst: family.Default(), Metric: metricUnreachable, Protocol: p.k.Protocol})
		}
	}
}

// choiceLeftTo says who carries what is left to others. What main says is main's to know.
func (p *planner) choiceLeftTo(to LeftTo, family Family) Choice {
	if to == LeftToMain {
		return Choice{Reason: "left to what table main says"}
	}
	choice := p.report.Defaults[family]
	choice.Reason = "left to the default: " + choice.Reason
	return choice
}

// selectForGroup picks the uplinks that carry a group's traffic, by the rules of the default: those of the best
// class, and of these the best tier. None is picked when all are dead, or when the default, which the
// traffic falls back to, is in a better state than whatever is doubtful here.
func (p *planner) selectForGroup(g *Group, family Family) Choice {
	choice := p.selectBest(family, preference{tier: func(u *Uplink) int { return g.tier(u.ID) }, weight: g.weight})
	switch {
	case len(choice.Members) == 0:
		choice.Reason = p.unusedReason(g, "without a default route")
	case choice.class <= classDead:
		choice.Members, choice.Reason = nil, p.unusedReason(g, "down")
	case !g.KillSwitch && choice.class < classImpaired && choice.class < p.report.Defaults[family].class:
		choice.Members, choice.Reason = nil, p.unusedReason(g, "not confirmed up")
	}
	return choice
}

// unusedReason says what becomes of a group's traffic while its uplinks lack something.
func (p *planner) unusedReason(g *Group, lack string) string {
	var names []string
	for i := range p.cfg.Uplinks {
		if u := &p.cfg.Uplinks[i]; g.tier(u.ID) > 0 && !u.IsCLAT() {
			names = append(names, u.Name)
		}
	}
	verb := " is "
	if len(names) > 1 {
		verb = " are "
	}
	why := strings.Join(names, ", ") + verb + lack
	if g.KillSwitch {
		return "closed: " + why + ", its traffic is refused"
	}
	return why + ": its traffic takes later policies or the default"
}

// markRules leads the marks that groups have in our packet filter to their tables.
func (p *planner) markRules() {
	for i := range p.cfg.Groups {
		id := p.cfg.Groups[i].ID
		for _, family := range Families {
			if group := p.groups[id]; group != nil && group.marked[family.Index()] {
				r := p.rule(family, prefMark+id, group.leads(p.k))
				r.Mark, r.Mask = p.k.Mark(id), p.k.MarkMask
				p.state.Rules = append(p.state.Rules, r)
			}
		}
	}
}

// describe says what a policy became in the families that it is about.
func (n *placement) describe(policy *Policy, list []Family) string {
	const kernelRules, marks = "rules of the kernel", "marks of nftables, for "
	how := make([]string, 0, len(Families))
	for _, family := range list {
		switch why := n.mark[family.Index()]; {
		case policy.Sticky || n.needsNft[family.Index()]:
			how = append(how, marks+why)
		case why == dissectionReason:
			how = append(how, kernelRules+" for the router's own traffic, and "+marks+why)
		case why != "":
			how = append(how, kernelRules+", and in "+family.String()+" "+marks+why)
		default:
			how = append(how, kernelRules)
		}
	}
	switch {
	case len(how) == 0:
		return "nothing: none of its uplinks carries the address family that it selects"
	case len(how) == 1 || how[0] == how[1] || how[1] == kernelRules:
		return how[0]
	case how[0] == kernelRules:
		return how[1]
	}
	return how[0] + "; " + how[1]
}

// loopback is the name that rules know this machine's own packets by.
const loopback = "lo"
