package dhcp6

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"golang.org/x/sys/unix"
)

// open opens a socket on a device in a namespace, waiting for its address: the kernel begins to check one after up to a
// second, and sends dad_transmits solicitations a second apart.
func (w *world) open(ns *os.File, device string) Conn {
	w.t.Helper()
	for range 300 {
		var c Conn
		err := inside(ns, func() (err error) {
			c, err = openUDP(device)
			return err
		})
		switch {
		case err == nil:
			w.t.Cleanup(func() { _ = c.Close() })
			return c
		case !errors.Is(err, ErrNotReady):
			w.t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.t.Fatalf("%s never got an address", device)
	return nil
}

// echo answers each datagram that a device's servers hear with "echo " and the same.
func (w *world) echo(device string) {
	w.t.Helper()
	var fd int
	if err := inside(w.isp, func() error {
		ifc, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		group := &unix.IPv6Mreq{Multiaddr: netip.MustParseAddr("ff02::1:2").As16(), Interface: uint32(ifc.Index)}
		return errors.Join(
			unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device),
			unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, group),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50000}),
			unix.Bind(fd, &unix.SockaddrInet6{Port: dhcpv6.DefaultServerPort}))
	}); err != nil {
		w.t.Fatalf("listening on %s: %v", device, err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 2000)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if n, from, err := unix.Recvfrom(fd, b, 0); err == nil {
				_ = unix.Sendto(fd, append([]byte("echo "), b[:n]...), 0, from)
			}
		}
	}()
	w.t.Cleanup(func() {
		close(stop)
		<-done
		_ = unix.Close(fd)
	})
}

// wantEcho sends from the router, and wants the answer.
func (w *world) wantEcho(c Conn, text string) {
	w.t.Helper()
	if err := inside(w.router, func() error { return c.Send([]byte(text)) }); err != nil {
		w.t.Fatal(err)
	}
	got := make(chan string, 1)
	go func() {
		b, err := c.Receive()
		if err != nil {
			b = []byte(err.Error())
		}
		got <- string(b)
	}()
	select {
	case s := <-got:
		if s != "echo "+text {
			w.t.Errorf("received %q", s)
		}
	case <-time.After(15 * time.Second):
		_ = c.Close()
		w.t.Fatalf("no answer: %s", <-got)
	}
}

func TestTheSocketWaitsUntilTheAddressIsChecked(t *testing.T) {
	w := newWorld(t)
	w.sh(w.router, "sysctl -qw net.ipv6.conf.default.dad_transmits=2")
	w.wire() // with the setting
	err := inside(w.router, func() error {
		c, err := openUDP("wan")
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	if !errors.Is(err, ErrNotReady) {
		t.Errorf("opened while the address is tentative: %v", err)
	}
	w.echo("isp")
	w.wantEcho(w.open(w.router, "wan"), "hello")
	if err := inside(w.router, func() error { _, err := openUDP("missing"); return err }); err == nil || errors.Is(err, ErrNotReady) {
		t.Errorf("a missing device: %v", err)
	}
}

func TestSocketsOfSeveralDevicesAndProgramsLiveTogether(t *testing.T) {
	w := newWorld(t).noDAD()
	w.wire() // with the setting
	w.sh(w.isp, fmt.Sprintf(`ip link add isp2 type veth peer name wan2 netns /proc/%d/fd/%d
		ip link set isp2 addrgenmode none up; ip address add fe80::2/64 dev isp2 nodad`, os.Getpid(), w.router.Fd()))
	w.sh(w.router, "ip link set wan2 up")
	w.echo("isp")
	w.echo("isp2")
	var other int // as dhclient -6 has it: the port on all addresses
	if err := inside(w.router, func() (err error) {
		if other, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(unix.SetsockoptInt(other, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.Bind(other, &unix.SockaddrInet6{Port: dhcpv6.DefaultClientPort}))
	}); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(other)
	first, second := w.open(w.router, "wan"), w.open(w.router, "wan2")
	for i := range 3 {
		w.wantEcho(first, fmt.Sprintf("first %d", i))
		w.wantEcho(second, fmt.Sprintf("second %d", i))
	}
}

func TestASocketWhoseAddressOrDeviceIsGoneIsStale(t *testing.T) {
	for name, script := range map[string]string{
		"the address was removed":  "ip -6 address flush dev wan scope link",
		"the address was replaced": "ip -6 address flush dev wan scope link; ip address add fe80::77/64 dev wan nodad",
		"IPv6 was turned off":      "sysctl -qw net.ipv6.conf.wan.disable_ipv6=1",
		"the device was removed":   "ip link delete wan",
		"another has its name":     "ip link delete wan; ip link add wan type bridge; ip link set wan up",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t).noDAD()
			w.wire()
			c := w.open(w.router, "wan")
			if err := inside(w.router, func() error { return c.Send([]byte("x")) }); err != nil {
				t.Fatal(err)
			}
			w.sh(w.router, script)
			if err := inside(w.router, func() error { return c.Send([]byte("x")) }); !errors.Is(err, ErrGone) {
				t.Errorf("%v, want ErrGone", err)
			}
		})
	}
}

