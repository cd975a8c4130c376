package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// transparentProxy answers in the place of whomever the hosts ask: over TCP and UDP with a line that names the
// destination that was asked, and over TCP with an echo from then on.
type transparentProxy struct {
	listener net.Listener
	packets  net.PacketConn
	ended    sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
}

const proxyPort = 12345

// transparent sets IP_TRANSPARENT (linux/in.h), and has UDP packets tell their destinations. IPv6 sockets have the
// options of both families.
func transparent(network, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		set := func(level, option int) { failed = errors.Join(failed, unix.SetsockoptInt(int(fd), level, option, 1)) }
		set(unix.SOL_SOCKET, unix.SO_REUSEADDR)
		set(unix.SOL_IP, unix.IP_TRANSPARENT)
		set(unix.SOL_IP, unix.IP_RECVORIGDSTADDR)
		if strings.HasSuffix(network, "6") {
			set(unix.SOL_IPV6, unix.IPV6_TRANSPARENT)
			set(unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR)
		}
	})
	return errors.Join(err, failed)
}

// proxy starts a transparent proxy on the router. It listens on IPv6 sockets that take IPv4 too.
func (r *router) proxy() *transparentProxy {
	r.Helper()
	return r.proxyAt(netip.IPv6Unspecified())
}

// proxyAt starts one that listens at an address.
func (r *router) proxyAt(address netip.Addr) *transparentProxy {
	r.Helper()
	at := netip.AddrPortFrom(address, proxyPort).String()
	p := &transparentProxy{}
	config := net.ListenConfig{Control: transparent}
	err := r.Host("router").Do(func() (err error) {
		if p.listener, err = config.Listen(context.Background(), "tcp", at); err != nil {
			return err
		}
		p.packets, err = config.ListenPacket(context.Background(), "udp", at)
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
	p.ended.Go(p.accept)
	p.ended.Go(func() { p.answer(r) })
	r.Cleanup(p.stop)
	return p
}

// stop kills the proxy with all its connections.
func (p *transparentProxy) stop() {
	_, _ = p.listener.Close(), p.packets.Close()
	p.mu.Lock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
	p.mu.Unlock()
	p.ended.Wait()
}

func (p *transparentProxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.conns = append(p.conns, conn)
		p.mu.Unlock()
		p.ended.Go(func() {
			defer conn.Close()
			fmt.Fprintf(conn, "for %v\n", conn.LocalAddr())
			lines := bufio.NewScanner(conn)
			for lines.Scan() {
				fmt.Fprintln(conn, lines.Text())
			}
		})
	}
}

// answer answers UDP packets from the addresses that they were for.
func (p *transparentProxy) answer(r *router) {
	buf, oob := make([]byte, 2048), make([]byte, 512)
	for {
		_, n, _, from, err := p.packets.(*net.UDPConn).ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			return
		}
		asked, err := originalDestination(oob[:n])
		if err != nil {
			r.Errorf("a UDP packet without its destination: %v", err)
			continue
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		dialer := net.Dialer{Control: transparent, LocalAddr: net.UDPAddrFromAddrPort(asked)}
		err = r.Host("router").Do(func() error {
			conn, err := dialer.Dial("udp", from.String())
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = fmt.Fprintf(conn, "for %v", asked)
			return err
		})
		if err != nil {
			r.Errorf("answering %v from %v: %v", from, asked, err)
		}
	}
}

func originalDestination(oob []byte) (netip.AddrPort, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_ORIGDSTADDR && len(m.Data) >= 8:
			a, _ := netip.AddrFromSlice(m.Data[4:8])
			return netip.AddrPortFrom(a, binary.BigEndian.Uint16(m.Data[2:])), nil
		case m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_ORIGDSTADDR && len(m.Data) >= 24:
			a, _ := netip.AddrFromSlice(m.Data[8:24])
			return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(m.Data[2:])), nil
		}
	}
	return netip.AddrPort{}, errors.New("no such control message")
}

