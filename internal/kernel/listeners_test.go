package kernel_test

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/rules"
)

// Only a socket that tproxy would give packets to counts.
func TestAProxyListensWhereItsSocketTakesAnything(t *testing.T) {
	const port = 12345
	for name, c := range map[string]struct {
		network, address string
		opaque           bool // without IP_TRANSPARENT
		protocol         uint8
		want             map[rules.Family]bool
	}{
		"TCP of both families": {network: "tcp", address: "[::]:12345", protocol: 6, want: map[rules.Family]bool{rules.IPv4: true, rules.IPv6: true}},
		"TCP of IPv4":          {network: "tcp4", address: "0.0.0.0:12345", protocol: 6, want: map[rules.Family]bool{rules.IPv4: true}},
		"TCP of IPv6 alone":    {network: "tcp6", address: "[::]:12345", protocol: 6, want: map[rules.Family]bool{rules.IPv6: true}},
		"UDP of both families": {network: "udp", address: "[::]:12345", protocol: 17, want: map[rules.Family]bool{rules.IPv4: true, rules.IPv6: true}},
		"UDP of IPv4":          {network: "udp4", address: "0.0.0.0:12345", protocol: 17, want: map[rules.Family]bool{rules.IPv4: true}},
		"another port":         {network: "tcp", address: "[::]:12346", protocol: 6},
		"another protocol":     {network: "tcp", address: "[::]:12345", protocol: 17},
		"a loopback address":   {network: "tcp4", address: "127.0.0.1:12345", protocol: 6},
		"the device's address": {network: "tcp4", address: "192.0.2.1:12345", protocol: 6, want: map[rules.Family]bool{rules.IPv4: true}},
		"and that of IPv6":     {network: "udp6", address: "[2001:db8::1]:12345", protocol: 17, want: map[rules.Family]bool{rules.IPv6: true}},
		"its second address":   {network: "tcp4", address: "192.0.2.2:12345", protocol: 6},
		"without the option":   {network: "tcp", address: "[::]:12345", opaque: true, protocol: 6},
		"nobody":               {protocol: 6},
	} {
		t.Run(name, func(t *testing.T) {
			namespace(t)
			sh(t, "ip link set lo up; ip link add lan0 type veth peer name host; ip address add 192.0.2.1/24 dev lan0; ip address add 192.0.2.2/24 dev lan0; "+
				"ip address add 2001:db8::1/64 dev lan0 nodad; ip link set lan0 up; ip link set host up")
			config := net.ListenConfig{Control: func(network, _ string, raw syscall.RawConn) (err error) {
				return errors.Join(raw.Control(func(fd uintptr) {
					if !c.opaque {
						err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1)
					}
				}), err)
			}}
			switch {
			case strings.HasPrefix(c.network, "tcp"):
				l, err := config.Listen(context.Background(), c.network, c.address)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
			case c.network != "":
				l, err := config.ListenPacket(context.Background(), c.network, c.address)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
			}
			for _, family := range rules.Families {
				if got, err := kernel.ProxyListens(rules.ProxyListener{TProxy: &rules.TProxy{Port: port}, Protocol: c.protocol, Family: family, Devices: []string{"lan0"}}); err != nil || got != c.want[family] {
					t.Errorf("%v: %t, %v", family, got, err)
				}
			}
		})
	}
}

// TestListening has sockets wait in every way.
func TestListening(t *testing.T) {
	namespace(t)
	sh(t, "ip link set lo up; ip link add lan0 type veth peer name host; ip address add 192.0.2.1/24 dev lan0; ip link set lan0 up")
	listen := func(network, address, device string) {
		config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
			return errors.Join(raw.Control(func(fd uintptr) {
				if device != "" {
					err = unix.BindToDevice(int(fd), device)
				}
			}), err)
		}}
		var c io.Closer
		var err error
		if strings.HasPrefix(network, "tcp") {
			c, err = config.Listen(context.Background(), network, address)
		} else {
			c, err = config.ListenPacket(context.Background(), network, address)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	listen("tcp", "[::]:1001", "")
	listen("tcp4", "0.0.0.0:1002", "")
	listen("tcp6", "[::]:1003", "")
	listen("tcp4", "192.0.2.1:1004", "")
	listen("tcp4", "0.0.0.0:1005", "lan0")
	listen("udp4", "0.0.0.0:1006", "")
	for _, c := range []struct {
		family   rules.Family
		protocol uint8
		want     []string
	}{
		{rules.IPv4, unix.IPPROTO_TCP, []string{"0.0.0.0:1002", "192.0.2.1:1004", "[::]:1001"}},
		{rules.IPv6, unix.IPPROTO_TCP, []string{"[::]:1001", "[::]:1003"}},
		{rules.IPv4, unix.IPPROTO_UDP, []string{"0.0.0.0:1006"}},
		{rules.IPv6, unix.IPPROTO_UDP, nil},
	} {
		list, err := kernel.Listening(c.family, c.protocol)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, at := range list {
			got = append(got, at.String())
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%v, protocol %d: %q, want %q", c.family, c.protocol, got, c.want)
		}
	}
}
