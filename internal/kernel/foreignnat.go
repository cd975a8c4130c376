package kernel

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
)

// A nat chain of others that hooks into postrouting, and what its rules lead to, may translate all that leaves by a
// device: by "masquerade", "snat", or the targets of iptables that nft shows as xt. Rules are followed as far as they
// look at nothing but the output device and the family.

// translations finds who translates whatever leaves by a device. Only the tables of others are looked at.
func (k *Kernel) translations(chains []*nftables.Chain) ([]rules.Translation, error) {
	w := natWalk{k: k, chains: chains}
	for _, c := range chains {
		if c.Table.Name == rules.TableName || c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookPostrouting || c.Type != nftables.ChainTypeNAT {
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
				return nil, err
			}
		}
	}
	return w.found, nil
}

// scope is the set of output devices that a rule is for.
type scope struct {
	only   []string // nil: any
	except []string
}

func (s scope) has(device string) bool {
	return (s.only == nil || slices.Contains(s.only, device)) && !slices.Contains(s.except, device)
}

type natWalk struct {
	k      *Kernel
	chains []*nftables.Chain
	found  []rules.Translation
}

// maxDepth is that of the kernel's stack of jumps (include/net/netfilter/nf_tables.h NFT_JUMP_STACK_SIZE).
const maxDepth = 16

// walk goes through a chain for one family. It stops at the first rule that may end the chain for some traffic:
// what comes after it does not translate all.
func (w *natWalk) walk(c *nftables.Chain, s scope, family rules.Family, depth int) error {
	list, err := w.k.nft.GetRules(c.Table, c)
	if err != nil {
		return fmt.Errorf("listing the rules of nftables %s %s: %w", c.Table.Name, c.Name, err)
	}
	for _, r := range list {
		here, all, ending := w.read(c.Table, r.Exprs, s, family)
		if here == nil || here.only != nil && len(here.only) == 0 {
			continue
		}
		switch e := ending.(type) {
		case *expr.Masq, *expr.NAT, *expr.Target:
			if !all {
				continue // who is translated here is translated
			}
			w.found = append(w.found, rules.Translation{Family: family, Only: here.only, Except: here.except, By: tableFamily(c.Table.Family) + " " + c.Table.Name})
		case *expr.Verdict:
			switch {
			case e.Kind == expr.VerdictJump || e.Kind == expr.VerdictGoto:
				to := slices.IndexFunc(w.chains, func(o *nftables.Chain) bool {
					return o.Table.Name == c.Table.Name && o.Table.Family == c.Table.Family && o.Name == e.Chain
				})
				if all && to >= 0 && depth < maxDepth {
					if err := w.walk(w.chains[to], *here, family, depth+1); err != nil {
						return err
					}
				}
			case e.Kind == expr.VerdictAccept || e.Kind == expr.VerdictReturn:
				return nil
			}
		}
	}
	return nil
}

// read says which devices a rule is for, nil for none of the scope or another family; whether it looks at nothing
// else; and what it does in the end.
func (w *natWalk) read(table *nftables.Table, exprs []expr.Any, s scope, family rules.Family) (here *scope, all bool, ending expr.Any) {
	here, all = &s, true
	device, proto := false, false
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Meta:
			device, proto = e.Key == expr.MetaKeyOIFNAME, e.Key == expr.MetaKeyNFPROTO
		case *expr.Cmp:
			switch {
			case proto && e.Op == expr.CmpOpEq:
				if !bytes.Equal(e.Data, []byte{familyNumber(family)}) {
					return nil, false, nil
				}
			case device && bytes.IndexByte(e.Data, 0) > 0 && e.Op == expr.CmpOpEq: // else it is a prefix, "wan*"
				here = here.within([]string{unix.ByteSliceToString(e.Data)})
			case device && bytes.IndexByte(e.Data, 0) > 0 && e.Op == expr.CmpOpNeq:
				here = &scope{here.only, append(slices.Clone(here.except), unix.ByteSliceToString(e.Data))}
			default:
				all = false
			}
		case *expr.Match: // iptables-nft
			all = all && e.Name == "comment"
		case *expr.Lookup:
			names, ok := w.names(table, e)
			if !device || !ok {
				all = false
				continue
			}
			here = here.within(names)
		case *expr.Counter, *expr.Immediate, *expr.Notrack, *expr.Log:
		case *expr.Masq, *expr.NAT, *expr.Verdict:
			return here, all, e
		case *expr.Target:
			if e.Name == "MASQUERADE" || strings.HasPrefix(e.Name, "SNAT") {
				return here, all, e
			}
		default:
			all = false
		}
	}
	return here, all, nil
}

func (s scope) within(names []string) *scope {
	only := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !s.has(name) })
	if only == nil {
		only = []string{}
	}
	return &scope{only, s.except}
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
