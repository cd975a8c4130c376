package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/miekg/dns"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// translated is a line without IPv4, whose provider has a NAT64, before one with both families.
const translated = `
[[uplink]]
name = "lte"
device = "wan2"
  [uplink.ipv4]
  method = "clat"
  [uplink.ipv6]
  masquerade = true
  [uplink.dns]
  servers = ["2001:db8:b::1"]
` + targets + `
[[uplink]]
name = "fiber"
device = "wan1"
tier = 2
  [uplink.ipv6]
  masquerade = true
` + targets

var nat64Prefix = netip.MustParsePrefix("2001:db8:64::/96")

// dns64 answers with what a NAT64 of its prefix makes of IPv4 addresses; zero: there is none.
type dns64 netip.Prefix

func (s dns64) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	prefix := netip.Prefix(s)
	m := new(dns.Msg).SetReply(q)
	header := dns.RR_Header{Name: q.Question[0].Name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET, Ttl: 1}
	wellKnown := [4]byte{192, 0, 0, 170}
	switch {
	case !strings.EqualFold(header.Name, "ipv4only.arpa."):
		m.Rcode = dns.RcodeNameError
	case header.Rrtype == dns.TypeA:
		m.Answer = append(m.Answer, &dns.A{Hdr: header, A: wellKnown[:]})
	case header.Rrtype == dns.TypeAAAA && prefix.IsValid():
		b := prefix.Addr().As16()
		copy(b[12:], wellKnown[:])
		m.Answer = append(m.Answer, &dns.AAAA{Hdr: header, AAAA: net.IP(b[:])})
	}
	_ = w.WriteMsg(m)
}

// withoutIPv4 takes IPv4 from the line of lte, and gives its provider a NAT64.
func (r *router) withoutIPv4() {
	r.Helper()
	r.sh("router", "ip -4 address flush dev wan2")
	r.sh("isp2", "ip -4 address flush dev cust2")
	dir := r.scratch("nat64-")
	r.write(filepath.Join(dir, "conf"), fmt.Sprintf("tun-device nat64\nipv4-addr 198.51.100.225\nprefix %v\ndynamic-pool 198.51.100.224/27\ndata-dir %s\n", nat64Prefix, dir))
	r.background("isp2", "tayga", "--nodetach", "--config", filepath.Join(dir, "conf"))
	r.await("the NAT64", func() error {
		_, err := r.Host("isp2").Run("ip", "link", "set", "nat64", "up")
		return err
	})
	r.sh("isp2", fmt.Sprintf("ip route add %v dev nat64; ip route add 198.51.100.224/27 dev nat64; nft 'table ip nat64 { chain post { type nat hook postrouting priority 100; oifname up0 masquerade; }; }'", nat64Prefix))
}

// nameNAT64 has the DNS server of lte's provider tell the prefix.
func (r *router) nameNAT64(prefix netip.Prefix) {
	r.Helper()
	s := dns64(prefix)
	conn, err := r.Host("isp2").ListenPacket("udp", "[2001:db8:b::1]:53")
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
}

// announceNAT64 has lte's router say once for how long the prefix of the NAT64 holds.
func (r *router) announceNAT64(lifetime time.Duration) {
	r.Helper()
	err := r.Host("isp2").Do(func() error {
		ifi, err := net.InterfaceByName("cust2")
		if err != nil {
			return err
		}
		conn, _, err := ndp.Listen(ifi, ndp.LinkLocal)
		if err != nil {
			return err
		}
		defer conn.Close()
		ra := &ndp.RouterAdvertisement{RouterLifetime: 30 * time.Minute, Options: []ndp.Option{&ndp.PREF64{Lifetime: lifetime, Prefix: nat64Prefix}}}
		return conn.WriteTo(ra, nil, netip.MustParseAddr("ff02::1"))
	})
	if err != nil {
		r.Fatal(err)
	}
}

// translatedBy is the uplink that a flow has taken; the NAT64 has an address of its provider.
func (r *router) translatedBy(f lab.Flow) string {
	if f.Source.Addr() == netip.MustParseAddr("203.0.113.65") {
		return "lte"
	}
	return r.UplinkOf(f.Source.Addr())
}

func (r *router) awaitTranslated(p *lab.FlowProbe, name string) {
	r.Helper()
	since := time.Now()
	r.await("new flows by "+name, func() error {
		f, ok := p.Last(since)
		if !ok || r.translatedBy(f) != name {
			return fmt.Errorf("the last is %+v", f)
		}
		return nil
	})
}

