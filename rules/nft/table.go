package nft

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/uplinkd/uplinkd/rules/inet"
)

// TableName is the name of our nftables table, of family inet.
const TableName = "uplinkd"

// PolicyTableName is the name of the nftables table of policies, of family inet. It is one of its own because
// other programs fill sets of it: its rules are replaced while its sets stay.
const PolicyTableName = "uplinkd_policy"

// Table is an nftables table of ours. Its chains are few and their rules use few expressions, so that an
// adapter can compile each of them and String can write each of them for "nft -f".
type Table struct {
	Sets   []Set
	Chains []Chain
	// Flowtable are the devices, sorted, between which the rules of Offload let connections pass by all chains.
	Flowtable []string
}

// FlowtableName is the name of a table's flowtable.
const FlowtableName = "fast"

// Set is a set or a map with a name: of devices, of marks, or of addresses that other programs put there. Sets of
// addresses that are known here have no names; the others have one because the library that we speak to the kernel
// with cannot say of nameless ones in which byte order they are to be shown.
type Set struct {
	Name    string
	Family  inet.Family // of addresses; 0 for devices and marks
	Merge   bool        // overlapping prefixes become one, by whoever adds them; else elements may expire
	Known   *inet.Set   // what is in it; nil where others fill it
	Map     bool        // to chains
	Devices []string
	Marks   []uint32
	Chains  []string // of a map: where packets of each of the devices or marks go on
	// Has is how many elements are in a set that was read back, if they were Counted.
	Has     int
	Counted bool
}

// Lacks reports whether somebody has taken elements from a set as it was read back. What was in it is no part of that: the name of a set
// that we fill has a digest of it, and what others fill is theirs.
func (s *Set) Lacks(have *Set) bool {
	switch {
	case !have.Counted:
		return false
	case s.Known == nil:
		return have.Has < len(s.Devices)+len(s.Marks)
	}
	ends := s.Known.Ranges(s.Family)
	want := 2 * len(ends)
	if want > 0 && !ends[len(ends)-1].Last.Next().IsValid() { // which has no end
		want--
	}
	return have.Has < want
}

// Same compares what sets are made with.
func (s Set) Same(o Set) bool {
	return s.Name == o.Name && s.Family == o.Family && s.Map == o.Map && s.Merge == o.Merge
}

// String writes the set in nft's syntax, without its name.
func (s Set) String() string {
	switch {
	case s.Known != nil:
		return fmt.Sprintf("type ipv%d_addr; flags interval; elements = { ", s.Family) + listed(s.Known.Ranges(s.Family)) + " }"
	case s.Family != 0 && s.Merge:
		return fmt.Sprintf("type ipv%d_addr; flags interval; auto-merge;", s.Family)
	case s.Family != 0:
		return fmt.Sprintf("type ipv%d_addr; flags interval,timeout;", s.Family)
	}
	key, words := "ifname", make([]string, 0, len(s.Devices)+len(s.Marks))
	for _, d := range s.Devices {
		words = append(words, strconv.Quote(d))
	}
	for _, m := range s.Marks {
		key, words = "mark", append(words, fmt.Sprintf("%#08x", m))
	}
	if s.Map {
		key += " : verdict"
		for i := range words {
			words[i] += " : goto " + s.Chains[i]
		}
	}
	// Sets whose size is known are the fastest (net/netfilter/nft_set_hash.c nft_hash_select_ops).
	return "type " + key + "; size " + strconv.Itoa(len(words)) + "; elements = { " + strings.Join(words, ", ") + " };"
}

// maxListed is how many ranges of a set are written out: beyond, nobody reads them.
const maxListed = 20

// listed writes ranges as elements of a set.
func listed(ranges []inet.Range) string {
	more := len(ranges) - maxListed
	words := make([]string, 0, maxListed)
	for _, r := range ranges[:min(maxListed, len(ranges))] {
		switch p := r.Prefixes(); {
		case r.First == r.Last:
			words = append(words, r.First.String())
		case len(p) == 1:
			words = append(words, p[0].String())
		default:
			words = append(words, r.First.String()+"-"+r.Last.String())
		}
	}
	all := strings.Join(words, ", ")
	if more > 0 {
		all += fmt.Sprintf(" # and %d more, which are not shown\n\t\t", more)
	}
	return all
}

