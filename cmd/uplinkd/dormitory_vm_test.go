//go:build vm

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// campusPool is what the campus's provider delegates from.
var campusPool = netip.MustParsePrefix("2001:db8:d000::/48")

// dormitory is the usual world, whose router is the dormitory's, and behind its Internet a campus with the lab's router:
//
//	[router] wan1, wan2 ... [inet] ── [campus] down0 ── br-wan [lab]
type dormitory struct {
	*router
	lab *router // the lab's
}

// newDormitory makes the scene. Probes are lines for each [uplink.probe] of both routers.
func newDormitory(t testing.TB, probes string) *dormitory {
	t.Helper()
	d := &dormitory{router: newRouter(t, lab.Options{}, "")}
	d.pace = emulated
	namespaces(t, "campus", "labside")
	d.lab = newBox(t, "labside")
	mustScript(t, fmt.Sprintf(`
		ip link add tocampus netns %[1]s type veth peer name up0 netns campus
		ip -n %[1]s address add 192.0.2.225/30 dev tocampus; ip -n %[1]s link set tocampus up
		ip -n %[1]s route add 192.0.2.192/28 via 192.0.2.226
		ip -n campus address add 192.0.2.226/30 dev up0; ip -n campus link set up0 up
		ip -n campus route add default via 192.0.2.225
		ip link add down0 netns campus type veth peer name port0 netns labside
		ip -n campus address add 192.0.2.193/28 dev down0
		ip netns exec campus sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.down0.accept_dad=0
		ip -n campus -6 address add 2001:db8:c::1/64 dev down0 nodad
		ip -n campus -6 address add 2001:db8:cafe::1/128 dev lo nodad
		ip -n campus link set down0 up
		ip netns exec campus sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
		ip -n labside link add br-wan type bridge; ip -n labside link set port0 master br-wan
		ip -n labside link set port0 up; ip -n labside link set br-wan up
		ip netns exec labside sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1`, d.Host("inet").Namespace()))
	d.provide()
	d.configureBoth(probes)
	return d
}

// provide starts router advertisements and prefix delegation on the campus's segment.
func (d *dormitory) provide() {
	d.Helper()
	dir := d.scratch("campus-")
	d.write(filepath.Join(dir, "radvd"), "interface down0 { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 5; prefix 2001:db8:c::/64 { }; };\n")
	serveIn(d, "campus", "radvd", "-n", "-C", filepath.Join(dir, "radvd"), "-p", filepath.Join(dir, "radvd.pid"), "-m", "stderr")
	d.write(filepath.Join(dir, "kea"), fmt.Sprintf(`{"Dhcp6": { "interfaces-config": {"interfaces": ["down0"]},
		"lease-database": {"type": "memfile", "persist": false},
		"server-id": {"type": "EN", "enterprise-id": 32473, "identifier": "0003", "persist": false},
		"renew-timer": 600, "rebind-timer": 1200, "preferred-lifetime": 1800, "valid-lifetime": 3600,
		"subnet6": [{"subnet": "2001:db8:c::/64", "interface": "down0",
			"pd-pools": [{"prefix": "%v", "prefix-len": %d, "delegated-len": 56}]}]}}`, campusPool.Addr(), campusPool.Bits()))
	serveIn(d, "campus", "env", "KEA_PIDFILE_DIR="+dir, "KEA_LOCKFILE_DIR="+dir, "kea-dhcp6", "-c", filepath.Join(dir, "kea"))
}

