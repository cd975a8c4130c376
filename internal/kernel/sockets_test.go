package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/rules"
)

// pair is a TCP connection within a namespace.
type pair struct{ client, server net.Conn }

// connect makes a connection from one address to a listener at another, both in the calling thread's
// namespace: sockets belong to the namespace of the thread that makes them, so neither side may dial
// from another goroutine.
func connect(t *testing.T, from, to string) pair {
	t.Helper()
	listener := listen(t, to)
	client := socket(t, from, listener.Addr().String())
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return pair{client, server}
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func socket(t *testing.T, from, to string) net.Conn {
	t.Helper()
	// Happy eyeballs would dial in goroutines of other threads; literal addresses of one family do not.
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, FallbackDelay: -1}
	conn, err := dialer.DialContext(context.Background(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// alive sends a byte through the connection and reports whether it arrives.
func (p pair) alive() error {
	if _, err := p.client.Write([]byte{1}); err != nil {
		return err
	}
	_, err := p.server.Read(make([]byte, 1))
	return err
}

// ends are addresses of an addressed namespace, of each family: one whose sockets are destroyed, one whose sockets stay, and
// that of a server.
var ends = []struct{ dead, other, server string }{
	{"198.51.100.2", "203.0.113.2", "127.0.0.1"},
	{"198.51.100.20", "198.51.100.2", "198.51.100.200"},
	{"2001:db8:a::2", "2001:db8:b::2", "::1"},
	{"2001:db8:a::20", "2001:db8:a::2", "2001:db8:b::2"},
}

// addressed makes a namespace that has the addresses of ends.
func addressed(t *testing.T) *kernel.Kernel {
	t.Helper()
	namespace(t)
	sh(t, `
for a in 198.51.100.2/24 198.51.100.20/24 198.51.100.200/24 203.0.113.2/24; do ip address add $a dev lo; done
for a in 2001:db8:a::2/64 2001:db8:a::20/64 2001:db8:b::2/64; do ip -6 address add $a dev lo nodad; done`)
	return open(t)
}

func TestDestroySocketsAbortsOnlyConnectionsOfTheAddress(t *testing.T) {
	k := addressed(t)
	for _, c := range ends {
		doomed, spared := connect(t, c.dead, c.server), connect(t, c.other, c.server)
		listener := listen(t, c.dead)
		n, err := k.DestroySockets([]netip.Addr{netip.MustParseAddr(c.dead)})
		if err != nil || n != 1 {
			t.Errorf("destroying connections of %s: %d, %v", c.dead, n, err)
		}
		if err := doomed.alive(); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("the connection from %s: %v", c.dead, err)
		}
		if err := spared.alive(); err != nil {
			t.Errorf("the connection from %s: %v", c.other, err)
		}
		// The listener at the dead address still takes connections.
		late := socket(t, c.other, listener.Addr().String())
		accepted, err := listener.Accept()
		if err != nil {
			t.Fatalf("the listener at %s: %v", c.dead, err)
		}
		if err := (pair{late, accepted}).alive(); err != nil {
			t.Errorf("a new connection to %s: %v", c.dead, err)
		}
		accepted.Close()
	}
}

// A program that listens on "::" serves IPv4 clients through an IPv6 socket.
func TestDestroySocketsFindsMappedAddresses(t *testing.T) {
	namespace(t)
	sh(t, "ip address add 198.51.100.2/24 dev lo")
	listener := listen(t, "")
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	client := socket(t, "127.0.0.1", net.JoinHostPort("198.51.100.2", port))
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if n, err := open(t).DestroySockets([]netip.Addr{netip.MustParseAddr("198.51.100.2")}); n != 1 || err != nil {
		t.Errorf("destroyed %d, %v", n, err)
	}
	if err := (pair{server, client}).alive(); !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("the server's side: %v", err)
	}
}

// Of two connections with one address those sockets alone go that are meant; a listener and a socket that is bound to a device
// stay, whatever their ports.
func TestDestroyConnectionsAbortsExactlyThose(t *testing.T) {
	k := addressed(t)
	of := func(protocol uint8, c net.Conn) rules.Connection {
		end := func(a net.Addr) netip.AddrPort {
			p := netip.MustParseAddrPort(a.String())
			return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
		}
		local, remote := end(c.LocalAddr()), end(c.RemoteAddr())
		return rules.Connection{Protocol: protocol, Source: local.Addr(), SPort: local.Port(), Dest: remote.Addr(), DPort: remote.Port()}
	}
	for _, c := range ends {
		doomed, spared := connect(t, c.dead, c.server), connect(t, c.dead, c.server)
		listener := listen(t, c.dead)
		peer := udp(t, c.server, "")
		doomedUDP, sparedUDP := udp(t, c.dead, peer.LocalAddr().String()), udp(t, c.dead, peer.LocalAddr().String())
		bound := udp(t, c.dead, peer.LocalAddr().String())
		raw, err := bound.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), "lo") })
		}
		if err != nil {
			t.Fatal(err)
		}
		gone := of(unix.IPPROTO_TCP, spared.client)
		gone.SPort = netip.MustParseAddrPort(listener.Addr().String()).Port() // which a look-up by the kernel would find
		n, err := k.DestroyConnections([]rules.Connection{of(unix.IPPROTO_TCP, doomed.client), of(unix.IPPROTO_UDP, doomedUDP), of(unix.IPPROTO_UDP, bound), gone})
		if err != nil || n != 2 {
			t.Errorf("%s: destroyed %d, %v", c.dead, n, err)
		}
		if err := doomed.alive(); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("%s: %v", c.dead, err)
		}
		if err := abortedWith(doomedUDP); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("%s, UDP: %v", c.dead, err)
		}
		if err := spared.alive(); err != nil {
			t.Errorf("another connection of %s: %v", c.dead, err)
		}
		for _, u := range []*net.UDPConn{sparedUDP, bound} {
			if _, err := u.Write([]byte("x")); err != nil {
				t.Errorf("another UDP socket of %s: %v", c.dead, err)
			}
		}
		late := socket(t, c.other, listener.Addr().String())
		accepted, err := listener.Accept()
		if err != nil {
			t.Fatalf("the listener at %s: %v", c.dead, err)
		}
		if err := (pair{late, accepted}).alive(); err != nil {
			t.Errorf("a new connection to %s: %v", c.dead, err)
		}
		accepted.Close()
	}
}