// AddSets adds the sets that rules look values up in.
func (t *Table) AddSets() {
	known := make(map[*string]bool) // lists of devices that have been looked at: many rules share one
	add := func(s Set) {
		if !slices.ContainsFunc(t.Sets, s.Same) {
			t.Sets = append(t.Sets, s)
		}
	}
	for _, c := range t.Chains {
		for i := range c.Rules {
			for _, e := range c.Rules[i].Exprs {
				switch e := e.(type) {
				case Devices:
					if !known[&e.Names[0]] {
						known[&e.Names[0]] = true
						add(Set{Name: e.SetName(), Devices: e.Names})
					}
				case ExternalSet:
					if e.Known != nil {
						add(Set{Name: e.Set, Family: e.Family, Known: e.Known})
					}
				case Branch:
					add(Set{Name: e.MapName(), Map: true, Devices: e.Devices, Chains: e.Chains})
				case PinBranch:
					add(Set{Name: e.MapName(), Map: true, Marks: e.Pins, Chains: e.Chains})
				}
			}
		}
	}
	slices.SortFunc(t.Sets, func(a, b Set) int { return strings.Compare(a.Name, b.Name) })
}

// Chain is a base chain or, without a hook, one that rules lead to.
type Chain struct {
	Name     string
	Type     string // "filter", "route" or "nat"
	Hook     string // "prerouting", "forward", "output" or "postrouting"
	Priority int
	Rules    []Rule
}

// Rule is a rule: expressions from left to right, and a comment that ends in a digest of them.
type Rule struct {
	Exprs   []Expr
	Comment string
	// Policy is the name of the policy that the rule is for, "" for none. It is not read back.
	Policy string
	// Forward is the name of the port forwarding that the rule is for, likewise.
	Forward string
}

// Expr is one expression of an nftables rule.
type Expr interface {
	AppendTo([]byte) []byte // in nft's syntax
}

// The expressions that our rules are made of.
type (
	// Device matches the input or output device by name.
	Device struct {
		Out  bool
		Name string
	}
	// CtMark matches the connection mark under a mask; Not is for any other value.
	CtMark struct {
		Mask, Value uint32
		Not         bool
	}
	// SYN matches what opens a TCP connection, from either end.
	SYN struct{}
	// Midstream matches TCP segments that open none.
	Midstream struct{}
	// MaxSegment lowers the segment size that such a packet announces to a number of bytes; it never raises it.
	MaxSegment struct{ Size uint16 }
	// Source matches the source address.
	Source struct{ Prefix netip.Prefix }
	// SetMark replaces the bits of Mask in the packet mark.
	SetMark struct{ Mask, Value uint32 }
	// SetCtMark replaces the bits of Mask in the connection mark.
	SetCtMark struct{ Mask, Value uint32 }
	// Family matches the network protocol.
	Family struct{ Family inet.Family }
	// Counter counts packets and bytes.
	Counter struct{}
	// NamedCounter counts them in an object of the table that has a name, so that they can be read without the rule.
	NamedCounter struct{ Name string }
	// Masquerade rewrites the source to an address of the output device.
	Masquerade struct{}
	// SourceNAT rewrites the source to an address.
	SourceNAT struct{ To netip.Addr }
	// DestNAT rewrites the destination to an address and, unless that is 0, a port; the rule has matched the address's family.
	DestNAT struct {
		To   netip.Addr
		Port uint16
	}
	// Destination matches the destination address.
	Destination struct{ Prefix netip.Prefix }
	// PrefixNAT rewrites the prefix of the IPv6 source, or of the destination, and keeps the rest of it.
	PrefixNAT struct {
		To   netip.Prefix
		Dest bool
	}
	// Drop drops the packet.
	Drop struct{}
	// Reject drops the IPv6 packet and tells its sender that the source failed a policy.
	Reject struct{}
	// Return ends the chain for this packet.
	Return struct{}
	// Accept ends the base chain for this packet, from whatever chain that it has led to.
	Accept struct{}
	// Jump goes through another chain and comes back.
	Jump struct{ Chain string }
	// Goto goes on in another chain, and does not come back.
	Goto struct{ Chain string }
	// Branch goes on in the chain of the input or output device, if that has one. Every forwarded packet passes
	// our base chains: what they cost does not grow with the uplinks.
	Branch struct {
		Out             bool
		Devices, Chains []string
	}
	// PinBranch goes on in the chain of the pin.
	PinBranch struct {
		Mask   uint32
		Pins   []uint32
		Chains []string
	}
)

