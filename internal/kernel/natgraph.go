package kernel

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// A nat chain of others that hooks into postrouting, and what its rules lead to, may translate all that leaves by a
// device: by "masquerade", "snat", or the targets of iptables that nft shows as xt. Rules are followed as far as they
// look at nothing but the output device and the family.

// translations finds who translates whatever leaves by a device. Only the tables of others are looked at.
func (k *Kernel) translations(chains []*nftables.Chain) (whole, partial []rules.Translation, err error) {
	w := natWalk{k: k, chains: chains}
	for _, c := range chains {
		if c.Table.Name == nft.TableName || c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookPostrouting || c.Type != nftables.ChainTypeNAT {
			continue
		}
		var families []rules.Family
		switch c.Table.Family {
		case nftables.TableFamilyIPv4:
			families = []rules.Family{rules.IPv4}
		case nftables.TableFamilyIPv6:
			families = []rules.Family{rules.IPv6}
		case nftables.TableFamilyINet:
			families = rules.Families[:]
		}
		for _, family := range families {
			if err := w.walk(c, scope{}, family, 0); err != nil {
				return nil, nil, err
			}
		}
	}
	return w.found, w.partial, nil
}

// scope is what a rule is for: output devices and sources.
type scope struct {
	only    []string // nil: any
	except  []string
	sources []netip.Prefix // nil: any
	// partial is true when other conditions hold too, or what stands before may have taken some packets away.
	partial bool
}

func (s scope) has(device string) bool {
	return (s.only == nil || slices.Contains(s.only, device)) && !slices.Contains(s.except, device)
}

type natWalk struct {
	k      *Kernel
	chains []*nftables.Chain
	// What was found: for all that leaves by a device, and for some of it.
	found, partial []rules.Translation
}

// maxDepth is that of the kernel's stack of jumps (include/net/netfilter/nf_tables.h NFT_JUMP_STACK_SIZE).
const maxDepth = 16

// walk goes through a chain for one family. What comes after a rule that may end the chain for some traffic
// does not translate all.
func (w *natWalk) walk(c *nftables.Chain, s scope, family rules.Family, depth int) error {
	list, err := w.k.nft.GetRules(c.Table, c)
	if err != nil {
		return fmt.Errorf("listing the rules of nftables %s %s: %w", c.Table.Name, c.Name, err)
	}
	for _, r := range list {
		here, ending := w.read(c.Table, r.Exprs, s, family)
		if here == nil || here.only != nil && len(here.only) == 0 {
			continue
		}
		switch e := ending.(type) {
		case *expr.Masq, *expr.NAT, *expr.Target:
			found := rules.Translation{Family: family, Only: here.only, Except: here.except, By: tableFamily(c.Table.Family) + " " + c.Table.Name}
			if here.partial || here.sources != nil {
				found.Sources = here.sources
				w.partial = append(w.partial, found)
			} else {
				w.found = append(w.found, found)
			}
		case *expr.Verdict:
			switch {
			case e.Kind == expr.VerdictJump || e.Kind == expr.VerdictGoto:
				to := slices.IndexFunc(w.chains, func(o *nftables.Chain) bool {
					return o.Table.Name == c.Table.Name && o.Table.Family == c.Table.Family && o.Name == e.Chain
				})
				if to >= 0 && depth < maxDepth {
					if err := w.walk(w.chains[to], *here, family, depth+1); err != nil {
						return err
					}
				}
			case e.Kind == expr.VerdictAccept || e.Kind == expr.VerdictReturn:
				s.partial = true
			}
		}
	}
	return nil
}

