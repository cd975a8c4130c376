package rules

import (
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// SelectMark is about the bits of Mask, none of them ours, in the packet mark.
type SelectMark struct{ Value, Mask uint32 }

// Key is fwmark.
func (SelectMark) Key() string    { return "fwmark" }
func (SelectMark) about() packets { return allPackets }

func (s SelectMark) inRules(Family) ruleForm {
	return ruleForm{values: 1, set: func(r *netcfg.Rule, _ int) { r.Mark, r.Mask = s.Value, s.Mask }}
}

func (s SelectMark) expressions(Family) []nft.Expr {
	return []nft.Expr{nft.Mark{Mask: s.Mask, Value: s.Value}}
}

func (SelectMark) tracked(*planner) func(*Connection) bool { return nil }
