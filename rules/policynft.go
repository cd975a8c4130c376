package rules

import (
	"cmp"
	"slices"

	"github.com/uplinkd/uplinkd/rules/nft"
)

// prioPolicy is that of the chains that mark new connections: behind the chains that know pinned ones.
const prioPolicy = prioMangle + 1

// SetName returns the name that a set of one family has in our table.
func SetName(set string, f Family) string {
	if f == IPv6 {
		return set + "6"
	}
	return set + "4"
}

// placement says, by family, whether rules of the kernel cannot express a policy, and why it is marked by our packet
// filter; "" when rules suffice. What a policy is not about needs nothing.
type placement struct {
	families []Family // that it is about
	needsNft [2]bool
	mark     [2]string
	remark   [2]bool // a packet of this machine may get its mark after it has been routed
}

func (n *placement) of(p *planner, policy *Policy, f Family) {
	form, arrived := policy.Select.inRules(f), policy.Select.about()&packetsArrived != 0
	why := form.cannot
	n.needsNft[f.Index()] = why != ""
	switch {
	case why != "":
	case policy.Sticky:
		why = "rules cannot keep a source on one uplink of several"
	case form.local && arrived:
		why = dissectionReason
	case f == IPv6 && arrived && p.delegates:
		why = "sources of a delegated prefix are routed by their prefix before rules of policies are asked"
	}
	n.mark[f.Index()] = why
	n.remark[f.Index()] = conditionOf[SelectMark](policy.Select).Mask != 0 && p.groupTranslates(p.groups[policy.Group], f)
}

// groupTranslates reports whether what leaves by an uplink of a group gets a source of that uplink, whatever it has.
func (p *planner) groupTranslates(g *plannedGroup, f Family) bool {
	for i := range p.cfg.Uplinks {
		if u := &p.cfg.Uplinks[i]; (g.tier(u.ID) > 0 || g.LeftTo != LeftToNobody) && u.Family(f).Enabled && !p.translates(u, f) {
			return false
		}
	}
	return true
}

// marksLocal reports whether a policy marks packets of this machine's own sockets. Those whose sources are
// delegated choose their source by the rules, which no mark could change later. A mark that a packet filter sets comes when the source is
// chosen, and rules about sources precede those of policies: such a packet is routed by a mark of ours, and its source translated.
func (n *placement) marksLocal(policy *Policy, f Family) bool {
	return policy.Select.about()&packetsLocal != 0 && (n.mark[f.Index()] != "" && (n.needsNft[f.Index()] || policy.Sticky) || n.remark[f.Index()])
}

// policyTable builds the packet filter's part of policies and transparent proxies, nil when they have none.
//
// A new connection gets the mark of the first policy that matches and has a way; the rules then lead it to
// the policy's table before they look at its source. Postrouting pins the connection to the uplink that it
// leaves by, so that policies are about first packets. Rules of the kernel are asked behind marks: therefore
// what stands before a marked policy is marked as well.
func (p *planner) policyTable() {
	prerouting := nft.Chain{Name: "prerouting", Type: "filter", Hook: "prerouting", Priority: prioPolicy}
	output := nft.Chain{Name: "output", Type: "route", Hook: "output", Priority: prioPolicy}
	p.tproxies(&prerouting)
	proxies := len(prerouting.Rules)
	heads := make(map[*nft.Chain]int, 2)
	for _, c := range []*nft.Chain{&prerouting, &output} {
		if c == &output {
			p.remarkPinned(c)
		}
		if proxies == 0 || c == &output {
			c.Add("policies are for new connections", nft.Pinned{Mask: p.k.MarkMask}, nft.Return{})
		}
		exemptForeignMarks(c, p.foreignMarks())
		if c == &prerouting && (p.tellsNetworks(IPv4) || p.tellsNetworks(IPv6)) {
			c.Add("main leads to a network behind an uplink", nft.Mark{Mask: p.k.MarkMask, Value: p.k.Mark(routedID)}, nft.Return{})
		}
		heads[c] = len(c.Rules)
	}
	for _, family := range Families {
		p.mark(&prerouting, family, func(i int) bool { return p.placements[i].mark[family.Index()] != "" }, false)
		p.mark(&output, family, func(i int) bool { return p.placements[i].marksLocal(&p.cfg.Policies[i], family) }, true)
	}
	t := &nft.Table{Sets: p.externalSets()}
	if proxies > 0 || len(prerouting.Rules) > heads[&prerouting] {
		t.Chains = append(t.Chains, prerouting)
	}
	if len(output.Rules) > heads[&output] {
		t.Chains = append(t.Chains, output)
	}
	t.Chains = append(t.Chains, p.forwardKillSwitch()...)
	t.Chains = append(t.Chains, p.localKillSwitch()...)
	if len(t.Chains)+len(t.Sets) > 0 {
		t.AddSets()
		t.Sign()
		p.state.Policies = t
	}
}

