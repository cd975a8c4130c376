package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// tableCache keeps what was read of nftables for as long as the ruleset's generation stands: the
// kernel counts it up with every transaction of anybody.
type tableCache struct {
	valid           bool
	generation      uint32
	table, policies *nft.Table
	// who else translates sources: of all that leaves by a device, and of some of it
	translations, partial []rules.Translation
}

// readTables reads our tables, that is their chains and, of each rule, the comment; and who else translates sources.
func (k *Kernel) readTables() (*tableCache, error) {
	generation, err := k.generation()
	if err != nil {
		return nil, err
	}
	if k.table.valid && k.table.generation == generation {
		return &k.table, nil
	}
	tables, err := k.nft.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("listing nftables tables: %w", err)
	}
	chains, err := k.nft.ListChains()
	if err != nil {
		return nil, fmt.Errorf("listing nftables chains: %w", err)
	}
	read := tableCache{valid: true, generation: generation}
	for _, t := range tables {
		switch t.Name {
		case nft.TableName:
			read.table, err = k.listTable(t, chains)
		case nft.PolicyTableName:
			read.policies, err = k.listTable(t, chains)
		}
		if err != nil {
			return nil, err
		}
	}
	if read.translations, read.partial, err = k.translations(chains); err != nil {
		return nil, err
	}
	k.table = read
	return &k.table, nil
}

