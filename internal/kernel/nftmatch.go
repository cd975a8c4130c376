package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// compileMatch compiles the expressions of policies, of transparent proxies, and those that look values up in
// sets.
func (b *builder) compileMatch(e nft.Expr) []expr.Any {
	switch e := e.(type) {
	case nft.Devices:
		return []expr.Any{metaDevice(e.Out), &expr.Lookup{SourceRegister: 1, SetName: e.SetName()}}
	case nft.Addresses:
		return b.addresses(e)
	case nft.ExternalSet:
		return append(loadAddress(e.Family, e.Dest), &expr.Lookup{SourceRegister: 1, SetName: e.Set, Invert: e.Not})
	case nft.Protocols:
		return append([]expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}}, b.bytes(nftables.TypeInetProto, e.List)...)
	case nft.Ports:
		offset := uint32(0)
		if e.Dest {
			offset = 2
		}
		load := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2}
		return append([]expr.Any{load}, b.ranges(nftables.TypeInetService, false, spans(e.List, func(p nft.Range) (first, last []byte) {
			return binary.BigEndian.AppendUint16(nil, uint16(p.First)), binary.BigEndian.AppendUint16(nil, uint16(p.Last))
		}))...)
	case nft.Owners:
		if one := e.List[0]; len(e.List) == 1 && one.First == one.Last {
			return []expr.Any{&expr.Meta{Key: expr.MetaKeySKUID, Register: 1}, equal(native(one.First))}
		}
		return append([]expr.Any{&expr.Meta{Key: expr.MetaKeySKUID, Register: 1}, networkOrder()},
			b.ranges(nftables.TypeUID, false, spans(e.List, func(u nft.Range) (first, last []byte) {
				return binary.BigEndian.AppendUint32(nil, u.First), binary.BigEndian.AppendUint32(nil, u.Last)
			}))...)
	case nft.Mark:
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, bitwise(e.Mask, 0), compare(e.Not, native(e.Value))}
	case nft.DSCP:
		return append(loadDSCP(e.Family), b.codePoints(e)...)
	case nft.MACs:
		return append([]expr.Any{&expr.Meta{Key: expr.MetaKeyIIFTYPE, Register: 1}, equal(binary.NativeEndian.AppendUint16(nil, unix.ARPHRD_ETHER)),
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6}}, b.macs(e.List)...)
	case nft.Pinned:
		return []expr.Any{&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, bitwise(e.Mask, 0), &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: native(0)}}
	case nft.Reply:
		return []expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1}, equal([]byte{1})} // IP_CT_DIR_REPLY
	case nft.New:
		return connectionState(expr.CtStateBitNEW)
	case nft.Established:
		return connectionState(expr.CtStateBitESTABLISHED)
	case nft.ToThisHost:
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyPKTTYPE, Register: 1}, equal([]byte{unix.PACKET_HOST})}
	case nft.IPsec:
		return []expr.Any{&expr.Rt{Key: rtIPsec, Register: 1}, compare(false, []byte{flag(!e.Not)})}
	case nft.SourceShare:
		return sourceShare(e)
	}
	return compileProxy(e)
}

func connectionState(bit uint32) []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1}, bitwise(bit, 0), &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: native(0)}}
}

// rtIPsec is NFT_RT_XFRM of linux/netfilter/nf_tables.h: 1 where the route of the packet leads through a transformation.
const rtIPsec = expr.RtKey(4)

// IPS_SRC_NAT and IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const (
	ipsSourceNAT      = 1 << 4
	ipsDestinationNAT = 1 << 5
)

func flag(set bool) byte {
	if set {
		return 1
	}
	return 0
}