// remarkPinned gives packets of connections that are pinned their mark again: where others mark local packets for a policy, they may
// have set the whole mark behind our first chain.
func (p *planner) remarkPinned(output *nft.Chain) {
	if !slices.ContainsFunc(p.placements, func(n placement) bool { return n.remark != [2]bool{} }) {
		return
	}
	for i := range p.cfg.Uplinks {
		if p.cfg.Uplinks[i].IsCLAT() {
			continue // its line has the mark
		}
		mark := p.k.Mark(p.cfg.Uplinks[i].ID)
		output.Add("pinned to "+p.cfg.Uplinks[i].Name, nft.CtMark{Mask: p.k.MarkMask, Value: mark}, nft.SetMark{Mask: p.k.MarkMask, Value: mark}, nft.Return{})
	}
}

// mark adds the policies up to the last one that needs it.
func (p *planner) mark(c *nft.Chain, family Family, marked func(int) bool, local bool) {
	last, origin := -1, packetsArrived
	if local {
		origin = packetsLocal
	}
	for i := range p.cfg.Policies {
		if marked(i) {
			last = i
		}
	}
	for i := range last + 1 {
		policy := &p.cfg.Policies[i]
		choice, about := p.report.Policies[i].Choice[family]
		group := p.groups[policy.Group]
		if !about || policy.Select.about()&origin == 0 || !group.decides(&choice) {
			continue
		}
		for _, match := range policy.Select.matches(group.Except, family) {
			if policy.Sticky && len(choice.Members) > 1 {
				p.hashSources(c, policy, family, &choice, match)
				continue
			}
			group.marked[family.Index()] = true
			c.AddFor(policy.Name, "", append(match, nft.SetMark{Mask: p.k.MarkMask, Value: p.k.Mark(policy.Group)}, nft.Return{})...)
		}
	}
}

// hashSources gives each source the mark of one of the members, in proportion to their weights.
func (p *planner) hashSources(c *nft.Chain, policy *Policy, family Family, choice *Choice, match []nft.Expr) {
	total, from := uint32(0), uint32(0)
	for _, m := range choice.Members {
		total += uint32(m.Weight)
	}
	for _, m := range choice.Members {
		u := p.uplink(m.Uplink)
		share := nft.SourceShare{Family: family, Total: total, First: from, Last: from + uint32(m.Weight) - 1}
		from += uint32(m.Weight)
		c.AddFor(policy.Name, ": these sources by "+u.Name, append(slices.Clone(match), share, nft.SetMark{Mask: p.k.MarkMask, Value: p.k.Mark(u.ID)}, nft.Return{})...)
	}
}

func sorted[T cmp.Ordered](list []T) []T {
	return slices.Compact(slices.Sorted(slices.Values(list)))
}

// externalSets lists the sets that other programs fill, those of both families by one name.
func (p *planner) externalSets() []nft.Set {
	var names []string
	add := func(s Selector) {
		for _, c := range s {
			if a, ok := c.(SelectAddresses); ok {
				names = append(names, a.Sets...)
			}
		}
	}
	for i := range p.cfg.Policies {
		add(p.cfg.Policies[i].Select)
	}
	for i := range p.cfg.TProxies {
		add(p.cfg.TProxies[i].Select)
	}
	var list []nft.Set
	for _, name := range sorted(names) {
		for _, family := range Families {
			list = append(list, nft.Set{Name: SetName(name, family), Family: family, Merge: slices.Contains(p.cfg.MergedSets, name)})
		}
	}
	return list
}
