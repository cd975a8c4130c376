package kernel

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules/nft"
)

// InvalidDrop is a rule of somebody else's packet filter that drops what connection tracking holds for
// invalid.
type InvalidDrop struct {
	Family, Table, Chain string
	Handle               uint64
	Counted              bool
	Packets              uint64
}

// stateInvalid is NF_CT_STATE_INVALID_BIT of linux/netfilter/nf_conntrack_common.h, which nftables and
// xt_conntrack (XT_CONNTRACK_STATE_INVALID) share.
const stateInvalid = 1

// InvalidDrops lists such rules of every table but ours.
func (k *Kernel) InvalidDrops() ([]InvalidDrop, error) {
	chains, err := k.nft.ListChains()
	if err != nil {
		return nil, fmt.Errorf("listing nftables chains: %w", err)
	}
	var drops []InvalidDrop
	for _, c := range chains {
		if c.Table.Name == nft.TableName {
			continue
		}
		list, err := k.nft.GetRules(c.Table, c)
		if err != nil {
			return nil, fmt.Errorf("listing the rules of nftables %s %s: %w", c.Table.Name, c.Name, err)
		}
		for _, r := range list {
			if !k.dropsInvalid(c.Table, r.Exprs) {
				continue
			}
			d := InvalidDrop{Family: tableFamily(c.Table.Family), Table: c.Table.Name, Chain: c.Name, Handle: r.Handle}
			for _, e := range r.Exprs {
				if counter, ok := e.(*expr.Counter); ok {
					d.Counted, d.Packets = true, counter.Packets
				}
			}
			drops = append(drops, d)
		}
	}
	return drops, nil
}

// ctaStatsInvalid is CTA_STATS_INVALID of linux/netfilter/nfnetlink_conntrack.h.
const ctaStatsInvalid = 4

// InvalidPackets returns how many packets connection tracking has held for invalid in this namespace.
func (k *Kernel) InvalidPackets() (packets uint64, err error) {
	const getStats = 4 // IPCTNL_MSG_CT_GET_STATS_CPU: one answer for each processor
	req := k.request(unix.NFNL_SUBSYS_CTNETLINK<<8|getStats, unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	msgs, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return 0, fmt.Errorf("reading the statistics of connection tracking: %w", err)
	}
	for _, m := range msgs {
		for typ, value := range attributes(m[min(len(m), nl.SizeofNfgenmsg):]) {
			if typ == ctaStatsInvalid && len(value) >= 4 {
				packets += uint64(binary.BigEndian.Uint32(value))
			}
		}
	}
	return packets, nil
}

func tableFamily(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	}
	return fmt.Sprint(f)
}

// dropsInvalid reports whether a rule asks for the state of the connection, finds "invalid" good enough, and
// drops. Other conditions of the rule do not matter: some traffic meets them.
func (k *Kernel) dropsInvalid(table *nftables.Table, exprs []expr.Any) bool {
	asked, invalid := false, false
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Ct:
			asked = e.Key == expr.CtKeySTATE && !e.SourceRegister
		case *expr.Bitwise: // "ct state invalid" is a mask, and a comparison with zero
			if asked {
				invalid = len(e.Mask) >= 4 && binary.NativeEndian.Uint32(e.Mask)&stateInvalid != 0
			}
		case *expr.Cmp:
			if asked && e.Op == expr.CmpOpEq && len(e.Data) >= 4 {
				invalid = binary.NativeEndian.Uint32(e.Data) == stateInvalid
			}
		case *expr.Lookup:
			if !asked {
				continue
			}
			has, drops := k.lookUpInvalid(table, e.SetName)
			if drops {
				return true
			}
			invalid = has && !e.IsDestRegSet
		case *expr.Match: // iptables-nft
			if info, ok := e.Info.(*xt.ConntrackMtinfo3); ok {
				invalid = info.StateMask&stateInvalid != 0
			}
		case *expr.Verdict:
			return invalid && e.Kind == expr.VerdictDrop
		case *expr.Reject:
			return invalid
		}
	}
	return false
}

// Attribute numbers of linux/netfilter/nf_tables.h, and the code of the verdict "drop".
const (
	nftaVerdictCode = 1
	verdictDrop     = 0
)

// lookUpInvalid looks into a set or a verdict map by states: whether "invalid" is in it, and is dropped.
func (k *Kernel) lookUpInvalid(table *nftables.Table, name string) (has, drops bool) {
	set, err := k.nft.GetSetByName(table, name)
	if err != nil {
		return false, false // it went meanwhile, and its rule with it
	}
	elements, err := k.nft.GetSetElements(set)
	if err != nil {
		return false, false
	}
	for _, e := range elements {
		if len(e.Key) < 4 || binary.NativeEndian.Uint32(e.Key) != stateInvalid {
			continue
		}
		has = true
		for typ, value := range attributes(e.Val) { // the library leaves verdicts as they came
			drops = drops || typ == nftaVerdictCode && len(value) >= 4 && binary.BigEndian.Uint32(value) == verdictDrop
		}
	}
	return has, drops
}
