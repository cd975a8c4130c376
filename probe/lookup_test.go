package probe

import (
	"net"
	"net/netip"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/miekg/dns"
)

// lookedUp is a DNS server on the loopback of a namespace.
func lookedUp(t *testing.T, at string, answer func(q *dns.Msg, tcp bool) *dns.Msg) netip.Addr {
	t.Helper()
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	pc, err := net.ListenPacket("udp", at+":53")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", at+":53")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	for tcp, server := range map[bool]*dns.Server{false: {PacketConn: pc}, true: {Listener: ln}} {
		server.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(answer(q, tcp)) })
		serving.Go(func() { _ = server.ActivateAndServe() })
		t.Cleanup(func() { _ = pc.Close(); _ = ln.Close(); serving.Wait() })
	}
	return netip.MustParseAddr(at)
}

func rr(t *testing.T, text string) dns.RR {
	t.Helper()
	r, err := dns.NewRR(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAddressesHoldAsLongAsWhatLeadsToThem(t *testing.T) {
	if !privately(t) {
		return
	}
	server := lookedUp(t, "127.0.53.1", func(q *dns.Msg, tcp bool) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Name != "www.example.net." {
			return m.SetRcode(q, dns.RcodeNameError)
		}
		if q.Question[0].Qtype == dns.TypeA && !tcp {
			m.Truncated = true
			return m
		}
		m.Answer = append(m.Answer, rr(t, "www.example.net. 60 IN CNAME far.example.org."))
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = append(m.Answer, rr(t, "far.example.org. 300 IN A 192.0.2.1"), rr(t, "far.example.org. 300 IN A 192.0.2.2"))
		} else {
			m.Answer = append(m.Answer, rr(t, "far.example.org. 30 IN AAAA 2001:db8::1"))
		}
		return m
	})
	got, err := LookUp(t.Context(), Binding{}, server, "www.example.net")
	want := map[netip.Addr]time.Duration{
		netip.MustParseAddr("192.0.2.1"): time.Minute, netip.MustParseAddr("192.0.2.2"): time.Minute, netip.MustParseAddr("2001:db8::1"): 30 * time.Second}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if got, err := LookUp(t.Context(), Binding{}, server, "none.example.net"); len(got) != 0 || err != nil {
		t.Errorf("a name that does not exist: %v, %v", got, err)
	}
}

func TestAServerThatRefusesSaysNothingOfAName(t *testing.T) {
	if !privately(t) {
		return
	}
	server := lookedUp(t, "127.0.53.2", func(q *dns.Msg, _ bool) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeRefused) })
	if got, err := LookUp(t.Context(), Binding{}, server, "www.example.net"); err == nil {
		t.Errorf("%v", got)
	}
}
