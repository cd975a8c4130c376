package config

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// maxPolicies and MaxSets are how many sections [[policy]] and [[set]] there may be.
const (
	maxPolicies = 1000
	MaxSets     = 250
)

// Policy is one [[policy]] section: traffic that takes uplinks of its own.
type Policy struct {
	Name     string         // name: unique among policies; as an uplink's
	Enabled  bool           // enabled: what is not is in Config.Disabled
	Uplinks  [][]string     // uplinks: names, in tiers, the best first; each once
	Weights  map[string]int // of those in uplinks that are written "name:weight": 1..256; others have the uplink's own
	LeftTo   LeftTo         // uplinks = ["main"] or ["default"]: there are no Uplinks then, nor what chooses among them
	Fallback Fallback       // fallback: what happens to the traffic when none of the uplinks works
	Sticky   Sticky         // sticky: what stays on one uplink
	Match    Match          // which traffic: at least one condition, unless Except is given
	Except   []netip.Prefix
}

// LeftTo says what decides about traffic that a policy leaves alone.
type LeftTo string

// What traffic may be left to.
const (
	LeftToNobody  LeftTo = ""        // the policy has uplinks
	LeftToMain    LeftTo = "main"    // what routing table main says
	LeftToDefault LeftTo = "default" // the default, and no later policy
)

// Fallback says what becomes of a policy's traffic when none of its uplinks works.
type Fallback string

// The fallbacks.
const (
	FallbackDefault     Fallback = "default"     // later policies, and then the default, carry it
	FallbackUnreachable Fallback = "unreachable" // it is refused: a kill switch
)

// Sticky says what stays on one of several uplinks.
type Sticky string

// What may be sticky.
const (
	StickyFlow   Sticky = "flow"   // every flow for itself
	StickySource Sticky = "source" // all flows of one source address
)

// Match says which packets a policy is about. Every condition that is given must hold; of a list, one element.
type Match struct {
	From, To  Addresses // from, to
	IIF       []string  // iif: devices that packets come in by
	Protocols []uint8   // protocol
	SPorts    []Range   // sport: 1..65535
	DPorts    []Range   // dport: 1..65535
	UIDs      []Range   // uid: owners of this router's own sockets
	Mark      uint32    // fwmark: bits of the packet mark that somebody else sets, within MarkMask
	MarkMask  uint32    // 0 is no condition; none of Kernel.MarkMask
	DSCP      []uint8   // dscp: 0..63
	MACs      [][6]byte // mac: Ethernet addresses of hosts
}

// Addresses are prefixes, without bits behind their lengths, and sets that other programs fill.
type Addresses struct {
	Prefixes []netip.Prefix
	Filled   []string // names of sections [[set]] that other programs fill
	Lists    []string // names of those whose addresses come from elsewhere, and change
}

// Empty reports whether there are none.
func (a Addresses) Empty() bool { return len(a.Prefixes)+len(a.Filled)+len(a.Lists) == 0 }

// Range is a range of numbers, ends included.
type Range struct{ First, Last uint32 }

const (
	titlePolicy   = "[[policy]]"
	examplePrefix = "192.168.0.0/16"
	exampleMAC    = "02:00:00:00:00:10"
)

func policySection(p *Policy, sets []Set) section {
	return section{titlePolicy, append([]field{
		text("name", &p.Name, "tcp-through-vps", checkLabel),
		boolean("enabled", &p.Enabled),
		{name: "uplinks", takes: `a list of names and lists, such as ["vps", ["fiber:3", "lte:1"]]`, read: func(r *reader, v *value) {
			p.Uplinks, p.Weights = r.tiers(v)
			p.Uplinks, p.LeftTo = leftTo(p.Uplinks)
		}},
		choice("fallback", &p.Fallback, []Fallback{FallbackDefault, FallbackUnreachable}, nil),
		choice("sticky", &p.Sticky, []Sticky{StickyFlow, StickySource}, nil),
		prefixes("except", &p.Except, sets),
	}, matchFields(&p.Match, sets)...)}
}

