package kernel

import (
	"bytes"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// Firewall is the packet filter of others for what this machine forwards. Tables of iptables-legacy are not seen.
type Firewall struct {
	k      *Kernel
	chains []*nftables.Chain
	rules  map[*nftables.Chain][]*nftables.Rule
}

// Firewall reads it.
func (k *Kernel) Firewall() (*Firewall, error) {
	chains, err := k.nft.ListChains()
	if err != nil {
		return nil, fmt.Errorf("listing nftables chains: %w", err)
	}
	return &Firewall{k, chains, make(map[*nftables.Chain][]*nftables.Rule)}, nil
}

// Refuses returns the chain, "inet filter, chain forward", that lets no new connection pass from one device to another, and "" where there
// is none. What a rule looks at besides the devices, the family and the state of the connection may hold or not, so that a chain which
// lets some connections pass is not meant.
func (f *Firewall) Refuses(family rules.Family, in, out string) (string, error) {
	w := filterWalk{Firewall: f, family: family, in: in, out: out}
	for _, c := range f.chains {
		if c.Table.Name == nft.TableName || c.Table.Name == nft.PolicyTableName || c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward || c.Type != nftables.ChainTypeFilter {
			continue
		}
		if of := c.Table.Family; of != nftables.TableFamilyINet && of != nftables.TableFamily(familyNumber(family)) {
			continue
		}
		ends, err := w.walk(c, 0)
		if err != nil {
			return "", err
		}
		if ends&passesOn != 0 && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
			ends = ends&^passesOn | drops
		}
		if ends == drops {
			return fmt.Sprintf("%s %s, chain %s", tableFamily(c.Table.Family), c.Table.Name, c.Name), nil
		}
	}
	return "", nil
}

// rulesOf lists the rules of a chain.
func (f *Firewall) rulesOf(c *nftables.Chain) ([]*nftables.Rule, error) {
	list, known := f.rules[c]
	if known {
		return list, nil
	}
	list, err := f.k.nft.GetRules(c.Table, c)
	if err != nil {
		return nil, fmt.Errorf("listing the rules of nftables %s %s: %w", c.Table.Name, c.Name, err)
	}
	f.rules[c] = list
	return list, nil
}

// ends are the ways in which a chain may end for a packet.
type ends uint8

const (
	drops    ends = 1 << iota
	accepts       // or does something else that is no drop
	passesOn      // to what is behind the chain
)

// holds says whether a condition holds for all packets in question, for none, or perhaps.
type holds uint8

const (
	perhaps holds = iota
	always
	never
)

// filterWalk follows new connections of a family from a device to another.
type filterWalk struct {
	*Firewall
	family  rules.Family
	in, out string
}

func (w *filterWalk) walk(c *nftables.Chain, depth int) (ends, error) {
	list, err := w.rulesOf(c)
	if err != nil {
		return 0, err
	}
	var all ends
	for _, r := range list {
		match, ending := w.read(c.Table, r.Exprs)
		if match == never || ending == nil {
			continue
		}
		end, last, err := w.end(c, ending, depth)
		if err != nil {
			return 0, err
		}
		if match == always && (last || end&passesOn == 0) {
			return all | end, nil
		}
		if !last {
			end &^= passesOn
		}
		all |= end
	}
	return all | passesOn, nil
}

// end says how a rule ends that matches; last is true when nothing behind it in the chain counts.
func (w *filterWalk) end(c *nftables.Chain, ending expr.Any, depth int) (end ends, last bool, err error) {
	verdict, is := ending.(*expr.Verdict)
	if !is {
		return drops, true, nil // reject
	}
	switch verdict.Kind {
	case expr.VerdictDrop:
		return drops, true, nil
	case expr.VerdictReturn:
		return passesOn, true, nil
	case expr.VerdictJump, expr.VerdictGoto:
		for _, to := range w.chains {
			if to.Table.Name == c.Table.Name && to.Table.Family == c.Table.Family && to.Name == verdict.Chain && depth < maxDepth {
				end, err = w.walk(to, depth+1)
				return end, verdict.Kind == expr.VerdictGoto, err
			}
		}
		return drops | accepts | passesOn, true, nil // it went meanwhile
	}
	return accepts, true, nil
}

