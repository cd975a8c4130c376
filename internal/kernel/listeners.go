package kernel

import (
	"encoding/binary"
	"fmt"
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

// ProxyListens reports whether a program waits, as tproxy wants it (net/netfilter/nft_tproxy.c), for packets of a
// family and a protocol: by a socket with IP_TRANSPARENT that is bound to the port and to no address of its own.
// It may be called from any goroutine.
func ProxyListens(protocol uint8, family rules.Family, port uint16) (bool, error) {
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
		found := false
		req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		req.AddData(request)
		err := req.ExecuteIter(unix.NETLINK_INET_DIAG, 0, func(m []byte) bool {
			found = found || takesAny(m, port, f == unix.AF_INET6 && family == rules.IPv4)
			return true
		})
		if err != nil {
			return false, fmt.Errorf("listing sockets: %w", err)
		}
		if found {
			return true, nil
		}
	}
	return false, nil
}

// takesAny reports whether a socket is transparent and takes packets for any address; both is for those of IPv4 too.
func takesAny(m []byte, port uint16, both bool) bool {
	if len(m) < sizeofDiagMsg || binary.BigEndian.Uint16(m[offsetSockID:]) != port {
		return false
	}
	if local := netip.AddrFrom16([16]byte(m[offsetSockID+4 : offsetSockID+20])); !local.IsUnspecified() {
		return false
	}
	for typ, value := range attributes(m[sizeofDiagMsg:]) {
		switch {
		case typ == inetDiagV6Only && len(value) > 0 && value[0] != 0 && both:
			return false
		case typ == inetDiagSockopt && len(value) > 0 && value[0]&transparentBit == 0:
			return false
		}
	}
	return true
}
