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
	for _, a := range addrs {
		dead[a] = true
	}
	return k.destroySockets(addrs, func(_ uint8, s *socketID) bool { return dead[s.local.Addr()] })
}

// DestroyConnections aborts the local sockets of exactly these connections, by the addresses and ports of their first packets, and
// returns how many. One that is bound to a device cannot go elsewhere, and is left alone.
func (k *Kernel) DestroyConnections(list []rules.Connection) (int, error) {
	type ends struct {
		protocol      uint8
		local, remote netip.AddrPort
	}
	doomed := make(map[ends]bool, len(list))
	var addrs []netip.Addr
	for i := range list {
		c := &list[i]
		addrs = append(addrs, c.Source)
		doomed[ends{c.Protocol, netip.AddrPortFrom(c.Source, c.SPort), netip.AddrPortFrom(c.Dest, c.DPort)}] = true
	}
	return k.destroySockets(addrs, func(protocol uint8, s *socketID) bool {
		return s.device == 0 && doomed[ends{protocol, s.local, s.remote}]
	})
}

// destroySockets aborts the chosen sockets of the families of some addresses.
func (k *Kernel) destroySockets(addrs []netip.Addr, chosen func(protocol uint8, s *socketID) bool) (int, error) {
	families := make(map[uint8]bool)
	for _, a := range addrs {
		if a.Is4() {
			families[unix.AF_INET] = true
		}
		families[unix.AF_INET6] = true // an IPv6 socket may have mapped addresses
	}
	destroyed := 0
	var failed []error
	for family := range families {
		for _, transport := range connected {
			like := diagRequest{family: family, protocol: transport.protocol, states: transport.states}
			ids, err := k.connections(like, chosen)
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

// socketID is struct inet_diag_sockid, decoded.
type socketID struct {
	local, remote netip.AddrPort
	device        uint32 // that it is bound to, 0 for none
}

func decodeSocketID(family uint8, id []byte) socketID {
	end := func(port, addr []byte) netip.AddrPort {
		a := netip.AddrFrom16([16]byte(addr)).Unmap()
		if family == unix.AF_INET {
			a = netip.AddrFrom4([4]byte(addr[:4]))
		}
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port))
	}
	return socketID{local: end(id[0:2], id[4:20]), remote: end(id[2:4], id[20:36]), device: binary.NativeEndian.Uint32(id[36:40])}
}

// connections lists the chosen sockets.
func (k *Kernel) connections(like diagRequest, chosen func(protocol uint8, s *socketID) bool) ([][sizeofSockID]byte, error) {
	var ids [][sizeofSockID]byte
	req := k.request(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddData(&like)
	err := req.ExecuteIter(unix.NETLINK_INET_DIAG, 0, func(m []byte) bool {
		if len(m) < sizeofDiagMsg {
			return true
		}
		id := [sizeofSockID]byte(m[offsetSockID : offsetSockID+sizeofSockID])
		if s := decodeSocketID(m[0], id[:]); chosen(like.protocol, &s) {
			ids = append(ids, id)
		}
		return true
	})
	return ids, err
}
