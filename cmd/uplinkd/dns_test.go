package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/mdlayher/ndp"
	"github.com/miekg/dns"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// nameServer is the DNS server of a provider. It answers its own customers with an address of its own, and nobody else.
type nameServer struct {
	addr, says netip.Addr
	customers  []netip.Prefix

	mu      sync.Mutex
	silent  bool
	lies    bool
	foreign []string // who has asked that is no customer
	asked   int      // queries for names of tests
}

// newNameServer puts a server into the network of an uplink's provider, at addr.
func newNameServer(r *router, name, addr, says string) *nameServer {
	r.Helper()
	u := r.Uplink(name)
	s := &nameServer{addr: netip.MustParseAddr(addr), says: netip.MustParseAddr(says), customers: []netip.Prefix{u.Address4.Masked(), u.Address6.Masked()}}
	if !s.addr.IsLinkLocalUnicast() && s.addr != u.Gateway4 { // the provider has these
		r.sh(u.ISP, fmt.Sprintf("ip link set lo up; ip address replace %s/%d dev lo", addr, s.addr.BitLen()))
	}
	conn, err := r.Host(u.ISP).ListenPacket("udp", netip.AddrPortFrom(s.addr, 53).String())
	if err != nil {
		r.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: s}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ActivateAndServe()
	}()
	r.Cleanup(func() { _ = server.Shutdown(); _ = conn.Close(); <-done })
	return s
}

// serves makes customers of more networks.
func (s *nameServer) serves(networks ...netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.customers = append(s.customers, networks...)
}

func (s *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := w.RemoteAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	customer := false
	for _, c := range s.customers {
		customer = customer || c.Contains(from)
	}
	if !customer {
		s.foreign = append(s.foreign, from.String())
		return
	}
	name := q.Question[0].Name
	if strings.HasSuffix(name, ".test.") {
		s.asked++
	}
	if s.silent {
		return
	}
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	switch header := (dns.RR_Header{Name: name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET}); {
	case strings.HasSuffix(name, ".invalid.") && !s.lies:
		m.Rcode = dns.RcodeNameError
	case q.Question[0].Qtype == dns.TypeA:
		m.Answer = append(m.Answer, &dns.A{Hdr: header, A: s.says.AsSlice()})
	case q.Question[0].Qtype == dns.TypeAAAA && s.lies:
		m.Answer = append(m.Answer, &dns.AAAA{Hdr: header, AAAA: net.ParseIP("2001:db8::66")})
	}
	_ = w.WriteMsg(m) // whoever asked asks again
}

func (s *nameServer) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// ask asks a server for a new name, from a host, and returns the address.
func (r *router) askName(host string, server netip.AddrPort, timeout time.Duration) (answer netip.Addr, err error) {
	err = r.Host(host).Do(func() error {
		conn, err := net.DialTimeout("udp", server.String(), timeout)
		if err != nil {
			return err
		}
		defer conn.Close()
		client := dns.Client{Timeout: timeout}
		q := new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.test.", time.Now().UnixNano()), dns.TypeA)
		m, _, err := client.ExchangeWithConn(q, &dns.Conn{Conn: conn})
		if err != nil {
			return err
		}
		for _, rr := range m.Answer {
			if a, ok := rr.(*dns.A); ok {
				answer, _ = netip.AddrFromSlice(a.A.To4())
				return nil
			}
		}
		return errors.New(dns.RcodeToString[m.Rcode] + " without an address")
	})
	return answer, err
}

// nameservers reads a resolv.conf.
func nameservers(path string) (list []string) {
	content, _ := os.ReadFile(path)
	for line := range strings.Lines(string(content)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "nameserver" {
			list = append(list, words[1])
		}
	}
	return list
}

