package rules

// SelectUIDs is about the owners of this machine's own sockets.
type SelectUIDs []UIDs

// Key is uid.
func (SelectUIDs) Key() string    { return "uid" }
func (SelectUIDs) about() packets { return allPackets &^ packetsArrived }

// A forwarded packet counts as root's.
func (s SelectUIDs) inRules(Family) ruleForm {
	return each(s, true, func(r *Rule, uid UIDs) { r.Selectors.UIDs = uid })
}

func (s SelectUIDs) expressions(Family) []NftExpr {
	return []NftExpr{NftOwners{merged(s, func(u UIDs) (uint64, uint64) { return uint64(u.First), uint64(u.Last) },
		func(a, b UIDs) UIDs { return UIDs{true, a.First, max(a.Last, b.Last)} })}}
}

func (SelectUIDs) tracked(*planner) func(*Connection) bool { return nil }

// NftOwners matches the owner of the local socket, by ranges that do not overlap.
type NftOwners struct{ List []UIDs }

func (e NftOwners) appendTo(b []byte) []byte {
	return appendAny(append(b, "meta skuid "...), e.List, func(b []byte, u UIDs) []byte { return appendRange(b, u.First, u.Last) })
}