// listSets lists the sets that have names. What is in them is not read, but counted where nobody else fills them.
func (k *Kernel) listSets(t *nftables.Table) ([]nft.Set, error) {
	sets, err := k.nft.GetSets(t)
	if err != nil {
		return nil, fmt.Errorf("listing nftables sets of %s: %w", t.Name, err)
	}
	var list []nft.Set
	for _, s := range sets {
		if !s.Anonymous {
			set := nft.Set{Name: s.Name, Family: families[s.KeyType.GetNFTMagic()], Map: s.IsMap, Merge: s.AutoMerge}
			if set.Family == 0 || strings.Contains(s.Name, ".") { // of a list: rules.List
				if set.Has, set.Counted, err = countElements(t.Name, s.Name); err != nil {
					return nil, err
				}
			}
			list = append(list, set)
		}
	}
	slices.SortFunc(list, func(a, b nft.Set) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
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

func (k *Kernel) listTable(ours *nftables.Table, chains []*nftables.Chain) (*nft.Table, error) {
	sets, err := k.listSets(ours)
	if err != nil {
		return nil, err
	}
	table := &nft.Table{Sets: sets}
	if table.Flowtable, err = k.flowtable(ours); err != nil {
		return nil, err
	}
	for _, c := range chains {
		if c.Table.Name != ours.Name || c.Table.Family != ours.Family {
			continue
		}
		chain := nft.Chain{Name: c.Name, Type: string(c.Type)}
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
			chain.Rules = append(chain.Rules, nft.Rule{Comment: strings.TrimRight(comment, "\x00")})
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

// transactionBuffer is room for a whole transaction, and for the answer to each of its messages, in bytes.
const transactionBuffer = 8 << 20

// openTransaction opens a connection that has room for a transaction, and for so many bytes besides.
func openTransaction(more int) (*nftables.Conn, error) {
	return nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(conn *netlink.Conn) error {
		return errors.Join(conn.SetReadBuffer(transactionBuffer), conn.SetWriteBuffer(transactionBuffer+more))
	}))
}

// transact carries out what fill puts into a transaction. The connection is kept for the next one: the kernel has who closes one
// wait until all that was removed is freed, after a grace period of RCU (nft_rcv_nl_event in net/netfilter/nf_tables_api.c), 25 to
// 45 ms on a busy machine. After an error it is given up, with what is left in it; the library keeps one of marshalling for ever.
func (k *Kernel) transact(fill func(conn *nftables.Conn) error) error {
	if k.transactions == nil {
		conn, err := openTransaction(0)
		if err != nil {
			return fmt.Errorf("opening nftables: %w", err)
		}
		k.transactions = conn
	}
	k.table.valid = false
	conn := k.transactions
	err := fill(conn)
	if err == nil {
		err = conn.Flush()
	}
	if err != nil {
		k.transactions = nil
		_ = conn.CloseLasting()
	}
	return err
}

// putTable replaces our table; nil removes it.
func (k *Kernel) putTable(t *nft.Table) error {
	return k.orReduced(nft.TableName, t, k.table.table, func(t *nft.Table) error {
		return k.flows.around(func() error { return k.replaceTable(t) })
	})
}

// replaceTable replaces our table in one transaction.
func (k *Kernel) replaceTable(t *nft.Table) error {
	return k.transact(func(conn *nftables.Conn) error {
		table := &nftables.Table{Family: nftables.TableFamilyINet, Name: nft.TableName}
		// Adding before deleting makes the deletion succeed whether or not the table is there.
		conn.AddTable(table)
		conn.DelTable(table)
		if t == nil {
			return nil
		}
		conn.AddTable(table)
		return (&builder{conn: conn, table: table}).chains(t)
	})
}

// putPolicies replaces the rules of our table of policies, and keeps what is in its sets.
func (k *Kernel) putPolicies(op netcfg.PutPolicies) error {
	return k.orReduced(nft.PolicyTableName, op.Table, k.table.policies, func(t *nft.Table) error {
		now := op
		now.Table = t
		return k.replacePolicies(now)
	})
}

// replacePolicies replaces them in one transaction, when what they look addresses up in is there.
func (k *Kernel) replacePolicies(op netcfg.PutPolicies) error {
	if op.Table != nil {
		loaded, err := k.loadSets(op)
		if err != nil {
			return err
		}
		op.Loaded = loaded
	}
	return k.transact(func(conn *nftables.Conn) error {
		table := &nftables.Table{Family: nftables.TableFamilyINet, Name: nft.PolicyTableName}
		conn.AddTable(table)
		if op.Table == nil {
			conn.DelTable(table)
			return nil
		}
		conn.FlushTable(table)
		for _, set := range op.DropSets { // a map leads to chains
			conn.DelSet(&nftables.Set{Table: table, Name: set.Name})
		}
		for _, chain := range op.DropChains {
			conn.DelChain(&nftables.Chain{Table: table, Name: chain})
		}
		return (&builder{conn: conn, table: table, loaded: op.Loaded}).chains(op.Table)
	})
}

// families tells sets of addresses, by the type that nft shows, from those of devices and marks, which have none.
var families = map[uint32]rules.Family{
	nftables.TypeIPAddr.GetNFTMagic():  rules.IPv4,
	nftables.TypeIP6Addr.GetNFTMagic(): rules.IPv6,
}

func addressType(f rules.Family) nftables.SetDatatype {
	if f == rules.IPv6 {
		return nftables.TypeIP6Addr
	}
	return nftables.TypeIPAddr
}

// builder compiles the rules of one table into one transaction.
type builder struct {
	conn   *nftables.Conn
	table  *nftables.Table
	loaded []string // sets whose elements are there
	err    error    // of the first set that could not be made
}

// chains makes the chains before the maps that lead to them, and those and the counters before the rules that refer to them.
func (b *builder) chains(t *nft.Table) error {
	chains := make([]*nftables.Chain, len(t.Chains))
	for i, c := range t.Chains {
		chain := &nftables.Chain{Name: c.Name, Table: b.table}
		if c.Hook != "" {
			hook, ok := hooks[c.Hook]
			if !ok {
				return fmt.Errorf("chain %s: unknown hook %q", c.Name, c.Hook)
			}
			policy := nftables.ChainPolicyAccept
			chain.Type, chain.Hooknum, chain.Policy = nftables.ChainType(c.Type), hook, &policy
			chain.Priority = nftables.ChainPriorityRef(nftables.ChainPriority(c.Priority))
		}
		chains[i] = b.conn.AddChain(chain)
	}
	for _, s := range t.Sets {
		if err := b.set(s); err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
	}
	if len(t.Flowtable) > 0 {
		b.flowtable(t.Flowtable)
	}
	for _, name := range t.Counters() {
		b.conn.AddObj(&nftables.CounterObj{Table: b.table, Name: name})
	}
	for i, c := range t.Chains {
		for _, r := range c.Rules {
			b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: chains[i], Exprs: b.compile(r),
				UserData: userdata.AppendString(nil, userdata.TypeComment, r.Comment)})
		}
	}
	return b.err
}

