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

// Attribute numbers of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaMark     = 8
	ctaMarkMask = 21
)

// FlushPin deletes the conntrack entries of one family that are pinned to a mark, with one request. A
// mark of zero under the mask would mean unpinned connections too, and is refused.
//
// The kernel looks at the family only in messages of version 1 (nf_conntrack_netlink.c, since 5.3).
func (k *Kernel) FlushPin(family rules.Family, mark, mask uint32) error {
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

// Sizes and offsets of linux/inet_diag.h: the request ends in, and the answer carries, the same
// struct inet_diag_sockid of 48 bytes.
const (
	sizeofSockID   = 48
	offsetSockID   = 4 // within inet_diag_msg
	sizeofDiagMsg  = 72
	tcpListen      = 10 // TCP_LISTEN, which is not destroyed
	allTCPStates   = 0xfff
	sockDestroyMsg = 21 // SOCK_DESTROY
)

// diagRequest is struct inet_diag_req_v2.
type diagRequest struct {
	family, protocol uint8
	states           uint32
	id               [sizeofSockID]byte
}

func (r *diagRequest) Len() int { return 8 + sizeofSockID }

func (r *diagRequest) Serialize() []byte {
	b := []byte{r.family, r.protocol, 0, 0}
	b = binary.NativeEndian.AppendUint32(b, r.states)
	return append(b, r.id[:]...)
}

// DestroySockets aborts local TCP connections that are bound to one of the addresses, so that their
// programs learn of the dead path at once instead of after minutes of retransmission. It returns how
// many were destroyed. Kernels without CONFIG_INET_DIAG_DESTROY give EOPNOTSUPP.
func (k *Kernel) DestroySockets(addrs []netip.Addr) (int, error) {
	dead := make(map[netip.Addr]bool, len(addrs))
	families := make(map[uint8]bool)
	for _, a := range addrs {
		dead[a] = true
		if a.Is4() {
			families[unix.AF_INET] = true
			families[unix.AF_INET6] = true // an IPv6 socket with mapped addresses
		} else {
			families[unix.AF_INET6] = true
		}
	}
	destroyed := 0
	var failed []error
	for family := range families {
		for _, id := range k.connections(family, dead, &failed) {
			req := k.request(sockDestroyMsg, unix.NLM_F_ACK)
			req.AddData(&diagRequest{family: family, protocol: unix.IPPROTO_TCP, states: allTCPStates &^ (1 << tcpListen), id: id})
			switch _, err := req.Execute(unix.NETLINK_INET_DIAG, 0); {
			case err == nil:
				destroyed++
			case !errors.Is(err, unix.ENOENT):
				failed = append(failed, fmt.Errorf("destroying a TCP connection: %w", err))
			}
		}
	}
	return destroyed, errors.Join(failed...)
}

// connections lists TCP connections whose local address is one of the given.
func (k *Kernel) connections(family uint8, local map[netip.Addr]bool, failed *[]error) [][sizeofSockID]byte {
	var ids [][sizeofSockID]byte
	req := k.request(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddData(&diagRequest{family: family, protocol: unix.IPPROTO_TCP, states: allTCPStates &^ (1 << tcpListen)})
	err := req.ExecuteIter(unix.NETLINK_INET_DIAG, 0, func(m []byte) bool {
		if len(m) < sizeofDiagMsg {
			return true
		}
		var id [sizeofSockID]byte
		copy(id[:], m[offsetSockID:])
		source := netip.AddrFrom16([16]byte(id[4:20])).Unmap()
		if m[0] == unix.AF_INET {
			source = netip.AddrFrom4([4]byte(id[4:8]))
		}
		if local[source] {
			ids = append(ids, id)
		}
		return true
	})
	if err != nil {
		*failed = append(*failed, fmt.Errorf("listing TCP connections: %w", err))
	}
	return ids
}