// read says what a rule is for, nil for nothing of the scope or another family; and what it does in the end.
func (w *natWalk) read(table *nftables.Table, exprs []expr.Any, s scope, family rules.Family) (here *scope, ending expr.Any) {
	here = &s
	device, proto := false, false
	var source sourceMatch
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Meta:
			device, proto, source = e.Key == expr.MetaKeyOIFNAME, e.Key == expr.MetaKeyNFPROTO, sourceMatch{}
		case *expr.Payload:
			device, proto, source = false, false, sourceMatch{loaded: loadsSource(e, family), size: e.Len}
			here.partial = here.partial || !source.loaded
		case *expr.Bitwise:
			source.mask = e.Mask
		case *expr.Cmp:
			switch {
			case proto && e.Op == expr.CmpOpEq:
				if !bytes.Equal(e.Data, []byte{familyNumber(family)}) {
					return nil, nil
				}
			case device && bytes.IndexByte(e.Data, 0) > 0 && e.Op == expr.CmpOpEq: // else it is a prefix, "wan*"
				here = here.within([]string{unix.ByteSliceToString(e.Data)})
			case device && bytes.IndexByte(e.Data, 0) > 0 && e.Op == expr.CmpOpNeq:
				here.except = append(slices.Clone(here.except), unix.ByteSliceToString(e.Data))
			case source.loaded && e.Op == expr.CmpOpEq && here.sources == nil:
				here.sources = source.prefixes(e.Data, family)
				here.partial = here.partial || here.sources == nil
			default:
				here.partial = true
			}
		case *expr.Match: // iptables-nft
			here.partial = here.partial || e.Name != "comment"
		case *expr.Lookup:
			names, ok := w.names(table, e)
			if !device || !ok {
				here.partial = true
				continue
			}
			here = here.within(names)
		case *expr.Counter, *expr.Immediate, *expr.Notrack, *expr.Log:
		case *expr.Masq, *expr.NAT, *expr.Verdict:
			return here, e
		case *expr.Target:
			if e.Name == "MASQUERADE" || strings.HasPrefix(e.Name, "SNAT") {
				return here, e
			}
		default:
			here.partial = true
		}
	}
	return here, nil
}

// sourceMatch is a source address, or its first bytes, in a register.
type sourceMatch struct {
	loaded bool
	size   uint32 // bytes
	mask   []byte
}

func loadsSource(e *expr.Payload, family rules.Family) bool {
	at, size := uint32(12), uint32(4)
	if family == rules.IPv6 {
		at, size = 8, 16
	}
	return e.Base == expr.PayloadBaseNetworkHeader && e.Offset == at && e.Len <= size
}

// prefixes is what a comparison with the source is for, nil when that is no prefix.
func (m sourceMatch) prefixes(data []byte, family rules.Family) []netip.Prefix {
	whole := make([]byte, 4)
	if family == rules.IPv6 {
		whole = make([]byte, 16)
	}
	bits := 8 * int(m.size)
	if m.mask != nil {
		ones, size := net.IPMask(m.mask).Size()
		if size == 0 { // bits with gaps between them
			return nil
		}
		bits = ones
	}
	if len(data) > len(whole) {
		return nil
	}
	copy(whole, data)
	address, _ := netip.AddrFromSlice(whole)
	prefix, err := address.Prefix(bits)
	if err != nil {
		return nil
	}
	return []netip.Prefix{prefix}
}

func (s scope) within(names []string) *scope {
	s.only = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !s.has(name) })
	if s.only == nil {
		s.only = []string{}
	}
	return &s
}

// names lists the devices of a set.
func (w *natWalk) names(table *nftables.Table, e *expr.Lookup) (names []string, ok bool) {
	if e.Invert || e.IsDestRegSet {
		return nil, false
	}
	set, err := w.k.nft.GetSetByName(table, e.SetName)
	if err != nil {
		return nil, false
	}
	elements, err := w.k.nft.GetSetElements(set)
	if err != nil {
		return nil, false
	}
	for _, element := range elements {
		if element.IntervalEnd || len(element.Key) != unix.IFNAMSIZ {
			return nil, false
		}
		names = append(names, unix.ByteSliceToString(element.Key))
	}
	slices.Sort(names)
	return names, true
}
