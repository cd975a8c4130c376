package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
)

// tableCache keeps what was read of our table for as long as the ruleset's generation stands: the
// kernel counts it up with every transaction of anybody.
type tableCache struct {
	valid      bool
	generation uint32
	table      *rules.Table
}

// readTable reads our table: its chains and, of each rule, the comment.
func (k *Kernel) readTable() (*rules.Table, error) {
	generation, err := k.generation()
	if err != nil {
		return nil, err
	}
	if k.table.valid && k.table.generation == generation {
		return k.table.table, nil
	}
	table, err := k.listTable()
	if err != nil {
		return nil, err
	}
	k.table = tableCache{true, generation, table}
	return table, nil
}

func (k *Kernel) generation() (uint32, error) {
	req := k.request(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	msgs, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return 0, fmt.Errorf("reading the generation of the nftables ruleset: %w", err)
	}
	for _, m := range msgs {
		for typ, value := range attributes(m[min(len(m), nl.SizeofNfgenmsg):]) {
			if typ == unix.NFTA_GEN_ID && len(value) >= 4 {
				return binary.BigEndian.Uint32(value), nil
			}
		}
	}
	return 0, fmt.Errorf("reading the generation of the nftables ruleset: no answer")
}

func (k *Kernel) listTable() (*rules.Table, error) {
	tables, err := k.nft.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("listing nftables tables: %w", err)
	}
	var ours *nftables.Table
	for _, t := range tables {
		if t.Name == rules.TableName {
			ours = t
		}
	}
	if ours == nil {
		return nil, nil
	}
	chains, err := k.nft.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("listing nftables chains: %w", err)
	}
	table := &rules.Table{}
	for _, c := range chains {
		if c.Table.Name != rules.TableName {
			continue
		}
		chain := rules.Chain{Name: c.Name, Type: string(c.Type)}
		if c.Hooknum != nil && c.Priority != nil {
			chain.Hook, chain.Priority = hookName(*c.Hooknum), int(*c.Priority)
		}
		if c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
			chain.Hook += " with policy drop"
		}
		list, err := k.nft.GetRules(ours, c)
		if err != nil {
			return nil, fmt.Errorf("listing rules of nftables chain %s: %w", c.Name, err)
		}
		for _, r := range list {
			comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			chain.Rules = append(chain.Rules, rules.NftRule{Comment: strings.TrimRight(comment, "\x00")})
		}
		table.Chains = append(table.Chains, chain)
	}
	return table, nil
}

// The hooks that our chains use, by number and by name.
var hooks = map[string]*nftables.ChainHook{
	"prerouting":  nftables.ChainHookPrerouting,
	"forward":     nftables.ChainHookForward,
	"output":      nftables.ChainHookOutput,
	"postrouting": nftables.ChainHookPostrouting,
}

func hookName(number nftables.ChainHook) string {
	for name, n := range hooks {
		if *n == number {
			return name
		}
	}
	return fmt.Sprintf("hook %d", number)
}

// putTable replaces our table in one transaction; nil removes it.
func (k *Kernel) putTable(t *rules.Table) error {
	// The library keeps a marshalling error for ever: a connection of its own for each transaction.
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	defer conn.CloseLasting()
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: rules.TableName}
	// Adding before deleting makes the deletion succeed whether or not the table is there.
	conn.AddTable(table)
	conn.DelTable(table)
	if t != nil {
		conn.AddTable(table)
		policy := nftables.ChainPolicyAccept
		for _, c := range t.Chains {
			hook, ok := hooks[c.Hook]
			if !ok {
				return fmt.Errorf("chain %s: unknown hook %q", c.Name, c.Hook)
			}
			chain := conn.AddChain(&nftables.Chain{Name: c.Name, Table: table, Type: nftables.ChainType(c.Type),
				Hooknum: hook, Priority: nftables.ChainPriorityRef(nftables.ChainPriority(c.Priority)), Policy: &policy})
			for _, r := range c.Rules {
				conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: compile(r),
					UserData: userdata.AppendString(nil, userdata.TypeComment, r.Comment)})
			}
		}
	}
	k.table.valid = false
	return conn.Flush()
}

