package rules

import "slices"

// SelectPorts is about source or destination ports, of protocols that have them.
type SelectPorts struct {
	Dest bool
	List []Ports
}

// Key is sport or dport.
func (s SelectPorts) Key() string  { return direction(s.Dest, "sport", "dport") }
func (SelectPorts) about() packets { return allPackets }

// Rules about ports are for local packets, as those about protocols are.
func (s SelectPorts) inRules(Family) ruleForm {
	if slices.ContainsFunc(s.List, func(p Ports) bool { return p.Last == 1<<16-1 }) { // net/fib_rules.h fib_rule_port_range_valid
		return ruleForm{cannot: "rules take no range of ports that ends with the last one"}
	}
	return each(s.List, true, func(r *Rule, ports Ports) {
		if s.Dest {
			r.Selectors.DPort = ports
		} else {
			r.Selectors.SPort = ports
		}
	})
}

func (s SelectPorts) expressions(Family) []NftExpr {
	list := merged(s.List, func(p Ports) (uint64, uint64) { return uint64(p.First), uint64(p.Last) },
		func(a, b Ports) Ports { return Ports{a.First, max(a.Last, b.Last)} })
	return []NftExpr{NftPorts{s.Dest, list}}
}

func (s SelectPorts) tracked(*planner) func(*Connection) bool {
	return func(c *Connection) bool {
		port := c.SPort
		if s.Dest {
			port = c.DPort
		}
		return slices.ContainsFunc(s.List, func(r Ports) bool { return r.Has(port) })
	}
}

// NftPorts matches the source or destination port, by ranges that do not overlap.
type NftPorts struct {
	Dest bool
	List []Ports
}

func (e NftPorts) appendTo(b []byte) []byte {
	return appendAny(append(b, direction(e.Dest, "th sport ", "th dport ")...), e.List, func(b []byte, p Ports) []byte { return appendRange(b, p.First, p.Last) })
}
