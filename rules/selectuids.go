package rules

import (
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// SelectUIDs is about the owners of this machine's own sockets.
type SelectUIDs []netcfg.UIDs

// Key is uid.
func (SelectUIDs) Key() string    { return "uid" }
func (SelectUIDs) about() packets { return allPackets &^ packetsArrived }

// A forwarded packet counts as root's.
func (s SelectUIDs) inRules(Family) ruleForm {
	return each(s, true, func(r *netcfg.Rule, uid netcfg.UIDs) { r.Selectors.UIDs = uid })
}

func (s SelectUIDs) expressions(Family) []nft.Expr {
	var list []nft.Range
	for _, u := range s {
		list = append(list, nft.Range{First: u.First, Last: u.Last})
	}
	var all []nft.Expr
	for _, part := range nft.Apart(list) {
		all = append(all, nft.Owners{List: part})
	}
	return all
}

func (SelectUIDs) tracked(*planner) func(*Connection) bool { return nil }
