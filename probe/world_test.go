package probe

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inside marks the child process that owns a private network namespace.
const inside = "UPLINKD_PROBE_TEST_NAMESPACE"

// privately reports whether the test runs in a private network namespace. If
// not, it runs the same test there, in a child process, and takes its result.
func privately(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) != "" {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	// Pdeathsig belongs to the thread that forks.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	err := cmd.Start()
	if err != nil {
		t.Fatalf("making a private network namespace: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("in the namespace: %v\n%s", err, &output)
	} else if testing.Verbose() {
		t.Logf("in the namespace:\n%s", &output)
	}
	return false
}

// The world: a router with two uplinks to two providers, each of which is the
// whole Internet with the same targets in it, as anycast has it. So whoever
// answers tells which way a probe went. The default route of table main points
// to provider 0.
var (
	home4   = [2]netip.Prefix{netip.MustParsePrefix("198.51.100.2/25"), netip.MustParsePrefix("198.51.100.130/25")}
	far4    = [2]netip.Prefix{netip.MustParsePrefix("198.51.100.1/25"), netip.MustParsePrefix("198.51.100.129/25")}
	home6   = [2]netip.Prefix{netip.MustParsePrefix("2001:db8:0:1::2/64"), netip.MustParsePrefix("2001:db8:0:2::2/64")}
	far6    = [2]netip.Prefix{netip.MustParsePrefix("2001:db8:0:1::1/64"), netip.MustParsePrefix("2001:db8:0:2::1/64")}
	device  = [2]string{"up0", "up1"}
	targets = []netip.Prefix{netip.MustParsePrefix("203.0.113.1/32"), netip.MustParsePrefix("2001:db8:ff::1/128")}
	silent  = []netip.Prefix{netip.MustParsePrefix("203.0.113.99/32"), netip.MustParsePrefix("2001:db8:ff::99/128")}
	refused = []netip.Prefix{netip.MustParsePrefix("203.0.113.98/32"), netip.MustParsePrefix("2001:db8:ff::98/128")}
)

const (
	markMask  = 0x3f000000
	tableBase = 11701
)

func mark(i int) uint32 { return uint32(i+1) << 24 }

func path4(i int) Binding {
	return Binding{Device: device[i], Mark: mark(i), Source: home4[i].Addr()}
}

func path6(i int) Binding {
	return Binding{Device: device[i], Mark: mark(i), Source: home6[i].Addr()}
}

type world struct {
	home      netns.NsHandle
	handle    *netlink.Handle
	providers [2]*provider
}

// provider is one Internet; seen counts what arrived there, by what and whence.
type provider struct {
	ns   netns.NsHandle
	home netns.NsHandle

	mu   sync.Mutex
	seen map[string]int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	w := &world{home: must(netns.Get())(t), handle: must(netlink.NewHandle())(t)}
	t.Cleanup(func() { w.handle.Close(); w.home.Close() })
	up(t, w.handle, "lo")
	for i := range w.providers {
		p := &provider{ns: must(netns.New())(t), home: w.home, seen: map[string]int{}}
		check(t, netns.Set(w.home))
		t.Cleanup(func() { p.ns.Close() })
		w.providers[i] = p
		attrs := netlink.NewLinkAttrs()
		attrs.Name = device[i]
		check(t, w.handle.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "wan", PeerNamespace: netlink.NsFd(int(p.ns))}))
		far := must(netlink.NewHandleAt(p.ns))(t)
		t.Cleanup(far.Close)
		p.in(t, func() {
			sysctl(t, "net/ipv4/ip_forward", "1")
			sysctl(t, "net/ipv6/conf/all/forwarding", "1")
			// Else the third unreachable host within a second is silent.
			sysctl(t, "net/ipv4/icmp_ratelimit", "0")
			sysctl(t, "net/ipv6/icmp/ratelimit", "0")
		})
		up(t, far, "lo")
		up(t, far, "wan")
		address(t, far, "wan", far4[i], far6[i])
		address(t, far, "lo", targets...)
		for _, dst := range silent {
			check(t, far.RouteAdd(&netlink.Route{Dst: ipnet(dst), Type: unix.RTN_BLACKHOLE}))
		}
		for _, dst := range refused {
			check(t, far.RouteAdd(&netlink.Route{Dst: ipnet(dst), Type: unix.RTN_UNREACHABLE}))
		}
		p.serve(t)
	}
	for _, dev := range []string{"all", "default", device[0], device[1]} {
		sysctl(t, "net/ipv4/conf/"+dev+"/rp_filter", "0")
	}
	for i, dev := range device {
		up(t, w.handle, dev)
		address(t, w.handle, dev, home4[i], home6[i])
	}
	for i := range device {
		w.route(t, i, tableBase+i)
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			dst := must(netlink.ParseIPNet(map[int]string{unix.AF_INET: "0.0.0.0/0", unix.AF_INET6: "::/0"}[family]))(t)
			check(t, w.handle.RouteAdd(&netlink.Route{Dst: dst, Table: tableBase + i, Type: unix.RTN_UNREACHABLE, Priority: 1 << 30}))
			rule, mask := netlink.NewRule(), uint32(markMask)
			rule.Family, rule.Priority, rule.Table, rule.Mark, rule.Mask = family, 10010+i, tableBase+i, mark(i), &mask
			check(t, w.handle.RuleAdd(rule))
		}
	}
	w.route(t, 0, unix.RT_TABLE_MAIN)
	return w
}

