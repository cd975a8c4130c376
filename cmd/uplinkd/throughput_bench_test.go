package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/rules"
)

// everything is a router with all features that packets pass: two providers, both families translated, kill
// switches, exceptions, marks, a sticky share, filled sets, a proxy that nobody runs, segment sizes.
const everything = dualWAN + `
[[set]]
name = "streaming"
filled = true
[[policy]]
name = "tight"
to = ["192.0.2.2", "2001:db8:ffff::2"]
except = ["192.0.2.128/25"]
uplinks = ["fiber"]
fallback = "unreachable"
[[policy]]
name = "streams"
to = "@streaming"
uplinks = ["lte"]
[[policy]]
name = "guests"
from = ["203.0.113.192/26", "2001:db8:1:0:8000::/65"]
uplinks = ["lte"]
fallback = "unreachable"
[[policy]]
name = "voice"
dscp = "ef"
uplinks = ["fiber", "lte"]
[[policy]]
name = "mail"
protocol = "tcp"
dport = 25
uplinks = ["fiber"]
fallback = "unreachable"
[[policy]]
name = "spread"
to = ["192.0.2.3", "2001:db8:ffff::3"]
uplinks = [["fiber", "lte"]]
sticky = "source"
[[tproxy]]
name = "proxy"
iif = "lan0"
protocol = ["tcp", "udp"]
port = 12345
to = ["192.0.2.53", "2001:db8:ffff::53"]
`

// byHand is what a careful administrator writes for the same two providers: a table for each, marks that connections
// keep, addresses that packets leave with, segments that fit, and a filter that lets nothing leave untranslated.
const byHand = `
for d in lan0 wan1 wan2; do echo 1 > /proc/sys/net/ipv4/conf/$d/src_valid_mark; done
table() { # number device gateway metric
	ip route add default via $3 dev $2 table 10$1
	ip -6 route add default via fe80::1 dev $2 table 10$1
	for f in -4 -6; do
		ip $f rule add pref 11$1 fwmark $1 lookup 10$1
		ip $f rule add pref 12$1 oif $2 lookup 10$1
		ip $f address show dev $2 scope global | sed -n 's/.*inet6\? \([^/ ]*\).*/\1/p' | while read a; do ip $f rule add pref 13$1 from $a lookup 10$1; done
	done
}
for f in -4 -6; do ip $f rule add pref 100 lookup main suppress_prefixlength 0; done
table 1 wan1 $GATEWAY1
table 2 wan2 $GATEWAY2
nft -f - <<'X'
table inet byhand {
	chain prerouting {
		type filter hook prerouting priority mangle;
		ct mark != 0 meta mark set ct mark return
		iifname "wan1" ct mark set 1
		iifname "wan2" ct mark set 2
		meta mark set ct mark
	}
	chain output {
		type route hook output priority mangle;
		ct mark != 0 meta mark set ct mark return
	}
	chain forward {
		type filter hook forward priority filter;
		ct state invalid drop
		tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
	}
	chain postrouting {
		type filter hook postrouting priority mangle;
		oifname "wan1" ct mark 0 ct mark set 1
		oifname "wan2" ct mark 0 ct mark set 2
	}
	chain srcnat {
		type nat hook postrouting priority srcnat;
		oifname { "wan1", "wan2" } masquerade
	}
}
X
`

// BenchmarkThroughput compares what a router forwards by our rules with what the same router forwards by rules that
// were written by hand. The bar is 0.97.
func BenchmarkThroughput(b *testing.B) {
	ours := newRouter(b, lab.Options{}, everything)
	theirs := newRouter(b, lab.Options{}, everything)
	ours.sh("router", "ip link set dev wan2 mtu 1400")
	theirs.sh("router", "ip link set dev wan2 mtu 1400")
	ours.ready()
	theirs.byHand()
	compareThroughput(b, ours, theirs)
}

// BenchmarkForwarding compares what a router forwards that has many uplinks, or policies that are for others, with what one forwards
// that has two uplinks and no policy. The first line compares two of the latter.
func BenchmarkForwarding(b *testing.B) {
	least := newRouter(b, lab.Options{}, dualWAN)
	least.ready()
	for _, c := range []struct{ uplinks, policies int }{{2, 0}, {8, 0}, {rules.MaxUplinks, 0}, {2, 100}, {2, 1000}} {
		b.Run(fmt.Sprintf("uplinks_%d_policies_%d", c.uplinks, c.policies), func(b *testing.B) {
			devices, config := deadUplinks(c.uplinks - 2)
			r := newRouter(b, lab.Options{}, dualWAN+config+policiesOfOthers(c.policies))
			r.sh("router", devices)
			r.ready()
			compareLoads(b, [2]*router{r, least}, func(r *router) *load { return r.packetsOut(addrPort("192.0.2.1:9")) })
		})
	}
}