// set makes a set or a map that has a name.
func (b *builder) set(s nft.Set) error {
	if s.Known != nil {
		return b.known(s)
	}
	if s.Family != 0 {
		return b.conn.AddSet(&nftables.Set{Table: b.table, Name: s.Name, KeyType: addressType(s.Family), Interval: true, HasTimeout: !s.Merge, AutoMerge: s.Merge}, nil)
	}
	set := &nftables.Set{Table: b.table, Name: s.Name, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian, IsMap: s.Map}
	elements := make([]nftables.SetElement, 0, len(s.Devices)+len(s.Marks))
	for _, device := range s.Devices {
		elements = append(elements, nftables.SetElement{Key: deviceName(device)})
	}
	for _, mark := range s.Marks {
		set.KeyType = nftables.TypeMark
		elements = append(elements, nftables.SetElement{Key: native(mark)})
	}
	set.Size = uint32(len(elements))
	if s.Map {
		set.DataType = nftables.TypeVerdict
		for i := range elements {
			elements[i].VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: s.Chains[i]}
		}
	}
	return b.conn.AddSet(set, elements)
}

// compile turns a rule into the kernel's expressions. Register 1 carries every value.
func (b *builder) compile(r nft.Rule) []expr.Any {
	var out []expr.Any
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case nft.Device:
			out = append(out, metaDevice(e.Out), equal(deviceName(e.Name)))
		case nft.CtMark:
			out = append(out, &expr.Ct{Key: expr.CtKeyMARK, Register: 1}, bitwise(e.Mask, 0), compare(e.Not, native(e.Value)))
		case nft.SYN:
			out = append(out, matchTCP(tcpSYN|tcpRST, false)...)
		case nft.Midstream:
			out = append(out, matchTCP(tcpFIN|tcpSYN|tcpRST|tcpACK, true)...)
		case nft.MaxSegment:
			out = append(out, maxSegment(e.Size)...)
		case nft.SetMark:
			out = append(out, &expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, bitwise(^e.Mask, e.Value),
				&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1})
		case nft.SetCtMark:
			out = append(out, &expr.Ct{Key: expr.CtKeyMARK, Register: 1}, bitwise(^e.Mask, e.Value),
				&expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: 1})
		case nft.Family:
			out = append(out, matchFamily(e.Family)...)
		case nft.Source:
			out = append(out, b.addresses(nft.Addresses{Prefixes: []netip.Prefix{e.Prefix}})...)
		case nft.Destination:
			out = append(out, b.addresses(nft.Addresses{Dest: true, Prefixes: []netip.Prefix{e.Prefix}})...)
		case nft.PrefixNAT:
			out = append(out, prefixNAT(e)...)
		case nft.SourceNAT:
			out = append(out, &expr.Immediate{Register: 1, Data: e.To.AsSlice()},
				&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(familyNumber(rules.FamilyOf(e.To))), RegAddrMin: 1})
		case nft.DestNAT:
			out = append(out, destNAT(e)...)
		case nft.Reject:
			out = append(out, &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpv6PolicyFail})
		case nft.Counter:
			out = append(out, &expr.Counter{})
		case nft.Offload:
			out = append(out, &expr.FlowOffload{Name: nft.FlowtableName})
		case nft.NamedCounter:
			out = append(out, &expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: e.Name})
		case nft.Masquerade:
			out = append(out, &expr.Masq{})
		case nft.Drop:
			out = append(out, &expr.Verdict{Kind: expr.VerdictDrop})
		case nft.Return:
			out = append(out, &expr.Verdict{Kind: expr.VerdictReturn})
		case nft.Accept:
			out = append(out, &expr.Verdict{Kind: expr.VerdictAccept})
		case nft.Jump:
			out = append(out, &expr.Verdict{Kind: expr.VerdictJump, Chain: e.Chain})
		case nft.Goto:
			out = append(out, &expr.Verdict{Kind: expr.VerdictGoto, Chain: e.Chain})
		case nft.Branch:
			out = append(out, metaDevice(e.Out), branch(e.MapName()))
		case nft.PinBranch:
			out = append(out, &expr.Ct{Key: expr.CtKeyMARK, Register: 1}, bitwise(e.Mask, 0), branch(e.MapName()))
		default:
			out = append(out, b.compileMatch(e)...)
		}
	}
	return out
}

