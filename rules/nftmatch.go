package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// The expressions that match one of several values, each by a set of its own in the kernel.
type (
	// NftDevices matches the input or output device by a set of names.
	NftDevices struct {
		Out   bool
		Names []string
	}
	// NftAddresses matches the source or destination address, of one family, by prefixes that do not overlap;
	// Not is for what none of them covers.
	NftAddresses struct {
		Dest, Not bool
		Prefixes  []netip.Prefix
	}
	// NftExternalSet matches the source or destination address by a set of the table that others fill.
	NftExternalSet struct {
		Dest   bool
		Family Family
		Set    string
	}
	// NftMark matches the packet mark under a mask; Not is for any other value.
	NftMark struct {
		Mask, Value uint32
		Not         bool
	}
	// NftPinned matches connections with any bit of the mask in their mark.
	NftPinned struct{ Mask uint32 }
	// NftReply matches packets in the direction that is not that of the first one of their connection.
	NftReply struct{}
	// NftIPsec matches packets that an IPsec policy has the kernel put into others; Not is for those that leave as they are.
	NftIPsec struct{ Not bool }
	// NftNew matches the first packets of connections, until one comes back.
	NftNew struct{}
	// NftSourceShare matches sources whose hash modulo Total is in First..Last.
	NftSourceShare struct {
		Family             Family
		Total, First, Last uint32
	}
	// NftRefuse drops the packet and tells its sender that it is prohibited.
	NftRefuse struct{}
	// NftReset drops the TCP packet and resets its connection.
	NftReset struct{}
	// NftTProxy gives the packet to the local socket that listens on a port, whatever its destination is. The
	// rule goes on only if there is one (net/netfilter/nft_tproxy.c).
	NftTProxy struct {
		Family Family
		Port   uint16
	}
	// NftTransparent matches packets of sockets that are bound to foreign addresses, listening ones that are
	// bound to none left out.
	NftTransparent struct{}
	// NftLocalDestination matches packets for an address of this machine.
	NftLocalDestination struct{}
	// NftRoute matches packets whose destination the rules lead to some route, asked with the mark that the packet has
	// now; with Back, those whose source they lead to by the device that the packet came in by. Addresses of this machine
	// are led to no route (net/ipv4/netfilter/nft_fib_ipv4.c nft_fib4_eval).
	NftRoute struct{ Back bool }
	// NftDestinationNAT matches packets of connections whose destination is translated.
	NftDestinationNAT struct{}
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

func appendNumber[T uint8 | uint16 | uint32](b []byte, n T) []byte {
	return strconv.AppendUint(b, uint64(n), 10)
}

func (f Family) nft() string {
	if f == IPv6 {
		return "ip6"
	}
	return "ip"
}

func direction(dest bool, source, destination string) string {
	if dest {
		return destination
	}
	return source
}

func (e NftDevices) appendTo(b []byte) []byte {
	return append(append(b, direction(e.Out, "iifname @", "oifname @")...), e.SetName()...)
}

// SetName returns the name of the set that holds these names.
func (e NftDevices) SetName() string {
	return string(appendDigest([]byte("devices_"), []byte(strings.Join(e.Names, "/"))))
}

func (e NftAddresses) appendTo(b []byte) []byte {
	b = append(append(b, FamilyOf(e.Prefixes[0].Addr()).nft()...), direction(e.Dest, " saddr ", " daddr ")...)
	if e.Not {
		b = append(b, "!= "...)
	}
	return appendAny(b, e.Prefixes, appendPrefix)
}

func (e NftExternalSet) appendTo(b []byte) []byte {
	return append(append(append(b, e.Family.nft()...), direction(e.Dest, " saddr @", " daddr @")...), e.Set...)
}

// appendRange writes a range as nft does.
func appendRange[T uint16 | uint32](b []byte, first, last T) []byte {
	if b = appendNumber(b, first); first != last {
		b = appendNumber(append(b, '-'), last)
	}
	return b
}

func (e NftMark) appendTo(b []byte) []byte {
	return appendMasked(b, "meta mark", e.Mask, direction(e.Not, " == ", " != "), e.Value)
}
func (e NftPinned) appendTo(b []byte) []byte { return appendMasked(b, "ct mark", e.Mask, " != ", 0) }
func (NftReply) appendTo(b []byte) []byte    { return append(b, "ct direction reply"...) }
func (e NftIPsec) appendTo(b []byte) []byte {
	return append(b, direction(e.Not, "rt ipsec exists", "rt ipsec missing")...)
}
func (NftNew) appendTo(b []byte) []byte { return append(b, "ct state new"...) }
func (NftRefuse) appendTo(b []byte) []byte {
	return append(b, "reject with icmpx type admin-prohibited"...)
}
func (NftReset) appendTo(b []byte) []byte { return append(b, "reject with tcp reset"...) }
func (NftTransparent) appendTo(b []byte) []byte {
	return append(b, "socket transparent 1 socket wildcard 0"...)
}
func (NftLocalDestination) appendTo(b []byte) []byte { return append(b, "fib daddr type local"...) }
func (e NftRoute) appendTo(b []byte) []byte {
	return append(b, direction(e.Back, "fib daddr . mark oif exists", "fib saddr . mark . iif oif exists")...)
}
func (NftDestinationNAT) appendTo(b []byte) []byte { return append(b, "ct status dnat"...) }
func (e NftTProxy) appendTo(b []byte) []byte {
	return fmt.Appendf(b, "tproxy %s to :%d", e.Family.nft(), e.Port)
}
func (e NftSourceShare) appendTo(b []byte) []byte {
	b = fmt.Appendf(b, "jhash %s saddr mod %d seed %#x ", e.Family.nft(), e.Total, sourceHashSeed)
	return appendRange(b, e.First, e.Last)
}

// Seed is the seed of the hash of NftSourceShare.
func (NftSourceShare) Seed() uint32 { return sourceHashSeed }

// MaxSet is how many prefixes or ranges there may be in one set of a rule: the kernel takes them in one attribute,
// which holds less than 64 KiB.
const MaxSet = 500

// inSets splits prefixes into parts that a set can hold.
func inSets(list []netip.Prefix) [][]netip.Prefix {
	return slices.Collect(slices.Chunk(disjoint(list), MaxSet))
}

// Contains reports whether one of the prefixes covers an address.
func (e NftAddresses) Contains(a netip.Addr) bool { return within(e.Prefixes, a) }

// within reports whether a prefix of the list covers the address.
func within(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// disjoint sorts prefixes and drops those that others cover: a set of the kernel takes no overlaps.
func disjoint(list []netip.Prefix) []netip.Prefix {
	list = slices.Clone(list)
	slices.SortFunc(list, netip.Prefix.Compare)
	kept := list[:0]
	for _, p := range list {
		// In this order a prefix stands behind the one that covers it, and behind nothing but what that covers too.
		if len(kept) == 0 || !(kept[len(kept)-1].Bits() <= p.Bits() && kept[len(kept)-1].Contains(p.Addr())) {
			kept = append(kept, p)
		}
	}
	return kept
}

// merged sorts ranges and joins those that overlap or touch.
func merged[T any](list []T, bounds func(T) (first, last uint64), join func(a, b T) T) []T {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b T) int {
		x, _ := bounds(a)
		y, _ := bounds(b)
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	var kept []T
	for _, r := range list {
		first, _ := bounds(r)
		if n := len(kept); n > 0 {
			if _, last := bounds(kept[n-1]); first <= last+1 {
				kept[n-1] = join(kept[n-1], r)
				continue
			}
		}
		kept = append(kept, r)
	}
	return kept
}
