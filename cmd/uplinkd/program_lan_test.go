package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// TestBesideRadvd has radvd advertise the router to the LAN, which uplinkd is not told to do.
func TestBesideRadvd(t *testing.T) {
	playBeside(t, besideScene{
		program: "radvd", version: "radvd --version 2>&1 | sed -n '1s/.*: //p'", Options: lab.Options{DNAT: true},
		prepare: "printf 'interface lan0 {\\n AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4;\\n prefix 2001:db8:1::/64 { };\\n};\\n' >/etc/radvd.conf",
		start: func(h *house) {
			h.sh("lan", "sysctl -qw net.ipv6.conf.eth0.accept_ra=2")
			h.serve("radvd", "-n", "-C", "/etc/radvd.conf", "-p", "/run/radvd.pid")
		},
		works: func(h *house) error {
			if out := h.sh("lan", "ip -6 route show default proto ra"); !strings.Contains(out, "dev eth0") {
				return errors.New("the host has no route by radvd: " + out)
			}
			return nil
		},
	})
}

// dnsmasq is dnsmasq that advertises the router to the LAN.
func dnsmasq() besideScene {
	return besideScene{
		program: "dnsmasq", version: "dnsmasq --version | sed -n '1s/Dnsmasq version \\([^ ]*\\).*/\\1/p'", Options: lab.Options{DNAT: true},
		start: func(h *house) {
			h.sh("lan", "sysctl -qw net.ipv6.conf.eth0.accept_ra=2")
			h.serve("dnsmasq", "-k", "-C", "/dev/null", "--port=0", "--user=root", "--pid-file=", "--interface=lan0", "--bind-interfaces",
				"--dhcp-leasefile=/run/leases", "--dhcp-range=::1,constructor:lan0,ra-stateless", "--enable-ra", "--ra-param=lan0,4,12")
		},
		works: func(h *house) error {
			if out := h.sh("lan", "ip -6 route show default proto ra"); !strings.Contains(out, "dev eth0") {
				return errors.New("the host has no route by dnsmasq: " + out)
			}
			return nil
		},
	}
}

// TestBesideDnsmasq has dnsmasq advertise, which uplinkd is not told to do.
func TestBesideDnsmasq(t *testing.T) { playBeside(t, dnsmasq()) }

// TestBesideDnsmasqThatAdvertisesToo has both advertise: that is told while it is so, the host is online, and either serves it alone.
func TestBesideDnsmasqThatAdvertisesToo(t *testing.T) {
	t.Parallel()
	s := dnsmasq()
	s.config = dualWAN + "[[lan]]\ndevice = \"lan0\"\n"
	h := newHouse(t, s)
	h.daemon()
	h.startProgram()
	told := func() error { return h.hasProblem("other-router") }
	h.await("both to be told", told)
	h.house("with both", "fiber", "fiber", "lte")
	h.kill()
	h.house("by dnsmasq alone", "fiber", "fiber", "lte")
	h.daemon()
	h.await("both to be told again", told)
	h.stopProgram()
	h.await("uplinkd to be the only one", func() error {
		if told() == nil {
			return errors.New("another one is told")
		}
		return nil
	})
	h.house("by uplinkd alone", "fiber", "fiber", "lte")
	h.sentProperly()
}

// TestBesideMiniupnpd has miniupnpd map a port of the first line to a LAN host that asks for it by NAT-PMP (RFC 6886), and the Internet call it.
func TestBesideMiniupnpd(t *testing.T) {
	mapped := service{"TCP mapped to the LAN", "tcp", 18080}
	ask := func(h *house) error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		conn, err := h.Host("lan").Dial(ctx, "udp", "", lab.LANRouter4+":5351")
		if err != nil {
			return err
		}
		defer conn.Close()
		const mapTCP, lifetime = 2, 600
		request := binary.BigEndian.AppendUint16([]byte{0, mapTCP, 0, 0}, lab.ForwardedTCP)
		request = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(request, mapped.port), lifetime)
		deadline, _ := ctx.Deadline()
		answer := make([]byte, 16)
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
		if _, err := conn.Write(request); err != nil {
			return err
		}
		n, err := conn.Read(answer)
		if err == nil && (n != len(answer) || answer[1] != 128+mapTCP || binary.BigEndian.Uint16(answer[2:]) != 0 || binary.BigEndian.Uint16(answer[10:]) != mapped.port) {
			err = fmt.Errorf("NAT-PMP: % x", answer)
		}
		return err
	}
	playBeside(t, besideScene{
		program: "miniupnpd", version: "miniupnpd --version 2>&1 | sed -n '1s/miniupnpd \\([^ ]*\\).*/\\1/p'", Options: lab.Options{DNAT: true},
		// It refuses addresses of the documentation, so another one is what it would tell hosts. No packet has it.
		prepare: `mkdir -p /etc/miniupnpd
printf 'ext_ifname=wan1\next_ip=1.0.0.1\nlistening_ip=lan0\nhttp_port=0\nenable_natpmp=yes\nenable_upnp=yes\nsecure_mode=yes\nuuid=00000000-0000-0000-0000-000000000001\n' >/etc/miniupnpd/miniupnpd.conf
nft -f - <<'X'
table inet filter {
	chain miniupnpd { }
	chain prerouting_miniupnpd { }
	chain postrouting_miniupnpd { }
	chain forward { type filter hook forward priority 0; jump miniupnpd; }
	chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
	chain postrouting { type nat hook postrouting priority 100; jump postrouting_miniupnpd; }
}
X`,
		start: func(h *house) {
			h.serve("miniupnpd", "-d", "-f", "/etc/miniupnpd/miniupnpd.conf", "-P", "/run/miniupnpd.pid")
			h.await("a mapped port", func() error { return ask(h) })
		},
		works: func(h *house) error {
			if err := ask(h); err != nil {
				return err
			}
			fiber := h.Uplink("fiber").Address4.Addr()
			if u, err := h.uplinkStatus("fiber"); err != nil || u.IPv4.State != uplink.Up {
				return err // it maps ports of this line alone
			}
			return h.router.ask("inet", mapped, fiber, 2*time.Second)
		},
	})
}
