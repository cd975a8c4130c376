package main

import (
	"errors"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// Both ends of a connection by an uplink of a small MTU send segments that fit it, without being told by anybody; those
// by another uplink are as they were.
func TestSegmentsFitANarrowUplink(t *testing.T) {
	r := newRouter(t, lab.Options{}, dualWAN+"\n[[policy]]\nname = \"narrow\"\nto = [\"192.0.2.2\", \"2001:db8:ffff::2\"]\nuplinks = [\"lte\"]\n")
	r.sh("router", "ip link set dev wan2 mtu 1400")
	r.ready()
	const options = 12 // timestamps, which the kernel subtracts
	for target, want := range map[string]int{
		"192.0.2.2:9": 1400 - 40 - options, "[2001:db8:ffff::2]:9": 1400 - 60 - options,
		"192.0.2.1:9": 1500 - 40 - options, "[2001:db8:ffff::1]:9": 1500 - 60 - options,
	} {
		client, server := r.tcpPair(addrPort(target))
		for end, conn := range map[string]net.Conn{"the host": client, "the server": server} {
			raw, err := conn.(*net.TCPConn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			size := 0
			err = errors.Join(raw.Control(func(fd uintptr) { size, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG) }), err)
			if err != nil || size != want {
				t.Errorf("with %s, %s sends segments of %d bytes, %v; want %d", target, end, size, err, want)
			}
			_ = conn.Close()
		}
	}
}