// policiesOfOthers are so many that no packet of a load is for: by source, by destination, and by port.
func policiesOfOthers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "[[policy]]\nname = \"p%d\"\nuplinks = [\"lte\"]\n", i)
		switch i % 3 {
		case 0:
			fmt.Fprintf(&b, "from = [\"10.200.%d.%d\"]\n", i>>8, i&255)
		case 1:
			fmt.Fprintf(&b, "to = [\"198.18.%d.%d\"]\n", i>>8, i&255)
		case 2:
			fmt.Fprintf(&b, "protocol = \"udp\"\ndport = %d\n", 20000+i)
		}
	}
	return b.String()
}

// byHand gives a router the rules of an administrator.
func (r *router) byHand() { r.Helper(); r.sh("router", r.ofLines(byHand)) }

// compareThroughput compares what two routers forward: packets of 64 bytes, which cost the processor, and TCP with large
// segments.
func compareThroughput(b *testing.B, ours, theirs *router) {
	for _, c := range []struct {
		name, target string
		load         func(r *router, target netip.AddrPort) *load
	}{
		{"packets_ipv4", "192.0.2.1:9", (*router).packetsOut},
		{"packets_ipv6", "[2001:db8:ffff::1]:9", (*router).packetsOut},
		{"packets_of_a_kill_switch", "192.0.2.2:9", (*router).packetsOut},
		{"answers_ipv4", "192.0.2.1:9", (*router).packetsIn},
		{"answers_ipv6", "[2001:db8:ffff::1]:9", (*router).packetsIn},
		{"tcp_ipv4", "192.0.2.1:9", (*router).segmentsOut},
		{"tcp_ipv6", "[2001:db8:ffff::1]:9", (*router).segmentsOut},
	} {
		b.Run(c.name, func(b *testing.B) {
			compareLoads(b, [2]*router{ours, theirs}, func(r *router) *load { return c.load(r, addrPort(c.target)) })
		})
	}
}

// compareLoads reports what the first of two routers forwards of what the second does. Both are loaded in turn for moments, because
// machines are shared, and the fastest tenth of them counts, in which nobody else had the processor.
func compareLoads(b *testing.B, routers [2]*router, begin func(*router) *load) {
	const moments, moment, fastest = 4000, 2 * time.Millisecond, 90
	stayOnProcessor(b)
	var pair [2]*load
	for i, r := range routers {
		r.knowNeighbours()
		pair[i] = begin(r)
		defer pair[i].close()
	}
	for b.Loop() {
		var quotients []float64
		var rates [2][]float64
		for n := range moments {
			for i := range pair {
				i = (i + n) % 2
				rates[i] = append(rates[i], pair[i].during(b, moment))
			}
			quotients = append(quotients, rates[0][n]/rates[1][n])
		}
		for i := range rates {
			slices.Sort(rates[i])
		}
		slices.Sort(quotients)
		at := func(list []float64, part int) float64 { return list[len(list)*part/100] }
		b.ReportMetric(at(rates[0], fastest)/at(rates[1], fastest), "of-theirs")
		b.ReportMetric(at(rates[0], fastest), "per-s")
		b.ReportMetric(0, "ns/op")
		b.Logf("all moments: median of the quotients %.3f, quartiles %.3f and %.3f", at(quotients, 50), at(quotients, 25), at(quotients, 75))
	}
}

// knowNeighbours has hosts believe for an hour what they know of their neighbours: a packet to one that has to be asked again takes a longer
// way through the kernel for seconds, whichever rules a router has.
func (r *router) knowNeighbours() {
	r.Helper()
	for _, host := range r.Hosts() {
		r.sh(host, "for f in /proc/sys/net/ipv[46]/neigh/*/base_reachable_time_ms; do echo 3600000 > $f; done")
	}
}

// stayOnProcessor keeps the calling goroutine on one processor, with a thread that ends with it.
func stayOnProcessor(b *testing.B) {
	b.Helper()
	runtime.LockOSThread()
	var may, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		b.Fatal(err)
	}
	last := 0
	for n := range runtime.NumCPU() {
		if may.IsSet(n) {
			last = n
		}
	}
	one.Set(last)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		b.Fatal(err)
	}
}

// load is what a router has to forward.
type load struct {
	send    func() error // a little of it
	arrived func() int64 // how much has got through
	close   func()
}

