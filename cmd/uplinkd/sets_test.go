package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
)

// slots is how many places for prefixes a list of this test has in each family, every other of them empty.
const slots = 10_000

// countryList is one version of a list: which slots it has. A third of all is in each version, a third in none.
type countryList [slots]bool

func newCountryList(version int) *countryList {
	random := rand.New(rand.NewPCG(17, uint64(version)))
	var l countryList
	for i := range l {
		l[i] = i%3 == 0 || i%3 == 1 && random.IntN(2) == 0
	}
	return &l
}

// text is the list as a file: some 5 000 prefixes in each family.
func (l *countryList) text(version int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# version %d\n", version)
	for i, in := range l {
		if in {
			fmt.Fprintf(&b, "%v/31\n2001:db8:5000:%x::/64\n", slot4(i, 0), 2*i)
		}
	}
	return b.String()
}

// slot4 is an address of one of the slots of 198.18.0.0/15 (RFC 2544); the first two of eight are the slot's.
func slot4(slot, offset int) netip.Addr {
	n := 8*slot + offset
	return netip.AddrFrom4([4]byte{198, 18 + byte(n>>16), byte(n >> 8), byte(n)})
}

// destination is an address that is, or is not, in a list: that is the reference.
type destination struct {
	netip.Addr
	slot int
	hit  bool // it is in the slot's prefix
}

func (d destination) in(l *countryList) bool { return d.hit && l[d.slot] }

func drawDestination(random *rand.Rand) destination {
	slot := random.IntN(slots)
	if random.IntN(2) == 0 {
		offset := random.IntN(4)
		return destination{slot4(slot, offset), slot, offset < 2}
	}
	beside := random.IntN(2)
	a := netip.MustParseAddr("2001:db8:5000::1").As16()
	a[6], a[7], a[15] = byte((2*slot+beside)>>8), byte(2*slot+beside), byte(1+random.IntN(200))
	return destination{netip.AddrFrom16(a), slot, beside == 0}
}

// seen lists the destinations of packets to a port that a provider has got, from a set that recordSeen has made.
func (r *router) seen(isp string, port int) map[netip.Addr]bool {
	r.Helper()
	all := make(map[netip.Addr]bool)
	for _, family := range []string{"4", "6"} {
		out := r.sh(isp, fmt.Sprintf("nft list set inet seen p%d_%s", port, family))
		if _, elements, found := strings.Cut(out, "elements = {"); found {
			for word := range strings.FieldsFuncSeq(elements, func(c rune) bool { return strings.ContainsRune(" ,\n\t}", c) }) {
				all[netip.MustParseAddr(word)] = true
			}
		}
	}
	return all
}

func (r *router) recordSeen(isp string, ports ...int) {
	r.Helper()
	var sets, rules string
	for _, port := range ports {
		for _, f := range [][2]string{{"4", "ip"}, {"6", "ip6"}} {
			sets += fmt.Sprintf("set p%d_%s { type ipv%s_addr; size 65535; flags dynamic; }\n", port, f[0], f[0])
			rules += fmt.Sprintf("udp dport %d update @p%d_%s { %s daddr }\n", port, port, f[0], f[1])
		}
	}
	r.sh(isp, fmt.Sprintf("nft -f - <<'EOF'\ntable inet seen {\n%schain in { type filter hook prerouting priority -300; iifname != \"cust%s\" return\n%s}\n}\nEOF", sets, strings.TrimPrefix(isp, "isp"), rules))
}

// sendAll sends a packet to each destination, from new sockets of the LAN's host.
func (r *router) sendAll(list []destination, port int) {
	r.Helper()
	for _, network := range []string{"udp4", "udp6"} {
		at := map[string]string{"udp4": "0.0.0.0:0", "udp6": "[::]:0"}[network]
		conn, err := r.Host("lan").ListenPacket(network, at)
		if err != nil {
			r.Error(err)
			return
		}
		for n, d := range list {
			if d.Is4() == (network == "udp4") {
				_, _ = conn.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(d.Addr, uint16(port))))
			}
			if n%100 == 99 {
				time.Sleep(time.Millisecond)
			}
		}
		_ = conn.Close()
	}
}

