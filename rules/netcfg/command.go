package netcfg

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// Command writes the change as a line for a shell.
func (o AddAddr) Command() string {
	return "ip " + inet.Of(o.Prefix.Addr()).Flag() + " address add " + o.String()
}

// Command writes the change as a line for a shell.
func (o ChangeAddr) Command() string {
	return "ip " + inet.Of(o.Prefix.Addr()).Flag() + " address change " + o.String()
}

// String writes the assignment in iproute2's syntax.
func (a AddrAssignment) String() string {
	s := a.Prefix.String() + " dev " + a.Device
	if a.Deprecated {
		s += " preferred_lft 0"
	}
	if a.NoPrefixRoute {
		s += " noprefixroute"
	}
	if a.LinkScope {
		s += " scope link"
	}
	return s
}

// Command writes the change as a line for a shell.
func (o DelAddr) Command() string {
	return fmt.Sprintf("ip %s address del %s dev %s", inet.Of(o.Prefix.Addr()).Flag(), o.Prefix, o.Device)
}

// Command writes the change as a line for a shell.
func (o PutRoute) Command() string {
	verb := "replace"
	if o.Prepend {
		verb = "prepend"
	}
	return fmt.Sprintf("ip %s route %s %s", o.Family.Flag(), verb, o.Route)
}

// Command writes the change as a line for a shell.
func (o DelRoute) Command() string {
	if o.Object != 0 {
		r := o.Route
		r.Nexthops = nil
		return fmt.Sprintf("ip %s route del %s nhid %d", o.Family.Flag(), r, o.Object)
	}
	return fmt.Sprintf("ip %s route del %s", o.Family.Flag(), o.Route)
}

// Command writes the change as a line for a shell.
func (o AddRule) Command() string { return fmt.Sprintf("ip %s rule add %s", o.Family.Flag(), o.Rule) }

// Command writes the change as a line for a shell.
func (o DelRule) Command() string { return fmt.Sprintf("ip %s rule del %s", o.Family.Flag(), o.Rule) }

// Command writes the change as a here-document for nft.
func (o PutTable) Command() string { return "nft -f - <<'EOF'\n" + o.Table.String() + "EOF" }

// Command writes the change as a here-document for nft.
func (o PutPolicies) Command() string {
	return o.setsFirst() + "nft -f - <<'EOF'\n" + o.Script() + "EOF"
}

// setsFirst writes the transaction that makes sets of known addresses before rules look into them.
func (o PutPolicies) setsFirst() string {
	if o.Table == nil {
		return ""
	}
	var missing nft.Table
	for _, s := range o.Sets {
		if s.Known != nil && !slices.Contains(o.Loaded, s.Name) {
			missing.Sets = append(missing.Sets, s)
		}
	}
	if len(missing.Sets) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("nft -f - <<'EOF'\n")
	missing.Write(&b, nft.PolicyTableName)
	b.WriteString("EOF\n")
	return b.String()
}

// Script writes the change in nft's syntax.
func (o PutPolicies) Script() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s\n", nft.PolicyTableName)
	if o.Table == nil {
		fmt.Fprintf(&b, "delete table inet %s\n", nft.PolicyTableName)
		return b.String()
	}
	fmt.Fprintf(&b, "flush table inet %s\n", nft.PolicyTableName)
	for _, set := range o.DropSets { // a map leads to chains
		fmt.Fprintf(&b, "delete %s inet %s %s\n", set.Kind(), nft.PolicyTableName, set.Name)
	}
	for _, chain := range o.DropChains {
		fmt.Fprintf(&b, "delete chain inet %s %s\n", nft.PolicyTableName, chain)
	}
	o.Write(&b, nft.PolicyTableName)
	return b.String()
}

// Command writes the change as a line for a shell.
func (o SetGroup) Command() string {
	return fmt.Sprintf("ip link set dev %s group %d", o.Device, o.Group)
}

// Command writes the change as a line for a shell.
func (o SetSysctl) Command() string { return fmt.Sprintf("sysctl -w %s=%s", o.Name, o.Value) }

// String writes the route in iproute2's syntax, such that it reads back as the same route.
func (r Route) String() string {
	var b strings.Builder
	if r.Type != Unicast {
		b.WriteString(r.Type.String() + " ")
	}
	if r.IsDefault() {
		b.WriteString("default")
	} else {
		b.WriteString(r.Dst.String())
	}
	if r.From.IsValid() {
		b.WriteString(" from " + r.From.String())
	}
	if r.TOS != 0 {
		fmt.Fprintf(&b, " tos %#x", r.TOS)
	}
	if len(r.Nexthops) == 1 {
		b.WriteString(r.Nexthops[0].String())
	}
	b.WriteString(" table " + strconv.FormatUint(uint64(r.Table), 10))
	fmt.Fprintf(&b, " proto %d", r.Protocol)
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	if r.Family == inet.IPv4 && r.Scope != ScopeUniverse {
		fmt.Fprintf(&b, " scope %d", r.Scope)
	}
	if r.Src.IsValid() {
		b.WriteString(" src " + r.Src.String())
	}
	if r.MTU != 0 {
		fmt.Fprintf(&b, " mtu %d", r.MTU)
	}
	if len(r.Nexthops) > 1 {
		for _, n := range r.Nexthops {
			fmt.Fprintf(&b, " nexthop%s weight %d", n, n.Weight)
		}
	}
	return b.String()
}

// String names the type in iproute2's words.
func (t RouteType) String() string {
	switch t {
	case Unicast:
		return "unicast"
	case Local:
		return "local"
	case Broadcast:
		return "broadcast"
	case Anycast:
		return "anycast"
	case Multicast:
		return "multicast"
	case Blackhole:
		return "blackhole"
	case Unreachable:
		return "unreachable"
	case Prohibit:
		return "prohibit"
	case Throw:
		return "throw"
	}
	return strconv.Itoa(int(t))
}

// String writes the nexthop in iproute2's syntax, with a leading space and without its weight.
func (n Nexthop) String() string {
	s := ""
	if n.Gateway.IsValid() {
		s = " via " + n.Gateway.String()
	}
	s += " dev " + n.Device
	if n.Onlink {
		s += " onlink"
	}
	return s
}

// String writes the rule in iproute2's syntax.
func (r Rule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "pref %d", r.Priority)
	if r.Selectors.Not {
		b.WriteString(" not")
	}
	if r.From.IsValid() {
		b.WriteString(" from " + r.From.String())
	} else {
		b.WriteString(" from all")
	}
	if r.To.IsValid() {
		b.WriteString(" to " + r.To.String())
	}
	if r.Mask != 0 {
		fmt.Fprintf(&b, " fwmark %#x/%#x", r.Mark, r.Mask)
	}
	if r.IIF != "" {
		b.WriteString(" iif " + r.IIF)
	}
	if r.OIF != "" {
		b.WriteString(" oif " + r.OIF)
	}
	b.WriteString(r.Selectors.iproute2())
	b.WriteString(r.action())
	if r.SuppressPrefixLen >= 0 {
		fmt.Fprintf(&b, " suppress_prefixlength %d", r.SuppressPrefixLen)
	}
	if r.SuppressGroup >= 0 {
		fmt.Fprintf(&b, " suppress_ifgroup %d", r.SuppressGroup)
	}
	fmt.Fprintf(&b, " protocol %d", r.Protocol)
	return b.String()
}
