package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// serveSlowly has a target answer names, later to the customers of some uplinks than to others.
func (r *router) serveSlowly(at string, delays map[string]time.Duration) {
	r.Helper()
	conn, err := r.Host("inet").ListenPacket("udp", at)
	if err != nil {
		r.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		from := w.RemoteAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		time.Sleep(delays[r.UplinkOf(from)])
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(192, 0, 2, 80)}}
		_ = w.WriteMsg(m) // whoever asked asks again
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ActivateAndServe()
	}()
	r.Cleanup(func() { _ = server.Shutdown(); _ = conn.Close(); <-done })
}

// switchTo waits for the news that new traffic of a family takes some uplinks, and returns it.
func (r *router) switchTo(family rules.Family, code rules.ChoiceCode, to string) (found status.Event) {
	r.Helper()
	r.await(fmt.Sprintf("a switch of %v to %s (%s)", family, to, code), func() error {
		var seen []string
		for _, e := range r.decisions() {
			if e.Kind != status.EventSwitch || e.Family != family.String() {
				continue
			}
			seen = append(seen, fmt.Sprintf("%s (%s)", e.To, e.Code))
			found = e
		}
		if found.To == to && found.Code == string(code) {
			return nil
		}
		return fmt.Errorf("%q", seen)
	})
	return found
}

// TestNewFlowsTakeTheFasterLine has two lines of one tier, of which fiber is slower by 60 ms in both families.
func TestNewFlowsTakeTheFasterLine(t *testing.T) {
	t.Parallel()
	const target4, target6 = "192.0.2.1:5300", "[2001:db8:ffff::1]:5300"
	const uplinks = `
[[uplink]]
name = "fiber"
device = "wan1"
weight = 3
TAIL
[[uplink]]
name = "lte"
device = "wan2"
TAIL
[[tier]]
tier = 1
balance = "latency"
`
	tail := fmt.Sprintf("  [uplink.ipv6]\n  masquerade = true\n  [uplink.probe]\n  targets = [\"dns://%s?name=example.net\", \"dns://%s?name=example.net\"]\n", target4, target6)
	r := newRouter(t, lab.Options{}, strings.ReplaceAll(uplinks, "TAIL", tail))
	delays := map[string]time.Duration{"fiber": 60 * time.Millisecond}
	r.serveSlowly(target4, delays)
	r.serveSlowly(target6, delays)
	r.up()
	for _, family := range rules.Families {
		e := r.switchTo(family, rules.ChoiceFastest, "lte")
		if !strings.Contains(e.Reason, "the fastest of tier 1 (fiber ") {
			t.Errorf("the reason is %q", e.Reason)
		}
	}
	r.expectShare(other4, 0)
	r.expectShare(other6, 0)
	u, err := r.uplinkStatus("fiber")
	if err != nil || !u.IPv4.Slower || !u.IPv6.Slower || u.IPv4.Share != 0 {
		t.Errorf("%+v, %v", u, err)
	}
	if text := r.command("status", "--socket", filepath.Join(r.dir, "s")); !strings.Contains(text, "fiber (slower)") {
		t.Errorf("status says\n%s", text)
	}
	if text := r.command("explain", "--socket", filepath.Join(r.dir, "s"), "--to", "192.0.2.1", "--from", lanHost4, "--iif", "lan0"); !strings.Contains(text, "the fastest of tier 1") {
		t.Errorf("explain says\n%s", text)
	}
	if err := r.Break(lab.Blackhole, "lte"); err != nil {
		t.Fatal(err)
	}
	r.switchTo(rules.IPv4, rules.ChoiceGood, "fiber")
	r.awaitState("lte", uplink.Down) // until then, a new flow from the port of an old one is pinned to it
	r.expectShare(other4, 1)
}

// TestNewFlowsSpillOverAndComeBack has downloads fill a line of 10 Mbit/s.
func TestNewFlowsSpillOverAndComeBack(t *testing.T) {
	t.Parallel()
	full := strings.Replace(dualWAN, `device = "wan1"`, "device = \"wan1\"\nbandwidth = { down = \"10Mbit\", up = \"10Mbit\" }", 1) + "[[tier]]\ntier = 1\noverflow = 0.85\n"
	r := newRouter(t, lab.Options{}, full)
	r.sh("isp1", "tc qdisc add dev cust1 root tbf rate 10mbit burst 16kb latency 50ms")
	r.up()
	r.serveIperf(netip.MustParseAddr("192.0.2.1"))
	r.expectShare(other4, 1)
	echo := r.echoConnection(t, "lan", other4)
	_, _, stop := r.background("lan", "iperf3", "-c", "192.0.2.1", "-t", "600", "-P", "2", "-R")
	e := r.switchTo(rules.IPv4, rules.ChoiceOverflow, "fiber,lte")
	if !strings.Contains(e.Reason, "fiber carries more than the overflow of the bandwidth") {
		t.Errorf("the reason is %q", e.Reason)
	}
	r.switchTo(rules.IPv6, rules.ChoiceOverflow, "fiber,lte")
	for _, target := range []string{other4, other6} {
		r.expectShareBut(target, 0.5, 40)
	}
	s := r.status()
	if u := s.Uplinks[0]; !u.Full || u.Load == nil || *u.Load < 0.6 || s.OnSpare(rules.IPv4) {
		t.Errorf("%+v", u)
	}
	if err := echo(); err != nil {
		t.Errorf("a connection does not survive that new ones move: %v", err)
	}
	stop()
	began := time.Now()
	r.awaitFor(2*time.Minute, "the line to have room", func() error {
		if u, err := r.uplinkStatus("fiber"); err != nil || u.Full {
			return errors.Join(err, fmt.Errorf("full, with %v of its bandwidth", u.Load))
		}
		return nil
	})
	if took := time.Since(began); took < 25*time.Second {
		t.Errorf("the line counts as having room after %v", took)
	}
	r.switchTo(rules.IPv4, rules.ChoiceGood, "fiber")
	r.expectShare(other4, 1)
	if err := echo(); err != nil {
		t.Errorf("a connection does not survive that new ones come back: %v", err)
	}
	if v, _ := r.uplinkStatus("fiber"); v.IPv4.State != uplink.Up {
		t.Errorf("fiber is %s: %s", v.IPv4.State, v.IPv4.Reason)
	}
}
