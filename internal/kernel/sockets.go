package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Sizes and offsets of linux/inet_diag.h: the request ends in, and the answer carries, the same
// struct inet_diag_sockid of 48 bytes.
const (
	sizeofSockID   = 48
	offsetSockID   = 4 // within inet_diag_msg
	sizeofDiagMsg  = 72
	tcpEstablished = 1  // TCP_ESTABLISHED, which is also a UDP socket's state after connect(2)
	tcpListen      = 10 // TCP_LISTEN
	allTCPStates   = 0xfff
	sockDestroyMsg = 21 // SOCK_DESTROY
)

// connected lists the transports whose sockets have a fixed source address, and the states in which they do.
var connected = [...]struct {
	name     string
	protocol uint8
	states   uint32
}{
	{"TCP", unix.IPPROTO_TCP, allTCPStates &^ (1 << tcpListen)},
	{"UDP", unix.IPPROTO_UDP, 1 << tcpEstablished},
}

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

// DestroySockets aborts local connections that have one of the addresses as their source, so that their programs
// learn of the dead path at once: TCP would go on for minutes of retransmission, and a connected UDP socket keeps its
// source for as long as it lives. Both see ECONNABORTED (udp_abort of net/ipv4/udp.c also disconnects). It returns how
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
		for _, transport := range connected {
			like := diagRequest{family: family, protocol: transport.protocol, states: transport.states}
			ids, err := k.connections(like, dead)
			if err != nil {
				failed = append(failed, fmt.Errorf("listing %s connections: %w", transport.name, err))
			}
			for _, id := range ids {
				like.id = id
				switch err := k.destroySocket(like); {
				case err == nil:
					destroyed++
				case !errors.Is(err, unix.ENOENT):
					failed = append(failed, fmt.Errorf("destroying a %s connection: %w", transport.name, err))
				}
			}
		}
	}
	return destroyed, errors.Join(failed...)
}

func (k *Kernel) destroySocket(which diagRequest) error {
	req := k.request(sockDestroyMsg, unix.NLM_F_ACK)
	req.AddData(&which)
	_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	return err
}

// connections lists the sockets whose local address is one of the given.
func (k *Kernel) connections(like diagRequest, local map[netip.Addr]bool) ([][sizeofSockID]byte, error) {
	var ids [][sizeofSockID]byte
	req := k.request(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddData(&like)
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
	return ids, err
}
