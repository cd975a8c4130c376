package rules_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// connection is an entry of connection tracking, as far as it matters here.
type connection struct {
	mark  uint32
	reply bool // this packet is in the direction of the answers
	fresh bool // this packet is the first one: the only one that nat chains see
	// forwarded is a connection whose destination is translated.
	forwarded bool
	// source, when set, is what the packet's source becomes at source NAT: the address that a
	// masqueraded flow was given, or that a port forward was sent to.
	source netip.Addr
}

// packet is on its way through the machine. A nil connection is one that connection tracking does not
// follow, or holds for invalid.
type packet struct {
	query
	conn *connection
}

// Priorities of linux/netfilter_ipv4.h where connection tracking translates.
const (
	prioDestinationNAT = -100
	prioSourceNAT      = 100
)

// hook runs the packet through our chains of a hook. It returns false when they drop it. When the
// packet is masqueraded it gets the nth of the addresses that the kernel may choose from.
func (m *machine) hook(name string, p *packet, nth int) bool {
	type base struct {
		nft.Chain
		table *nft.Table
	}
	var chains []base
	for _, table := range []*nft.Table{m.obs.Table, m.obs.Policies} {
		if table != nil {
			for _, c := range table.Chains {
				if c.Hook == name {
					chains = append(chains, base{c, table})
				}
			}
		}
	}
	slices.SortStableFunc(chains, func(a, b base) int { return a.Priority - b.Priority })
	translated := name != "postrouting" || p.conn == nil || !p.conn.source.IsValid()
	for _, c := range chains {
		if !translated && c.Priority >= prioSourceNAT {
			p.src, translated = p.conn.source, true
		}
		if name == "postrouting" && c.Priority > prioSourceNAT && !m.othersTranslate(p, nth) {
			return false
		}
		if c.Type == "nat" && (p.conn == nil || !p.conn.fresh || p.conn.source.IsValid()) {
			continue
		}
		if m.chain(c.table, c.Chain, p, nth) == "drop" {
			return false
		}
	}
	if !translated {
		p.src = p.conn.source
	}
	return true
}

// othersTranslate has firewalls of others masquerade a new connection, ahead of ours.
func (m *machine) othersTranslate(p *packet, nth int) bool {
	if m.othersFail || p.conn == nil || !p.conn.fresh || p.conn.source.IsValid() ||
		!slices.ContainsFunc(m.obs.Translations, func(t rules.Translation) bool {
			return t.Family == rules.FamilyOf(p.dst) && slices.Contains(t.Only, p.oif)
		}) {
		return true
	}
	return m.masquerade(p, nth)
}

// masquerade gives a packet an address of the device that it leaves by. Without one it is dropped
// (nf_nat_masquerade.c).
func (m *machine) masquerade(p *packet, nth int) bool {
	choice := m.masqueradeSources(p.oif, rules.FamilyOf(p.dst))
	if len(choice) == 0 {
		return false
	}
	p.src = choice[nth%len(choice)]
	p.conn.source = p.src
	return true
}

// chain returns "drop", "accept" or, when all has been gone through, "". What a rule leads to is found by its name, as
// nf_tables_core.c nft_do_chain does it.
func (m *machine) chain(t *nft.Table, c nft.Chain, p *packet, nth int) string {
	for _, r := range c.Rules {
		verdict := m.rule(r, p, nth)
		kind, to, leads := strings.Cut(verdict, " ")
		if leads {
			i := slices.IndexFunc(t.Chains, func(c nft.Chain) bool { return c.Name == to })
			if i < 0 || t.Chains[i].Hook != "" {
				panic("a rule leads to " + to)
			}
			verdict = m.chain(t, t.Chains[i], p, nth)
		}
		switch {
		case verdict == "drop" || verdict == "accept":
			return verdict
		case verdict == "return" || kind == "goto":
			return ""
		}
	}
	return ""
}

// leads says where an entry of a map of verdicts leads.
func leads(at int, chains []string) string {
	if at < 0 {
		return ""
	}
	return "goto " + chains[at]
}

