package rules

import (
	"cmp"
	"net/netip"
	"slices"
)

// PolicyTableName is the name of the nftables table of policies, of family inet. It is one of its own because
// other programs fill sets of it: its rules are replaced while its sets stay.
const PolicyTableName = "uplinkd_policy"

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
}

func (n *placement) of(p *planner, policy *Policy, f Family) {
	why := policy.Select.needsNft(f)
	n.needsNft[f.index()] = why != ""
	switch {
	case why != "":
	case policy.Sticky:
		why = "rules cannot keep a source on one uplink of several"
	case policy.Select.needsDissection() && len(policy.Select.UIDs) == 0:
		why = dissectionReason
	case f == IPv6 && len(policy.Select.UIDs) == 0 && p.delegates:
		why = "sources of a delegated prefix are routed by their prefix before rules of policies are asked"
	}
	n.mark[f.index()] = why
}

// marksLocal reports whether a policy marks packets of this machine's own sockets. Those whose sources are
// delegated choose their source by the rules, which no mark could change later.
func (n *placement) marksLocal(policy *Policy, f Family) bool {
	return len(policy.Select.IIF) == 0 && n.mark[f.index()] != "" && (n.needsNft[f.index()] || policy.Sticky)
}

// policyTable builds the packet filter's part of policies and transparent proxies, nil when they have none.
//
// A new connection gets the mark of the first policy that matches and has a way; the rules then lead it to
// the policy's table before they look at its source. Postrouting pins the connection to the uplink that it
// leaves by, so that policies are about first packets. Rules of the kernel are asked behind marks: therefore
// what stands before a marked policy is marked as well.
func (p *planner) policyTable() {
	prerouting := Chain{Name: "prerouting", Type: "filter", Hook: "prerouting", Priority: prioPolicy}
	output := Chain{Name: "output", Type: "route", Hook: "output", Priority: prioPolicy}
	p.tproxies(&prerouting)
	proxies := len(prerouting.Rules)
	heads := make(map[*Chain]int, 2)
	for _, c := range []*Chain{&prerouting, &output} {
		if len(c.Rules) == 0 {
			c.add("policies are for new connections", NftPinned{p.k.MarkMask}, NftReturn{})
		}
		exemptForeignMarks(c, p.foreignMarks())
		if c == &prerouting && (p.tellsNetworks(IPv4) || p.tellsNetworks(IPv6)) {
			c.add("main leads to a network behind an uplink", NftMark{Mask: p.k.MarkMask, Value: p.k.Mark(routedID)}, NftReturn{})
		}
		heads[c] = len(c.Rules)
	}
	for _, family := range Families {
		p.mark(&prerouting, family, func(i int) bool { return p.placements[i].mark[family.index()] != "" }, false)
		p.mark(&output, family, func(i int) bool { return p.placements[i].marksLocal(&p.cfg.Policies[i], family) }, true)
	}
	t := &Table{Sets: p.externalSets()}
	if proxies > 0 || len(prerouting.Rules) > heads[&prerouting] {
		t.Chains = append(t.Chains, prerouting)
	}
	if len(output.Rules) > heads[&output] {
		t.Chains = append(t.Chains, output)
	}
	t.Chains = append(t.Chains, p.forwardKillSwitch()...)
	t.Chains = append(t.Chains, p.localKillSwitch()...)
	if len(t.Chains)+len(t.Sets) > 0 {
		t.addSets()
		t.sign()
		p.state.Policies = t
	}
}

// mark adds the policies up to the last one that needs it.
func (p *planner) mark(c *Chain, family Family, marked func(int) bool, local bool) {
	last := -1
	for i := range p.cfg.Policies {
		if marked(i) {
			last = i
		}
	}
	for i := range last + 1 {
		policy := &p.cfg.Policies[i]
		choice, about := p.report.Policies[i].Choice[family]
		group := p.groups[policy.Group]
		if !about || local && len(policy.Select.IIF) > 0 || !local && len(policy.Select.UIDs) > 0 || len(choice.Members) == 0 && !group.KillSwitch {
			continue
		}
		for _, match := range policy.Select.matches(group.Except, family) {
			if policy.Sticky && len(choice.Members) > 1 {
				p.hashSources(c, policy, family, &choice, match)
				continue
			}
			group.marked[family.index()] = true
			c.addFor(policy.Name, "", append(match, NftSetMark{p.k.MarkMask, p.k.Mark(policy.Group)}, NftReturn{})...)
		}
	}
}

