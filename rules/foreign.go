package rules

import "fmt"

// foreignRules reports rules of other programs that get in the way of ours: those that stand among ours, where
// whoever comes first wins, and those that look at bits of the mark which are ours.
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
		// A mark that is compared as a whole means a packet without any of our bits: wg-quick has such rules, and
		// what is pinned has met ours before.
		if shared := r.Mask & p.k.MarkMask; shared != 0 && (r.Mask != 1<<32-1 || r.Mark&p.k.MarkMask != 0) {
			p.problem("foreign-mark", "warning",
				fmt.Sprintf("a rule of another program looks at the bits %#x of the mark, which are ours: %s", shared, r),
				"have one of both use other bits: ours are [kernel] mark_mask")
		}
	}
}