func TestDestroySocketsOfNoAddressDestroysNothing(t *testing.T) {
	namespace(t)
	c := connect(t, "127.0.0.1", "127.0.0.1")
	if n, err := open(t).DestroySockets(nil); n != 0 || err != nil {
		t.Errorf("destroyed %d, %v", n, err)
	}
	if err := c.alive(); err != nil {
		t.Error(fmt.Errorf("a connection that nobody spoke of: %w", err))
	}
}

// udp makes a UDP socket with a source address, connected when there is somebody to connect to.
func udp(t *testing.T, from, to string) *net.UDPConn {
	t.Helper()
	local, err := net.ResolveUDPAddr("udp", net.JoinHostPort(from, "0"))
	if err != nil {
		t.Fatal(err)
	}
	var conn *net.UDPConn
	if to == "" {
		conn, err = net.ListenUDP("udp", local)
	} else {
		var remote *net.UDPAddr
		if remote, err = net.ResolveUDPAddr("udp", to); err == nil {
			conn, err = net.DialUDP("udp", local, remote)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// abortedWith waits for a datagram, and says what came instead. The deadline only ends a failing test.
func abortedWith(c *net.UDPConn) error {
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, err := c.Read(make([]byte, 1))
	return err
}

func TestDestroySocketsAbortsConnectedUDPSockets(t *testing.T) {
	k := addressed(t)
	for _, c := range ends {
		server := udp(t, c.server, "")
		doomed, spared, bound := udp(t, c.dead, server.LocalAddr().String()), udp(t, c.other, server.LocalAddr().String()), udp(t, c.dead, "")
		n, err := k.DestroySockets([]netip.Addr{netip.MustParseAddr(c.dead)})
		if err != nil || n != 1 {
			t.Errorf("destroying sockets of %s: %d, %v", c.dead, n, err)
		}
		if err := abortedWith(doomed); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("the connected socket of %s: %v", c.dead, err)
		}
		if _, err := spared.Write([]byte{1}); err != nil {
			t.Errorf("the connected socket of %s: %v", c.other, err)
		}
		if _, err := bound.WriteTo([]byte{1}, server.LocalAddr()); err != nil {
			t.Errorf("the unconnected socket of %s, whose owner chooses where it sends: %v", c.dead, err)
		}
	}
}
