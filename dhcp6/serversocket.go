package dhcp6

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/linksession"
)

// allServers is All_DHCP_Relay_Agents_and_Servers (RFC 9915 section 7.1).
var allServers = netip.MustParseAddr("ff02::1:2")

// udpServerConn is a ServerConn on a UDP socket.
//
// It is bound to the device and to the group that clients send to. With SO_REUSEADDR, which servers of addresses set too, it can be
// opened beside them, and each hears every message.
type udpServerConn struct {
	conn  *socket.Conn
	index int
}

var _ ServerConn = (*udpServerConn)(nil)

func openServerUDP(device string) (ServerConn, error) {
	ifc, err := linksession.InterfaceByName(device)
	if err != nil {
		return nil, fmt.Errorf("looking up %s: %w", device, err)
	}
	if _, err := linksession.LinkLocals(ifc.Index, false); err != nil {
		return nil, fmt.Errorf("%s: %w", device, err)
	}
	conn, err := socket.Socket(unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP, "dhcpv6", nil)
	if err != nil {
		return nil, fmt.Errorf("making a UDP socket for %s: %w", device, err)
	}
	u := &udpServerConn{conn: conn, index: ifc.Index}
	if err := u.prepare(device); err != nil {
		return nil, errors.Join(fmt.Errorf("binding [%v%%%s]:%d: %w", allServers, device, dhcpv6.DefaultServerPort, err), conn.Close())
	}
	return u, nil
}

func (u *udpServerConn) prepare(device string) error {
	for _, o := range []struct{ level, name, value int }{
		{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
	} {
		if err := u.conn.SetsockoptInt(o.level, o.name, o.value); err != nil {
			return err
		}
	}
	if err := u.conn.SetsockoptString(unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device); err != nil {
		return err
	}
	group := allServers.As16()
	join := binary.NativeEndian.AppendUint32(group[:], uint32(u.index)) // struct ipv6_mreq
	if err := u.conn.SetsockoptBytes(unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, join); err != nil {
		return err
	}
	return u.conn.Bind(&unix.SockaddrInet6{Port: dhcpv6.DefaultServerPort, ZoneId: uint32(u.index), Addr: group})
}

// Send leaves the source to the kernel: for a link-local destination it is the device's link-local address.
func (u *udpServerConn) Send(b []byte, to netip.Addr) error {
	client := &unix.SockaddrInet6{Port: dhcpv6.DefaultClientPort, ZoneId: uint32(u.index), Addr: to.As16()}
	if err := u.conn.Sendto(context.Background(), b, 0, client); err != nil {
		return fmt.Errorf("answering %v: %w", to, err)
	}
	return nil
}

// Receive passes over what has no link-local source (RFC 9915 section 18.4): routes could not lead there.
func (u *udpServerConn) Receive() (Datagram, error) {
	b := make([]byte, maxDatagram)
	for {
		n, from, err := u.conn.Recvfrom(context.Background(), b, 0)
		if err != nil {
			return Datagram{}, fmt.Errorf("receiving on port %d: %w", dhcpv6.DefaultServerPort, err)
		}
		if a, ok := from.(*unix.SockaddrInet6); ok {
			if source := netip.AddrFrom16(a.Addr); source.IsLinkLocalUnicast() {
				return Datagram{source, append([]byte(nil), b[:n]...)}, nil
			}
		}
	}
}

func (u *udpServerConn) Close() error { return u.conn.Close() }