// Matches reports whether a device has the name, or fits the pattern that ends in an asterisk.
func (e Device) Matches(device string) bool {
	prefix, pattern := strings.CutSuffix(e.Name, "*")
	return e.Name == device || pattern && strings.HasPrefix(device, prefix)
}

func (e Device) AppendTo(b []byte) []byte {
	if e.Out {
		return strconv.AppendQuote(append(b, "oifname "...), e.Name)
	}
	return strconv.AppendQuote(append(b, "iifname "...), e.Name)
}
func (e Source) AppendTo(b []byte) []byte      { return appendMatch(b, "saddr ", e.Prefix) }
func (e Destination) AppendTo(b []byte) []byte { return appendMatch(b, "daddr ", e.Prefix) }

func appendMatch(b []byte, field string, prefix netip.Prefix) []byte {
	b = append(append(b, inet.Of(prefix.Addr()).Header()...), ' ')
	return appendPrefix(append(b, field...), prefix)
}

// AppendPrefix writes a prefix as nft does.
func appendPrefix(b []byte, prefix netip.Prefix) []byte {
	if prefix.IsSingleIP() {
		return prefix.Addr().AppendTo(b)
	}
	return prefix.Masked().AppendTo(b)
}

// appendHex writes a mark with all its digits.
func appendHex(b []byte, v uint32) []byte {
	b = append(b, "0x"...)
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, "0123456789abcdef"[v>>shift&0xf])
	}
	return b
}

// appendMasked writes a comparison of bits.
func appendMasked(b []byte, what string, mask uint32, operator string, value uint32) []byte {
	return appendHex(append(appendHex(append(b, what+" & "...), mask), operator...), value)
}

func (e PrefixNAT) AppendTo(b []byte) []byte {
	return e.To.AppendTo(append(b, direction(e.Dest, "snat ip6 prefix to ", "dnat ip6 prefix to ")...))
}
func (e SourceNAT) AppendTo(b []byte) []byte {
	return e.To.AppendTo(append(append(append(b, "snat "...), inet.Of(e.To).Header()...), " to "...))
}
func (e DestNAT) AppendTo(b []byte) []byte {
	b = append(append(append(b, "dnat "...), inet.Of(e.To).Header()...), " to "...)
	if e.Port == 0 {
		return e.To.AppendTo(b)
	}
	return netip.AddrPortFrom(e.To, e.Port).AppendTo(b)
}
func (Reject) AppendTo(b []byte) []byte {
	return append(b, "reject with icmpv6 type policy-fail"...)
}
func (e CtMark) AppendTo(b []byte) []byte {
	return appendMasked(b, "ct mark", e.Mask, direction(e.Not, " == ", " != "), e.Value)
}
func (e SetMark) AppendTo(b []byte) []byte {
	return appendMasked(b, "meta mark set meta mark", ^e.Mask, " | ", e.Value)
}
func (e SetCtMark) AppendTo(b []byte) []byte {
	return appendMasked(b, "ct mark set ct mark", ^e.Mask, " | ", e.Value)
}
func (SYN) AppendTo(b []byte) []byte { return append(b, "tcp flags & (syn | rst) == syn"...) }
func (Midstream) AppendTo(b []byte) []byte {
	return append(b, "tcp flags & (fin | syn | rst | ack) != syn"...)
}
func (e MaxSegment) AppendTo(b []byte) []byte {
	return strconv.AppendUint(append(b, "tcp option maxseg size set "...), uint64(e.Size), 10)
}
func (e Family) AppendTo(b []byte) []byte {
	return append(append(b, "meta nfproto "...), e.Family.String()...)
}
func (Counter) AppendTo(b []byte) []byte { return append(b, "counter"...) }
func (e NamedCounter) AppendTo(b []byte) []byte {
	return strconv.AppendQuote(append(b, "counter name "...), e.Name)
}
func (Masquerade) AppendTo(b []byte) []byte { return append(b, "masquerade"...) }
func (Drop) AppendTo(b []byte) []byte       { return append(b, "drop"...) }
func (Return) AppendTo(b []byte) []byte     { return append(b, "return"...) }
func (Accept) AppendTo(b []byte) []byte     { return append(b, "accept"...) }
func (e Jump) AppendTo(b []byte) []byte     { return append(append(b, "jump "...), e.Chain...) }
func (e Goto) AppendTo(b []byte) []byte     { return append(append(b, "goto "...), e.Chain...) }
func (e Branch) AppendTo(b []byte) []byte {
	return append(append(b, direction(e.Out, "iifname vmap @", "oifname vmap @")...), e.MapName()...)
}
func (e PinBranch) AppendTo(b []byte) []byte {
	return append(append(appendHex(append(b, "ct mark & "...), e.Mask), " vmap @"...), e.MapName()...)
}

