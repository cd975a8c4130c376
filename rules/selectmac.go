package rules

import (
	"bytes"
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/nft"
)

// SelectMACs is about the hosts of a LAN by their Ethernet addresses, in both families.
type SelectMACs [][6]byte

// Key is mac.
func (SelectMACs) Key() string { return "mac" }

// What this machine makes has no such header when nftables sees it.
func (SelectMACs) about() packets { return allPackets &^ packetsLocal }

func (SelectMACs) inRules(Family) ruleForm {
	return ruleForm{cannot: "rules know no hardware addresses"}
}

func (s SelectMACs) expressions(Family) []nft.Expr {
	return []nft.Expr{nft.MACs{List: slices.SortedFunc(slices.Values(s), func(a, b [6]byte) int { return bytes.Compare(a[:], b[:]) })}}
}

// Connection tracking keeps no hardware addresses: those that the hosts have now stand for them. A host of which the kernel knows none any
// more sends nothing, or what it sends meets the chains of kill switches.
func (s SelectMACs) tracked(p *planner) func(*Connection) bool {
	sources := make(map[netip.Addr]bool)
	for _, n := range p.obs.Neighbours {
		sources[n.Address] = sources[n.Address] || slices.Contains(s, n.Hardware)
	}
	return func(c *Connection) bool { return sources[c.Source] }
}