// configureBoth gives both routers their examples, with keys of this test.
func (d *dormitory) configureBoth(probes string) {
	d.Helper()
	keys := make(map[string]string)
	for _, side := range []string{"lab", "dormitory"} { // the file of the one who speaks to it
		keys[side] = newKey(d, filepath.Join(d.dir, side+".key"))
	}
	for _, e := range []struct {
		of                 *router
		example, key, peer string
	}{{d.router, "dormitory.toml", "lab", keys["dormitory"]}, {d.lab, "lab-side.toml", "dormitory", keys["lab"]}} {
		text, err := os.ReadFile(filepath.Join(examples, e.example))
		if err != nil {
			d.Fatal(err)
		}
		s := strings.ReplaceAll(string(text), "/etc/uplinkd/"+e.key+".key", filepath.Join(d.dir, e.key+".key"))
		s = strings.NewReplacer(`"eth1"`, `"wan1"`, `"wwan0"`, `"wan2"`, `"br-lan"`, `"lan0"`).Replace(s)
		s = strings.ReplaceAll(s, "[uplink.probe]\n", "[uplink.probe]\n"+probes)
		for _, placeholder := range []string{"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "VLQKDhBUvRtDtDgiUfKx8bMuQTJWa0UKG0m2vw0vB3E="} {
			s = strings.ReplaceAll(s, placeholder, e.peer)
		}
		e.of.configure(s)
	}
}

// awaitPrefix waits for the LAN host to have an address of the campus's delegation, and routes the delegation to the
// dormitory's end of the tunnel, as the provider's own server would.
func (d *dormitory) awaitPrefix() netip.Addr {
	d.Helper()
	var address netip.Addr
	d.await("the LAN host to have an address of the delegation", func() error {
		for _, a := range d.holds(campusPool) {
			if !a.Deprecated {
				address = a.Local
				return nil
			}
		}
		return errors.New("it has none")
	})
	var next string
	d.await("the tap to have a link-local address", func() error {
		out, err := d.Host("router").Run("ip", "-6", "-o", "address", "show", "dev", "gre1", "scope", "link")
		fields := strings.Fields(out)
		at := slices.Index(fields, "inet6")
		if err != nil || at < 0 {
			return fmt.Errorf("it has none: %v, %q", err, fields)
		}
		next, _, _ = strings.Cut(fields[at+1], "/")
		return nil
	})
	mustScript(d, fmt.Sprintf("ip -n campus -6 route replace %v via %s dev down0", campusPool, next))
	return address
}

// reach has the LAN host reach the IPv6 Internet by the delegation, in all the ways that matter.
func (d *dormitory) reach(address netip.Addr) {
	d.Helper()
	from := "-I " + address.String()
	d.await("an answer from the IPv6 Internet", d.pings("lan", "56", from, beyond))
	d.await("an answer to 1500 bytes", d.pings("lan", "1452", from, beyond))
	d.await("an answer to 1500 bytes from outside", d.pings("campus", "1452", "", address.String()))
	d.await("an answer by the provider's own address", d.pings("router", "56", "-I 2001:db8:a::2", "2001:db8:ffff::1"))
}

// beyond is an address of the Internet that the campus leads to.
const beyond = "2001:db8:cafe::1"

func (d *dormitory) pings(host, size, from, to string) func() error {
	namespace := host
	if host != "campus" {
		namespace = d.Host(host).Namespace()
	}
	return func() error {
		_, err := script(fmt.Sprintf("ip netns exec %s ping -6 -n -c 1 -W 2 -s %s %s %s", namespace, size, from, to))
		return err
	}
}

// transfer sends a megabyte each way by TCP, while nobody tells the LAN host that its packets are too big.
func (d *dormitory) transfer(address netip.Addr) {
	d.Helper()
	d.sh("lan", `nft 'table ip6 deaf { chain in { type filter hook input priority 0; icmpv6 type packet-too-big drop; }; }'`)
	defer d.sh("lan", "nft delete table ip6 deaf; ip -6 route flush cache")
	d.sh("lan", "ip -6 route flush cache") // what earlier packets were told
	for _, way := range []string{"", "-R"} {
		var out string
		d.await("a transfer by TCP "+way, func() (err error) {
			out, err = d.Host("lan").Run("sh", "-c", fmt.Sprintf("timeout 20 iperf3 -6 -J -n 1M %s -B %v -c %s", way, address, beyond))
			return err
		})
		var result struct {
			Start struct {
				MSS int `json:"tcp_mss_default"`
			} `json:"start"`
		}
		if err := json.Unmarshal([]byte(out), &result); err != nil {
			d.Fatalf("%v: %s", err, out)
		}
		if result.Start.MSS <= 0 || result.Start.MSS > 1382-60 {
			d.Errorf("segments have up to %d bytes, which the tap does not take", result.Start.MSS)
		}
	}
}