// compileProxy compiles what ends in a verdict of its own kind, and what looks at sockets.
func compileProxy(e nft.Expr) []expr.Any {
	switch e := e.(type) {
	case nft.Refuse:
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
	case nft.Reset:
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}
	case nft.TProxy:
		return []expr.Any{&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, e.Port)},
			&expr.TProxy{Family: familyNumber(e.Family), TableFamily: unix.NFPROTO_INET, RegPort: 1}}
	case nft.Transparent:
		return []expr.Any{&expr.Socket{Key: expr.SocketKeyTransparent, Register: 1}, equal([]byte{1}),
			&expr.Socket{Key: expr.SocketKeyWildcard, Register: 1}, equal([]byte{0})}
	case nft.Route:
		fib := &expr.Fib{Register: 1, ResultOIF: true, FlagPRESENT: true, FlagMARK: true, FlagDADDR: !e.Back, FlagSADDR: e.Back, FlagIIF: e.Back}
		return []expr.Any{fib, equal(native(1))}
	case nft.DestinationNAT:
		return status(ipsDestinationNAT)
	case nft.SourceTranslated:
		return status(ipsSourceNAT)
	case nft.LocalDestination:
		return []expr.Any{&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true}, equal(native(uint32(netcfg.Local)))}
	}
	panic(fmt.Sprintf("nftables expression %T cannot be compiled", e))
}

// status matches connections with a bit of their status.
func status(bit uint32) []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeySTATUS, Register: 1}, bitwise(bit, 0), &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: native(0)}}
}

// networkOrder turns a number of the host's byte order around, for comparisons of ranges are of bytes.
func networkOrder() expr.Any {
	return &expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4}
}

// lookup matches register 1 against a set that is made for this rule.
func (b *builder) lookup(key nftables.SetDatatype, interval, invert bool, elements []nftables.SetElement) expr.Any {
	set := &nftables.Set{Table: b.table, Anonymous: true, Constant: true, Interval: interval, KeyType: key}
	if err := b.conn.AddSet(set, elements); err != nil && b.err == nil {
		b.err = fmt.Errorf("set of %d elements: %w", len(elements), err)
	}
	return &expr.Lookup{SourceRegister: 1, SetID: set.ID, SetName: set.Name, Invert: invert}
}

// bytes matches register 1 against one of several bytes.
func (b *builder) bytes(key nftables.SetDatatype, list []uint8) []expr.Any {
	if len(list) == 1 {
		return []expr.Any{equal([]byte{list[0]})}
	}
	elements := make([]nftables.SetElement, len(list))
	for i, x := range list {
		elements[i].Key = []byte{x}
	}
	return []expr.Any{b.lookup(key, false, false, elements)}
}

// macs matches register 1 against one of several hardware addresses.
func (b *builder) macs(list [][6]byte) []expr.Any {
	elements := make([]nftables.SetElement, len(list))
	for i := range list {
		elements[i].Key = list[i][:]
	}
	if len(elements) == 1 {
		return []expr.Any{equal(elements[0].Key)}
	}
	return []expr.Any{b.lookup(nftables.TypeEtherAddr, false, false, elements)}
}

// span is a range of values as the kernel compares them, ends included.
type span struct{ first, last []byte }

func spans[T any](list []T, bounds func(T) (first, last []byte)) []span {
	out := make([]span, len(list))
	for i, x := range list {
		out[i].first, out[i].last = bounds(x)
	}
	return out
}

// ranges matches register 1 against one of several ranges, which are in order and do not overlap.
func (b *builder) ranges(key nftables.SetDatatype, invert bool, list []span) []expr.Any {
	op, rangeOp := expr.CmpOpEq, expr.CmpOpEq
	if invert {
		op, rangeOp = expr.CmpOpNeq, expr.CmpOpNeq
	}
	if one := list[0]; len(list) == 1 {
		if bytes.Equal(one.first, one.last) {
			return []expr.Any{&expr.Cmp{Op: op, Register: 1, Data: one.first}}
		}
		return []expr.Any{&expr.Range{Op: rangeOp, Register: 1, FromData: one.first, ToData: one.last}}
	}
	if !slices.ContainsFunc(list, func(s span) bool { return !bytes.Equal(s.first, s.last) }) {
		elements := make([]nftables.SetElement, len(list))
		for i, s := range list {
			elements[i].Key = s.first
		}
		return []expr.Any{b.lookup(key, false, invert, elements)} // filled from the first moment on, which intervals are not
	}
	// An interval begins with an element and ends before one with the flag of an end; the last may have none.
	elements := make([]nftables.SetElement, 0, 2*len(list))
	for _, s := range list {
		elements = append(elements, nftables.SetElement{Key: s.first})
		if end, ok := next(s.last); ok {
			elements = append(elements, nftables.SetElement{Key: end, IntervalEnd: true})
		}
	}
	return []expr.Any{b.lookup(key, true, invert, elements)}
}

