package kernel

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// reducedTable is a table that stands in the place of one that this kernel cannot hold as a whole.
type reducedTable struct {
	want, instead *nft.Table
	err           error
}

// orReduced puts a table, and when the kernel refuses it for an expression that it does not have, one without the rules
// that use it: masquerading and pins are not to be lost for want of a module that counts or hashes. That is an error all
// the same. What stands already is not put again.
func (k *Kernel) orReduced(name string, want, installed *nft.Table, put func(*nft.Table) error) error {
	if r := k.reduced[name]; want != nil && r != nil && k.table.valid && want.Matches(r.want) && r.instead.Matches(installed) {
		return r.err
	}
	delete(k.reduced, name)
	err := put(want)
	if err == nil || want == nil {
		return err
	}
	lacking := findLacking(want)
	if len(lacking) == 0 {
		if len(want.Flowtable) == 0 {
			return err
		}
		// A device of the flowtable may just have gone: it is tried again.
		return errors.Join(err, put(withoutExpressions(want, []string{kindOf(nft.Offload{})})))
	}
	instead := withoutExpressions(want, lacking)
	if again := put(instead); again != nil {
		return errors.Join(err, again)
	}
	err = fmt.Errorf("this kernel does not have the expression %s of nftables, rules with it are left out: %w", strings.Join(lacking, ", "), err)
	k.reduced[name] = &reducedTable{want, instead, err}
	return err
}

// kindOf names the kind of an expression as package rules does, "Counter".
func kindOf(e nft.Expr) string { return strings.TrimPrefix(reflect.TypeOf(e).Name(), "Nft") }

// findLacking lists the kinds of expressions in a table that the kernel refuses each by itself.
func findLacking(t *nft.Table) []string {
	tried := make(map[string]bool)
	var lacking []string
	for i := range t.Chains {
		for _, r := range t.Chains[i].Rules {
			for _, e := range r.Exprs {
				kind := kindOf(e)
				if tried[kind] || needsOtherObjects(e) {
					continue
				}
				tried[kind] = true
				if !hasExpression(e) {
					lacking = append(lacking, kind)
				}
			}
		}
	}
	slices.Sort(lacking)
	return lacking
}

// needsOtherObjects reports whether an expression cannot stand alone: it needs other chains, or a set with a name. Every kernel
// with nftables has those.
func needsOtherObjects(e nft.Expr) bool {
	switch e.(type) {
	case nft.Jump, nft.Goto, nft.Branch, nft.PinBranch, nft.Devices, nft.ExternalSet, nft.Offload:
		return true
	}
	return false
}

func hasExpression(e nft.Expr) bool {
	return tryTable(func(b *builder) error {
		return b.chains(&nft.Table{Chains: []nft.Chain{{Name: "trial", Rules: []nft.Rule{{Exprs: []nft.Expr{e}}}}}})
	}) == nil
}

// tryTable makes a table and takes it back in one transaction, so that nothing is ever seen of it.
func tryTable(fill func(*builder) error) error {
	conn, err := openTransaction(0)
	if err != nil {
		return nil // nothing is known against it
	}
	defer conn.CloseLasting()
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: nft.TableName + "_trial"}
	conn.AddTable(table)
	err = fill(&builder{conn: conn, table: table})
	conn.DelTable(table)
	return errors.Join(err, conn.Flush())
}

// withoutExpressions leaves the rules out that use an expression of the kinds. What refuses packets with a word drops them
// without one then: kill switches stay closed. Where there is no IPsec, no packet is covered by it.
func withoutExpressions(t *nft.Table, kinds []string) *nft.Table {
	lacks := func(e nft.Expr) bool { return slices.Contains(kinds, kindOf(e)) }
	reduced := &nft.Table{Sets: t.Sets, Chains: slices.Clone(t.Chains), Flowtable: t.Flowtable}
	if lacks(nft.Offload{}) {
		reduced.Flowtable = nil
	}
	for i := range reduced.Chains {
		c := &reduced.Chains[i]
		var kept []nft.Rule
		for _, r := range c.Rules {
			if !slices.ContainsFunc(r.Exprs, lacks) {
				kept = append(kept, r)
				continue
			}
			left := nft.Rule{Comment: r.Comment + " reduced"}
			for _, e := range r.Exprs {
				switch e := e.(type) {
				case nft.Reject, nft.Refuse, nft.Reset:
					left.Exprs = append(left.Exprs, nft.Drop{})
					continue
				case nft.IPsec:
					if e.Not && lacks(e) {
						continue
					}
				case nft.Counter, nft.NamedCounter:
					if lacks(e) {
						continue
					}
				}
				left.Exprs = append(left.Exprs, e)
			}
			if !slices.ContainsFunc(left.Exprs, lacks) {
				kept = append(kept, left)
			}
		}
		c.Rules = kept
	}
	return reduced
}