// during returns how much a second got through.
func (l *load) during(b *testing.B, span time.Duration) float64 {
	began, before := time.Now(), l.arrived()
	for time.Since(began) < span {
		if err := l.send(); err != nil {
			b.Fatal(err)
		}
	}
	return float64(l.arrived()-before) / time.Since(began).Seconds()
}

// packetsOut are those of one UDP flow from the LAN.
func (r *router) packetsOut(target netip.AddrPort) *load {
	server, client, _ := r.udpFlow(target)
	return &load{packets(client, nil), r.received("inet", r.Uplink("fiber").ISP), func() { _, _ = server.Close(), client.Close() }}
}

// packetsIn are its answers.
func (r *router) packetsIn(target netip.AddrPort) *load {
	server, client, source := r.udpFlow(target)
	return &load{packets(server, source), r.received("lan", "eth0"), func() { _, _ = server.Close(), client.Close() }}
}

// udpFlow opens a flow and has it answered, as those are that are worth forwarding: connection tracking is sure of
// one from its third packet on.
func (r *router) udpFlow(target netip.AddrPort) (server *net.UDPConn, client net.Conn, source net.Addr) {
	r.Helper()
	err := r.Host("inet").Do(func() (err error) {
		server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(target))
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
	if client, err = r.Host("lan").Dial(context.Background(), "udp", "", target.String()); err != nil {
		r.Fatal(err)
	}
	buf := make([]byte, 64)
	_ = client.SetDeadline(time.Now().Add(unhurried))
	_ = server.SetDeadline(time.Now().Add(unhurried))
	for range 3 {
		if _, err = client.Write(buf); err == nil {
			_, source, err = server.ReadFrom(buf)
		}
		if err == nil {
			_, err = server.WriteTo(buf, source)
		}
		if err == nil {
			_, err = client.Read(buf)
		}
		if err != nil {
			r.Fatal(err)
		}
	}
	_ = client.SetDeadline(time.Time{})
	_ = server.SetDeadline(time.Time{})
	return server, client, source
}

// packets sends as fast as a processor can: the one that sends a packet also carries it through all hosts, up to the
// socket at the far end.
func packets(conn net.Conn, to net.Addr) (send func() error) {
	udp := conn.(*net.UDPConn)
	write := ipv4.NewPacketConn(udp).WriteBatch
	if udp.LocalAddr().(*net.UDPAddr).IP.To4() == nil {
		write = ipv6.NewPacketConn(udp).WriteBatch
	}
	batch := make([]ipv4.Message, 32)
	for i := range batch {
		batch[i] = ipv4.Message{Buffers: [][]byte{make([]byte, 64-28)}, Addr: to}
	}
	return func() error { _, err := write(batch, 0); return err }
}

// received counts the packets that a device receives.
func (r *router) received(host, device string) func() int64 {
	var stats *os.File
	err := r.Host(host).Do(func() (err error) {
		stats, err = os.Open("/proc/thread-self/net/dev")
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = stats.Close() })
	buf := make([]byte, 4096)
	return func() int64 {
		n, err := stats.ReadAt(buf, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			r.Fatal(err)
		}
		for line := range strings.Lines(string(buf[:n])) {
			if name, counters, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == device {
				count, err := strconv.ParseInt(strings.Fields(counters)[1], 10, 64)
				if err != nil {
					r.Fatal(err)
				}
				return count
			}
		}
		r.Fatalf("no device %s on %s", device, host)
		return 0
	}
}

// tcpPair opens a TCP connection from the LAN into the Internet and returns both ends.
func (r *router) tcpPair(target netip.AddrPort) (client, server net.Conn) {
	r.Helper()
	var listener net.Listener
	err := r.Host("inet").Do(func() (err error) {
		listener, err = net.Listen("tcp", target.String())
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
	defer listener.Close()
	if client, err = r.Host("lan").Dial(context.Background(), "tcp", "", target.String()); err != nil {
		r.Fatal(err)
	}
	if server, err = listener.Accept(); err != nil {
		r.Fatal(err)
	}
	return client, server
}

// segmentsOut are those of one TCP connection from the LAN, counted in bytes.
func (r *router) segmentsOut(target netip.AddrPort) *load {
	r.Helper()
	client, server := r.tcpPair(target)
	var arrived atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<20)
		for {
			n, err := server.Read(buf)
			arrived.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	chunk := make([]byte, 64<<10)
	return &load{
		send:    func() error { _, err := client.Write(chunk); return err },
		arrived: arrived.Load,
		close:   func() { _, _ = client.Close(), server.Close(); <-done },
	}
}
