package nft

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/uplinkd/uplinkd/rules/inet"
)

// The expressions that match one of several values, each by a set of its own in the kernel.
type (
	// Devices matches the input or output device by a set of names.
	Devices struct {
		Out   bool
		Names []string
	}
	// Addresses matches the source or destination address, of one family, by prefixes that do not overlap;
	// Not is for what none of them covers.
	Addresses struct {
		Dest, Not bool
		Prefixes  []netip.Prefix
	}
	// ExternalSet matches the source or destination address by a set of the table that has a name: one that others fill, or one
	// that is known; Not is for what is not in it.
	ExternalSet struct {
		Dest, Not bool
		Family    inet.Family
		Set       string
		Known     *inet.Set // what is in it; nil where others fill it
	}
	// Protocols matches the transport protocol.
	Protocols struct{ List []uint8 }
	// Ports matches the source or destination port, by ranges that do not overlap.
	Ports struct {
		Dest bool
		List []Range
	}
	// Owners matches the owner of the local socket, by ranges that do not overlap.
	Owners struct{ List []Range }
	// DSCP matches the code point.
	DSCP struct {
		Family inet.Family
		List   []uint8
	}
	// MACs matches the source of the Ethernet frame that a packet came in with. The frame's header is there from prerouting to the
	// forward hook (net/netfilter/nft_payload.c nft_payload_eval), of devices of another type never. It stands behind what looks at the
	// network header: else nft takes the family out of the frame too.
	MACs struct{ List [][6]byte }
	// Mark matches the packet mark under a mask; Not is for any other value.
	Mark struct {
		Mask, Value uint32
		Not         bool
	}
	// Pinned matches connections with any bit of the mask in their mark.
	Pinned struct{ Mask uint32 }
	// Reply matches packets in the direction that is not that of the first one of their connection.
	Reply struct{}
	// IPsec matches packets that an IPsec policy has the kernel put into others; Not is for those that leave as they are.
	IPsec struct{ Not bool }
	// New matches the first packets of connections, until one comes back.
	New struct{}
	// Established matches packets of connections that both ends have sent some of.
	Established struct{}
	// Offload lets the connection pass by all chains, from the next packet on, between the devices of the table's flowtable.
	Offload struct{}
	// ToThisHost matches frames that were sent to the address of the device, not to several hosts.
	ToThisHost struct{}
	// SourceShare matches sources whose hash modulo Total is in First..Last.
	SourceShare struct {
		Family             inet.Family
		Total, First, Last uint32
	}
	// Refuse drops the packet and tells its sender that it is prohibited.
	Refuse struct{}
	// Reset drops the TCP packet and resets its connection.
	Reset struct{}
	// TProxy gives the packet to the local socket that listens on a port, whatever its destination is. The
	// rule goes on only if there is one (net/netfilter/nft_tproxy.c).
	TProxy struct {
		Family inet.Family
		Port   uint16
	}
	// Transparent matches packets of sockets that are bound to foreign addresses, listening ones that are
	// bound to none left out.
	Transparent struct{}
	// LocalDestination matches packets for an address of this machine.
	LocalDestination struct{}
	// Route matches packets whose destination the rules lead to some route, asked with the mark that the packet has
	// now; with Back, those whose source they lead to by the device that the packet came in by. Addresses of this machine
	// are led to no route (net/ipv4/netfilter/nft_fib_ipv4.c nft_fib4_eval).
	Route struct{ Back bool }
	// DestinationNAT matches packets of connections whose destination is translated.
	DestinationNAT struct{}
	// SourceTranslated matches those of connections whose source is.
	SourceTranslated struct{}
)

// sourceHashSeed makes the same source fall to the same share in all rules; without a seed the kernel draws one
// for each.
const sourceHashSeed = 0x75706c69

// appendAny writes a value, or a set of several.
func appendAny[T any](b []byte, list []T, word func([]byte, T) []byte) []byte {
	if len(list) == 1 {
		return word(b, list[0])
	}
	b = append(b, "{ "...)
	for i, x := range list {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = word(b, x)
	}
	return append(b, " }"...)
}

func appendNumber(b []byte, n uint8) []byte { return strconv.AppendUint(b, uint64(n), 10) }

func direction(dest bool, source, destination string) string {
	if dest {
		return destination
	}
	return source
}

func (e Devices) AppendTo(b []byte) []byte {
	return append(append(b, direction(e.Out, "iifname @", "oifname @")...), e.SetName()...)
}

// SetName returns the name of the set that holds these names.
func (e Devices) SetName() string {
	return string(appendDigest([]byte("devices_"), []byte(strings.Join(e.Names, "/"))))
}

func (e Addresses) AppendTo(b []byte) []byte {
	b = append(append(b, inet.Of(e.Prefixes[0].Addr()).Header()...), direction(e.Dest, " saddr ", " daddr ")...)
	if e.Not {
		b = append(b, "!= "...)
	}
	return appendAny(b, e.Prefixes, appendPrefix)
}

func (e ExternalSet) AppendTo(b []byte) []byte {
	b = append(append(b, e.Family.Header()...), direction(e.Dest, " saddr ", " daddr ")...)
	return append(append(b, direction(e.Not, "@", "!= @")...), e.Set...)
}