// defaults returns the default routes through provider i in a table.
func (w *world) defaults(t *testing.T, i, table int) []*netlink.Route {
	link := must(w.handle.LinkByName(device[i]))(t)
	var routes []*netlink.Route
	for _, far := range []netip.Prefix{far4[i], far6[i]} {
		any := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if far.Addr().Is6() {
			any = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		routes = append(routes, &netlink.Route{Dst: ipnet(any), Gw: far.Addr().AsSlice(), LinkIndex: link.Attrs().Index, Table: table, Priority: 100})
	}
	return routes
}

func (w *world) route(t *testing.T, i, table int) {
	t.Helper()
	for _, r := range w.defaults(t, i, table) {
		check(t, w.handle.RouteAdd(r))
	}
}

func (w *world) unroute(t *testing.T, i, table int) {
	t.Helper()
	for _, r := range w.defaults(t, i, table) {
		check(t, w.handle.RouteDel(r))
	}
}

// foreign runs f while a rule of somebody else, before all of ours, sends everything to table main.
func (w *world) foreign(t *testing.T, f func()) {
	t.Helper()
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rule := netlink.NewRule()
		rule.Family, rule.Priority, rule.Table = family, 100, unix.RT_TABLE_MAIN
		check(t, w.handle.RuleAdd(rule))
		defer func() { check(t, w.handle.RuleDel(rule)) }()
	}
	f()
}

// in runs f on a thread inside the provider.
func (p *provider) in(t *testing.T, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	check(t, netns.Set(p.ns))
	defer func() { check(t, netns.Set(p.home)) }()
	f()
}

func (p *provider) count(what string, from net.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen[what+" from "+netip.MustParseAddrPort(from.String()).Addr().String()]++
}

// take returns what has been seen since the last call, and the echo requests.
func (p *provider) take(t *testing.T) map[string]int {
	t.Helper()
	p.in(t, func() {
		for _, file := range []string{"snmp", "snmp6"} {
			n := echoes(t, file)
			p.mu.Lock()
			if d := n - p.seen[file]; d > 0 {
				p.seen["echo"] += d
			}
			p.mu.Unlock()
		}
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := p.seen
	p.seen = map[string]int{"snmp": seen["snmp"], "snmp6": seen["snmp6"]}
	if n := seen["echo"]; n > 0 {
		// The counters only grow: remember what has been told.
		p.in(t, func() {
			p.seen["snmp"], p.seen["snmp6"] = echoes(t, "snmp"), echoes(t, "snmp6")
		})
	}
	delete(seen, "snmp")
	delete(seen, "snmp6")
	return seen
}

// echoes reads how many echo requests the thread's namespace has received.
func echoes(t *testing.T, file string) int {
	t.Helper()
	text := string(must(os.ReadFile("/proc/thread-self/net/" + file))(t))
	n := 0
	if file == "snmp6" {
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "Icmp6InEchos ") {
				fmt.Sscan(strings.TrimPrefix(line, "Icmp6InEchos "), &n)
			}
		}
		return n
	}
	var names []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Icmp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, name := range names {
			if name == "InEchos" {
				fmt.Sscan(fields[i], &n)
			}
		}
	}
	return n
}