func metaDevice(out bool) expr.Any {
	if out {
		return &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}
	}
	return &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}
}

// deviceName is a name as it is compared: with the zeros behind it, or without them where it is the beginning of several.
func deviceName(name string) []byte {
	if prefix, pattern := strings.CutSuffix(name, "*"); pattern {
		return []byte(prefix)
	}
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func native(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }

func equal(data []byte) expr.Any { return compare(false, data) }

func compare(not bool, data []byte) expr.Any {
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	return &expr.Cmp{Op: op, Register: 1, Data: data}
}

// branch looks register 1 up in a map of verdicts; 0 is the register that they are carried out from.
func branch(name string) expr.Any {
	return &expr.Lookup{SourceRegister: 1, SetName: name, DestRegister: 0, IsDestRegSet: true}
}

// bitwise computes (value & mask) ^ xor; with mask and xor disjoint, ^ is |.
func bitwise(mask, xor uint32) expr.Any {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(mask), Xor: native(xor)}
}

func matchFamily(f rules.Family) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{familyNumber(f)})}
}

// maskAddress keeps the bits of the prefix of the address in register 1.
func maskAddress(prefix netip.Prefix) expr.Any {
	mask := make([]byte, prefix.Addr().BitLen()/8)
	for bit := range prefix.Bits() {
		mask[bit/8] |= 0x80 >> (bit % 8)
	}
	size := uint32(len(mask))
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)}
}

// Flags of TCP segments, and where they are (RFC 9293 section 3.1).
const (
	tcpFlagsAt                     = 13
	tcpFIN, tcpSYN, tcpRST, tcpACK = 0x01, 0x02, 0x04, 0x10
)

// matchTCP matches segments that have SYN alone of some flags, or those that have not.
func matchTCP(flags byte, not bool) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal([]byte{unix.IPPROTO_TCP}),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: tcpFlagsAt, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{flags}, Xor: []byte{0}}, compare(not, []byte{tcpSYN}),
	}
}

// maxSegment lowers the segment size. The kernel never raises one (net/netfilter/nft_exthdr.c).
func maxSegment(size uint16) []expr.Any {
	const option, sizeAt, length = 2, 2, 2 // RFC 9293 section 3.2: kind, length, then the size
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal([]byte{unix.IPPROTO_TCP}),
		&expr.Immediate{Register: 1, Data: []byte{byte(size >> 8), byte(size)}},
		&expr.Exthdr{SourceRegister: 1, Type: option, Offset: sizeAt, Len: length, Op: expr.ExthdrOpTcpopt},
	}
}

// icmpv6PolicyFail is code 5 of ICMPv6 destination unreachable (RFC 4443 section 3.1).
const icmpv6PolicyFail = 5

// destNAT rewrites the destination.
func destNAT(e nft.DestNAT) []expr.Any {
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(familyNumber(rules.FamilyOf(e.To))), RegAddrMin: 1}
	out := []expr.Any{&expr.Immediate{Register: 1, Data: e.To.AsSlice()}}
	if e.Port != 0 {
		nat.RegProtoMin, nat.Specified = 2, true
		out = append(out, &expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, e.Port)})
	}
	return append(out, nat)
}

// prefixNAT rewrites what the prefix covers and keeps the rest (NF_NAT_RANGE_NETMAP): the range of
// addresses from the first of the prefix to its last.
func prefixNAT(e nft.PrefixNAT) []expr.Any {
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
