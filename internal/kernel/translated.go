package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
)

// More attribute numbers of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaTupleIP    = 1
	ctaIPv4Src    = 1
	ctaIPv4Dst    = 2
	ctaIPv6Src    = 3
	ctaIPv6Dst    = 4
	ctaZone       = 18
)

// tuple is one direction of a connection.
type tuple struct{ src, dst netip.Addr }

// flow is a connection with what names it to the kernel.
type flow struct {
	orig, reply tuple
	zone, name  []byte // attributes as they came; zone may be nil
}

// FlushTranslated deletes the conntrack entries of one family that are pinned to a mark and translated to, or from, an
// address outside of what is kept: a connection keeps the translation of its first packet, and each packet keeps it
// alive, long after nobody routes the answers any more. It returns how many there were.
func (k *Kernel) FlushTranslated(family rules.Family, mark, mask uint32, keep []netip.Prefix) (int, error) {
	if mark&mask == 0 {
		return 0, fmt.Errorf("deleting translated %s conntrack entries by mark %#x/%#x: refused, it would match unpinned connections", family, mark, mask)
	}
	var stale []flow
	req := k.request(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: familyNumber(family), Version: unix.NFNETLINK_V0})
	req.AddData(nl.NewRtAttr(ctaMark, binary.BigEndian.AppendUint32(nil, mark)))
	req.AddData(nl.NewRtAttr(ctaMarkMask, binary.BigEndian.AppendUint32(nil, mask)))
	err := req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(m []byte) bool {
		if f, has := decodeFlow(m); has&mask == mark&mask && f.stale(keep) {
			stale = append(stale, f)
		}
		return true
	})
	if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) { // what is missed began after the rules were changed
		return 0, fmt.Errorf("listing translated %s connections: %w", family, err)
	}
	var failed []error
	for _, f := range stale {
		req := k.request(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
		req.AddData(&nl.Nfgenmsg{NfgenFamily: familyNumber(family), Version: unix.NFNETLINK_V0})
		req.AddData(nl.NewRtAttr(ctaTupleOrig|unix.NLA_F_NESTED, f.name))
		if f.zone != nil {
			req.AddData(nl.NewRtAttr(ctaZone, f.zone))
		}
		if _, err := req.Execute(unix.NETLINK_NETFILTER, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			failed = append(failed, fmt.Errorf("deleting the conntrack entry of %v to %v: %w", f.orig.src, f.orig.dst, err))
		}
	}
	return len(stale), errors.Join(failed...)
}

// stale reports whether a flow is translated to, or from, an address outside of the prefixes.
func (f *flow) stale(keep []netip.Prefix) bool {
	kept := func(a netip.Addr) bool {
		return slices.ContainsFunc(keep, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	return f.orig.src != f.reply.dst && !kept(f.reply.dst) || f.orig.dst != f.reply.src && !kept(f.orig.dst)
}

// decodeFlow reads a message of connection tracking, and the mark in it.
func decodeFlow(m []byte) (f flow, mark uint32) {
	if len(m) < nl.SizeofNfgenmsg {
		return f, 0
	}
	for typ, value := range attributes(m[nl.SizeofNfgenmsg:]) {
		switch typ {
		case ctaTupleOrig:
			f.orig, f.name = decodeTuple(value), slices.Clone(value)
		case ctaTupleReply:
			f.reply = decodeTuple(value)
		case ctaZone:
			f.zone = slices.Clone(value)
		case ctaMark:
			if len(value) >= 4 {
				mark = binary.BigEndian.Uint32(value)
			}
		}
	}
	return f, mark
}

func decodeTuple(b []byte) (t tuple) {
	for typ, value := range attributes(b) {
		if typ != ctaTupleIP {
			continue
		}
		for typ, value := range attributes(value) {
			switch typ {
			case ctaIPv4Src, ctaIPv6Src:
				t.src, _ = netip.AddrFromSlice(value)
			case ctaIPv4Dst, ctaIPv6Dst:
				t.dst, _ = netip.AddrFromSlice(value)
			}
		}
	}
	return t
}
