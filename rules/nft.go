package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// TableName is the name of our nftables table, of family inet.
const TableName = "uplinkd"

// Table is an nftables table of ours. Its chains are few and their rules use few expressions, so that an
// adapter can compile each of them and String can write each of them for "nft -f".
type Table struct {
	Sets   []Set
	Chains []Chain
}

// Set is a set with a name: of devices, or of addresses that other programs put there. Sets of addresses that
// are known here have no names; of devices they have one because the library that we speak to the kernel with
// cannot say of the others in which byte order they are to be shown.
type Set struct {
	Name    string
	Family  Family   // of addresses; 0 for devices
	Devices []string // nil in a table that was read back: the name has a digest of them
}

func (s Set) same(o Set) bool { return s.Name == o.Name && s.Family == o.Family }

// String writes the set in nft's syntax, without its name.
func (s Set) String() string {
	if s.Family == 0 {
		return "type ifname; elements = " + anyOf(s.Devices, strconv.Quote, true) + ";"
	}
	return fmt.Sprintf("type ipv%d_addr; flags interval,timeout;", s.Family)
}

// nameDevices adds the sets that the rules' lists of devices are looked up in.
func (t *Table) nameDevices() {
	known := make(map[*string]bool) // lists that have been looked at: many rules share one
	for _, c := range t.Chains {
		for i := range c.Rules {
			for _, e := range c.Rules[i].Exprs {
				d, ok := e.(NftDevices)
				if !ok || known[&d.Names[0]] {
					continue
				}
				known[&d.Names[0]] = true
				if name := d.SetName(); !slices.ContainsFunc(t.Sets, func(s Set) bool { return s.Name == name }) {
					t.Sets = append(t.Sets, Set{Name: name, Devices: d.Names})
				}
			}
		}
	}
	slices.SortFunc(t.Sets, func(a, b Set) int { return strings.Compare(a.Name, b.Name) })
}

// Chain is a base chain.
type Chain struct {
	Name     string
	Type     string // "filter", "route" or "nat"
	Hook     string // "prerouting", "forward", "output" or "postrouting"
	Priority int
	Rules    []NftRule
}

// NftRule is a rule: expressions from left to right, and a comment that ends in a digest of them.
type NftRule struct {
	Exprs   []NftExpr
	Comment string
}

// NftExpr is one expression of an nftables rule; String gives it in nft's syntax.
type NftExpr interface{ fmt.Stringer }

// The expressions that our rules are made of.
type (
	// NftDevice matches the input or output device by name.
	NftDevice struct {
		Out  bool
		Name string
	}
	// NftCtMark matches the connection mark under a mask.
	NftCtMark struct{ Mask, Value uint32 }
	// NftMaxSegment lowers the segment size that a TCP SYN announces to a number of bytes; it never raises it.
	NftMaxSegment struct{ Size uint16 }
	// NftSource matches the source address.
	NftSource struct{ Prefix netip.Prefix }
	// NftSetMark replaces the bits of Mask in the packet mark.
	NftSetMark struct{ Mask, Value uint32 }
	// NftSetCtMark replaces the bits of Mask in the connection mark.
	NftSetCtMark struct{ Mask, Value uint32 }
	// NftFamily matches the network protocol.
	NftFamily struct{ Family Family }
	// NftCounter counts packets and bytes.
	NftCounter struct{}
	// NftMasquerade rewrites the source to an address of the output device.
	NftMasquerade struct{}
	// NftDestination matches the destination address.
	NftDestination struct{ Prefix netip.Prefix }
	// NftPrefixNAT rewrites the prefix of the IPv6 source, or of the destination, and keeps the rest of it.
	NftPrefixNAT struct {
		To   netip.Prefix
		Dest bool
	}
	// NftDrop drops the packet.
	NftDrop struct{}
	// NftReject drops the IPv6 packet and tells its sender that the source failed a policy.
	NftReject struct{}
	// NftReturn ends the chain for this packet.
	NftReturn struct{}
)

func (e NftDevice) String() string { return string(e.appendTo(nil)) }
func (e NftDevice) appendTo(b []byte) []byte {
	if e.Out {
		return strconv.AppendQuote(append(b, "oifname "...), e.Name)
	}
	return strconv.AppendQuote(append(b, "iifname "...), e.Name)
}
func (e NftCtMark) String() string           { return fmt.Sprintf("ct mark & %#08x == %#08x", e.Mask, e.Value) }
func (e NftSource) String() string           { return string(e.appendTo(nil)) }
func (e NftSource) appendTo(b []byte) []byte { return appendMatch(b, "saddr ", e.Prefix) }
func (e NftDestination) String() string      { return string(appendMatch(nil, "daddr ", e.Prefix)) }

