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
	families := []uint8{familyNumber(p.Family)}
	if p.Family == rules.IPv4 {
		families = append(families, unix.AF_INET6) // a socket of both
	}
	bound := make(map[netip.Addr]bool)
	for _, f := range families {
		request := &diagRequest{family: f, protocol: p.Protocol, states: 1 << tcpListen}
		if p.Protocol == unix.IPPROTO_UDP {
			request.states = 1 << stateClose
		}
		binary.BigEndian.PutUint16(request.id[:], p.Port)
		req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		req.AddData(request)
		err := req.ExecuteIter(unix.NETLINK_INET_DIAG, 0, func(m []byte) bool {
			if at, ok := transparentSocket(m, p.Port, f, p.Family); ok {
				bound[at] = true
			}
			return true
		})
		if err != nil {
			return false, fmt.Errorf("listing sockets: %w", err)
		}
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

// transparentSocket returns the address that a socket with IP_TRANSPARENT is bound to, if it takes packets of a family; number is its own.
func transparentSocket(m []byte, port uint16, number uint8, family rules.Family) (at netip.Addr, ok bool) {
	if len(m) < sizeofDiagMsg || binary.BigEndian.Uint16(m[offsetSockID:]) != port {
		return at, false
	}
	at = netip.AddrFrom16([16]byte(m[offsetSockID+4 : offsetSockID+20])).Unmap()
	if number == unix.AF_INET {
		at = netip.AddrFrom4([4]byte(m[offsetSockID+4:]))
	}
	for typ, value := range attributes(m[sizeofDiagMsg:]) {
		switch {
		case typ == inetDiagV6Only && len(value) > 0 && value[0] != 0 && number == unix.AF_INET6 && family == rules.IPv4:
			return at, false
		case typ == inetDiagSockopt && len(value) > 0 && value[0]&transparentBit == 0:
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
