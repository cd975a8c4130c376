package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
)

// flows puts connections of both families into connection tracking: pinned to uplink 1, pinned to it
// with bits of somebody else, pinned to uplink 2, and not pinned. The source port names them.
const flows = `
for f in "198.51.100.2 192.0.2.1 ipv4" "2001:db8::2 2001:db8:ffff::1 ipv6"; do
  set -- $f; n=1000
  for mark in 0x1000000 0x10000ff 0x2000000 0x0 0xff; do
    n=$((n+1))
    conntrack -I -s $1 -d $2 -p udp --sport $n --dport 53 --timeout 120 --mark $mark
  done
done 2>&1`

// flowPorts lists the source ports of what connection tracking holds.
func flowPorts(t *testing.T, family rules.Family) []string {
	t.Helper()
	var ports []string
	for _, m := range regexp.MustCompile(`sport=(10\d\d) dport=53`).FindAllStringSubmatch(sh(t, "conntrack -L -f "+family.String()+" 2>/dev/null"), -1) {
		ports = append(ports, m[1])
	}
	slices.Sort(ports)
	return ports
}

func TestFlushPinDeletesTheFlowsOfOneUplinkAndFamily(t *testing.T) {
	namespace(t)
	sh(t, flows)
	all := []string{"1001", "1002", "1003", "1004", "1005"}
	for _, f := range rules.Families {
		if diff := cmp.Diff(all, flowPorts(t, f)); diff != "" {
			t.Fatalf("%v before:\n%s", f, diff)
		}
	}
	k := open(t)
	if err := k.FlushPin(rules.IPv4, numbers.Mark(1), numbers.MarkMask); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1003", "1004", "1005"}, flowPorts(t, rules.IPv4)); diff != "" {
		t.Errorf("ipv4 after flushing uplink 1:\n%s", diff)
	}
	if diff := cmp.Diff(all, flowPorts(t, rules.IPv6)); diff != "" {
		t.Errorf("ipv6 after flushing uplink 1 in ipv4:\n%s", diff)
	}
	if err := k.FlushPin(rules.IPv6, numbers.Mark(2), numbers.MarkMask); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1001", "1002", "1004", "1005"}, flowPorts(t, rules.IPv6)); diff != "" {
		t.Errorf("ipv6 after flushing uplink 2:\n%s", diff)
	}
}

func TestFlushPinOfNoFlowsIsNoError(t *testing.T) {
	namespace(t)
	if err := open(t).FlushPin(rules.IPv4, numbers.Mark(7), numbers.MarkMask); err != nil {
		t.Error(err)
	}
}

// Mark zero is what unpinned connections have: all the rest of the machine.
func TestFlushPinRefusesMarkZero(t *testing.T) {
	namespace(t)
	sh(t, flows)
	k := open(t)
	for _, mark := range []uint32{0, 0xff, ^numbers.MarkMask} {
		if err := k.FlushPin(rules.IPv4, mark, numbers.MarkMask); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("flushing mark %#x: %v", mark, err)
		}
	}
	if n := len(flowPorts(t, rules.IPv4)); n != 5 {
		t.Errorf("%d of 5 flows are left", n)
	}
}

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

func TestDestroySocketsAbortsOnlyConnectionsOfTheAddress(t *testing.T) {
	namespace(t)
	sh(t, `
ip address add 198.51.100.2/24 dev lo
ip address add 203.0.113.2/24 dev lo
ip -6 address add 2001:db8:a::2/64 dev lo nodad
ip -6 address add 2001:db8:b::2/64 dev lo nodad`)
	k := open(t)
	for _, c := range []struct{ dead, other, server string }{
		{"198.51.100.2", "203.0.113.2", "127.0.0.1"},
		{"2001:db8:a::2", "2001:db8:b::2", "::1"},
	} {
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