// serve answers TCP, HTTP, HTTPS and DNS at both targets.
func (p *provider) serve(t *testing.T) {
	t.Helper()
	for _, target := range targets {
		at := func(port uint16) string { return netip.AddrPortFrom(target.Addr(), port).String() }
		var plain, secure, raw net.Listener
		var udp net.PacketConn
		p.in(t, func() {
			var lc net.ListenConfig
			ctx := context.Background()
			plain = must(lc.Listen(ctx, "tcp", at(80)))(t)
			secure = must(lc.Listen(ctx, "tcp", at(443)))(t)
			raw = must(lc.Listen(ctx, "tcp", at(7)))(t)
			udp = must(lc.ListenPacket(ctx, "udp", at(53)))(t)
		})
		p.web(t, "http", plain, (*httptest.Server).Start)
		p.web(t, "https", secure, (*httptest.Server).StartTLS)
		var done sync.WaitGroup
		done.Go(func() {
			for {
				c, err := raw.Accept()
				if err != nil {
					return
				}
				p.count("tcp", c.RemoteAddr())
				c.Close()
			}
		})
		done.Go(func() { p.resolve(udp) })
		t.Cleanup(func() { raw.Close(); udp.Close(); done.Wait() })
	}
}

func (p *provider) web(t *testing.T, what string, l net.Listener, start func(*httptest.Server)) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		from := must(netip.ParseAddrPort(r.RemoteAddr))(t)
		p.count(what, net.TCPAddrFromAddrPort(from))
		switch r.URL.Path {
		case "/generate_204":
			rw.WriteHeader(http.StatusNoContent)
		case "/redirect":
			http.Redirect(rw, r, "/error", http.StatusFound)
		case "/early":
			rw.WriteHeader(http.StatusEarlyHints)
			rw.WriteHeader(http.StatusOK)
		case "/error":
			rw.WriteHeader(http.StatusServiceUnavailable)
		case "/endless":
			rw.WriteHeader(http.StatusOK)
			for r.Context().Err() == nil {
				if _, err := rw.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		case "/hang":
			<-r.Context().Done()
		default: // also /portal/generate_204
			rw.WriteHeader(http.StatusOK)
		}
	}))
	server.Listener.Close()
	server.Listener = l
	server.Config.ErrorLog = nil
	start(server)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
}

func (p *provider) resolve(udp net.PacketConn) {
	buffer := make([]byte, 512)
	for {
		n, from, err := udp.ReadFrom(buffer)
		if err != nil {
			return
		}
		var query dns.Msg
		if query.Unpack(buffer[:n]) != nil {
			continue
		}
		p.count("dns", from)
		answer := new(dns.Msg).SetReply(&query)
		send := func(m *dns.Msg) {
			if packet, err := m.Pack(); err == nil {
				_, _ = udp.WriteTo(packet, from)
			}
		}
		switch query.Question[0].Name {
		case "none.example.":
			answer.Rcode = dns.RcodeNameError
		case "failing.example.":
			answer.Rcode = dns.RcodeServerFailure
		case "invented.example.":
			rr, err := dns.NewRR("invented.example. 60 IN A 192.0.2.66")
			if err == nil {
				answer.Answer = append(answer.Answer, rr)
			}
		case "refused.example.":
			answer.Rcode, answer.Question = dns.RcodeRefused, nil
		case "forged.example.": // only forged answers
			answer.Id++
		case "late.example.": // forged ones before the right one
			_, _ = udp.WriteTo([]byte("not a message"), from)
			forged := answer.Copy()
			forged.Id++
			forged.Rcode = dns.RcodeServerFailure
			send(forged)
			other := answer.Copy()
			other.Question[0].Name = "other.example."
			other.Rcode = dns.RcodeServerFailure
			send(other)
		}
		send(answer)
	}
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		check(t, err)
		return v
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ipnet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func up(t *testing.T, h *netlink.Handle, name string) {
	t.Helper()
	check(t, h.LinkSetUp(must(h.LinkByName(name))(t)))
}

func address(t *testing.T, h *netlink.Handle, name string, addrs ...netip.Prefix) {
	t.Helper()
	link := must(h.LinkByName(name))(t)
	for _, a := range addrs {
		addr := &netlink.Addr{IPNet: ipnet(a)}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD // usable at once
		}
		check(t, h.AddrAdd(link, addr))
	}
}

func sysctl(t *testing.T, name, value string) {
	t.Helper()
	check(t, os.WriteFile("/proc/sys/"+name, []byte(value), 0))
}
