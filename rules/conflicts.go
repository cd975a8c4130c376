package rules

import (
	"fmt"
	"slices"

	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// The first and the last of the tables that the kernel itself has rules for (linux/rtnetlink.h RT_TABLE_DEFAULT and
// RT_TABLE_LOCAL); main is between them.
const (
	tableDefault = 253
	tableLocal   = 255
)

// makeUplink is the cure for full tunnels of other programs.
const makeUplink = `make the tunnel an uplink: Table = off in wg-quick's file, and here an [[uplink]] with its device and kind = "wireguard"`

// foreignRules reports rules of other programs that get in the way of ours, or ours of them: those that stand among
// ours, where whoever comes first wins, full tunnels in front of ours, those that look at bits of the mark which are
// ours, and what stands behind our default, which nothing ever reaches.
func (p *planner) foreignRules() {
	for i := range p.obs.Rules {
		r := &p.obs.Rules[i]
		if r.Protocol == p.k.Protocol {
			continue
		}
		elsewhere := usesForeignTable(r)
		switch behind := r.Priority > p.k.RulePriority+prefDefault; {
		case r.Priority >= p.k.RulePriority && !behind:
			p.problem("foreign-rule", "warning",
				fmt.Sprintf("another program has a rule in our range of priorities (%d to %d): %s", p.k.RulePriority, p.k.RulePriority+prefDefault, r),
				"give it another priority, or change [kernel] rule_priority")
		case !behind && elsewhere && fullTunnel(r):
			p.problemOnce("foreign-full-tunnel", "warning",
				fmt.Sprintf("the full tunnel of another program (wg-quick, for example) precedes our rules and takes all traffic, replies to incoming connections included: %s", r),
				makeUplink)
		case !behind && elsewhere && wholeProtocol(r):
			p.problemOnce("foreign-rule-before", "warning",
				fmt.Sprintf("a rule of another program precedes ours and takes all traffic of a protocol, replies to incoming connections included: %s", r),
				"delete it and write a [[policy]] for its traffic, which leaves replies alone")
		case behind && elsewhere && (whole(r) || fullTunnel(r)):
			p.problemOnce("foreign-default", "warning",
				fmt.Sprintf("a rule of another program (wg-quick's full tunnel, for example) is never reached: our default precedes it: %s", r),
				makeUplink)
		case behind && elsewhere:
			cure := fmt.Sprintf("give it a priority below %d, or write a [[policy]] for its traffic", p.k.RulePriority)
			if wholeProtocol(r) {
				cure = "write a [[policy]] for its traffic; ahead of our rules it would take replies to incoming connections too"
			}
			p.problemOnce("foreign-rule-behind", "warning", fmt.Sprintf("a rule of another program is never reached: our default precedes it: %s", r), cure)
		}
		// A mark that is compared as a whole means a packet without any of our bits: see foreignMarks.
		if shared := r.Mask & p.k.MarkMask; shared != 0 && (r.Mask != 1<<32-1 || r.Mark&p.k.MarkMask != 0) {
			p.problem("foreign-mark", "warning",
				fmt.Sprintf("a rule of another program matches mark bits %#x, which uplinkd uses: %s", shared, r),
				"use other bits there, or change [kernel] mark_mask")
		}
	}
}

// usesForeignTable reports whether a rule looks up a table that is none of the kernel's own.
func usesForeignTable(r *netcfg.Rule) bool {
	return r.Selectors.Action == 0 && (r.Table < tableDefault || r.Table > tableLocal)
}

// whole reports whether a rule is for all packets.
func whole(r *netcfg.Rule) bool {
	return !r.From.IsValid() && !r.To.IsValid() && r.IIF == "" && r.OIF == "" && r.Mask == 0 && r.Selectors == netcfg.RuleSelectors{}
}

// wholeProtocol reports whether a rule is for all packets of a protocol.
func wholeProtocol(r *netcfg.Rule) bool {
	like := *r
	like.Selectors.Protocol = 0
	return r.Selectors.Protocol != 0 && whole(&like)
}

// fullTunnel reports whether a rule takes all but what has a certain mark, which is that of the tunnel's own packets. Further
// iproute2 of such a rule let it take more (net/core/fib_rules.c fib_rule_match).
func fullTunnel(r *netcfg.Rule) bool { return r.Selectors.Not && r.Mask != 0 }

// tunnelFirst reports whether a full tunnel of another program precedes our rules of IPv4.
func (p *planner) tunnelFirst() bool {
	for i := range p.obs.Rules {
		r := &p.obs.Rules[i]
		if r.Protocol != p.k.Protocol && r.Family == IPv4 && r.Priority < p.k.RulePriority && usesForeignTable(r) && fullTunnel(r) {
			return true
		}
	}
	return false
}

// foreignMarks lists the marks by which rules of other programs tell packets of theirs from all others, in a
// comparison that bits of ours would spoil: wg-quick's full tunnel takes every packet whose whole mark is not that of
// its own socket, so that its encrypted packets would enter the tunnel again with our pin in their mark.
func (p *planner) foreignMarks() []nft.Mark {
	var marks []nft.Mark
	for i := range p.obs.Rules {
		r := &p.obs.Rules[i]
		m := nft.Mark{Mask: r.Mask, Value: r.Mark}
		if r.Protocol != p.k.Protocol && r.Mask&p.k.MarkMask != 0 && r.Mark != 0 && r.Mark&p.k.MarkMask == 0 && !slices.Contains(marks, m) {
			marks = append(marks, m)
		}
	}
	slices.SortFunc(marks, func(a, b nft.Mark) int {
		if a.Value != b.Value {
			return int(int64(a.Value) - int64(b.Value))
		}
		return int(int64(a.Mask) - int64(b.Mask))
	})
	return marks
}

// exemptForeignMarks ends a chain for packets and connections that have such a mark: neither their mark nor their
// connection's is altered.
func exemptForeignMarks(c *nft.Chain, marks []nft.Mark) {
	const why = "another program's rule compares this whole mark"
	for _, m := range marks {
		c.Add(why, m, nft.Return{})
		c.Add(why, nft.CtMark{Mask: m.Mask, Value: m.Value}, nft.Return{})
	}
}

// exemptMarkedSockets ends the output chain for packets whose socket has a mark that is not ours (SO_MARK): a tunnel's
// or a proxy's own, which must get past the rules of its program. We may not know these rules yet. Answers that such a
// socket sends have an uplink's address, and the rules about sources lead them. Where policies look at marks they may
// have marked the connection themselves, and only what is known to be compared as a whole is left alone.
func (p *planner) exemptMarkedSockets(c *nft.Chain, known []nft.Mark) {
	if slices.ContainsFunc(p.cfg.Policies, func(policy Policy) bool { return conditionOf[SelectMark](policy.Select).Mask != 0 }) {
		exemptForeignMarks(c, known)
		return
	}
	c.Add("a socket's own mark stays as it is", nft.Mark{Mask: ^p.k.MarkMask, Not: true}, nft.Return{})
}