// compile turns a rule into the kernel's expressions. Register 1 carries every value.
func compile(r rules.NftRule) []expr.Any {
	var out []expr.Any
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case rules.NftDevice:
			key := expr.MetaKeyIIFNAME
			if e.Out {
				key = expr.MetaKeyOIFNAME
			}
			name := make([]byte, unix.IFNAMSIZ)
			copy(name, e.Name)
			out = append(out, &expr.Meta{Key: key, Register: 1}, equal(name))
		case rules.NftCtMark:
			out = append(out, &expr.Ct{Key: expr.CtKeyMARK, Register: 1}, bitwise(e.Mask, 0), equal(native(e.Value)))
		case rules.NftSetMark:
			out = append(out, &expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, bitwise(^e.Mask, e.Value),
				&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1})
		case rules.NftSetCtMark:
			out = append(out, &expr.Ct{Key: expr.CtKeyMARK, Register: 1}, bitwise(^e.Mask, e.Value),
				&expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: 1})
		case rules.NftFamily:
			out = append(out, matchFamily(e.Family)...)
		case rules.NftSource:
			out = append(out, matchAddress(e.Prefix, 12, 8)...)
		case rules.NftDestination:
			out = append(out, matchAddress(e.Prefix, 16, 24)...)
		case rules.NftPrefixNAT:
			out = append(out, prefixNAT(e)...)
		case rules.NftReject:
			out = append(out, &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpv6PolicyFail})
		case rules.NftCounter:
			out = append(out, &expr.Counter{})
		case rules.NftMasquerade:
			out = append(out, &expr.Masq{})
		case rules.NftDrop:
			out = append(out, &expr.Verdict{Kind: expr.VerdictDrop})
		case rules.NftReturn:
			out = append(out, &expr.Verdict{Kind: expr.VerdictReturn})
		default:
			panic(fmt.Sprintf("nftables expression %T cannot be compiled", e))
		}
	}
	return out
}

func native(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }

func equal(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }

// bitwise computes (value & mask) ^ xor; with mask and xor disjoint, ^ is |.
func bitwise(mask, xor uint32) expr.Any {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(mask), Xor: native(xor)}
}

func matchFamily(f rules.Family) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{familyNumber(f)})}
}

// matchAddress compares the address at an offset of the header, in bytes, of its family.
func matchAddress(prefix netip.Prefix, offset4, offset6 uint32) []expr.Any {
	addr := prefix.Masked().Addr()
	family := rules.FamilyOf(addr)
	offset, size := offset4, uint32(4)
	if family == rules.IPv6 {
		offset, size = offset6, 16
	}
	out := append(matchFamily(family), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size})
	if !prefix.IsSingleIP() {
		mask := make([]byte, size)
		for bit := range prefix.Bits() {
			mask[bit/8] |= 0x80 >> (bit % 8)
		}
		out = append(out, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)})
	}
	return append(out, equal(addr.AsSlice()))
}

// icmpv6PolicyFail is code 5 of ICMPv6 destination unreachable (RFC 4443 section 3.1).
const icmpv6PolicyFail = 5

// prefixNAT rewrites what the prefix covers and keeps the rest (NF_NAT_RANGE_NETMAP): the range of
// addresses from the first of the prefix to its last.
func prefixNAT(e rules.NftPrefixNAT) []expr.Any {
	first := e.To.Masked().Addr().AsSlice()
	last := slices.Clone(first)
	for bit := e.To.Bits(); bit < 128; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	kind := expr.NATTypeSourceNAT
	if e.Dest {
		kind = expr.NATTypeDestNAT
	}
	return []expr.Any{&expr.Immediate{Register: 1, Data: first}, &expr.Immediate{Register: 2, Data: last},
		&expr.NAT{Type: kind, Family: unix.NFPROTO_IPV6, RegAddrMin: 1, RegAddrMax: 2, Prefix: true}}
}
