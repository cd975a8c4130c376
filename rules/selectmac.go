package rules

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"slices"
)

// SelectMACs is about the hosts of a LAN by their Ethernet addresses, in both families.
type SelectMACs [][6]byte

// Key is mac.
func (SelectMACs) Key() string { return "mac" }

// What this machine makes has no such header when nftables sees it.
func (SelectMACs) about() packets { return allPackets &^ packetsLocal }

func (SelectMACs) inRules(Family) ruleForm {
	return ruleForm{cannot: "rules know no hardware addresses"}
}

func (s SelectMACs) expressions(Family) []NftExpr {
	return []NftExpr{NftMACs{slices.SortedFunc(slices.Values(s), func(a, b [6]byte) int { return bytes.Compare(a[:], b[:]) })}}
}

// Connection tracking keeps no hardware addresses: those that the hosts have now stand for them. A host of which the kernel knows none any
// more sends nothing, or what it sends meets the chains of kill switches.
func (s SelectMACs) tracked(p *planner) func(*Connection) bool {
	sources := make(map[netip.Addr]bool)
	for _, n := range p.obs.Neighbours {
		sources[n.Address] = sources[n.Address] || slices.Contains(s, n.Hardware)
	}
	return func(c *Connection) bool { return sources[c.Source] }
}

// NftMACs matches the source of the Ethernet frame that a packet came in with. The frame's header is there from prerouting to the
// forward hook (net/netfilter/nft_payload.c nft_payload_eval), of devices of another type never. It stands behind what looks at the network
// header: else nft takes the family out of the frame too.
type NftMACs struct{ List [][6]byte }

func (e NftMACs) appendTo(b []byte) []byte {
	return appendAny(append(b, "ether saddr "...), e.List, func(b []byte, mac [6]byte) []byte {
		for i := range mac {
			b = append(hex.AppendEncode(b, mac[i:i+1]), ':')
		}
		return b[:len(b)-1]
	})
}