// banner is what a LAN host hears first when it asks somebody.
func (r *router) banner(network, target string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	conn, err := r.Host("lan").Dial(ctx, network, "", target)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	if network == "udp" {
		if _, err := conn.Write([]byte("hello")); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 256)
	n, err := conn.Read(buf)
	return strings.TrimSpace(string(buf[:n])), err
}

// proxied are destinations that are to be proxied, and excepted ones that are not.
var proxied = []struct{ network, target, excepted string }{
	{"tcp", "192.0.2.1:7", "192.0.2.2:7"},
	{"tcp", "[2001:db8:ffff::1]:7", "[2001:db8:ffff::2]:7"},
	{"udp", "192.0.2.1:7", "192.0.2.2:7"},
	{"udp", "[2001:db8:ffff::1]:7", "[2001:db8:ffff::2]:7"},
}

func proxyConfig(onFailure string) string {
	return dualWAN + `
[[tproxy]]
name = "proxy"
iif = "lan0"
protocol = ["tcp", "udp"]
port = 12345
except = ["192.0.2.2", "2001:db8:ffff::2"]
on_failure = "` + onFailure + `"
`
}

func TestATransparentProxySeesWhatHostsAskFor(t *testing.T) {
	for _, onFailure := range []string{"bypass", "reject"} {
		t.Run(onFailure, func(t *testing.T) {
			r := newRouter(t, lab.Options{}, proxyConfig(onFailure))
			for _, c := range proxied { // TCP echoes at the excepted destinations, beside the UDP ones of ready
				if c.network == "tcp" {
					if err := r.Host("inet").ServeTCPEcho(context.Background(), addrPort(c.excepted)); err != nil {
						t.Fatal(err)
					}
				}
			}
			p := r.proxy()
			r.ready()
			session := r.sessionTo(t, "203.0.113.129:22")
			byProxy := func(network, target string) {
				t.Helper()
				if got, err := r.banner(network, target); err != nil || got != "for "+target {
					t.Errorf("%s to %s: %q, %v", network, target, got, err)
				}
			}
			direct := func(network, target string) {
				t.Helper()
				if got, err := r.banner(network, target); err != nil || strings.HasPrefix(got, "for ") {
					t.Errorf("%s to %s, past the proxy: %q, %v", network, target, got, err)
				}
			}
			for _, c := range proxied {
				byProxy(c.network, c.target)
				direct(c.network, c.excepted)
			}
			old := r.echoConnection(t, "lan", "192.0.2.1:7")
			if err := old(); err != nil {
				t.Error(err)
			}
			session()
			reported := func() string {
				for _, p := range r.status().Problems {
					if p.Code == "proxy-down" {
						return p.Message
					}
				}
				return ""
			}
			if problem := reported(); problem != "" {
				t.Errorf("a proxy that works is a problem: %s", problem)
			}

			p.stop()
			if problem, becomes := reported(), map[string]string{"bypass": "bypass it", "reject": "are rejected"}[onFailure]; !strings.Contains(problem,
				"port 12345 for transparent proxy proxy (tcp of ipv4, udp of ipv4, tcp of ipv6, udp of ipv6)") || !strings.Contains(problem, becomes) {
				t.Errorf("while the proxy is down the status says %q", problem)
			}
			if err := old(); err == nil {
				t.Error("a connection of the dead proxy still works")
			}
			for _, c := range proxied {
				direct(c.network, c.excepted)
				got, err := r.banner(c.network, c.target)
				if onFailure == "bypass" && (err != nil || strings.HasPrefix(got, "for ")) {
					t.Errorf("%s to %s while the proxy is down: %q, %v", c.network, c.target, got, err)
				}
				if onFailure == "reject" && !refused(err) {
					t.Errorf("%s to %s while the proxy is down: %q, %v", c.network, c.target, got, err)
				}
			}
			session()
			var past func() error
			if onFailure == "bypass" {
				past = r.echoConnection(t, "lan", "192.0.2.1:7")
			}
			r.proxy()
			if problem := reported(); problem != "" {
				t.Errorf("a proxy that is back is a problem: %s", problem)
			}
			for _, c := range proxied {
				byProxy(c.network, c.target)
			}
			if past != nil {
				if err := past(); err != nil {
					t.Errorf("a connection that began without the proxy was caught in its middle: %v", err)
				}
			}
			session()
			if n := r.foreign(); n != 0 {
				t.Errorf("%d packets left with a foreign source", n)
			}
		})
	}
}