// read says whether a rule matches, and what it does then; nil: nothing that ends the chain.
func (w *filterWalk) read(table *nftables.Table, exprs []expr.Any) (match holds, ending expr.Any) {
	match = always
	and := func(h holds) {
		if match == always || h == never {
			match = h
		}
	}
	var value []byte // of what is in the register, nil: not known
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Meta:
			value = w.meta(e)
		case *expr.Ct:
			value = nil
			if e.Key == expr.CtKeySTATE && !e.SourceRegister {
				value = native(expr.CtStateBitNEW)
			}
		case *expr.Bitwise:
			value = masked(value, e)
		case *expr.Cmp:
			and(compared(value, e))
		case *expr.Lookup:
			if e.IsDestRegSet { // a map to verdicts
				if h := w.lookUp(table, value, e); h != never {
					return perhaps, &expr.Verdict{Kind: expr.VerdictAccept}
				}
				return never, nil
			}
			and(w.lookUp(table, value, e))
		case *expr.Match: // iptables-nft
			and(iptablesMatch(e))
		case *expr.Counter, *expr.Log, *expr.Immediate:
		case *expr.Verdict, *expr.Reject:
			return match, e
		case *expr.Target:
			if e.Name == "REJECT" {
				return match, &expr.Reject{}
			}
			return match, nil
		case *expr.FlowOffload, *expr.Notrack:
		default:
			and(perhaps)
		}
	}
	return match, nil
}

// meta returns what packets have that are known of them.
func (w *filterWalk) meta(e *expr.Meta) []byte {
	switch e.Key {
	case expr.MetaKeyIIFNAME:
		return deviceName(w.in)
	case expr.MetaKeyOIFNAME:
		return deviceName(w.out)
	case expr.MetaKeyIIF:
		return native(uint32(w.k.devices.index[w.in]))
	case expr.MetaKeyOIF:
		return native(uint32(w.k.devices.index[w.out]))
	case expr.MetaKeyNFPROTO:
		return []byte{familyNumber(w.family)}
	}
	return nil
}

func masked(value []byte, e *expr.Bitwise) []byte {
	if len(value) == 0 || len(e.Mask) != len(value) || len(e.Xor) != len(value) {
		return nil
	}
	out := make([]byte, len(value))
	for i := range value {
		out[i] = value[i]&e.Mask[i] ^ e.Xor[i]
	}
	return out
}

// compared compares as much as the rule does: the beginning of a device's name, for "wan*".
func compared(value []byte, e *expr.Cmp) holds {
	if len(value) < len(e.Data) || len(e.Data) == 0 {
		return perhaps
	}
	equal := bytes.Equal(value[:len(e.Data)], e.Data)
	switch {
	case e.Op != expr.CmpOpEq && e.Op != expr.CmpOpNeq:
		return perhaps
	case equal == (e.Op == expr.CmpOpEq):
		return always
	}
	return never
}

// lookUp looks a value up in a set or a map. Sets of several things and of intervals tell nothing.
func (w *filterWalk) lookUp(table *nftables.Table, value []byte, e *expr.Lookup) holds {
	set, err := w.k.nft.GetSetByName(table, e.SetName)
	if err != nil || value == nil || set.Interval || set.Concatenation {
		return perhaps
	}
	elements, err := w.k.nft.GetSetElements(set)
	if err != nil {
		return perhaps
	}
	for _, element := range elements {
		if bytes.Equal(element.Key, value) {
			return holdsWhen(!e.Invert)
		}
	}
	return holdsWhen(e.Invert)
}

func holdsWhen(is bool) holds {
	if is {
		return always
	}
	return never
}

// iptablesMatch knows the states of connections: "-m conntrack --ctstate RELATED,ESTABLISHED" is for no new one.
func iptablesMatch(e *expr.Match) holds {
	switch info := e.Info.(type) {
	case *xt.ConntrackMtinfo3:
		inverted := info.InvertFlags&xtConntrackState != 0
		if info.MatchFlags&xtConntrackState != 0 && (uint32(info.StateMask)&expr.CtStateBitNEW == 0) != inverted {
			return never
		}
	case *xt.Comment:
		return always
	}
	return perhaps
}

// xtConntrackState is XT_CONNTRACK_STATE of linux/netfilter/xt_conntrack.h.
const xtConntrackState = 1