// rule evaluates one rule and returns its verdict, or "" to go on with the next rule.
func (m *machine) rule(r nft.Rule, p *packet, nth int) string {
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case nft.Device:
			device := p.iif
			if e.Out {
				device = p.oif
			}
			if prefix, pattern := strings.CutSuffix(e.Name, "*"); e.Name != device && !(pattern && strings.HasPrefix(device, prefix)) {
				return ""
			}
		case nft.CtMark:
			// nft_ct_get_eval breaks off the rule when there is no connection.
			if p.conn == nil || (p.conn.mark&e.Mask == e.Value) == e.Not {
				return ""
			}
		case nft.SYN: // sizes are no matter of routing
			return ""
		case nft.Source:
			if !e.Prefix.Contains(p.src) {
				return ""
			}
		case nft.Family:
			if rules.FamilyOf(p.dst) != e.Family {
				return ""
			}
		case nft.SetMark:
			p.mark = p.mark&^e.Mask | e.Value
		case nft.SetCtMark:
			if p.conn == nil {
				return ""
			}
			p.conn.mark = p.conn.mark&^e.Mask | e.Value
		case nft.Counter, nft.NamedCounter, nft.Offload, nft.ToThisHost:
		case nft.New:
			if p.conn == nil || p.conn.reply {
				return ""
			}
		case nft.Masquerade:
			if !m.masquerade(p, nth) {
				return "drop"
			}
			return "accept"
		case nft.SourceNAT:
			p.src, p.conn.source = e.To, e.To
			return "accept"
		case nft.DestNAT:
			p.dst, p.conn.forwarded = e.To, true
			if e.Port != 0 {
				p.dport = e.Port
			}
			return "accept"
		case nft.Destination:
			if !e.Prefix.Contains(p.dst) {
				return ""
			}
		case nft.PrefixNAT:
			if e.Dest {
				p.dst = mapped(p.dst, e.To)
			} else {
				p.src = mapped(p.src, e.To)
				p.conn.source = p.src
			}
			return "accept"
		case nft.Devices:
			device := p.iif
			if e.Out {
				device = p.oif
			}
			if !slices.Contains(e.Names, device) {
				return ""
			}
		case nft.Addresses:
			addr := p.src
			if e.Dest {
				addr = p.dst
			}
			if rules.FamilyOf(addr) != rules.FamilyOf(e.Prefixes[0].Addr()) || e.Not == slices.ContainsFunc(e.Prefixes, func(x netip.Prefix) bool { return x.Contains(addr) }) {
				return ""
			}
		case nft.ExternalSet:
			addr := p.src
			if e.Dest {
				addr = p.dst
			}
			if rules.FamilyOf(addr) != e.Family || e.Known == nil || e.Known.Contains(addr) == e.Not {
				return ""
			}
		case nft.Pinned:
			if p.conn == nil || p.conn.mark&e.Mask == 0 {
				return ""
			}
		case nft.Reply:
			if p.conn == nil || !p.conn.reply {
				return ""
			}
		case nft.LocalDestination:
			if len(m.localLookup(query{dst: p.dst})) == 0 {
				return ""
			}
		case nft.Route:
			q := query{dst: p.dst, src: p.src, iif: "lo", mark: p.mark}
			if e.Back {
				q.dst, q.src = p.src, p.dst
			}
			ways := m.lookup(q)
			if ways[0].rejected || ways[0].local || e.Back && !m.usesDevice(ways, p.iif) {
				return ""
			}
		case nft.DestinationNAT:
			if p.conn == nil || !p.conn.forwarded {
				return ""
			}
		case nft.SourceTranslated, nft.Midstream: // of connections of another router, which the model has not
			return ""
		case nft.IPsec: // the model has no IPsec policies
			if !e.Not {
				return ""
			}
		case nft.Protocols:
			if !slices.Contains(e.List, p.protocol) {
				return ""
			}
		case nft.Ports:
			port := p.sport
			if e.Dest {
				port = p.dport
			}
			if !slices.ContainsFunc(e.List, func(r nft.Range) bool { return r.Has(uint32(port)) }) {
				return ""
			}
		case nft.Owners: // root makes all packets here
			if p.iif != "lo" || !slices.ContainsFunc(e.List, func(u nft.Range) bool { return u.First == 0 }) {
				return ""
			}
		case nft.DSCP:
			if rules.FamilyOf(p.dst) != e.Family || !slices.Contains(e.List, p.dscp) {
				return ""
			}
		case nft.MACs:
			if p.iif == "lo" || !slices.Contains(e.List, p.mac) {
				return ""
			}
		case nft.Mark:
			if (p.mark&e.Mask == e.Value) == e.Not {
				return ""
			}
		case nft.SourceShare:
			// Whatever the hash is, it is the same for the same source.
			last := p.src.As16()
			if share := uint32(last[15]) % e.Total; share < e.First || share > e.Last {
				return ""
			}
		case nft.Drop, nft.Reject, nft.Refuse, nft.Reset:
			return "drop"
		case nft.Return:
			return "return"
		case nft.Accept:
			return "accept"
		case nft.Jump:
			return "jump " + e.Chain
		case nft.Goto:
			return "goto " + e.Chain
		case nft.Branch:
			device := p.iif
			if e.Out {
				device = p.oif
			}
			return leads(slices.Index(e.Devices, device), e.Chains)
		case nft.PinBranch:
			if p.conn == nil {
				return ""
			}
			return leads(slices.Index(e.Pins, p.conn.mark&e.Mask), e.Chains)
		default:
			panic(fmt.Sprintf("the model does not know %T", e))
		}
	}
	return ""
}