// hashSources gives each source the mark of one of the members, in proportion to their weights.
func (p *planner) hashSources(c *Chain, policy *Policy, family Family, choice *Choice, match []NftExpr) {
	total, from := uint32(0), uint32(0)
	for _, m := range choice.Members {
		total += uint32(p.uplink(m.Uplink).Weight)
	}
	for _, m := range choice.Members {
		u := p.uplink(m.Uplink)
		share := NftSourceShare{Family: family, Total: total, First: from, Last: from + uint32(u.Weight) - 1}
		from += uint32(u.Weight)
		c.addFor(policy.Name, ": these sources by "+u.Name, append(slices.Clone(match), share, NftSetMark{p.k.MarkMask, p.k.Mark(u.ID)}, NftReturn{})...)
	}
}

// matches writes a selector, and exceptions from it, in expressions for one family: a list for each way in which
// it can match.
func (s *Selector) matches(except []netip.Prefix, family Family) [][]NftExpr {
	var tail []NftExpr
	add := func(list *[]NftExpr, given bool, e NftExpr) {
		if given {
			*list = append(*list, e)
		}
	}
	except = ofFamily(except, family)
	for _, part := range inSets(except) {
		add(&tail, true, NftAddresses{Dest: true, Not: true, Prefixes: part})
	}
	add(&tail, len(s.Protocols) > 0, NftProtocols{sorted(s.Protocols)})
	add(&tail, len(s.SPorts) > 0, NftPorts{List: mergedPorts(s.SPorts)})
	add(&tail, len(s.DPorts) > 0, NftPorts{Dest: true, List: mergedPorts(s.DPorts)})
	add(&tail, len(s.UIDs) > 0, NftOwners{mergedUIDs(s.UIDs)})
	add(&tail, s.Mask != 0, NftMark{Mask: s.Mask, Value: s.Mark})
	add(&tail, len(s.DSCP) > 0, NftDSCP{family, sorted(s.DSCP)})
	var all [][]NftExpr
	for _, head := range s.devices() {
		for _, from := range alternatives(false, family, s.From, s.FromSets) {
			for _, to := range alternatives(true, family, s.To, s.ToSets) {
				match := slices.Concat(head, from, to, tail)
				if len(from)+len(to)+len(except)+len(s.DSCP) == 0 { // nothing else tells the families apart
					match = append([]NftExpr{NftFamily{family}}, match...)
				}
				all = append(all, match)
			}
		}
	}
	return all
}

// devices are the conditions of which the device that a packet comes in by has to meet one. A set holds no patterns.
func (s *Selector) devices() [][]NftExpr {
	var list [][]NftExpr
	names := slices.DeleteFunc(sorted(s.IIF), isPattern)
	switch len(names) {
	case 0:
	case 1:
		list = append(list, []NftExpr{NftDevice{Name: names[0]}})
	default:
		list = append(list, []NftExpr{NftDevices{Names: names}})
	}
	for _, name := range sorted(s.IIF) {
		if isPattern(name) {
			list = append(list, []NftExpr{NftDevice{Name: name}})
		}
	}
	if len(list) == 0 {
		list = [][]NftExpr{nil}
	}
	return list
}

// alternatives are the conditions of which an address has to meet one: none when any address does.
func alternatives(dest bool, family Family, prefixes []netip.Prefix, sets []string) [][]NftExpr {
	var list [][]NftExpr
	for _, part := range inSets(ofFamily(prefixes, family)) {
		list = append(list, []NftExpr{NftAddresses{Dest: dest, Prefixes: part}})
	}
	for _, set := range sets {
		list = append(list, []NftExpr{NftExternalSet{Dest: dest, Family: family, Set: SetName(set, family)}})
	}
	if len(list) == 0 {
		list = [][]NftExpr{nil}
	}
	return list
}

func sorted[T cmp.Ordered](list []T) []T {
	return slices.Compact(slices.Sorted(slices.Values(list)))
}

// externalSets lists the sets that other programs fill, those of both families by one name.
func (p *planner) externalSets() []Set {
	var names []string
	add := func(s *Selector) { names = append(append(names, s.FromSets...), s.ToSets...) }
	for i := range p.cfg.Policies {
		add(&p.cfg.Policies[i].Select)
	}
	for i := range p.cfg.TProxies {
		add(&p.cfg.TProxies[i].Select)
	}
	var list []Set
	for _, name := range sorted(names) {
		for _, family := range Families {
			list = append(list, Set{Name: SetName(name, family), Family: family, Merge: slices.Contains(p.cfg.MergedSets, name)})
		}
	}
	return list
}
