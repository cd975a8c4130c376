package kernel

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
)

// Attributes of linux/inet_diag.h, the states of sockets that wait for packets of anybody (net/tcp_states.h), and the
// bit of struct inet_diag_sockopt that IP_TRANSPARENT has on the platforms that are supported, all little-endian.
const (
	inetDiagV6Only  = 11
	inetDiagSockopt = 22 // since 5.10
	stateClose      = 7  // of UDP
	transparentBit  = 1 << 5
)

// ProxyListens reports whether a program waits, as tproxy wants it (net/netfilter/nft_tproxy.c), for the packets of a transparent proxy:
// by a socket with IP_TRANSPARENT that is bound to the port, and to no address or the first one of each device that they come in
// by. It may be called from any goroutine.
func ProxyListens(p rules.ProxyListener) (bool, error) {
	bound := make(map[netip.Addr]bool)
	err := eachListener(p.Family, p.Protocol, p.Port, func(m []byte, number uint8) {
		if at, ok := transparentSocket(m, p.Port, number, p.Family); ok {
			bound[at] = true
		}
	})
	if err != nil {
		return false, err
	}
	if bound[netip.IPv4Unspecified()] || bound[netip.IPv6Unspecified()] {
		return true, nil
	}
	for _, device := range p.Devices {
		if len(bound) == 0 || !bound[firstAddress(device, p.Family)] {
			return false, nil
		}
	}
	return len(p.Devices) > 0, nil
}

// eachListener calls fn with each socket that may wait for a family's packets of anybody at a port, 0 for all, and the number of its own family.
func eachListener(family rules.Family, protocol uint8, port uint16, fn func(m []byte, number uint8)) error {
	families := []uint8{familyNumber(family)}
	if family == rules.IPv4 {
		families = append(families, unix.AF_INET6) // a socket of both
	}
	for _, f := range families {
		request := &diagRequest{family: f, protocol: protocol, states: 1 << tcpListen}
		if protocol == unix.IPPROTO_UDP {
			request.states = 1 << stateClose
		}
		binary.BigEndian.PutUint16(request.id[:], port)
		req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		req.AddData(request)
		err := req.ExecuteIter(unix.NETLINK_INET_DIAG, 0, func(m []byte) bool {
			fn(m, f)
			return true
		})
		if err != nil {
			return fmt.Errorf("listing sockets: %w", err)
		}
	}
	return nil
}

// Listening lists where programs wait for a family's packets of anybody: the port, and the address that the socket is bound to, an unspecified
// one for all. Sockets that are bound to a device are left out. It may be called from any goroutine.
func Listening(family rules.Family, protocol uint8) ([]netip.AddrPort, error) {
	var list []netip.AddrPort
	err := eachListener(family, protocol, 0, func(m []byte, number uint8) {
		if len(m) < sizeofDiagMsg || number == unix.AF_INET6 && family == rules.IPv4 && v6Only(m) {
			return
		}
		if s := decodeSocketID(number, m[offsetSockID:offsetSockID+sizeofSockID]); s.device == 0 {
			list = append(list, s.local)
		}
	})
	return list, err
}

func v6Only(m []byte) bool {
	for typ, value := range attributes(m[sizeofDiagMsg:]) {
		if typ == inetDiagV6Only && len(value) > 0 && value[0] != 0 {
			return true
		}
	}
	return false
}

// transparentSocket returns the address that a socket with IP_TRANSPARENT is bound to, if it takes packets of a family; number is its own.
func transparentSocket(m []byte, port uint16, number uint8, family rules.Family) (at netip.Addr, ok bool) {
	if len(m) < sizeofDiagMsg || binary.BigEndian.Uint16(m[offsetSockID:]) != port {
		return at, false
	}
	at = netip.AddrFrom16([16]byte(m[offsetSockID+4 : offsetSockID+20])).Unmap()
	if number == unix.AF_INET {
		at = netip.AddrFrom4([4]byte(m[offsetSockID+4:]))
	}
	if number == unix.AF_INET6 && family == rules.IPv4 && v6Only(m) {
		return at, false
	}
	for typ, value := range attributes(m[sizeofDiagMsg:]) {
		if typ == inetDiagSockopt && len(value) > 0 && value[0]&transparentBit == 0 {
			return at, false
		}
	}
	return at, true
}

// firstAddress returns the address of a device that tproxy looks for sockets at (net/ipv4/netfilter/nf_tproxy_ipv4.c, nf_tproxy_laddr4, and
// that of IPv6).
func firstAddress(device string, family rules.Family) netip.Addr {
	ifc, err := net.InterfaceByName(device)
	if err != nil {
		return netip.Addr{}
	}
	addrs, err := ifc.Addrs()
	if err != nil {
		return netip.Addr{}
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && rules.FamilyOf(p.Addr()) == family {
			return p.Addr()
		}
	}
	return netip.Addr{}
}