// mapped is nf_nat's NF_NAT_RANGE_NETMAP: another prefix, the same rest.
func mapped(a netip.Addr, to netip.Prefix) netip.Addr {
	b, prefix := a.As16(), to.Addr().As16()
	for i := range to.Bits() {
		bit := byte(0x80 >> (i % 8))
		b[i/8] = b[i/8]&^bit | prefix[i/8]&bit
	}
	return netip.AddrFrom16(b)
}

// masqueradeSources lists what inet_select_addr and ipv6_dev_get_saddr may choose for packets to the
// Internet that leave by a device: an address of it, or else one of any other device, and for IPv6, when
// there is none at all, the device's link-local one.
func (m *machine) masqueradeSources(device string, family rules.Family) []netip.Addr {
	var own, others, linkLocal []netip.Addr
	for _, a := range m.obs.Addrs {
		ip := a.Prefix.Addr()
		switch link, _ := m.obs.Link(a.Device); {
		case link.Loopback || rules.FamilyOf(ip) != family || a.Tentative:
		case ip.IsLinkLocalUnicast():
			if a.Device == device && ip.Is6() {
				linkLocal = append(linkLocal, ip)
			}
		case a.Device != device:
			others = append(others, ip)
		case family == rules.IPv6 || !a.Temporary:
			own = append(own, ip)
		}
	}
	for _, choice := range [][]netip.Addr{own, others} {
		if len(choice) > 0 {
			return choice
		}
	}
	return linkLocal
}

// departure is what became of a packet.
type departure struct {
	device string // that it left by; "" when it did not
	src    netip.Addr
	why    string // when it did not: "local", "rejected", "filtered" (reverse path), "dropped" (our chains)
}

func (d departure) String() string {
	if d.device == "" {
		return d.why
	}
	return "leaves by " + d.device + " from " + d.src.String()
}

// send is what becomes of a packet of a local socket: it is routed, sees the output chains, and is
// routed again when they changed its mark, which is what a chain of type route does.
func (m *machine) send(p packet) []departure {
	p.iif = "lo"
	bound := p.oif
	ways := m.lookup(p.query)
	if ways[0].rejected {
		return []departure{{why: "rejected"}}
	}
	// Output chains see the device that was chosen; ours must not care.
	mark := p.mark
	p.oif = ways[0].device
	if !m.hook("output", &p, 0) {
		return []departure{{why: "dropped"}}
	}
	p.oif = bound
	if p.mark != mark && m.reroutes() {
		ways = m.lookup(p.query)
	}
	return m.leave(p, ways)
}

// reroutes reports whether a chain of type route looks at local packets.
func (m *machine) reroutes() bool {
	return m.obs.Table != nil && slices.ContainsFunc(m.obs.Table.Chains, func(c nft.Chain) bool {
		return c.Type == "route" && c.Hook == "output"
	})
}

// receive is what becomes of a packet that comes in on a device. Forward, when valid, is where
// destination NAT sends it: a port forward, or a masqueraded flow's own host.
func (m *machine) receive(p packet, forward netip.Addr) []departure {
	if !m.hook("prerouting", &p, 0) { // ours stand before destination NAT
		return []departure{{why: "dropped"}}
	}
	if forward.IsValid() {
		p.dst = forward
		if p.conn != nil && !p.conn.reply {
			p.conn.forwarded = true
		}
	}
	ways := m.lookup(p.query)
	out := "lo"
	if !ways[0].local {
		out = ways[0].device
	}
	switch {
	case ways[0].rejected:
		return []departure{{why: "rejected"}}
	case !m.arrives(p.src, p.dst, p.iif, out, p.mark):
		return []departure{{why: "filtered"}}
	}
	return m.leave(p, slices.DeleteFunc(ways, func(w way) bool {
		one := p
		one.oif = w.device
		return !w.local && !m.hook("forward", &one, 0)
	}))
}

// leave runs the packet through the postrouting chains of every device that it may leave by, with every
// source that it may be given there.
func (m *machine) leave(p packet, ways []way) []departure {
	var out []departure
	if len(ways) == 0 {
		out = append(out, departure{why: "dropped"})
	}
	for _, w := range ways {
		switch {
		case w.local:
			out = append(out, departure{why: "local"})
			continue
		case w.rejected:
			out = append(out, departure{why: "rejected"})
			continue
		}
		for nth := range max(1, len(m.masqueradeSources(w.device, rules.FamilyOf(p.dst)))) {
			one := p
			one.oif = w.device
			if p.conn != nil {
				conn := *p.conn
				one.conn = &conn
			}
			if m.hook("postrouting", &one, nth) {
				out = append(out, departure{device: w.device, src: one.src})
			} else {
				out = append(out, departure{why: "dropped"})
			}
		}
	}
	return out
}