// awaitNameservers waits until a resolv.conf names these.
func (r *router) awaitNameservers(path string, want ...string) {
	r.Helper()
	r.await(fmt.Sprintf("%s to name %q", path, want), func() error {
		if got := nameservers(path); strings.Join(got, " ") != strings.Join(want, " ") {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
}

// resolver is what /api/v1/status tells of a server.
func (r *router) resolver(addr string) (status.Resolver, error) {
	for _, s := range r.status().DNS.Resolvers {
		if s.Address == addr {
			return s, nil
		}
	}
	return status.Resolver{}, errors.New("it is not there")
}

// dnsWorld is two providers whose servers answer their own customers alone; fiber's is learned by DHCP, that of LTE is configured.
func dnsWorld(t *testing.T, dnsKeys string) (r *router, fiber, lte *nameServer, p *provider) {
	t.Helper()
	r = newRouter(t, lab.Options{}, "")
	r.configure(fmt.Sprintf("[dns]\n%s\n", strings.ReplaceAll(dnsKeys, "DIR", r.dir)) + ipv4Only("  [uplink.ipv4]\n  method = \"dhcp\"\n", 2) +
		"  [uplink.dns]\n  servers = [\"10.53.2.1\"]\n")
	r.sh("router", "ip address flush dev wan1 scope global")
	p = newProvider(r, "fiber")
	p.set(func() {
		p.mute = true
		p.lease = func(answer *dhcpv4.DHCPv4) {
			answer.UpdateOption(dhcpv4.OptIPAddressLeaseTime(time.Hour)) // it shall outlast the test
			answer.UpdateOption(dhcpv4.OptDNS(net.IPv4(10, 53, 1, 1), net.IPv4(127, 0, 0, 1)))
		}
	})
	return r, newNameServer(r, "fiber", "10.53.1.1", "192.0.2.11"), newNameServer(r, "lte", "10.53.2.1", "192.0.2.12"), p
}

// at counts what a provider gets for an address.
func (r *router) countAt(isp, addr string) func() string {
	r.Helper()
	r.sh(isp, fmt.Sprintf("nft 'table netdev dnscount { counter c { }; chain in { type filter hook ingress device cust%s priority -10; ip daddr %s counter name c; }; }'",
		strings.TrimPrefix(isp, "isp"), addr))
	return func() string {
		out := r.sh(isp, "nft list counter netdev dnscount c")
		_, out, _ = strings.Cut(out, "packets ")
		n, _, _ := strings.Cut(out, " ")
		return n
	}
}

func TestResolvConfFollowsAFailover(t *testing.T) {
	t.Parallel()
	r, fiber, lte, _ := dnsWorld(t, `resolv_conf = "DIR/etc/resolv.conf"`)
	path := filepath.Join(r.dir, "etc/resolv.conf")
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("before", path); err != nil {
		t.Fatal(err)
	}
	astray := r.countAt("isp2", "10.53.1.1")
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	r.awaitNameservers(path, "10.53.1.1", "10.53.2.1")
	r.awaitNoChange()
	if s := r.status(); r.hasProblem("unusable-resolver") != nil || len(s.Problems) != 1 {
		t.Errorf("problems: %+v", s.Problems)
	}
	// Each is reached by its own uplink, from the router and from the LAN, though fiber carries the default.
	for _, host := range []string{"router", "lan"} {
		for _, s := range []*nameServer{fiber, lte} {
			if got, err := r.askName(host, netip.AddrPortFrom(s.addr, 53), unhurried); err != nil || got != s.says {
				t.Errorf("%v from %s: %v, %v", s.addr, host, got, err)
			}
		}
	}
	if got := r.command("explain", "-c", r.config, "--to", "10.53.2.1"); !strings.Contains(got, "lte") {
		t.Errorf("explain:\n%s", got)
	}
	for _, break1 := range []string{lab.Gateway, lab.Carrier} {
		broken := time.Now()
		if err := r.Break(break1, "fiber"); err != nil {
			t.Fatal(err)
		}
		r.awaitNameservers(path, "10.53.2.1")
		t.Logf("%s: resolv.conf follows after %v", break1, time.Since(broken))
		if got, err := r.askName("router", netip.AddrPortFrom(lte.addr, 53), unhurried); err != nil || got != lte.says {
			t.Errorf("%s: %v, %v", break1, got, err)
		}
		_, _ = r.askName("router", netip.AddrPortFrom(fiber.addr, 53), 100*time.Millisecond)
		if err := r.Heal(); err != nil {
			t.Fatal(err)
		}
		r.awaitNameservers(path, "10.53.1.1", "10.53.2.1")
	}
	if n := astray(); n != "0" {
		t.Errorf("%s packets for fiber's server left by LTE", n)
	}
	if len(fiber.foreign)+len(lte.foreign) > 0 {
		t.Errorf("asked by others: %q, %q", fiber.foreign, lte.foreign)
	}
	r.kill()
	r.start() // what it wrote itself is not what there was before
	r.awaitNameservers(path, "10.53.1.1", "10.53.2.1")
	r.stop()
	if link, err := os.Readlink(path); err != nil || link != "before" {
		t.Errorf("after the end: %q, %v", link, err)
	}
}

// TestOneAddressOnTwoUplinksIsTwoServers has two sticks of a kind, whose servers have one address in one network.
func TestOneAddressOnTwoUplinksIsTwoServers(t *testing.T) {
	t.Parallel()
	const both = "198.51.100.1"
	r := newRouter(t, lab.Options{Twins: true}, "")
	named := "  [uplink.dns]\n  servers = [\"" + both + "\"]\n"
	r.configure(fmt.Sprintf("[dns]\nresolv_conf = %q\ndnsmasq = %q\n", r.dir+"/resolv.conf", r.dir+"/dnsmasq") +
		strings.Replace(ipv4Only("", 2), "[[uplink]]\nname = \"lte\"", named+"[[uplink]]\nname = \"lte\"", 1) + named)
	fiber, lte := newNameServer(r, "fiber", both, "192.0.2.11"), newNameServer(r, "lte", both, "192.0.2.12")
	r.start()
	r.startDnsmasq()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	states := func(want string) {
		t.Helper()
		r.await("the servers to be "+want, func() error {
			var got []string
			for _, s := range r.status().DNS.Resolvers {
				got = append(got, s.Uplink+" "+s.State)
			}
			if strings.Join(got, ", ") != want {
				return fmt.Errorf("%q", got)
			}
			return nil
		})
	}
	states("fiber ok, lte ok")
	r.awaitNameservers(r.dir+"/resolv.conf", both)
	if got, err := os.ReadFile(r.dir + "/dnsmasq/servers"); err != nil || !strings.Contains(string(got), "server="+both+"@wan1\nserver="+both+"@wan2\n") {
		t.Errorf("%s, %v", got, err)
	}
	fiber.set(func() { fiber.silent = true }) // each is asked by its own uplink
	states("fiber silent, lte ok")
	r.ofLAN().awaitName(lte) // dnsmasq is bound to LTE
	fiber.set(func() { fiber.silent = false })
	states("fiber ok, lte ok")
	if got, err := r.askName("router", netip.MustParseAddrPort(both+":53"), unhurried); err != nil || got != fiber.says {
		t.Errorf("by the rule: %v, %v", got, err)
	}
	if err := r.Break(lab.Gateway, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitState("fiber", uplink.Down)
	for _, host := range []string{"router", "lan"} { // main's connected route would lead to the dead one
		(&resolverUnderTest{r, host, netip.MustParseAddrPort(both + ":53")}).awaitName(lte)
	}
	r.awaitNoChange()
}

// TestServersAreLearnedFromRoutersAndByDHCPv6 has a provider that names servers in every way, some of which nobody can ask.
func TestServersAreLearnedFromRoutersAndByDHCPv6(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, "")
	path := filepath.Join(r.dir, "resolv.conf")
	r.configure(fmt.Sprintf("[dns]\nresolv_conf = %q\n", path) + `
[[uplink]]
name = "fiber"
device = "wan1"
  [uplink.ipv4]
  method = "off"
  [uplink.ipv6]
  method = "ra"
  delegation = true
` + targets + `
[[uplink]]
name = "lte"
device = "wan2"
tier = 2
` + families + "  [uplink.dns]\n  servers = []\n")
	r.sh("router", "ip address flush dev wan1 scope global")
	p := newProvider(r, "fiber")
	p.set(func() {
		p.announce = func(ra *ndp.RouterAdvertisement) {
			ra.Options = append(ra.Options, &ndp.RecursiveDNSServer{Lifetime: time.Hour, Servers: addrsOf("2001:db8:53::53", "fe80::1", lab.LANHost6)})
		}
		p.delegate = func(m *dhcpv6.Message, _ *dhcpv6.OptIAPD) {
			m.AddOption(dhcpv6.OptDNS(net.ParseIP("2001:db8:53::54"), net.ParseIP("ff02::1"), net.ParseIP("2001:db8:53::53")))
		}
	})
	router := newNameServer(r, "fiber", "2001:db8:53::53", "192.0.2.11")
	link := newNameServer(r, "fiber", "fe80::1%cust1", "192.0.2.11")
	server := newNameServer(r, "fiber", "2001:db8:53::54", "192.0.2.11")
	for _, s := range []*nameServer{router, server} { // the router forms an address of its own
		s.serves(r.Uplink("fiber").Address6.Masked())
	}
	link.serves(netip.MustParsePrefix("fe80::/10"), r.Uplink("fiber").Address6.Masked())
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitNameservers(path, "2001:db8:53::53", "fe80::1%wan1", "2001:db8:53::54")
	r.await("all of them to be asked", func() error {
		var got []string
		for _, s := range r.status().DNS.Resolvers {
			got = append(got, s.Address+" "+s.Source+" "+s.State)
		}
		if strings.Join(got, ", ") != "2001:db8:53::53 router ok, fe80::1%wan1 router ok, 2001:db8:53::54 dhcpv6 ok" {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
	if err := r.hasProblem("unusable-resolver"); err != nil { // the LAN host
		t.Error(err)
	}
	for _, s := range []*nameServer{router, server} {
		if got, err := r.askName("router", netip.AddrPortFrom(s.addr, 53), unhurried); err != nil || got != s.says {
			t.Errorf("%v: %v, %v", s.addr, got, err)
		}
	}
	p.set(func() { // taken back (RFC 8106 section 5.1)
		p.announce = func(ra *ndp.RouterAdvertisement) {
			ra.Options = append(ra.Options, &ndp.RecursiveDNSServer{Lifetime: 0, Servers: addrsOf("2001:db8:53::53", "fe80::1", lab.LANHost6)})
		}
	})
	r.awaitNameservers(path, "2001:db8:53::54", "2001:db8:53::53") // as DHCPv6 has it
}

func addrsOf(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// startDnsmasq starts dnsmasq as the resolver of the LAN, as a distribution does: it gives up root.
func (r *router) startDnsmasq() (stop func()) {
	r.Helper()
	if err := os.Chmod(r.dir, 0o755); err != nil {
		r.Fatal(err)
	}
	conf := filepath.Join(r.dir, "dnsmasq.conf")
	text := fmt.Sprintf("no-resolv\nno-hosts\nservers-file=%s/dnsmasq/servers\nlisten-address=%s\nbind-interfaces\ncache-size=0\npid-file=\nuser=nobody\ngroup=nogroup\nlog-facility=-\n",
		r.dir, lab.LANRouter4)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		r.Fatal(err)
	}
	_, _, stop = r.background("router", "dnsmasq", "-k", "-C", conf)
	return stop
}

// resolverUnderTest is where names are asked for, and from where.
type resolverUnderTest struct {
	*router
	host string
	at   netip.AddrPort
}

// ofLAN is the router's resolver as hosts of the LAN see it.
func (r *router) ofLAN() *resolverUnderTest {
	return &resolverUnderTest{r, "lan", netip.MustParseAddrPort(lab.LANRouter4 + ":53")}
}

// awaitName waits until a new name is resolved by a provider's server, and returns how long that took.
func (r *resolverUnderTest) awaitName(s *nameServer) time.Duration {
	r.Helper()
	began := time.Now()
	r.await(fmt.Sprintf("names to be resolved by %v", s.addr), func() error {
		got, err := r.askName(r.host, r.at, time.Second)
		if err == nil && got != s.says {
			err = fmt.Errorf("%v answers", got)
		}
		return err
	})
	return time.Since(began).Round(time.Millisecond)
}

// followsFailovers checks a resolver through all that may happen: healthy, failing, back, with restarts of everybody.
func followsFailovers(t *testing.T, r *resolverUnderTest, fiber, lte *nameServer, restart func()) {
	t.Helper()
	astray1, astray2 := r.countAt("isp2", "10.53.1.1"), r.countAt("isp1", "10.53.2.1")
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	r.awaitName(fiber)
	r.await("the output to be told", func() error {
		if s := r.status().DNS; len(s.Outputs) != 1 || s.Outputs[0].Error != "" {
			return fmt.Errorf("%+v", s.Outputs)
		}
		return nil
	})
	for _, broken := range []string{lab.Gateway, lab.Carrier} {
		at := time.Now()
		if err := r.Break(broken, "fiber"); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: names after %v", broken, r.awaitName(lte))
		r.await("fiber's server to be left", func() error {
			if s, err := r.resolver("10.53.1.1"); err != nil || s.Used {
				return fmt.Errorf("%+v, %v", s, err)
			}
			return nil
		})
		r.await("the output to be told so", func() error { // before, a query may have been sent to the dead one, and its host asks again
			if o := r.status().DNS.Outputs[0]; o.Error != "" || !o.Told.After(at) {
				return fmt.Errorf("%+v", o)
			}
			return nil
		})
		r.awaitName(lte) // a resolver that has been told may serve a query before it looks
		fiber.set(func() { fiber.asked = 0 })
		for range 5 { // nobody waits for the dead one
			began := time.Now()
			if got, err := r.askName(r.host, r.at, unhurried); err != nil || got != lte.says {
				t.Errorf("%s: %v, %v", broken, got, err)
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("%s: an answer took %v", broken, took)
			}
		}
		restart()
		r.awaitName(lte)
		r.kill()
		r.start()
		r.awaitName(lte)
		if err := r.Heal(); err != nil {
			t.Fatal(err)
		}
		r.awaitState("fiber", uplink.Up)
		r.await("fiber's server to be asked again", func() error {
			_, _ = r.askName(r.host, r.at, time.Second)
			fiber.mu.Lock()
			defer fiber.mu.Unlock()
			if fiber.asked == 0 {
				return errors.New("not yet")
			}
			return nil
		})
	}
	for _, n := range []string{astray1(), astray2()} {
		if n != "0" {
			t.Errorf("%s packets for a server left by another uplink", n)
		}
	}
	if len(fiber.foreign)+len(lte.foreign) > 0 {
		t.Errorf("asked by others: %q, %q", fiber.foreign, lte.foreign)
	}
}

// passesOverBadServers has a server fall silent, and lie, while its uplink works.
func passesOverBadServers(t *testing.T, r *resolverUnderTest, fiber, lte *nameServer) {
	t.Helper()
	fiber.set(func() { fiber.silent = true })
	r.await("the silent server to be found", func() error { return r.hasProblem("resolver-silent") })
	r.awaitName(lte)
	fiber.set(func() { fiber.silent, fiber.lies = false, true })
	r.await("the lying server to be found", func() error { return r.hasProblem("resolver-lies") })
	r.awaitName(lte)
	fiber.set(func() { fiber.lies = false })
	r.await("the server to be well again", func() error {
		if s, err := r.resolver("10.53.1.1"); err != nil || s.State != "ok" || !s.Used {
			return fmt.Errorf("%+v, %v", s, err)
		}
		return nil
	})
}

func TestDnsmasqFollowsFailovers(t *testing.T) {
	t.Parallel()
	r, fiber, lte, _ := dnsWorld(t, `dnsmasq = "DIR/dnsmasq"`)
	r.launchConfined() // at first
	r.await("the daemon to converge", r.converged)
	r.awaitState("fiber", uplink.Up)
	r.await("a problem to say that nobody reads the file", func() error { return r.hasProblem("dns-output") })
	stop := r.startDnsmasq()
	followsFailovers(t, r.ofLAN(), fiber, lte, func() { stop(); stop = r.startDnsmasq() })
	passesOverBadServers(t, r.ofLAN(), fiber, lte)
}

// startUnbound starts unbound as the resolver of the LAN, and has unbound-control find it.
func (r *router) startUnbound() (stop func()) {
	r.Helper()
	conf := filepath.Join(r.dir, "unbound.conf")
	text := fmt.Sprintf(`server:
  interface: %[2]s
  access-control: 203.0.113.128/25 allow
  username: ""
  chroot: ""
  directory: %[1]q
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  num-threads: 1
  module-config: "iterator"
  do-not-query-localhost: no
  local-zone: "test." nodefault
remote-control:
  control-enable: yes
  control-interface: %[1]s/unbound.ctl
forward-zone:
  name: "."
  forward-addr: 192.0.2.99
`, r.dir, lab.LANRouter4)
	bin := filepath.Join(r.dir, "bin")
	script := fmt.Sprintf("#!/bin/sh\nexec /usr/sbin/unbound-control -c %s \"$@\"\n", conf)
	err := errors.Join(os.WriteFile(conf, []byte(text), 0o644), os.MkdirAll(bin, 0o755), os.WriteFile(filepath.Join(bin, "unbound-control"), []byte(script), 0o755))
	if err != nil {
		r.Fatal(err)
	}
	_, _, stop = r.background("router", "unbound", "-c", conf)
	return stop
}

func TestUnboundFollowsFailovers(t *testing.T) {
	t.Parallel()
	r, fiber, lte, _ := dnsWorld(t, `unbound = true`)
	r.env = []string{"PATH=" + filepath.Join(r.dir, "bin") + ":" + os.Getenv("PATH")}
	stop := r.startUnbound()
	r.start()
	followsFailovers(t, r.ofLAN(), fiber, lte, func() { stop(); stop = r.startUnbound() })
	r.stop()
	if out := r.sh("router", filepath.Join(r.dir, "bin", "unbound-control")+" list_forwards"); !strings.Contains(out, ". IN forward 192.0.2.99") {
		t.Errorf("after the end: %s", out)
	}
}

// startResolved starts systemd-resolved, and a bus for it and the daemon alone, in a namespace of mounts with a user for it.
func (r *router) startResolved() (stop func()) {
	r.Helper()
	const program = "/usr/local/lib/uplinkd-deps/systemd-resolved"
	if _, err := os.Stat(program); err != nil {
		r.Fatalf("make deps unpacks it: %v", err)
	}
	script := filepath.Join(r.dir, "resolved.sh")
	text := fmt.Sprintf(`#!/bin/sh -e
export %[3]s
cd %[1]s
(cat /etc/passwd; echo systemd-resolve:x:996:996::/:/usr/sbin/nologin) >passwd
(cat /etc/group; echo systemd-resolve:x:996:) >group
printf '[Resolve]\nDNS=\nFallbackDNS=\nDNSSEC=no\nLLMNR=no\nMulticastDNS=no\n' >resolved.conf
: >none.conf
mount --bind passwd /etc/passwd
mount --bind group /etc/group
mount --bind none.conf /etc/resolv.conf
mkdir -p /etc/systemd
[ -e /etc/systemd/resolved.conf ] || mount -t tmpfs tmpfs /etc/systemd
[ -e /etc/systemd/resolved.conf ] || : >/etc/systemd/resolved.conf
mount --bind resolved.conf /etc/systemd/resolved.conf
mkdir -p /run/systemd
mount -t tmpfs tmpfs /run/systemd
mkdir -p /run/systemd/resolve
chown 996:996 /run/systemd/resolve
exec %[2]s
`, r.dir, program, r.env[0])
	if err := errors.Join(os.Chmod(r.dir, 0o755), os.WriteFile(script, []byte(text), 0o755)); err != nil {
		r.Fatal(err)
	}
	_, _, stop = r.background("router", script)
	return stop
}

// startBus starts a bus at which everybody may do everything.
func (r *router) startBus() (address string) {
	r.Helper()
	address = "unix:path=" + filepath.Join(r.dir, "bus")
	conf := filepath.Join(r.dir, "bus.conf")
	allow := ""
	for _, what := range []string{`user="*"`, `own="*"`, `send_type="method_call"`, `send_type="signal"`, `send_requested_reply="true"`,
		`receive_type="method_call"`, `receive_type="signal"`, `receive_requested_reply="true"`} {
		allow += "<allow " + what + "/>"
	}
	text := `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>` + address + `</listen><auth>EXTERNAL</auth><policy context="default">` + allow + `</policy></busconfig>`
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		r.Fatal(err)
	}
	r.background("router", "dbus-daemon", "--config-file="+conf, "--nofork", "--nopidfile")
	r.await("the bus", func() error { return os.Chmod(filepath.Join(r.dir, "bus"), 0o666) })
	return address
}

// TestResolvedFollowsFailovers uses systemd-resolved itself, which listens to programs of this machine alone.
func TestResolvedFollowsFailovers(t *testing.T) {
	t.Parallel()
	r, fiber, lte, _ := dnsWorld(t, `resolved = true`)
	r.sh("router", "ip link set lo up")
	if err := os.Chmod(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.env = []string{"DBUS_SYSTEM_BUS_ADDRESS=" + r.startBus()}
	stop := r.startResolved()
	r.start()
	here := &resolverUnderTest{r, "router", netip.MustParseAddrPort("127.0.0.53:53")}
	followsFailovers(t, here, fiber, lte, func() { stop(); stop = r.startResolved() })
	// A spare may cost money: systemd-resolved asks all links that are for everything at once, so that one is not.
	if property := r.linkProperty("wan2", "DefaultRoute"); !strings.Contains(property, "boolean false") {
		t.Errorf("the spare's DefaultRoute: %s", property)
	}
	r.stop()
	for _, device := range []string{"wan1", "wan2"} {
		if got := r.linkProperty(device, "DNS"); strings.Contains(got, "int32") {
			t.Errorf("after the end %s has %s", device, got)
		}
	}
}

// linkProperty is what systemd-resolved has for a device.
func (r *router) linkProperty(device, property string) string {
	r.Helper()
	index := strings.TrimSpace(r.sh("router", "cat /sys/class/net/"+device+"/ifindex"))
	path := r.sh("router", r.env[0]+" dbus-send --system --print-reply=literal --dest=org.freedesktop.resolve1 /org/freedesktop/resolve1 org.freedesktop.resolve1.Manager.GetLink int32:"+index)
	return r.sh("router", fmt.Sprintf(r.env[0]+" dbus-send --system --print-reply --dest=org.freedesktop.resolve1 %s org.freedesktop.DBus.Properties.Get string:org.freedesktop.resolve1.Link string:%s",
		strings.TrimSpace(path), property))
}