// gaps pings from the LAN host ten times a second, and returns the longest silence when the returned function is called.
func (d *dormitory) gaps(address netip.Addr) func() time.Duration {
	d.Helper()
	var out safeBuffer
	cmd := d.Host("lan").Command(context.Background(), "ping", "-6", "-n", "-D", "-i", "0.1", "-I", address.String(), beyond)
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		d.Fatal(err)
	}
	return func() time.Duration {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		var longest, last float64
		for line := range strings.Lines(out.String()) {
			stamp, _, ok := strings.Cut(strings.TrimPrefix(line, "["), "]")
			at, err := strconv.ParseFloat(stamp, 64)
			if !ok || err != nil {
				continue
			}
			if last > 0 {
				longest = max(longest, at-last)
			}
			last = at
		}
		return time.Duration(longest * float64(time.Second)).Round(time.Millisecond)
	}
}

func (d *dormitory) awaitCarrier(name string) {
	d.Helper()
	d.await("the underlay to be "+name, func() error {
		for _, u := range d.status().Uplinks {
			if u.Name == "campus6" && !slices.Equal(u.CarriedBy, []string{"lab", name}) {
				return fmt.Errorf("campus6 is carried by %q", u.CarriedBy)
			}
		}
		return nil
	})
}

// settled waits for all to work, and returns the LAN host's address.
func (d *dormitory) settled() netip.Addr {
	d.Helper()
	address := d.awaitPrefix()
	d.reach(address)
	return address
}

// lose takes all that lives in a router's kernel, as a loss of power does, and its daemon.
func lose(r *router, namespace, devices string) {
	r.Helper()
	r.kill()
	mustScript(r, fmt.Sprintf(`ip netns exec %s sh -c "for device in %s; do ip link delete \$device; done
		ip rule flush; ip -6 rule flush; ip rule add pref 32766 lookup main; ip -6 rule add pref 32766 lookup main
		ip route flush proto 117; ip -6 route flush proto 117; nft delete table inet uplinkd"`, namespace, devices))
}

// dumpPackets logs where all packets go, when the test has failed.
func (d *dormitory) dumpPackets() {
	for _, n := range []string{d.Host("lan").Namespace(), d.Host("router").Namespace(), "labside", "campus"} {
		out, err := script(fmt.Sprintf(`for what in address rule "route show table all" neighbour; do ip -n %[1]s -6 $what | grep -v "table local"; done
			ip -n %[1]s -br link; ip netns exec %[1]s nft list ruleset | grep "packets [1-9]" || true`, n))
		d.Logf("%s (%v):\n%s", n, err, out)
	}
}

func TestVMADormitoryHasThePrefixOfALabElsewhere(t *testing.T) {
	d := newDormitory(t, unhurriedProbes)
	t.Cleanup(func() {
		if t.Failed() {
			d.dumpPackets()
		}
	})
	serveIn(t, "campus", "iperf3", "-s", "-B", beyond)
	d.listen()
	d.lab.launch()
	d.start()
	address := d.settled()
	d.transfer(address)
	d.awaitCarrier("fiber")
	d.awaitState("campus6", uplink.Up, uplink.Degraded)
	d.part(t, "the underlay moves and returns", func() { d.moveUnderlay(address) })
	for _, order := range [][]string{nil, {"lab", "dormitory"}, {"dormitory", "lab"}, {"lab"}, {"dormitory"}} {
		d.part(t, fmt.Sprintf("restart of %v", order), func() { d.restart(order, address) })
	}
	for _, e := range d.decisions() {
		if e.Kind == status.EventLease && strings.Contains(e.Message, "lost") {
			t.Errorf("a lease was lost: %+v", e)
		}
	}
}

// part is a part of the test, which ends with the first that fails.
func (d *dormitory) part(t *testing.T, name string, run func()) {
	t.Helper()
	t.Run(name, func(part *testing.T) {
		d.router.TB, d.lab.TB = part, part
		defer func() { d.router.TB, d.lab.TB = t, t }()
		run()
	})
	if t.Failed() {
		t.FailNow()
	}
}

