package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
)

// What the kernel has seen of an uplink besides probes. These functions open sockets of their own and may be called
// beside a Kernel, by any goroutine.

// neighbourStates names the NUD_* states of linux/neighbour.h.
var neighbourStates = map[uint16]string{
	unix.NUD_INCOMPLETE: "incomplete", unix.NUD_REACHABLE: "reachable", unix.NUD_STALE: "stale", unix.NUD_DELAY: "delay",
	unix.NUD_PROBE: "probe", unix.NUD_FAILED: "failed", unix.NUD_NOARP: "noarp", unix.NUD_PERMANENT: "permanent",
}

// Neighbour returns what the kernel thinks of a neighbour on a device, in the words of ip(8); "none" when it has not
// been asked for.
func Neighbour(index int, addr netip.Addr) (string, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, 0)
	req.AddData(ndMsg{familyNumber(rules.FamilyOf(addr)), index})
	req.AddData(nl.NewRtAttr(unix.NDA_DST, addr.AsSlice()))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
	switch {
	case errors.Is(err, unix.ENOENT):
		return "none", nil
	case err != nil:
		return "", fmt.Errorf("asking for neighbour %v: %w", addr, err)
	case len(msgs) == 0 || len(msgs[0]) < unix.SizeofNdMsg:
		return "", fmt.Errorf("asking for neighbour %v: no answer", addr)
	}
	state := binary.NativeEndian.Uint16(msgs[0][8:])
	if name, known := neighbourStates[state]; known {
		return name, nil
	}
	return "none", nil
}

// ndMsg is struct ndmsg of linux/neighbour.h.
type ndMsg struct {
	family uint8
	index  int
}

func (ndMsg) Len() int { return unix.SizeofNdMsg }

func (m ndMsg) Serialize() []byte {
	b := binary.NativeEndian.AppendUint32([]byte{m.family, 0, 0, 0}, uint32(m.index))
	return append(b, 0, 0, 0, 0) // state, flags and type are for entries that are set
}

// ctaStatus is CTA_STATUS of linux/netfilter/nfnetlink_conntrack.h, and seenReply IPS_SEEN_REPLY of
// linux/netfilter/nf_conntrack_common.h.
const (
	ctaStatus = 3
	seenReply = 1 << 1
)

// Connections counts the connections of one family that are pinned to a mark, and how many of them have not been
// answered.
func Connections(family rules.Family, mark, mask uint32) (unanswered, all int, err error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: familyNumber(family), Version: nl.NFNETLINK_V0})
	req.AddData(nl.NewRtAttr(ctaMark, binary.BigEndian.AppendUint32(nil, mark)))
	req.AddData(nl.NewRtAttr(ctaMarkMask, binary.BigEndian.AppendUint32(nil, mask)))
	err = req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(m []byte) bool {
		for typ, value := range attributes(m[min(len(m), nl.SizeofNfgenmsg):]) {
			if typ == ctaStatus && len(value) >= 4 {
				all++
				if binary.BigEndian.Uint32(value)&seenReply == 0 {
					unanswered++
				}
			}
		}
		return true
	})
	if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) {
		return 0, 0, fmt.Errorf("listing connections: %w", err)
	}
	return unanswered, all, nil
}
