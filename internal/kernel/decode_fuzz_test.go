package kernel

import (
	"encoding/binary"
	"log/slog"
	"testing"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/encap"
	"github.com/uplinkd/uplinkd/rules/explain"
)

// attr is a netlink attribute.
func attr(typ uint16, value ...byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, typ), value...)
	return append(b, make([]byte, (4-len(b)%4)%4)...)
}

// FuzzNetlink decodes messages of any content as each sort that a snapshot and the diagnostics read. Newer kernels say more, and
// shorter or longer things, than those that were known.
func FuzzNetlink(f *testing.F) {
	k := &Kernel{log: slog.New(slog.DiscardHandler), numbers: rules.Kernel{Protocol: 117, TableBase: 11700, MarkMask: 0x3f000000}}
	sorts := []func(m []byte){
		func(m []byte) { k.decodeAddr(m) },
		func(m []byte) {
			var r explain.TableRoute
			k.devices.decodeRoute(m, &r)
			k.devices.decodeRoute(m, &r)
		},
		func(m []byte) { _, _ = k.decodeAnswer(m) },
		func(m []byte) { decodeRule(m) },
		func(m []byte) { decodeLink(m) },
		func(m []byte) { decodeNeighbour(m) },
		func(m []byte) { decodeFilter(m) },
		func(m []byte) { k.decodePolicy(m) },
		func(m []byte) { decodeConnection(m, rules.IPv4); decodeConnection(m, rules.IPv6) },
		func(m []byte) {
			transparentSocket(m, 0, unix.AF_INET, rules.IPv4)
			transparentSocket(m, 0, unix.AF_INET6, rules.IPv4)
		},
		func(m []byte) { decodeParams(m); decodeFloods(m) },
		func(m []byte) {
			for _, k := range encap.Kinds() {
				encap.Decode(k.Name, attributes(m))
			}
		},
	}
	header := make([]byte, 12)
	for i := range sorts {
		f.Add(uint8(i), []byte{})
		for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
			header[0] = family
			f.Add(uint8(i), header)
			m := append(append([]byte{}, header...), attr(unix.RTA_DST, 192, 0, 2, 1)...)
			m = append(append(m, attr(unix.RTA_OIF, 2, 0, 0, 0)...), attr(unix.RTA_MULTIPATH, 8, 0, 0, 1, 2, 0, 0, 0)...)
			f.Add(uint8(i), append(m, attr(unix.RTA_TABLE, 1)...)) // shorter than it is
		}
	}
	f.Fuzz(func(_ *testing.T, sort uint8, m []byte) { sorts[int(sort)%len(sorts)](m) })
}

// FuzzForeignRules reads rules of other programs' nftables, whatever they hold, for who translates what, and who drops what.
func FuzzForeignRules(f *testing.F) {
	nested := func(typ uint16, parts ...[]byte) []byte {
		var all []byte
		for _, p := range parts {
			all = append(all, p...)
		}
		return attr(typ|unix.NLA_F_NESTED, all...)
	}
	expression := func(name string, data ...[]byte) []byte {
		return nested(unix.NFTA_LIST_ELEM, attr(unix.NFTA_EXPR_NAME, append([]byte(name), 0)...), nested(unix.NFTA_EXPR_DATA, data...))
	}
	be32 := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	value := func(typ uint16, b ...byte) []byte { return nested(typ, attr(unix.NFTA_DATA_VALUE, b...)) }
	oifname := expression("meta", attr(unix.NFTA_META_DREG, be32(1)...), attr(unix.NFTA_META_KEY, be32(unix.NFT_META_OIFNAME)...))
	wan1 := expression("cmp", attr(unix.NFTA_CMP_SREG, be32(1)...), attr(unix.NFTA_CMP_OP, be32(unix.NFT_CMP_EQ)...), value(unix.NFTA_CMP_DATA, []byte("wan1\x00")...))
	source := expression("payload", attr(unix.NFTA_PAYLOAD_DREG, be32(1)...), attr(unix.NFTA_PAYLOAD_BASE, be32(1)...), attr(unix.NFTA_PAYLOAD_OFFSET, be32(12)...), attr(unix.NFTA_PAYLOAD_LEN, be32(3)...))
	for _, seed := range [][]byte{
		nil, append(append([]byte{}, oifname...), wan1...),
		append(append(append([]byte{}, oifname...), wan1...), expression("masq")...),
		append(append([]byte{}, source...), expression("cmp", attr(unix.NFTA_CMP_SREG, be32(1)...), attr(unix.NFTA_CMP_OP, be32(0)...), value(unix.NFTA_CMP_DATA, 10, 1, 2))...),
		expression("immediate", attr(unix.NFTA_IMMEDIATE_DREG, be32(0)...)), expression("match", attr(unix.NFTA_MATCH_NAME, 'x', 0)),
		expression("ct", attr(unix.NFTA_CT_DREG, be32(1)...), attr(unix.NFTA_CT_KEY, be32(0)...)), expression("bitwise"), expression("lookup"), expression(""),
	} {
		f.Add(seed)
	}
	table := &nftables.Table{Name: "nat", Family: nftables.TableFamilyINet}
	chain := &nftables.Chain{Name: "post", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting}
	f.Fuzz(func(t *testing.T, expressions []byte) {
		if len(expressions) > 1<<15 {
			return
		}
		body := append([]byte{unix.NFPROTO_INET, 0, 0, 0}, attr(unix.NFTA_RULE_TABLE, []byte("nat\x00")...)...)
		body = append(append(body, attr(unix.NFTA_RULE_CHAIN, []byte("post\x00")...)...), attr(unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED, expressions...)...)
		answer := func(requests []netlink.Message) ([]netlink.Message, error) {
			var out []netlink.Message
			for _, r := range requests {
				h := r.Header
				h.Flags = netlink.Multi
				h.Type = netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE)
				if r.Header.Type == netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETRULE) {
					out = append(out, netlink.Message{Header: h, Data: body})
				}
				h.Type = netlink.Done
				out = append(out, netlink.Message{Header: h, Data: make([]byte, 4)})
			}
			return out, nil
		}
		conn, err := nftables.New(nftables.WithTestDial(answer))
		if err != nil {
			t.Fatal(err)
		}
		k := &Kernel{log: slog.New(slog.DiscardHandler), nft: conn}
		whole, partial, err := k.translations([]*nftables.Chain{chain})
		if err != nil {
			return // the library has refused it
		}
		for _, found := range append(whole, partial...) {
			for _, p := range found.Sources {
				if !p.IsValid() || rules.FamilyOf(p.Addr()) != found.Family {
					t.Errorf("%+v", found)
				}
			}
		}
		list, err := conn.GetRules(table, chain)
		if err != nil {
			return
		}
		for _, r := range list {
			k.dropsInvalid(table, r.Exprs)
		}
	})
}