// A point-to-point device without a hardware address, as of PPP: the test reads and writes its packets.
func TestAPointToPointDeviceIsEnough(t *testing.T) {
	router := namespace(t)
	w := &world{t: t, router: router, isp: router, dir: t.TempDir()}
	tun := tunDevice(t, router, "wan")
	w.sh(router, "ip link set wan up")
	h := w.household(nil, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 2000)
		for {
			n, err := tun.Read(b)
			if err != nil {
				return
			}
			if answer := answerPacket(b[:n]); answer != nil {
				_, _ = tun.Write(answer)
			}
		}
	}()
	if got := h.await(12*time.Second, &program{}, Granted).Lease.Prefixes[0].Prefix; got != mustPrefix(held) {
		t.Errorf("delegated %v", got)
	}
	h.end()
	_ = tun.Close()
	<-done
}

// tunDevice makes a tun device in a namespace, and returns what its packets are read from and written to.
func tunDevice(t *testing.T, ns *os.File, name string) *os.File {
	t.Helper()
	var fd int
	if err := inside(ns, func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}); err != nil {
		t.Fatalf("making a tun device (needs /dev/net/tun): %v", err)
	}
	return os.NewFile(uintptr(fd), name)
}

// answerPacket answers an IPv6 packet with a DHCPv6 message in it, by a server at fe80::1.
func answerPacket(b []byte) []byte {
	const header, udp = 40, 8
	if len(b) < header+udp || b[0]>>4 != 6 || b[6] != unix.IPPROTO_UDP || binary.BigEndian.Uint16(b[header+2:]) != dhcpv6.DefaultServerPort {
		return nil
	}
	m, err := dhcpv6.MessageFromBytes(b[header+udp:])
	if err != nil {
		return nil
	}
	body := generous(1000, 2000)(m)[0]
	out := make([]byte, header+udp, header+udp+len(body))
	out[0], out[6], out[7] = 6<<4, unix.IPPROTO_UDP, 1
	binary.BigEndian.PutUint16(out[4:], uint16(udp+len(body)))
	copy(out[8:], netip.MustParseAddr("fe80::1").AsSlice())
	copy(out[24:], b[8:24])
	binary.BigEndian.PutUint16(out[header:], dhcpv6.DefaultServerPort)
	binary.BigEndian.PutUint16(out[header+2:], dhcpv6.DefaultClientPort)
	binary.BigEndian.PutUint16(out[header+4:], uint16(udp+len(body)))
	out = append(out, body...)
	binary.BigEndian.PutUint16(out[header+6:], checksum(out[8:], unix.IPPROTO_UDP+uint32(udp+len(body))))
	return out
}

// checksum is the Internet checksum of b and what is already summed.
func checksum(b []byte, sum uint32) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