func (e Protocols) AppendTo(b []byte) []byte {
	return appendAny(append(b, "meta l4proto "...), e.List, appendNumber)
}
func (e Ports) AppendTo(b []byte) []byte {
	return appendAny(append(b, direction(e.Dest, "th sport ", "th dport ")...), e.List, appendRange)
}
func (e Owners) AppendTo(b []byte) []byte {
	return appendAny(append(b, "meta skuid "...), e.List, appendRange)
}
func (e DSCP) AppendTo(b []byte) []byte {
	return appendAny(append(append(b, e.Family.Header()...), " dscp "...), e.List, appendNumber)
}
func (e MACs) AppendTo(b []byte) []byte {
	return appendAny(append(b, "ether saddr "...), e.List, func(b []byte, mac [6]byte) []byte {
		for i := range mac {
			b = append(hex.AppendEncode(b, mac[i:i+1]), ':')
		}
		return b[:len(b)-1]
	})
}
func (e Mark) AppendTo(b []byte) []byte {
	return appendMasked(b, "meta mark", e.Mask, direction(e.Not, " == ", " != "), e.Value)
}
func (e Pinned) AppendTo(b []byte) []byte { return appendMasked(b, "ct mark", e.Mask, " != ", 0) }
func (Reply) AppendTo(b []byte) []byte    { return append(b, "ct direction reply"...) }
func (e IPsec) AppendTo(b []byte) []byte {
	return append(b, direction(e.Not, "rt ipsec exists", "rt ipsec missing")...)
}
func (New) AppendTo(b []byte) []byte         { return append(b, "ct state new"...) }
func (Established) AppendTo(b []byte) []byte { return append(b, "ct state established"...) }
func (Offload) AppendTo(b []byte) []byte     { return append(b, "flow add @"+FlowtableName...) }
func (ToThisHost) AppendTo(b []byte) []byte  { return append(b, "meta pkttype host"...) }
func (Refuse) AppendTo(b []byte) []byte {
	return append(b, "reject with icmpx type admin-prohibited"...)
}
func (Reset) AppendTo(b []byte) []byte { return append(b, "reject with tcp reset"...) }
func (Transparent) AppendTo(b []byte) []byte {
	return append(b, "socket transparent 1 socket wildcard 0"...)
}
func (LocalDestination) AppendTo(b []byte) []byte { return append(b, "fib daddr type local"...) }
func (e Route) AppendTo(b []byte) []byte {
	return append(b, direction(e.Back, "fib daddr . mark oif exists", "fib saddr . mark . iif oif exists")...)
}
func (DestinationNAT) AppendTo(b []byte) []byte   { return append(b, "ct status dnat"...) }
func (SourceTranslated) AppendTo(b []byte) []byte { return append(b, "ct status snat"...) }
func (e TProxy) AppendTo(b []byte) []byte {
	return fmt.Appendf(b, "tproxy %s to :%d", e.Family.Header(), e.Port)
}
func (e SourceShare) AppendTo(b []byte) []byte {
	b = fmt.Appendf(b, "jhash %s saddr mod %d seed %#x ", e.Family.Header(), e.Total, sourceHashSeed)
	return appendRange(b, Range{e.First, e.Last})
}

// Seed is the seed of the hash of SourceShare.
func (SourceShare) Seed() uint32 { return sourceHashSeed }

// Range is a range of ports or owners.
type Range struct{ First, Last uint32 }

// Has reports whether a number is in the range.
func (r Range) Has(n uint32) bool { return r.First <= n && n <= r.Last }

func appendRange(b []byte, r Range) []byte {
	b = strconv.AppendUint(b, uint64(r.First), 10)
	if r.First != r.Last {
		b = strconv.AppendUint(append(b, '-'), uint64(r.Last), 10)
	}
	return b
}

// Merged sorts ranges and joins those that overlap or touch.
func Merged(list []Range) (kept []Range) {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b Range) int { return cmp.Compare(a.First, b.First) })
	for _, r := range list {
		if n := len(kept); n > 0 && uint64(r.First) <= uint64(kept[n-1].Last)+1 {
			kept[n-1].Last = max(kept[n-1].Last, r.Last)
		} else {
			kept = append(kept, r)
		}
	}
	return kept
}

// Apart merges ranges, and splits them into parts for a rule each: the single values, and each range alone. The kernel makes a set of both of
// intervals, and one that comes with its rule is empty for a moment after the rule is there: nft_set_commit_update is the last that a
// transaction does. For that time a kill switch would be open whenever its table is replaced.
func Apart(list []Range) (parts [][]Range) {
	var single []Range
	for _, r := range Merged(list) {
		if r.First == r.Last {
			single = append(single, r)
		} else {
			parts = append(parts, []Range{r})
		}
	}
	if len(single) > 0 {
		parts = append([][]Range{single}, parts...)
	}
	return parts
}

// MaxSet is how many prefixes or ranges there may be in one set of a rule: the kernel takes them in one attribute,
// which holds less than 64 KiB.
const MaxSet = 500

// Contains reports whether one of the prefixes covers an address.
func (e Addresses) Contains(a netip.Addr) bool { return inet.Within(e.Prefixes, a) }