func matchFields(m *Match, sets []Set) []field {
	return []field{
		addresses("from", &m.From, sets),
		addresses("to", &m.To, sets),
		texts("iif", &m.IIF, "br-lan", maxSelector, checkDevices).scalarOrList(),
		numbers("protocol", &m.Protocols, `"tcp"`, parseProtocol),
		numbers("sport", &m.SPorts, "443", parsePorts),
		numbers("dport", &m.DPorts, "443", parsePorts),
		numbers("uid", &m.UIDs, "1000", parseUIDs),
		{name: "fwmark", takes: suchAs("0x1/0xff"), read: func(r *reader, v *value) { r.fwmark(v, m) }},
		numbers("dscp", &m.DSCP, `"ef"`, parseDSCP),
		parsedList("mac", &m.MACs, exampleMAC, maxNumbers, parseMAC).scalarOrList(),
	}
}

// checkLabel checks a name that is no routing table's.
func checkLabel(name, s string) string { return checkForm(name, s, MaxLabel) }

// traffic reads the sections that choose uplinks for some traffic, when the uplinks are known.
func (r *reader) traffic(root *table, c *Config) {
	if v := root.values["set"]; v != nil {
		seen := make(map[string]int)
		r.tableArray(v, "set", "a set", MaxSets, func(t *table) { c.Sets = append(c.Sets, r.set(t, c, seen)) })
	}
	if v := root.values["policy"]; v != nil {
		seen := make(map[string]int)
		r.tableArray(v, "policy", "a policy", maxPolicies, func(t *table) { c.Policies = append(c.Policies, r.policy(t, c, seen)) })
		r.groups(v, c)
	}
	if v := root.values["tproxy"]; v != nil {
		seen := make(map[string]int)
		r.tableArray(v, "tproxy", "a tproxy", MaxTProxies, func(t *table) { c.TProxies = append(c.TProxies, r.tproxy(t, c, seen)) })
	}
	if v := root.values["forward"]; v != nil {
		r.forwards(v, c)
	}
}

// Group names what decides where a policy's traffic goes: policies with the same uplinks, fallback and exceptions
// share a routing table. It begins with a character that no uplink's name begins with.
func (p *Policy) Group() string {
	if p.LeftTo != LeftToNobody {
		return "@left to " + string(p.LeftTo)
	}
	tiers := make([]string, len(p.Uplinks))
	for i, names := range p.Uplinks {
		names = slices.Clone(names)
		for j, name := range names {
			if w := p.Weights[name]; w > 0 {
				names[j] += fmt.Sprintf(":%d", w)
			}
		}
		slices.Sort(names)
		tiers[i] = strings.Join(names, "+")
	}
	group := "@" + strings.Join(tiers, ">") + " or " + string(p.Fallback)
	if len(p.Except) > 0 {
		sum := sha256.Sum256(fmt.Append(nil, p.Except))
		group += fmt.Sprintf(" except %x", sum[:8])
	}
	return group
}

// TProxyGroup is the name of what all transparent proxies share, as Policy.Group.
const TProxyGroup = "@tproxy"

// groups checks that there is a table for every group, and a preference for every change from one to the next.
func (r *reader) groups(v *value, c *Config) {
	groups := make(map[string]bool)
	runs, last := 0, ""
	for i := range c.Policies {
		group := c.Policies[i].Group()
		if group != last {
			runs, last = runs+1, group
		}
		groups[group] = true
	}
	if room := MaxUplinks - len(c.Uplinks) - 1; len(groups) > room {
		r.errorf(v.off, "the policies need %d routing tables, one for each choice of uplinks, fallback and except, and beside %d uplinks there is room for %d: let policies have these in common", len(groups), len(c.Uplinks), room)
	}
	if len(c.Policies) > maxAlternations && runs > maxAlternations {
		r.errorf(v.off, "the policies change from one choice of uplinks to another %d times, and %d times is the most: put those with the same uplinks, fallback and except next to each other", runs, maxAlternations)
	}
}

