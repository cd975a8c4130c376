package dhcp6

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/linksession"
)

// maxDatagram is the largest message read, in bytes. Replies with many options are fragmented.
const maxDatagram = 0xffff

// udpConn is a Conn on a UDP socket.
//
// It is bound to the device and to its link-local address. The device makes several clients in one process,
// and other clients on other devices, keep out of each other's way. The address makes it the most specific
// socket of port 546 there is: with SO_REUSEADDR, which such programs set, it can be opened beside a dhclient
// that holds the port on all addresses, and the kernel gives replies to the more specific socket.
// SO_REUSEPORT would spread replies over both.
type udpConn struct {
	conn    *socket.Conn
	index   int
	address netip.Addr
	servers *unix.SockaddrInet6
}

var _ Conn = (*udpConn)(nil)

func openUDP(device string) (Conn, error) {
	ifc, err := linksession.InterfaceByName(device)
	if err != nil {
		return nil, fmt.Errorf("looking up %s: %w", device, err)
	}
	usable, err := linksession.LinkLocals(ifc.Index, true)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", device, err)
	}
	address := usable[0]
	conn, err := socket.Socket(unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP, "dhcpv6", nil)
	if err != nil {
		return nil, fmt.Errorf("making a UDP socket for %s: %w", device, err)
	}
	u := &udpConn{conn: conn, index: ifc.Index, address: address, servers: &unix.SockaddrInet6{
		Port: dhcpv6.DefaultServerPort, ZoneId: uint32(ifc.Index),
		Addr: netip.MustParseAddr("ff02::1:2").As16(),
	}}
	if err := u.prepare(device); err != nil {
		return nil, errors.Join(fmt.Errorf("binding [%v%%%s]:%d: %w", address, device, dhcpv6.DefaultClientPort, err), conn.Close())
	}
	return u, nil
}

func (u *udpConn) prepare(device string) error {
	for _, o := range []struct{ level, name, value int }{
		{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		// A server of this router's LAN side must not hear its own uplink's client.
		{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0},
		{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, u.index},
	} {
		if err := u.conn.SetsockoptInt(o.level, o.name, o.value); err != nil {
			return err
		}
	}
	if err := u.conn.SetsockoptString(unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device); err != nil {
		return err
	}
	return u.conn.Bind(&unix.SockaddrInet6{Port: dhcpv6.DefaultClientPort, ZoneId: uint32(u.index), Addr: u.address.As16()})
}

// Send looks first whether the address is still there: the kernel would go on sending from it for ever, and
// drop the answers.
func (u *udpConn) Send(b []byte) error {
	usable, err := linksession.LinkLocals(u.index, true)
	if err != nil || !slices.Contains(usable, u.address) {
		return fmt.Errorf("%w: %v is not usable any more", ErrGone, u.address)
	}
	if err := u.conn.Sendto(context.Background(), b, 0, u.servers); err != nil {
		return fmt.Errorf("sending to ff02::1:2: %w", err)
	}
	return nil
}

func (u *udpConn) Receive() ([]byte, error) {
	b := make([]byte, maxDatagram)
	n, _, err := u.conn.Recvfrom(context.Background(), b, 0)
	if err != nil {
		return nil, fmt.Errorf("receiving on port %d: %w", dhcpv6.DefaultClientPort, err)
	}
	return b[:n:n], nil
}

func (u *udpConn) Close() error { return u.conn.Close() }
