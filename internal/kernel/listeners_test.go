package kernel_test

import (
	"context"
	"errors"
	"net"
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
		"TCP of both families":  {network: "tcp", address: "[::]:12345", protocol: 6, want: map[rules.Family]bool{rules.IPv4: true, rules.IPv6: true}},
		"TCP of IPv4":           {network: "tcp4", address: "0.0.0.0:12345", protocol: 6, want: map[rules.Family]bool{rules.IPv4: true}},
		"TCP of IPv6 alone":     {network: "tcp6", address: "[::]:12345", protocol: 6, want: map[rules.Family]bool{rules.IPv6: true}},
		"UDP of both families":  {network: "udp", address: "[::]:12345", protocol: 17, want: map[rules.Family]bool{rules.IPv4: true, rules.IPv6: true}},
		"UDP of IPv4":           {network: "udp4", address: "0.0.0.0:12345", protocol: 17, want: map[rules.Family]bool{rules.IPv4: true}},
		"another port":          {network: "tcp", address: "[::]:12346", protocol: 6},
		"another protocol":      {network: "tcp", address: "[::]:12345", protocol: 17},
		"an address of its own": {network: "tcp4", address: "127.0.0.1:12345", protocol: 6},
		"without the option":    {network: "tcp", address: "[::]:12345", opaque: true, protocol: 6},
		"nobody":                {protocol: 6},
	} {
		t.Run(name, func(t *testing.T) {
			namespace(t)
			sh(t, "ip link set lo up")
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
				if got, err := kernel.ProxyListens(c.protocol, family, port); err != nil || got != c.want[family] {
					t.Errorf("%v: %t, %v", family, got, err)
				}
			}
		})
	}
}