func appendMatch(b []byte, field string, prefix netip.Prefix) []byte {
	if prefix.Addr().Is6() {
		b = append(b, "ip6 "...)
	} else {
		b = append(b, "ip "...)
	}
	b = append(b, field...)
	if prefix.IsSingleIP() {
		return prefix.Addr().AppendTo(b)
	}
	return prefix.Masked().AppendTo(b)
}

func (e NftPrefixNAT) String() string {
	if e.Dest {
		return "dnat ip6 prefix to " + e.To.String()
	}
	return "snat ip6 prefix to " + e.To.String()
}
func (NftReject) String() string { return "reject with icmpv6 type policy-fail" }

func (e NftSetMark) String() string {
	return fmt.Sprintf("meta mark set meta mark & %#08x | %#08x", ^e.Mask, e.Value)
}
func (e NftSetCtMark) String() string {
	return fmt.Sprintf("ct mark set ct mark & %#08x | %#08x", ^e.Mask, e.Value)
}
func (e NftMaxSegment) String() string {
	return fmt.Sprintf("tcp flags & (syn | rst) == syn tcp option maxseg size set %d", e.Size)
}
func (e NftFamily) String() string   { return "meta nfproto " + e.Family.String() }
func (NftCounter) String() string    { return "counter" }
func (NftMasquerade) String() string { return "masquerade" }
func (NftDrop) String() string       { return "drop" }
func (NftReturn) String() string     { return "return" }

// newRule makes a rule whose comment says what it is for and carries a digest of its expressions. The
// digest is how a later snapshot knows the rule again: the kernel keeps comments to the letter, while
// an expression need not read back in the form in which it was written.
func newRule(why string, exprs ...NftExpr) NftRule {
	r := NftRule{Exprs: exprs}
	var room [160]byte
	comment := append(append(make([]byte, 0, 96), why...), " ["...)
	r.Comment = string(append(appendDigest(comment, r.appendBody(room[:0])), ']'))
	return r
}

func appendDigest(b, of []byte) []byte {
	digest := uint32(fnvOffset)
	for _, c := range of {
		digest = (digest ^ uint32(c)) * fnvPrime
	}
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, "0123456789abcdef"[digest>>shift&0xf])
	}
	return b
}

// FNV-1a of 32 bits, written out: a box with 62 uplinks has thousands of rules to make.
const (
	fnvOffset = 2166136261
	fnvPrime  = 16777619
)

func (r *NftRule) appendBody(b []byte) []byte {
	for i, e := range r.Exprs {
		if i > 0 {
			b = append(b, ' ')
		}
		switch e := e.(type) { // the frequent ones without a string in between
		case NftDevice:
			b = e.appendTo(b)
		case NftSource:
			b = e.appendTo(b)
		default:
			b = append(b, e.String()...)
		}
	}
	return b
}

func (c *Chain) sameHead(o *Chain) bool {
	return c.Name == o.Name && c.Type == o.Type && c.Hook == o.Hook && c.Priority == o.Priority
}

// sameHeads reports whether both tables have the same chains at the same hooks.
func (t *Table) sameHeads(o *Table) bool {
	return slices.EqualFunc(t.Chains, o.Chains, func(a, b Chain) bool { return a.sameHead(&b) })
}

// Matches reports whether a table that was read back is the wanted one: the same sets, and the same chains at
// the same hooks, holding the same rules in the same order, each told by its comment.
func (t *Table) Matches(have *Table) bool {
	if t == nil || have == nil {
		return t == have
	}
	if !t.sameHeads(have) || !slices.EqualFunc(t.Sets, have.Sets, Set.same) {
		return false
	}
	for i := range t.Chains {
		a, b := &t.Chains[i], &have.Chains[i]
		if len(a.Rules) != len(b.Rules) {
			return false
		}
		for j := range a.Rules {
			if a.Rules[j].Comment != b.Rules[j].Comment {
				return false
			}
		}
	}
	return true
}

// String writes the table in nft's syntax, such that "nft -f" replaces the table in one transaction
// whether or not it exists.
func (t *Table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %[1]s\ndelete table inet %[1]s\n", TableName)
	if t == nil {
		return b.String()
	}
	t.write(&b, TableName)
	return b.String()
}

// write writes the table with all that is in it.
func (t *Table) write(b *strings.Builder, name string) {
	fmt.Fprintf(b, "table inet %s {\n", name)
	for _, s := range t.Sets {
		fmt.Fprintf(b, "\tset %s {\n\t\t%s\n\t}\n", s.Name, s)
	}
	for _, c := range t.Chains {
		fmt.Fprintf(b, "\tchain %s {\n\t\ttype %s hook %s priority %d; policy accept;\n", c.Name, c.Type, c.Hook, c.Priority)
		for _, r := range c.Rules {
			fmt.Fprintf(b, "\t\t%s comment %q\n", r.appendBody(nil), r.Comment)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
}
