package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
)

// Attribute numbers of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaMark     = 8
	ctaMarkMask = 21
)

// FlushConntrack deletes the conntrack entries of one family that are pinned to a mark, with one request. A
// mark of zero under the mask would mean unpinned connections too, and is refused.
//
// The kernel looks at the family only in messages of version 1 (nf_conntrack_netlink.c, since 5.3).
func (k *Kernel) FlushConntrack(family rules.Family, mark, mask uint32) error {
	if mark&mask == 0 {
		return fmt.Errorf("deleting %s conntrack entries by mark %#x/%#x: refused, it would match unpinned connections", family, mark, mask)
	}
	req := k.request(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: familyNumber(family), Version: 1})
	req.AddData(nl.NewRtAttr(ctaMark, binary.BigEndian.AppendUint32(nil, mark)))
	req.AddData(nl.NewRtAttr(ctaMarkMask, binary.BigEndian.AppendUint32(nil, mask)))
	if _, err := req.Execute(unix.NETLINK_NETFILTER, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("deleting %s conntrack entries by mark %#x/%#x: %w", family, mark, mask, err)
	}
	return nil
}
