package rules

import (
	"slices"

	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// SelectPorts is about source or destination ports, of protocols that have them.
type SelectPorts struct {
	Dest bool
	List []netcfg.Ports
}

// Key is sport or dport.
func (s SelectPorts) Key() string  { return bySide(s.Dest, "sport", "dport") }
func (SelectPorts) about() packets { return allPackets }

// Rules about ports are for local packets, as those about protocols are.
func (s SelectPorts) inRules(Family) ruleForm {
	if slices.ContainsFunc(s.List, func(p netcfg.Ports) bool { return p.Last == 1<<16-1 }) { // net/fib_rules.h fib_rule_port_range_valid
		return ruleForm{cannot: "rules take no range of ports that ends with the last one"}
	}
	return each(s.List, true, func(r *netcfg.Rule, ports netcfg.Ports) {
		if s.Dest {
			r.Selectors.DPort = ports
		} else {
			r.Selectors.SPort = ports
		}
	})
}

func (s SelectPorts) expressions(Family) []nft.Expr {
	var list []nft.Range
	for _, p := range s.List {
		list = append(list, nft.Range{First: uint32(p.First), Last: uint32(p.Last)})
	}
	var all []nft.Expr
	for _, part := range nft.Apart(list) {
		all = append(all, nft.Ports{Dest: s.Dest, List: part})
	}
	return all
}

func (s SelectPorts) tracked(*planner) func(*Connection) bool {
	return func(c *Connection) bool {
		port := c.SPort
		if s.Dest {
			port = c.DPort
		}
		return slices.ContainsFunc(s.List, func(r netcfg.Ports) bool { return r.Has(port) })
	}
}