// maxAlternations is how many preferences there are for policies: 400 to 899, counted from rule_priority.
const maxAlternations = 500

// policy reads one policy and what must fit together in it.
func (r *reader) policy(t *table, c *Config, seen map[string]int) Policy {
	p := Policy{Enabled: true, Fallback: FallbackDefault, Sticky: StickyFlow}
	r.section(t, policySection(&p, c.Sets))
	r.required(t, "policy", "name", "name", "tcp-through-vps", p.Name, seen)
	if v := t.values["uplinks"]; v == nil && !t.misspelled["uplinks"] {
		r.errorf(t.off, "this policy has no uplinks: write uplinks = [\"fiber\"] below, with your own, the best first")
	} else if v != nil && !v.bad && p.LeftTo == LeftToNobody {
		r.knownUplinks(v, c)
	}
	for _, key := range []string{"fallback", "sticky", "except"} {
		if at := t.values[key]; at != nil && !at.bad && p.LeftTo != LeftToNobody {
			r.fail(at, at.key, "%s is for policies with uplinks, and this one leaves its traffic to %q: remove it", key, p.LeftTo)
		}
	}
	r.match(t, c, &p.Match, "policy")
	if len(t.names) > 0 && !slices.ContainsFunc(t.names, isSelector) {
		r.errorf(t.off, "this policy selects all traffic, which is what tier and weight of the uplinks are for: say which traffic, such as to = [%q]", examplePrefix)
	}
	return p
}

func isSelector(key string) bool {
	return !slices.Contains([]string{"name", "enabled", "uplinks", "fallback", "sticky"}, key)
}

// match checks what must fit together in the conditions of a section.
func (r *reader) match(t *table, c *Config, m *Match, what string) {
	complain := func(key, format string, args ...any) {
		if v := t.values[key]; v != nil && !v.bad {
			r.fail(v, v.key, format, args...)
		}
	}
	ported := func(p uint8) bool {
		return p == protocolTCP || p == protocolUDP || p == protocolSCTP || p == protocolDCCP
	}
	for _, key := range []string{"sport", "dport"} {
		switch {
		case t.values["protocol"] == nil:
			complain(key, `%s needs a protocol: write protocol = "tcp" or ["tcp", "udp"]`, key)
		case t.usable("protocol") && slices.ContainsFunc(m.Protocols, func(p uint8) bool { return !ported(p) }):
			complain(key, "%s is for protocols that have ports (tcp, udp, sctp, dccp): write another %s for the others", key, what)
		}
	}
	if len(m.UIDs) > 0 && len(m.IIF) > 0 {
		complain("uid", "uid selects this router's own sockets, whose packets have no incoming device: remove iif or uid")
	}
	if len(m.UIDs) > 0 && len(m.MACs) > 0 {
		complain("uid", "uid selects this router's own sockets, whose packets have no source MAC: remove mac or uid")
	}
	if len(m.MACs) == 0 {
		complain("mac", "mac is empty: leave it out, or name some hosts")
	}
	if m.MarkMask == allBits { // the mark as somebody set it, whatever ours are beside it
		m.MarkMask &^= c.Kernel.MarkMask
	}
	if shared := (m.Mark | m.MarkMask) & c.Kernel.MarkMask; shared != 0 {
		complain("fwmark", "fwmark has the bits %#x, which uplinkd uses (mark_mask): choose others", shared)
	}
	for _, device := range m.IIF {
		prefix, pattern := strings.CutSuffix(device, "*")
		if i := slices.IndexFunc(c.Uplinks, func(u Uplink) bool { return pattern && strings.HasPrefix(u.Device, prefix) }); i >= 0 {
			complain("iif", "iif %s is for the device %s of uplink %s too"+answeredThere, quote(device), quote(c.Uplinks[i].Device), quote(c.Uplinks[i].Name))
		}
		if slices.ContainsFunc(c.Uplinks, func(u Uplink) bool { return u.Device == device }) {
			complain("iif", "iif %s is an uplink"+answeredThere, quote(device))
		}
	}
	if !m.From.Empty() && !m.To.Empty() && t.usable("to") && !sameFamily(m.From, m.To) {
		complain("to", "from and to share no address family, so nothing ever matches both")
	}
}

