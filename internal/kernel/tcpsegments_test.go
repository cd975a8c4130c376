package kernel_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// lo receives what it sends, once.
func TestTheSegmentsThatComeInAreHeard(t *testing.T) {
	namespace(t)
	sh(t, "ip link set lo up")
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for family, address := range map[rules.Family]string{rules.IPv4: "127.0.0.1:0", rules.IPv6: "[::1]:0"} {
		segments, err := kernel.ListenTCPSegments(lo.Index, family)
		if err != nil {
			t.Fatal(err)
		}
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		server, err := netip.ParseAddrPort(listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = segments.SetReadDeadline(time.Now().Add(10 * time.Second))
		buffer := make([]byte, 128)
		for count := 0; count < 1; {
			n, _, err := segments.ReadFrom(buffer)
			if err != nil {
				t.Fatalf("%v: %v", family, err)
			}
			if s, ok := uplink.ParseTCPSegment(buffer[:n]); ok && s.Length == 1000 && s.Destination == server {
				count++
			}
		}
		_ = conn.Close()
		_ = listener.Close()
		if err := segments.Close(); err != nil {
			t.Error(err)
		}
	}

	other, err := kernel.ListenTCPSegments(lo.Index, rules.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	sh(t, "ping -c 1 127.0.0.1; ping -c 1 ::1")
	_ = other.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, _, err := other.ReadFrom(make([]byte, 128)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes of what is no TCP, %v", n, err)
	}
	if _, err := kernel.ListenTCPSegments(99, rules.IPv4); err == nil {
		t.Error("an interface that is not there has segments")
	}
}