func (d *dormitory) moveUnderlay(address netip.Addr) {
	d.Helper()
	answers := d.pings("lan", "56", "-I "+address.String(), beyond)
	longest := d.gaps(address)
	broken := time.Now()
	if err := d.Break(lab.Blackhole, "fiber"); err != nil {
		d.Fatal(err)
	}
	d.awaitCarrier("lte")
	d.Logf("the underlay moved %v after its provider died", time.Since(broken).Round(time.Millisecond))
	d.await("answers again", answers)
	d.Logf("the longest silence over the tap was %v", longest())
	longest = d.gaps(address)
	if err := d.Heal(); err != nil {
		d.Fatal(err)
	}
	d.awaitCarrier("fiber")
	d.await("answers by the first provider", answers)
	d.Logf("the longest silence while it returned was %v", longest())
	if again := d.awaitPrefix(); again != address {
		d.Errorf("the host's address has changed from %v to %v", address, again)
	}
}

// restart has routers lose power and come back, in the order that they are given in; nil kills both daemons alone.
func (d *dormitory) restart(order []string, address netip.Addr) {
	d.Helper()
	if order == nil {
		longest := d.gaps(address)
		d.kill()
		d.lab.kill()
		d.lab.start()
		d.start()
		d.settled()
		d.Logf("the longest silence while both daemons were killed and started was %v", longest())
		return
	}
	for _, side := range order {
		if side == "lab" {
			lose(d.lab, "labside", "op2-gre1 wg0")
		} else {
			lose(d.router, d.Host("router").Namespace(), "gre1 wg0")
		}
	}
	began := time.Now()
	for _, side := range order {
		if side == "lab" {
			d.lab.start()
		} else {
			d.start()
		}
	}
	if again := d.settled(); again != address {
		d.Errorf("the host's address is %v, and was %v", again, address)
	}
	d.Logf("after a restart of %v all worked within %v", order, time.Since(began).Round(time.Millisecond))
}

// BenchmarkVMTheUnderlayMoves measures how long the tap is silent when the provider that carries it dies, at the default
// probing, and when that provider returns:
//
//	go test -tags vm -exec bin/vmexec -run '^$' -bench VMTheUnderlay -benchtime 1x -count 3 -v ./cmd/uplinkd
func BenchmarkVMTheUnderlayMoves(b *testing.B) {
	var moved, silence, returned time.Duration
	for range b.N {
		d := newDormitory(b, "")
		d.listen()
		d.lab.launch()
		d.start()
		address := d.settled()
		d.awaitState("campus6", uplink.Up, uplink.Degraded)
		d.awaitState("lte", uplink.Up)
		d.awaitCarrier("fiber")
		longest := d.gaps(address)
		d.await("an answer", d.pings("lan", "56", "-I "+address.String(), beyond))
		broken := time.Now()
		if err := d.Break(lab.Blackhole, "fiber"); err != nil {
			b.Fatal(err)
		}
		broken = broken.Add(time.Since(broken) / 2) // it takes a while on an emulated machine
		d.awaitCarrier("lte")
		moved += time.Since(broken)
		d.await("answers again", d.pings("lan", "56", "-I "+address.String(), beyond))
		silence += longest()
		longest = d.gaps(address)
		if err := d.Heal(); err != nil {
			b.Fatal(err)
		}
		d.awaitCarrier("fiber")
		d.await("answers by the first provider", d.pings("lan", "56", "-I "+address.String(), beyond))
		returned += longest()
		if again := d.awaitPrefix(); again != address {
			b.Errorf("the host's address has changed from %v to %v", address, again)
		}
		b.Logf("so far: moved after %v, silent for %v, and for %v at the return", moved, silence, returned)
	}
	n := float64(b.N)
	b.ReportMetric(float64(moved.Milliseconds())/n, "ms-to-move")
	b.ReportMetric(float64(silence.Milliseconds())/n, "ms-silent")
	b.ReportMetric(float64(returned.Milliseconds())/n, "ms-silent-at-return")
	b.ReportMetric(0, "ns/op")
}
