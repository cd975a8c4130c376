package rules

import "fmt"

// tableLocal is the last of the tables that the kernel itself has rules for (linux/rtnetlink.h RT_TABLE_LOCAL).
const tableLocal = 255

// foreignRules reports rules of other programs that get in the way of ours, or ours of them: those that stand among
// ours, where whoever comes first wins, those that look at bits of the mark which are ours, and full tunnels behind
// our default, which nothing ever reaches.
func (p *planner) foreignRules() {
	for i := range p.obs.Rules {
		r := &p.obs.Rules[i]
		if r.Protocol == p.k.Protocol {
			continue
		}
		if r.Priority >= p.k.RulePriority && r.Priority <= p.k.RulePriority+prefDefault {
			p.problem("foreign-rule", "warning",
				fmt.Sprintf("a rule of another program stands among ours, which lie from %d to %d: %s", p.k.RulePriority, p.k.RulePriority+prefDefault, r),
				"give it another preference, or choose another [kernel] rule_priority")
		}
		whole := !r.From.IsValid() && !r.To.IsValid() && r.IIF == "" && r.OIF == "" && r.More.Protocol == 0 && !r.More.UIDs.Set
		if r.Priority > p.k.RulePriority+prefDefault && r.Table > tableLocal && whole && r.More.Action == 0 && (r.Mask == 0 || r.More.Not) {
			p.problem("foreign-default", "warning",
				fmt.Sprintf("a rule of another program, such as wg-quick's for a full tunnel, leads nobody anywhere, for our default stands before it: %s", r),
				"make the tunnel an uplink (wg-quick: Table = off), or give its rule a preference before ours")
		}
		// A mark that is compared as a whole means a packet without any of our bits: wg-quick has such rules, and
		// what is pinned has met ours before.
		if shared := r.Mask & p.k.MarkMask; shared != 0 && (r.Mask != 1<<32-1 || r.Mark&p.k.MarkMask != 0) {
			p.problem("foreign-mark", "warning",
				fmt.Sprintf("a rule of another program looks at the bits %#x of the mark, which are ours: %s", shared, r),
				"have one of both use other bits: ours are [kernel] mark_mask")
		}
	}
}
