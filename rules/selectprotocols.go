package rules

import (
	"slices"

	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// SelectProtocols is about the transport protocol, by its number.
type SelectProtocols []uint8

// Key is protocol.
func (SelectProtocols) Key() string    { return "protocol" }
func (SelectProtocols) about() packets { return allPackets }

// A rule that looks at more than a packet's network header has the kernel take every forwarded packet apart, whichever rule it meets,
// unless the rule is for this machine's own packets (include/net/fib_rules.h fib_rule_requires_fldissect): forwarded ones are marked.
func (s SelectProtocols) inRules(Family) ruleForm {
	return each(s, true, func(r *netcfg.Rule, protocol uint8) { r.Selectors.Protocol = protocol })
}

func (s SelectProtocols) expressions(Family) []nft.Expr {
	return []nft.Expr{nft.Protocols{List: sorted(s)}}
}

func (s SelectProtocols) tracked(*planner) func(*Connection) bool {
	return func(c *Connection) bool { return slices.Contains(s, c.Protocol) }
}