// TestAProxyThatListensElsewhereIsNotFound has it listen where what is caught does not look.
func TestAProxyThatListensElsewhereIsNotFound(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, proxyConfig("bypass"))
	r.ready()
	for _, address := range []string{"127.0.0.1", "198.51.100.2", "::1"} {
		p := r.proxyAt(netip.MustParseAddr(address))
		r.awaitProblem("proxy-down", "tcp of ipv4", "udp of ipv6")
		for _, c := range proxied {
			if got, err := r.banner(c.network, c.target); err != nil || strings.HasPrefix(got, "for ") {
				t.Errorf("%s to %s, past a proxy at %s: %q, %v", c.network, c.target, address, got, err)
			}
		}
		p.stop()
	}
	p := r.proxyAt(netip.MustParseAddr(lab.LANRouter4))
	r.await("IPv6 alone to go without a proxy that has the address of the LAN", func() error {
		for _, problem := range r.status().Problems {
			if problem.Code == "proxy-down" && !strings.Contains(problem.Message, "ipv4") {
				return nil
			}
		}
		return errors.New("it is not told")
	})
	if got, err := r.banner("tcp", "192.0.2.1:7"); err != nil || got != "for 192.0.2.1:7" {
		t.Errorf("by the proxy at the address of the LAN: %q, %v", got, err)
	}
	p.stop()
	r.proxy()
	r.awaitProblem("proxy-down")
}

// TestAProxyTakesWhatAFirewallLetsIn follows the page about transparent proxies: the input chain sees the ports that hosts ask for, and a
// network that a route of main leads to through an uplink is none of those that are left alone.
func TestAProxyTakesWhatAFirewallLetsIn(t *testing.T) {
	t.Parallel()
	const behind = "198.51.100.193:7"
	r := newRouter(t, lab.Options{}, proxyConfig("bypass"))
	r.sh("router", `ip route add 198.51.100.192/28 via 198.51.100.1 dev wan1; nft -f - <<E
table inet firewall {
  chain input {
    type filter hook input priority filter; policy drop;
    ct state established,related accept
    iifname "lan0" tcp dport 22 accept
    meta l4proto { icmp, ipv6-icmp } accept
  }
}
E`)
	r.proxy()
	r.ready()
	session := r.sessionTo(t, "203.0.113.129:22")
	for _, c := range proxied {
		if got, err := r.banner(c.network, c.target); err == nil {
			t.Errorf("%s to %s, which the firewall drops: %q", c.network, c.target, got)
		}
	}
	session()
	r.sh("router", `nft 'add rule inet firewall input iifname "lan0" meta l4proto { tcp, udp } th dport 7 accept'`)
	for _, c := range append(proxied[:len(proxied):len(proxied)], struct{ network, target, excepted string }{"tcp", behind, ""}) {
		if got, err := r.banner(c.network, c.target); err != nil || got != "for "+c.target {
			t.Errorf("%s to %s: %q, %v", c.network, c.target, got, err)
		}
	}
	session()
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source", n)
	}
}

// refused reports whether the router said no, rather than nothing.
func refused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.ECONNRESET)
}

// sessionTo serves something like ssh on the router and opens a session to it from the LAN; the returned function
// fails the test unless the session lives, and unless another one can be opened.
func (r *router) sessionTo(t *testing.T, at string) func() {
	t.Helper()
	if err := r.Host("router").ServeTCPEcho(context.Background(), addrPort(at)); err != nil {
		t.Fatal(err)
	}
	ask := r.echoConnection(t, "lan", at)
	return func() {
		t.Helper()
		if err := ask(); err != nil {
			t.Errorf("the session to the router: %v", err)
		}
		if err := r.echoConnection(t, "lan", at)(); err != nil {
			t.Errorf("a new session to the router: %v", err)
		}
	}
}
