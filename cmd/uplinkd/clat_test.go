package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/uplinkd/uplinkd/internal/lab"
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

// dns64 answers with what a NAT64 makes of IPv4 addresses, as long as there is one.
type dns64 struct {
	*nameServer
	prefix netip.Prefix // guarded by its lock
}

func (s *dns64) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	s.mu.Lock()
	prefix := s.prefix
	s.mu.Unlock()
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
func (r *router) nameNAT64() *dns64 {
	r.Helper()
	s := &dns64{&nameServer{}, nat64Prefix}
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
	return s
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

func TestIPv4GoesByALineThatHasIPv6Alone(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, translated)
	r.withoutIPv4()
	r.nameNAT64()
	r.Cleanup(func() {
		r.kill()
		for _, pid := range r.translators() {
			p, _ := os.FindProcess(pid)
			_ = p.Kill()
		}
	})
	r.start()
	r.awaitState("lte", uplink.Up)
	p := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: netip.AddrPortFrom(netip.MustParseAddr(lab.Echo4), lab.EchoPort)}
	r.probe(p)
	r.awaitTranslated(p, "lte")
}