// next counts a number up, and is false for the last one.
func next(n []byte) ([]byte, bool) {
	n = slices.Clone(n)
	for i := len(n) - 1; i >= 0; i-- {
		if n[i]++; n[i] != 0 {
			return n, true
		}
	}
	return nil, false
}

func (b *builder) addresses(e nft.Addresses) []expr.Any {
	family := rules.FamilyOf(e.Prefixes[0].Addr())
	if len(e.Prefixes) == 1 {
		return matchPrefix(e.Prefixes[0], e.Dest, e.Not)
	}
	return append(loadAddress(family, e.Dest), b.ranges(addressType(family), e.Not, spans(e.Prefixes, func(p netip.Prefix) (first, last []byte) {
		first, last = p.Masked().Addr().AsSlice(), p.Masked().Addr().AsSlice()
		for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
			last[bit/8] |= 0x80 >> (bit % 8)
		}
		return first, last
	}))...)
}

// matchPrefix compares an address with one prefix as nft does: by as many bytes as that has, or else behind a mask.
func matchPrefix(prefix netip.Prefix, dest, not bool) []expr.Any {
	out := loadAddress(rules.FamilyOf(prefix.Addr()), dest)
	want, size := prefix.Masked().Addr().AsSlice(), (prefix.Bits()+7)/8
	if prefix.Bits()%8 == 0 && size > 0 {
		want = want[:size]
		out[len(out)-1].(*expr.Payload).Len = uint32(size)
	} else {
		out = append(out, maskAddress(prefix))
	}
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	return append(out, &expr.Cmp{Op: op, Register: 1, Data: want})
}

// loadAddress matches the family and loads its address into register 1.
func loadAddress(f rules.Family, dest bool) []expr.Any {
	offset, size := uint32(12), uint32(4)
	if f == rules.IPv6 {
		offset, size = 8, 16
	}
	if dest {
		offset += size
	}
	return append(matchFamily(f), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size})
}

// loadDSCP loads the byte that holds the code point's upper bits, or in IPv6 all six: the field is the second
// nibble of the first byte and the upper half of the next (RFC 8200 section 3).
func loadDSCP(f rules.Family) []expr.Any {
	load := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 1, Len: 1}
	mask, xor := []byte{0xfc}, []byte{0}
	if f == rules.IPv6 {
		load.Offset, load.Len = 0, 2
		mask, xor = []byte{0x0f, 0xc0}, []byte{0, 0}
	}
	return append(matchFamily(f), load, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: load.Len, Mask: mask, Xor: xor})
}

// codePoints matches what loadDSCP has loaded.
func (b *builder) codePoints(e nft.DSCP) []expr.Any {
	elements := make([]nftables.SetElement, len(e.List))
	for i, d := range e.List {
		elements[i].Key = []byte{d << 2}
		if e.Family == rules.IPv6 {
			elements[i].Key = binary.BigEndian.AppendUint16(nil, uint16(d)<<6)
		}
	}
	if len(elements) == 1 {
		return []expr.Any{equal(elements[0].Key)}
	}
	key := nftables.TypeDSCP
	key.Bytes = uint32(len(elements[0].Key))
	return []expr.Any{b.lookup(key, false, false, elements)}
}

// sourceShare hashes the source address, as "jhash ip saddr mod N seed S" does.
func sourceShare(e nft.SourceShare) []expr.Any {
	size := uint32(4)
	if e.Family == rules.IPv6 {
		size = 16
	}
	out := append(loadAddress(e.Family, false),
		&expr.Hash{SourceRegister: 1, DestRegister: 1, Length: size, Modulus: e.Total, Seed: e.Seed(), Type: expr.HashTypeJenkins})
	if e.First == e.Last {
		return append(out, equal(native(e.First)))
	}
	return append(out, networkOrder(), &expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: binary.BigEndian.AppendUint32(nil, e.First),
		ToData: binary.BigEndian.AppendUint32(nil, e.Last)})
}
