package rules

import (
	"fmt"
	"net/netip"
	"slices"
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
	// NftFilled matches the source or destination address by a set of the table that others fill.
	NftFilled struct {
		Dest   bool
		Family Family
		Set    string
	}
	// NftProtocols matches the transport protocol.
	NftProtocols struct{ List []uint8 }
	// NftPorts matches the source or destination port, by ranges that do not overlap.
	NftPorts struct {
		Dest bool
		List []Ports
	}
	// NftOwners matches the owner of the local socket, by ranges that do not overlap.
	NftOwners struct{ List []UIDs }
	// NftMark matches the packet mark under a mask.
	NftMark struct{ Mask, Value uint32 }
	// NftDSCP matches the code point.
	NftDSCP struct {
		Family Family
		List   []uint8
	}
	// NftPinned matches connections with any bit of the mask in their mark.
	NftPinned struct{ Mask uint32 }
	// NftReply matches packets in the direction that is not that of the first one of their connection.
	NftReply struct{}
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
)

// seedOfShares makes the same source fall to the same share in all rules; without a seed the kernel draws one
// for each.
const seedOfShares = 0x75706c69

// anyOf writes a value, or a set of several.
func anyOf[T any](list []T, word func(T) string, braces bool) string {
	words := make([]string, len(list))
	for i, x := range list {
		words[i] = word(x)
	}
	if len(words) == 1 && !braces {
		return words[0]
	}
	return "{ " + strings.Join(words, ", ") + " }"
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

func (e NftDevices) String() string {
	return direction(e.Out, "iifname @", "oifname @") + e.SetName()
}

// SetName returns the name of the set that holds these names.
func (e NftDevices) SetName() string {
	return string(appendDigest([]byte("devices_"), []byte(strings.Join(e.Names, "/"))))
}

func (e NftAddresses) String() string {
	s := FamilyOf(e.Prefixes[0].Addr()).nft() + direction(e.Dest, " saddr ", " daddr ")
	if e.Not {
		s += "!= "
	}
	return s + anyOf(e.Prefixes, func(p netip.Prefix) string {
		if p.IsSingleIP() {
			return p.Addr().String()
		}
		return p.String()
	}, false)
}

func (e NftFilled) String() string {
	return e.Family.nft() + direction(e.Dest, " saddr @", " daddr @") + e.Set
}

func (e NftProtocols) String() string {
	return "meta l4proto " + anyOf(e.List, func(p uint8) string { return fmt.Sprint(p) }, false)
}

func (e NftPorts) String() string {
	return direction(e.Dest, "th sport ", "th dport ") + anyOf(e.List, Ports.String, false)
}

// String writes the range as nft does.
func (p Ports) String() string {
	if p.First == p.Last {
		return fmt.Sprint(p.First)
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

func (e NftOwners) String() string { return "meta skuid " + anyOf(e.List, UIDs.String, false) }

// String writes the range as nft does.
func (u UIDs) String() string {
	if u.First == u.Last {
		return fmt.Sprint(u.First)
	}
	return fmt.Sprintf("%d-%d", u.First, u.Last)
}

func (e NftMark) String() string { return fmt.Sprintf("meta mark & %#08x == %#08x", e.Mask, e.Value) }
func (e NftDSCP) String() string {
	return e.Family.nft() + " dscp " + anyOf(e.List, func(d uint8) string { return fmt.Sprint(d) }, false)
}
func (e NftPinned) String() string         { return fmt.Sprintf("ct mark & %#08x != 0x00000000", e.Mask) }
func (NftReply) String() string            { return "ct direction reply" }
func (NftNew) String() string              { return "ct state new" }
func (NftRefuse) String() string           { return "reject with icmpx type admin-prohibited" }
func (NftReset) String() string            { return "reject with tcp reset" }
func (NftTransparent) String() string      { return "socket transparent 1 socket wildcard 0" }
func (NftLocalDestination) String() string { return "fib daddr type local" }
func (e NftTProxy) String() string         { return fmt.Sprintf("tproxy %s to :%d", e.Family.nft(), e.Port) }
func (e NftSourceShare) String() string {
	s := fmt.Sprintf("jhash %s saddr mod %d seed %#x ", e.Family.nft(), e.Total, seedOfShares)
	if e.First == e.Last {
		return s + fmt.Sprint(e.First)
	}
	return s + fmt.Sprintf("%d-%d", e.First, e.Last)
}

// SeedOfShares is the seed of the hash of NftSourceShare.
func (NftSourceShare) SeedOfShares() uint32 { return seedOfShares }

// MaxSet is how many prefixes or ranges there may be in one set of a rule: the kernel takes them in one attribute,
// which holds less than 64 KiB.
const MaxSet = 500

// inSets splits prefixes into parts that a set can hold.
func inSets(list []netip.Prefix) [][]netip.Prefix {
	return slices.Collect(slices.Chunk(disjoint(list), MaxSet))
}

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

func mergedPorts(list []Ports) []Ports {
	return merged(list, func(p Ports) (uint64, uint64) { return uint64(p.First), uint64(p.Last) },
		func(a, b Ports) Ports { return Ports{a.First, max(a.Last, b.Last)} })
}

func mergedUIDs(list []UIDs) []UIDs {
	return merged(list, func(u UIDs) (uint64, uint64) { return uint64(u.First), uint64(u.Last) },
		func(a, b UIDs) UIDs { return UIDs{true, a.First, max(a.Last, b.Last)} })
}
