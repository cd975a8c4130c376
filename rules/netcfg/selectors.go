package netcfg

import (
	"cmp"
	"fmt"
	"strings"
)

// RuleSelectors holds the rarer selectors of a rule, and its action. The zero value is a rule with none of them,
// whose action is to look up its table. Those of our policies have a protocol, ports and owners.
type RuleSelectors struct {
	Goto         int // preference of the rule that Goto leads to
	UIDs         UIDs
	SPort, DPort Ports
	Not          bool // the rule is for what its selectors do not match
	Protocol     uint8
	TOS          uint8 // the field of IPv4 and IPv6 headers
	DSCP         bool  // TOS is compared with all six bits of the code point, not with the old three of IPv4
	Unknown      bool  // there are further selectors, which nobody here understands
	Action       Action
	// Received is the kernel's own message about a rule with what none of ours has, header and attributes: it is deleted by that, as
	// "ip rule flush" does. Another revision of this program may have left it.
	Received string
}

// Ports is a range of ports; the zero value selects nothing.
type Ports struct{ First, Last uint16 }

// Has reports whether a port is in the range; the zero range has all.
func (p Ports) Has(port uint16) bool { return p == Ports{} || port >= p.First && port <= p.Last }

// UIDs is a range of socket owners.
type UIDs struct {
	Set         bool
	First, Last uint32
}

// Action is what a rule does with a packet (linux/fib_rules.h FR_ACT_*), 0 for looking up its table.
type Action uint8

// The actions beside the lookup.
const (
	Jump             Action = 2 // on to the rule of preference Goto
	Nop              Action = 3
	RefuseSilently   Action = 6 // blackhole
	RefuseNoRoute    Action = 7 // unreachable
	RefuseProhibited Action = 8
)

// compare puts the selectors that rules of ours have into an order.
func (m *RuleSelectors) compare(o *RuleSelectors) int {
	return cmp.Or(cmp.Compare(m.Protocol, o.Protocol), cmp.Compare(m.SPort.First, o.SPort.First), cmp.Compare(m.SPort.Last, o.SPort.Last),
		cmp.Compare(m.DPort.First, o.DPort.First), cmp.Compare(m.DPort.Last, o.DPort.Last),
		cmp.Compare(m.UIDs.First, o.UIDs.First), cmp.Compare(m.UIDs.Last, o.UIDs.Last))
}

// iproute2 writes them in iproute2's syntax, each with a leading space.
func (m *RuleSelectors) iproute2() string {
	var b strings.Builder
	if m.TOS != 0 || m.DSCP {
		if m.DSCP {
			fmt.Fprintf(&b, " dscp %d", m.TOS>>2)
		} else {
			fmt.Fprintf(&b, " tos %#x", m.TOS)
		}
	}
	if m.UIDs.Set {
		fmt.Fprintf(&b, " uidrange %d-%d", m.UIDs.First, m.UIDs.Last)
	}
	if m.Protocol != 0 {
		fmt.Fprintf(&b, " ipproto %d", m.Protocol)
	}
	for _, p := range []struct {
		name string
		Ports
	}{{"sport", m.SPort}, {"dport", m.DPort}} {
		switch {
		case p.Ports == Ports{}:
		case p.First == p.Last:
			fmt.Fprintf(&b, " %s %d", p.name, p.First)
		default:
			fmt.Fprintf(&b, " %s %d-%d", p.name, p.First, p.Last)
		}
	}
	return b.String()
}

// action writes what the rule does in iproute2's syntax, with a leading space.
func (r *Rule) action() string {
	switch r.Selectors.Action {
	case Jump:
		return fmt.Sprintf(" goto %d", r.Selectors.Goto)
	case Nop:
		return " nop"
	case RefuseSilently:
		return " blackhole"
	case RefuseNoRoute:
		return " unreachable"
	case RefuseProhibited:
		return " prohibit"
	}
	return fmt.Sprintf(" lookup %d", r.Table)
}
