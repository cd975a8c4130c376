package rules

// SelectDSCP is about code points: 0..63.
type SelectDSCP []uint8

// Key is dscp.
func (SelectDSCP) Key() string    { return "dscp" }
func (SelectDSCP) about() packets { return allPackets }

func (SelectDSCP) inRules(Family) ruleForm {
	return ruleForm{cannot: "rules of kernels before 6.13 know three of the six bits of DSCP only"}
}

func (s SelectDSCP) expressions(f Family) []NftExpr        { return []NftExpr{NftDSCP{f, sorted(s)}} }
func (SelectDSCP) tracked(*planner) func(*Connection) bool { return nil }

// NftDSCP matches the code point.
type NftDSCP struct {
	Family Family
	List   []uint8
}

func (e NftDSCP) appendTo(b []byte) []byte {
	return appendAny(append(append(b, e.Family.nft()...), " dscp "...), e.List, appendNumber)
}