const answeredThere = ": replies always leave by the uplink their connection came in on; to select hosts of its network that use this router as gateway, write from"

func sameFamily(a, b Addresses) bool {
	has := func(x Addresses, six bool) bool {
		return len(x.Filled)+len(x.Lists) > 0 || slices.ContainsFunc(x.Prefixes, func(p netip.Prefix) bool { return p.Addr().Is6() == six })
	}
	return has(a, false) && has(b, false) || has(a, true) && has(b, true)
}

// tiers reads a list of uplinks, of which a nested list shares one tier, by weights that may be given there.
func (r *reader) tiers(v *value) (list [][]string, weights map[string]int) {
	const example = `["fiber", ["lte1", "lte2"]]`
	if v.kind != kindList {
		r.wrongType(v, "uplinks", "a list of names", `["`+v.text+`"]`)
		return nil, nil
	}
	if len(v.elems) == 0 {
		r.fail(v, v.off, "uplinks is empty: name at least one")
		return nil, nil
	}
	for _, e := range v.elems {
		var tier []string
		names := []*value{e}
		if e.kind == kindList {
			names = e.elems
		}
		for _, n := range names {
			if n.kind != kindString {
				r.fail(v, n.off, "uplinks must hold names, and lists of names that share a tier, as in uplinks = %s", example)
				return nil, nil
			}
			name, weight := splitWeight(n.text)
			tier = append(tier, name)
			if name == n.text {
				continue
			}
			w, err := strconv.Atoi(weight)
			switch {
			case err != nil || w < 1 || w > 256:
				r.fail(v, n.off, "the weight of %s must be 1 to 256, as in %q", quote(n.text), name+":3")
			case len(names) == 1:
				r.fail(v, n.off, `%s is alone in its tier, where a weight shares nothing: remove it, or nest those that share, as in uplinks = [["fiber:3", "lte:1"]]`, quote(n.text))
			}
			if weights == nil {
				weights = make(map[string]int)
			}
			weights[name] = w
		}
		if len(tier) == 0 {
			r.fail(v, e.off, "a tier of uplinks is empty: name at least one, or remove it")
			return nil, nil
		}
		list = append(list, tier)
	}
	return list, weights
}

// splitWeight takes "fiber:3" apart; names have no colons.
func splitWeight(text string) (name, weight string) {
	name, weight, _ = strings.Cut(text, ":")
	return name, weight
}

// leftTo tells apart uplinks and what is none.
func leftTo(tiers [][]string) ([][]string, LeftTo) {
	if len(tiers) == 1 && len(tiers[0]) == 1 {
		if to := LeftTo(tiers[0][0]); to == LeftToMain || to == LeftToDefault {
			return nil, to
		}
	}
	return tiers, LeftToNobody
}

// knownUplinks checks that the names of a list are uplinks' names, each once.
func (r *reader) knownUplinks(v *value, c *Config) {
	names := make([]string, len(c.Uplinks))
	for i := range c.Uplinks {
		names[i] = c.Uplinks[i].Name
	}
	seen := make(map[string]bool)
	for _, e := range v.elems {
		list := []*value{e}
		if e.kind == kindList {
			list = e.elems
		}
		for _, n := range list {
			hint := ""
			name, _ := splitWeight(n.text)
			if near := nearest(name, names); near != "" {
				hint = fmt.Sprintf(", did you mean %q?", near)
			}
			switch {
			case name == string(LeftToMain) || name == string(LeftToDefault):
				r.fail(v, n.off, "%s stands alone, as in uplinks = [%q]: it is no uplink", quote(name), name)
			case !slices.Contains(names, name):
				r.fail(v, n.off, "there is no uplink %s%s", quote(name), hint)
			case seen[name]:
				r.fail(v, n.off, "uplink %s is given twice", quote(name))
			}
			seen[name] = true
		}
	}
}