// A country's list and a domain that have to leave by LTE and by nothing else: while the list is replaced again and again, and when LTE dies,
// the other provider never sees a packet to what is in all versions, and LTE none to what is in none. Each version is right for random
// destinations.
func TestListsAndDomainsOfAKillSwitchLeakNothing(t *testing.T) {
	const fresh, steady = 9, 10 // ports
	r := newRouter(t, lab.Options{}, "")
	list := filepath.Join(r.dir, "cn.txt")
	replace := func(version int) *countryList {
		l := newCountryList(version)
		if err := os.WriteFile(list+".new", []byte(l.text(version)), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(list+".new", list); err != nil {
			t.Fatal(err)
		}
		return l
	}
	replace(0)
	servers := func(uplinks, fiber, lte string) string {
		first, second, _ := strings.Cut(uplinks, "[[uplink]]\nname = \"lte\"")
		return first + "  [uplink.dns]\n  servers = [\"" + fiber + "\"]\n[[uplink]]\nname = \"lte\"" + second + "  [uplink.dns]\n  servers = [\"" + lte + "\"]\n"
	}
	r.configure(fmt.Sprintf("[dns]\ndnsmasq = %q\n", r.dir+"/dnsmasq") + servers(dualWAN, "10.53.1.1", "10.53.2.1") + fmt.Sprintf(`
[[set]]
name = "cn"
file = %q
[[set]]
name = "tv"
domains = ["*.tv.test"]
[[policy]]
name = "abroad"
to = ["@cn", "@tv"]
uplinks = ["lte"]
fallback = "unreachable"
`, list))
	newNameServer(r, "fiber", "10.53.1.1", "192.0.2.11")
	newNameServer(r, "lte", "10.53.2.1", "192.0.2.12")
	for _, isp := range []string{"isp1", "isp2"} {
		r.recordSeen(isp, fresh, steady)
	}
	r.ready()
	_, stop := r.startDnsmasqWithSets()
	defer stop()

	random := rand.New(rand.NewPCG(1, 2))
	var always, never []destination
	for len(always) < 30 || len(never) < 30 {
		switch d := drawDestination(random); {
		case d.hit && d.slot%3 == 0 && len(always) < 30:
			always = append(always, d)
		case (!d.hit || d.slot%3 == 2) && len(never) < 30:
			never = append(never, d)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var sending sync.WaitGroup
	sending.Go(func() {
		for ctx.Err() == nil {
			r.sendAll(append(slices.Clone(always), never...), steady)
			time.Sleep(100 * time.Millisecond)
		}
	})
	defer sending.Wait()
	defer cancel()
	for version := 1; version <= 20; version++ {
		before := r.status().Generation
		l := replace(version)
		want := 0
		for _, in := range l {
			if in {
				want++
			}
		}
		r.await(fmt.Sprintf("version %d", version), func() error {
			s := r.status()
			at := slices.IndexFunc(s.Sets, func(s status.Set) bool { return s.Name == "cn" })
			if at < 0 || s.Sets[at].IPv4 == nil || *s.Sets[at].IPv4 != want || *s.Sets[at].IPv6 != want || s.Sets[at].Error != "" {
				return fmt.Errorf("want %d: %+v", want, s.Sets)
			}
			if !s.Converged || s.Generation == before {
				return fmt.Errorf("not in the kernel yet")
			}
			return nil
		})
		if version%5 != 0 {
			continue
		}
		var drawn []destination
		for range 1000 {
			drawn = append(drawn, drawDestination(random))
		}
		for _, isp := range []string{"isp1", "isp2"} {
			r.sh(isp, fmt.Sprintf("nft 'flush set inet seen p%d_4; flush set inet seen p%d_6'", fresh, fresh))
		}
		r.await("all packets to arrive", func() error {
			r.sendAll(drawn, fresh)
			fiber, lte := r.seen("isp1", fresh), r.seen("isp2", fresh)
			for _, d := range drawn {
				if fiber[d.Addr] && d.in(l) || lte[d.Addr] && !d.in(l) {
					t.Fatalf("version %d: %v, in the list: %v, went by fiber %v, by LTE %v", version, d.Addr, d.in(l), fiber[d.Addr], lte[d.Addr])
				}
				if !fiber[d.Addr] && !lte[d.Addr] {
					return fmt.Errorf("%v has not arrived", d.Addr)
				}
			}
			return nil
		})
	}
	// A name that nobody has asked for goes by fiber, or by LTE from the moment that dnsmasq has answered for it.
	tv := destination{Addr: netip.MustParseAddr("192.0.2.11")}
	r.sendAll([]destination{tv}, fresh)
	r.await("the packet", func() error {
		if r.seen("isp1", fresh)[tv.Addr] {
			return nil
		}
		return fmt.Errorf("it has not arrived")
	})
	r.await("dnsmasq's answer", func() error { // of fiber's server: of both, the faster one is passed on
		answer, err := r.resolve("lan", "www.tv.test.")
		if err == nil && answer != tv.Addr {
			err = fmt.Errorf("%v", answer)
		}
		return err
	})
	r.sh("isp1", fmt.Sprintf("nft flush set inet seen p%d_4", fresh))
	for range 20 {
		r.sendAll([]destination{tv}, fresh)
	}
	// Dead LTE: whatever belongs there stays here, and that is an event.
	if err := r.Break(lab.Carrier, "lte"); err != nil {
		t.Fatal(err)
	}
	r.await("the kill switch to close", func() error {
		for _, e := range r.events(status.EventKillSwitch) {
			if e.To == "ipv4 and ipv6" {
				return nil
			}
		}
		return fmt.Errorf("no event")
	})
	for range 20 {
		r.sendAll(append([]destination{tv}, always...), fresh)
	}
	time.Sleep(100 * time.Millisecond)
	cancel()
	sending.Wait()
	fiber, lte := r.seen("isp1", steady), r.seen("isp2", steady)
	for port, list := range map[int][]destination{steady: always, fresh: append([]destination{tv}, always...)} {
		got := r.seen("isp1", port)
		for _, d := range list {
			if got[d.Addr] && (port == steady || d.Addr == tv.Addr) {
				t.Errorf("%v has left by fiber", d.Addr)
			}
		}
	}
	for _, d := range never {
		if lte[d.Addr] || !fiber[d.Addr] {
			t.Errorf("%v, which is in no list, went by fiber %v, by LTE %v", d.Addr, fiber[d.Addr], lte[d.Addr])
		}
	}
}

// resolve asks the router's resolver for the address of a name.
func (r *router) resolve(host, name string) (answer netip.Addr, err error) {
	err = r.Host(host).Do(func() error {
		client := dns.Client{Timeout: 2 * time.Second}
		m, _, err := client.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), lab.LANRouter4+":53")
		if err != nil {
			return err
		}
		for _, record := range m.Answer {
			if a, is := record.(*dns.A); is {
				answer, _ = netip.AddrFromSlice(a.A.To4())
				return nil
			}
		}
		return errors.New(dns.RcodeToString[m.Rcode])
	})
	return answer, err
}

// startDnsmasqWithSets starts dnsmasq with both files of uplinkd's, by which it fills sets as an unprivileged user.
func (r *router) startDnsmasqWithSets() (conf string, stop func()) {
	r.Helper()
	if err := os.Chmod(r.dir, 0o755); err != nil {
		r.Fatal(err)
	}
	conf = filepath.Join(r.dir, "dnsmasq.conf")
	text := fmt.Sprintf("no-resolv\nno-hosts\nservers-file=%[1]s/dnsmasq/servers\nconf-file=%[1]s/dnsmasq/sets.conf\nlisten-address=%[2]s\nbind-interfaces\ncache-size=0\npid-file=\nuser=nobody\ngroup=nogroup\nlog-facility=-\n",
		r.dir, lab.LANRouter4)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		r.Fatal(err)
	}
	_, _, stop = r.background("router", "dnsmasq", "-k", "-C", conf)
	return conf, stop
}