// translators lists the processes that translate for the router.
func (r *router) translators() (pids []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if line, _ := os.ReadFile(filepath.Join(dir, "cmdline")); strings.Contains(string(line), filepath.Join(r.dir, "state")) && strings.HasPrefix(string(line), "/usr/sbin/tayga") {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			pids = append(pids, pid)
		}
	}
	return pids
}

// translating is a world in which lte has IPv6 alone, its daemon, and flows from the LAN.
func translating(t *testing.T, prefix netip.Prefix) (*router, *lab.FlowProbe) {
	t.Helper()
	r := newRouter(t, lab.Options{}, translated)
	r.withoutIPv4()
	r.nameNAT64(prefix)
	t.Cleanup(func() { // a daemon that is killed leaves them
		r.kill()
		for _, pid := range r.translators() {
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill()
			}
		}
	})
	r.start()
	r.awaitState("fiber", uplink.Up)
	flow := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort(other4)}
	r.probe(flow)
	if prefix.IsValid() {
		r.awaitState("lte", uplink.Up)
		r.awaitTranslated(flow, "lte")
	}
	return r, flow
}

// pure says that no provider has got what it must not get, and lte's no IPv4 at all.
func (r *router) pure() {
	r.Helper()
	if n := r.foreign(); n != 0 {
		r.Errorf("%d packets with a foreign source: %s", n, r.foreignSources())
	}
	if c, err := r.Counters("lte"); err != nil || c.PassedV4 != 0 {
		r.Errorf("by lte came %d IPv4 packets, %v", c.PassedV4, err)
	}
}

func TestIPv4GoesByALineThatHasIPv6Alone(t *testing.T) {
	t.Parallel()
	r, flow := translating(t, nat64Prefix)
	if err := r.ask("lan", service{"TCP", "tcp", lab.EchoPort}, netip.MustParseAddr(lab.Echo4), patience); err != nil {
		t.Error(err)
	}
	// An IPv4 header is 20 bytes shorter. Fragments of UDP are translated, those of ICMP are not (RFC 7915 section 1.2).
	for _, size := range []int{1400, 4000} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		conn, err := r.Host("lan").Dial(ctx, "udp", "", other4)
		if err == nil {
			_, err = lab.AskUDP(ctx, conn, make([]byte, size))
			_ = conn.Close()
		}
		if cancel(); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if out, err := r.Host("lan").Run("ping", "-c", "1", "-W", "5", "-M", "do", "-s", "1453", lab.Echo4); err == nil || !strings.Contains(err.Error(), "mtu = 1480") {
		t.Errorf("what does not fit: %s, %v", out, err)
	}
	u, err := r.uplinkStatus("lte")
	if err != nil || len(u.IPv4.Addresses) != 1 || u.IPv4.Addresses[0] != netip.MustParsePrefix("192.0.0.1/32") || u.IPv4.Share != 1 {
		t.Errorf("the status has %+v, %v", u.IPv4, err)
	}
	if out := r.command("explain", "-c", r.config, "--from", lab.LANHost4, "--iif", "lan0", "--to", lab.Echo4); !strings.Contains(out, "lte (clat-lte)") {
		t.Errorf("explain says\n%s", out)
	}
	if out := r.command("plan", "-c", r.config); !strings.Contains(out, "nothing") {
		t.Errorf("plan says\n%s", out)
	}

	// A daemon that is killed leaves the translator, and the next one takes it over.
	before := r.translators()
	killed := time.Now()
	r.kill()
	r.start()
	r.awaitState("lte", uplink.Up)
	r.awaitTranslated(flow, "lte")
	if after := r.translators(); len(before) != 1 || !slices.Equal(before, after) {
		t.Errorf("the translators are %v, and were %v", after, before)
	}
	earlier := make(map[netip.AddrPort]bool) // a port that comes up again is one connection to the kernel, and stays where it was
	for _, f := range flow.Flows() {
		if f.Start.Before(killed) {
			earlier[f.Source] = true
		} else if f.Err != nil || r.translatedBy(f) != "lte" && !earlier[f.Source] {
			t.Errorf("while the daemon was away: %+v", f)
		}
	}

	// While others take our tables away nothing is masqueraded, and what is translated then goes nowhere.
	for range 5 {
		r.sh("router", "nft flush ruleset")
		r.await("the table", func() error { _, err := r.Host("router").Run("nft", "list", "table", "inet", "uplinkd"); return err })
	}
	r.awaitTranslated(flow, "lte")
	r.pure()

	// Nothing goes on by the line when another policy forbids it.
	r.configure(translated + "[[policy]]\nname = \"closed\"\nprotocol = \"tcp\"\nuplinks = [\"fiber\"]\nfallback = \"unreachable\"\n")
	r.command("reload", "--socket", filepath.Join(r.dir, "s"))
	r.sh("isp1", "ip link set cust1 down")
	r.awaitState("fiber", uplink.Down)
	if err := r.ask("lan", service{"TCP", "tcp", lab.EchoPort}, netip.MustParseAddr(lab.Echo4), time.Second); err == nil {
		t.Error("a kill switch for TCP let TCP pass")
	}
	r.awaitTranslated(flow, "lte")
	r.stop()
	if after := r.translators(); len(after) != 0 {
		t.Errorf("the translators %v outlive a daemon that was stopped", after)
	}
	r.pure()

	// One that a killed daemon has left goes with the rest.
	r.start()
	r.await("a translator", func() error {
		if len(r.translators()) == 0 {
			return errors.New("there is none")
		}
		return nil
	})
	r.kill()
	r.command("clean", "-c", r.config)
	if after := r.translators(); len(after) != 0 {
		t.Errorf("clean leaves the translators %v", after)
	}
}

