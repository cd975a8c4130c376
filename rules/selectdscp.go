package rules

import "github.com/uplinkd/uplinkd/rules/nft"

// SelectDSCP is about code points: 0..63.
type SelectDSCP []uint8

// Key is dscp.
func (SelectDSCP) Key() string    { return "dscp" }
func (SelectDSCP) about() packets { return allPackets }

func (SelectDSCP) inRules(Family) ruleForm {
	return ruleForm{cannot: "rules of kernels before 6.13 know three of the six bits of DSCP only"}
}

func (s SelectDSCP) expressions(f Family) []nft.Expr {
	return []nft.Expr{nft.DSCP{Family: f, List: sorted(s)}}
}
func (SelectDSCP) tracked(*planner) func(*Connection) bool { return nil }