// MapName returns the name of the map that holds the chains of devices.
func (e Branch) MapName() string {
	return string(appendDigest([]byte("branches_"), []byte(strings.Join(e.Devices, "/")+"//"+strings.Join(e.Chains, "/"))))
}

// MapName returns the name of the map that holds the chains of pins.
func (e PinBranch) MapName() string {
	var of []byte
	for i, pin := range e.Pins {
		of = append(appendHex(of, pin), e.Chains[i]...)
	}
	return string(appendDigest([]byte("pins_"), of))
}

// Sign ends the comments, which say what each rule is for, with a digest of its expressions. The
// digest is how a later snapshot knows the rule again: the kernel keeps comments to the letter, while
// an expression need not read back in the form in which it was written.
func (t *Table) Sign() {
	var body, comment []byte // for all rules in turn
	for _, c := range t.Chains {
		for i := range c.Rules {
			r := &c.Rules[i]
			body = r.appendBody(body[:0])
			comment = append(append(comment[:0], r.Comment...), " ["...)
			r.Comment = string(append(appendDigest(comment, body), ']'))
		}
	}
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

// String writes the rule in nft's syntax, without its comment.
func (r Rule) String() string { return string(r.appendBody(nil)) }

func (r *Rule) appendBody(b []byte) []byte {
	for i, e := range r.Exprs {
		if i > 0 {
			b = append(b, ' ')
		}
		b = e.AppendTo(b)
	}
	return b
}

// fewBranches is up to how many devices or pins are compared one by one: what looks a value up in a map costs each packet as
// much as three or four comparisons do (measured by BenchmarkThroughput of cmd/uplinkd).
const fewBranches = 4

// DispatchByDevice adds what leads packets that meet the conditions to the chain of their device.
func (c *Chain) DispatchByDevice(why string, by Branch, conditions ...Expr) {
	if len(by.Devices) > fewBranches {
		c.Add(why, append(conditions, by)...)
		return
	}
	for i, device := range by.Devices {
		c.Add(why, append(conditions[:len(conditions):len(conditions)], Device{Out: by.Out, Name: device}, Goto{by.Chains[i]})...)
	}
}

// DispatchByPin adds what leads packets to the chain of their pin.
func (c *Chain) DispatchByPin(why string, by PinBranch) {
	if len(by.Pins) > fewBranches {
		c.Add(why, by)
		return
	}
	for i, pin := range by.Pins {
		c.Add(why, CtMark{Mask: by.Mask, Value: pin}, Goto{by.Chains[i]})
	}
}

// Add adds a rule; why is its comment.
func (c *Chain) Add(why string, exprs ...Expr) {
	c.Rules = append(c.Rules, Rule{Exprs: exprs, Comment: why})
}

// AddFor adds a rule that is for a policy; what says what it does, "" where that is plain.
func (c *Chain) AddFor(policy, what string, exprs ...Expr) {
	c.Rules = append(c.Rules, Rule{Exprs: exprs, Comment: "policy " + policy + what, Policy: policy})
}

// SameHead reports whether the chains have one name and hang at the same place.
func (c *Chain) SameHead(o *Chain) bool {
	return c.Name == o.Name && c.Type == o.Type && c.Hook == o.Hook && c.Priority == o.Priority
}

// Chain returns a chain by its name, nil when there is none.
func (t *Table) Chain(name string) *Chain {
	for i := range t.Chains {
		if t.Chains[i].Name == name {
			return &t.Chains[i]
		}
	}
	return nil
}

// Matches reports whether a table that was read back is the wanted one: the same sets and devices of the flowtable, and the same chains at
// the same hooks, holding the same rules in the same order, each told by its comment.
func (t *Table) Matches(have *Table) bool {
	return t.matches(have, func(a, b []Rule) bool { return slices.EqualFunc(a, b, sameComment) })
}

// Names of the rules that are about nothing but which networks are local.
const (
	LocalNetworksAreHidden = "local networks are hidden"
	LeadsBehindAnUplink    = "main leads to a network behind an uplink"
)

// MatchesButForLocals is Matches but for rules that are about nothing but which networks are local: how packets leave by each uplink is the same.
func (t *Table) MatchesButForLocals(have *Table) bool {
	ofLocals := func(r Rule) bool { return r.name() == LocalNetworksAreHidden || r.name() == LeadsBehindAnUplink }
	return t.matches(have, func(a, b []Rule) bool {
		return slices.EqualFunc(slices.DeleteFunc(slices.Clone(a), ofLocals), slices.DeleteFunc(slices.Clone(b), ofLocals), sameComment)
	})
}

func sameComment(a, b Rule) bool { return a.Comment == b.Comment }

// name is the comment without the digest.
func (r Rule) name() string {
	if at := strings.LastIndex(r.Comment, " ["); at >= 0 {
		return r.Comment[:at]
	}
	return r.Comment
}

func (t *Table) matches(have *Table, same func(a, b []Rule) bool) bool {
	if t == nil || have == nil {
		return t == have
	}
	if len(t.Chains) != len(have.Chains) || !slices.Equal(t.Flowtable, have.Flowtable) || !slices.EqualFunc(t.Sets, have.Sets, func(want, have Set) bool { return want.Same(have) && !want.Lacks(&have) }) {
		return false
	}
	for i := range t.Chains {
		a := &t.Chains[i]
		b := have.Chain(a.Name) // a chain that was added to a table later is its last
		if b == nil || !a.SameHead(b) || !same(a.Rules, b.Rules) {
			return false
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
	t.Write(&b, TableName)
	return b.String()
}

// Write writes the table with all that is in it.
func (t *Table) Write(b *strings.Builder, name string) {
	fmt.Fprintf(b, "table inet %s {\n", name)
	if len(t.Flowtable) > 0 {
		fmt.Fprintf(b, "\tflowtable %s {\n\t\thook ingress priority filter; devices = { \"%s\" };\n\t}\n", FlowtableName, strings.Join(t.Flowtable, `", "`))
	}
	for _, c := range t.Counters() {
		fmt.Fprintf(b, "\tcounter %s {\n\t}\n", c)
	}
	for _, s := range t.Sets {
		fmt.Fprintf(b, "\t%s %s {\n\t\t%s\n\t}\n", s.Kind(), s.Name, s)
	}
	for _, c := range t.Chains {
		fmt.Fprintf(b, "\tchain %s {\n", c.Name)
		if c.Hook != "" {
			fmt.Fprintf(b, "\t\ttype %s hook %s priority %d; policy accept;\n", c.Type, c.Hook, c.Priority)
		}
		for _, r := range c.Rules {
			fmt.Fprintf(b, "\t\t%s comment %q\n", r.appendBody(nil), r.Comment)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
}

// Counters lists the names of those that rules count in, each once.
func (t *Table) Counters() (names []string) {
	for _, c := range t.Chains {
		for i := range c.Rules {
			for _, e := range c.Rules[i].Exprs {
				if counter, ok := e.(NamedCounter); ok {
					names = append(names, counter.Name)
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Kind is "set" or "map".
func (s Set) Kind() string {
	if s.Map {
		return "map"
	}
	return "set"
}