// A mobile line has a /64 and nothing else, which goes to a LAN.
func TestAMobileLineWithoutIPv4SharesItsNetwork(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, strings.Replace(strings.Replace(sharing, "tier = 2\n", "tier = 1\n  [uplink.ipv4]\n  method = \"clat\"\n  nat64_prefix = \""+nat64Prefix.String()+"\"\n", 1),
		"device = \"wan1\"\n", "device = \"wan1\"\ntier = 2\n", 1))
	r.listen()
	r.withoutIPv4()
	r.mobile("2001:db8:b::/64")
	r.Cleanup(r.stop)
	r.start()
	r.awaitState("lte", uplink.Up)
	flow := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort(other4)}
	r.probe(flow)
	r.awaitTranslated(flow, "lte")
	r.awaitHost(netip.MustParsePrefix("2001:db8:b::/64"))
	r.pure()
}

func TestATranslatorThatIsKilledIsStartedAgain(t *testing.T) {
	t.Parallel()
	r, flow := translating(t, nat64Prefix)
	killed := r.translators()
	if len(killed) != 1 {
		t.Fatalf("the translators are %v", killed)
	}
	p, err := os.FindProcess(killed[0])
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		t.Fatal(err)
	}
	r.awaitTranslated(flow, "fiber")
	r.await("another translator", func() error {
		if now := r.translators(); len(now) != 1 || now[0] == killed[0] {
			return fmt.Errorf("there are %v", now)
		}
		return nil
	})
	r.await("answers by it", func() error {
		if u, err := r.uplinkStatus("lte"); err != nil || u.IPv4.State != uplink.Recovering {
			return fmt.Errorf("it is %s, %w", u.IPv4.State, err)
		}
		return nil
	})
	if !slices.ContainsFunc(r.decisions(), func(e status.Event) bool { return e.Kind == status.EventRepair && e.Uplink == "lte" }) {
		t.Error("nobody is told")
	}
	r.pure()
}

func TestATranslatedLineFailsOver(t *testing.T) {
	t.Parallel()
	r, flow := translating(t, nat64Prefix)
	if err := r.Break(lab.Blackhole, "lte"); err != nil {
		t.Fatal(err)
	}
	r.awaitTranslated(flow, "fiber")
	r.awaitState("lte", uplink.Down)
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	r.awaitState("lte", uplink.Up)
	r.awaitTranslated(flow, "lte")
	if err := r.Break(lab.Carrier, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitState("fiber", uplink.Down)
	r.awaitTranslated(flow, "lte")
	r.pure()
}

func TestTheNAT64OfALineComesAndGoes(t *testing.T) {
	t.Parallel()
	r, flow := translating(t, netip.Prefix{})
	lacking := func() {
		t.Helper()
		r.await("lte to be down", func() error {
			u, err := r.uplinkStatus("lte")
			if err != nil || u.IPv4.State != uplink.Down || u.IPv4.Code != uplink.CodeNoPrefix || !strings.Contains(u.IPv4.Reason, "RFC 8781") {
				return fmt.Errorf("it is %s (%s, %s), %w", u.IPv4.State, u.IPv4.Code, u.IPv4.Reason, err)
			}
			return nil
		})
		r.awaitTranslated(flow, "fiber")
	}
	lacking()
	r.announceNAT64(10 * time.Minute)
	r.awaitState("lte", uplink.Up)
	r.awaitTranslated(flow, "lte")
	r.announceNAT64(0)
	lacking()
	r.await("no translator", func() error {
		if now := r.translators(); len(now) != 0 {
			return fmt.Errorf("there are %v", now)
		}
		return nil
	})
	r.pure()
}
