package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// byHandMasquerade is what the other programs leave to the administrator.
const byHandMasquerade = `nft 'add table ip byhand; add chain ip byhand srcnat { type nat hook postrouting priority srcnat; }; add rule ip byhand srcnat oifname { "wan1", "wan2" } masquerade'
sysctl -qw net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.wan1.rp_filter=2 net.ipv4.conf.wan2.rp_filter=2
`

// byHandProbed leads probes by the line whose address they have.
const byHandProbed = `ip route add default via $GATEWAY1 dev wan1 table 101
ip rule add from $ADDRESS1 lookup 101
`

// byKeepalived follows a ping by the first line: keepalived has no routes of its own here, because it withdraws virtual_routes of a
// script's failure only with the address of its instance.
const byKeepalived = `cat >$DIR/keepalived.conf <<'X'
global_defs {
	enable_script_security
	script_user root
}
vrrp_script line {
	script "/bin/ping -q -c 1 -W 1 -I $ADDRESS1 192.0.2.1"
	interval $INTERVAL
	fall $FALL
	rise 2
}
vrrp_instance router {
	state MASTER
	interface lan0
	virtual_router_id 7
	priority 100
	advert_int 1
	virtual_ipaddress {
		192.0.2.200/32 dev lan0
	}
	track_interface {
		wan1
	}
	track_script {
		line
	}
	notify_master "/sbin/ip route replace default via $GATEWAY1 dev wan1 metric 1"
	notify_fault "/sbin/ip route replace default via $GATEWAY2 dev wan2 metric 1"
}
X
exec keepalived -n -l -f $DIR/keepalived.conf -p $DIR/keepalived.pid -r $DIR/vrrp.pid
`

// byLSM follows lsm's pings by the first line, at the numbers that it is shipped with. It tells nobody by mail.
const byLSM = `cat >$DIR/moved <<'X'
#!/bin/sh
case "$1" in
up) exec ip route replace default via $GATEWAY1 dev wan1 metric 1 ;;
down) exec ip route replace default via $GATEWAY2 dev wan2 metric 1 ;;
esac
X
chmod +x $DIR/moved
cat >$DIR/lsm.conf <<'X'
defaults {
	name=defaults
	eventscript=$DIR/moved
	notifyscript=
	max_packet_loss=15
	max_successive_pkts_lost=7
	min_packet_loss=5
	min_successive_pkts_rcvd=10
	interval_ms=1000
	timeout_ms=1000
}
connection {
	name=line
	checkip=192.0.2.1
	sourceip=$ADDRESS1
	device=wan1
}
X
exec lsm -f -c $DIR/lsm.conf -p $DIR/lsm.pid
`

// peerTries is how often each program's line is broken, each time in a world of its own.
const peerTries = 8

// BenchmarkPeers has other programs and this one do the same in the same worlds, one after the other, IPv4 of two lines: how long new
// flows of a LAN host stand still when the first fails, how often they move at 2 % loss each way, what the program costs when
// nothing happens, and what the router forwards beside one with rules that were written by hand. With UPLINKD_PICTURE it draws the first of these into that file.
func BenchmarkPeers(b *testing.B) {
	bin := buildProgram(b)
	far, near := panel{kind: lab.Upstream, title: "The provider has lost the Internet"}, panel{kind: lab.Carrier, title: "The cable is pulled"}
	for _, peer := range []struct {
		name  string
		begin func(r *router) (pid int, end func())
	}{
		{"uplinkd", func(r *router) (int, func()) {
			r.binary = bin
			r.start()
			r.awaitState("fiber", uplink.Up)
			r.awaitState("lte", uplink.Up)
			return r.process.Process.Pid, r.kill
		}},
		{"keepalived_1s_fall_1", func(r *router) (int, func()) { return r.keepalived(1, 1) }},
		{"keepalived_2s_fall_3", func(r *router) (int, func()) { return r.keepalived(2, 3) }},
		{"lsm", func(r *router) (int, func()) { return r.byScript("lsm", byLSM) }},
		{"frr_bfd_300ms", func(r *router) (int, func()) { return r.bfd(300) }},
		{"frr_bfd_100ms", func(r *router) (int, func()) { return r.bfd(100) }},
	} {
		b.Run(peer.name, func(b *testing.B) {
			for _, broken := range []*panel{&far, &near} {
				b.Run(broken.kind, func(b *testing.B) {
					for b.Loop() {
						var stalls distribution
						for range peerTries {
							stalls = append(stalls, stalledBeside(b, broken.kind, peer.begin))
						}
						stalls.report(b)
						broken.add(strings.ReplaceAll(peer.name, "_", " "), stalls)
					}
				})
			}
			b.Run("loss_2_percent", func(b *testing.B) {
				for b.Loop() {
					b.ReportMetric(float64(movesBeside(b, peer.begin)), "moves-a-minute")
					b.ReportMetric(0, "ns/op")
				}
			})
			b.Run("idle", func(b *testing.B) {
				for b.Loop() {
					r := newRouter(b, lab.Options{}, dualWAN)
					pid, end := peer.begin(r)
					rest(b.Context(), 30*time.Second)
					began, before, switched := time.Now(), processorTime(r, pid), treeSwitches(r, pid)
					rest(b.Context(), time.Minute)
					used, switches, span := processorTime(r, pid)-before, treeSwitches(r, pid)-switched, time.Since(began).Seconds()
					b.ReportMetric(100*used.Seconds()/span, "%-of-a-core")
					b.ReportMetric(float64(switches)/span, "switches/s")
					b.ReportMetric(float64(treeMemory(r, pid))/1024, "PSS-MiB")
					b.ReportMetric(0, "ns/op")
					end()
				}
			})
			b.Run("forwarding", func(b *testing.B) {
				routers := [2]*router{newRouter(b, lab.Options{}, dualWAN), newRouter(b, lab.Options{}, dualWAN)}
				_, end := peer.begin(routers[0])
				defer end()
				routers[1].byHand()
				compareLoads(b, routers, func(r *router) *load { return r.packetsOut(addrPort("192.0.2.1:9")) })
			})
		})
	}
	if file := os.Getenv(pictureEnv); file != "" {
		out, err := draw(far, near)
		if err == nil {
			err = os.WriteFile(file, out, 0o644)
		}
		if err != nil {
			b.Error(err)
		}
	}
}

// keepalived starts it on the router, asking the first line at each interval, in seconds.
func (r *router) keepalived(interval, fall int) (pid int, end func()) {
	r.Helper()
	pid, stop := r.byScript("keepalived", strings.NewReplacer("$INTERVAL", strconv.Itoa(interval), "$FALL", strconv.Itoa(fall)).Replace(byKeepalived))
	return pid, func() { _, _ = r.Host("router").Run("pkill", "-F", filepath.Join(r.dir, "keepalived.pid")); stop() }
}

// byScript starts a program that sets the default route itself, with metric 1, and awaits its first one.
func (r *router) byScript(program, script string) (pid int, stop func()) {
	r.Helper()
	script = strings.ReplaceAll(r.ofLines(byHandMasquerade+byHandProbed+script), "$DIR", r.dir)
	cmd, log, stop := r.background("router", "sh", "-ec", script)
	r.await(program+" to have set the route", func() error {
		if out := r.sh("router", "ip route show default metric 1"); out == "" {
			return fmt.Errorf("it says: %s", log)
		}
		return nil
	})
	return cmd.Process.Pid, stop
}

// ofLines fills a script's $GATEWAY1, $ADDRESS1 and so on, of each uplink.
func (r *router) ofLines(script string) string {
	for i, u := range r.Uplinks() {
		script = strings.NewReplacer(fmt.Sprintf("$GATEWAY%d", i+1), u.Gateway4.String(), fmt.Sprintf("$ADDRESS%d", i+1), u.Address4.Addr().String()).Replace(script)
	}
	return script
}

// bySpeaker is FRR with BFD towards PEER, several hops away, on the router and in the Internet. A session of BGP brings the default
// route, and ends with that of BFD: staticd of FRR 8.4 does not know BFD yet. The detect-multiplier is FRR's default.
const bySpeaker = `mkdir -p DIR; chown frr: DIR; cd DIR
cat >zebra.conf <<'X'
hostname here
X
cat >staticd.conf <<'X'
STATIC
X
cat >bfdd.conf <<'X'
bfd
 profile line
  detect-multiplier 3
  receive-interval INTERVAL
  transmit-interval INTERVAL
X
cat >bgpd.conf <<'X'
router bgp ASN
 no bgp ebgp-requires-policy
 neighbor PEER remote-as external
 neighbor PEER ebgp-multihop 2
 neighbor PEER update-source OWN
 neighbor PEER timers connect 1
 neighbor PEER bfd
 neighbor PEER bfd profile line
 address-family ipv4 unicast
ORIGINATE
X
pids=
trap 'kill $pids; wait; exit 0' TERM
options="-u frr -g frr -z DIR/zserv.api --vty_socket DIR --log stdout"
/usr/lib/frr/zebra $options -f DIR/zebra.conf -i DIR/zebra.pid & pids="$pids $!"
while [ ! -e zebra.vty ]; do sleep 0.1; done
/usr/lib/frr/staticd $options -f DIR/staticd.conf -i DIR/staticd.pid & pids="$pids $!"
/usr/lib/frr/bfdd $options -f DIR/bfdd.conf -i DIR/bfdd.pid --bfdctl DIR/bfdd.sock & pids="$pids $!"
while [ ! -e bfdd.vty ]; do sleep 0.1; done
/usr/lib/frr/bgpd $options -f DIR/bgpd.conf -i DIR/bgpd.pid & pids="$pids $!"
wait
`

// bfd starts FRR on the router and in the Internet, which speak BFD by the first line, at each interval in milliseconds. The second
// line has a route that is worse than that by BGP, and does not need it.
func (r *router) bfd(interval int) (pid int, end func()) {
	r.Helper()
	if err := os.Chmod(r.dir, 0o755); err != nil { // its programs give up being root
		r.Fatal(err)
	}
	fiber, lte := r.Uplink("fiber"), r.Uplink("lte")
	own := fiber.Address4.Addr().String()
	start := func(host, peer, own, asn, static, originate string) (*exec.Cmd, *safeBuffer, func()) {
		script := strings.NewReplacer("DIR", filepath.Join(r.dir, "frr-"+host), "PEER", peer, "OWN", own, "ASN", asn, "STATIC", static,
			"ORIGINATE", originate, "INTERVAL", strconv.Itoa(interval)).Replace(bySpeaker)
		cmd, log, stop := r.background(host, "sh", "-ec", script)
		end := sync.OnceFunc(func() {
			_ = cmd.Process.Signal(syscall.SIGTERM) // which it passes on
			ended := time.AfterFunc(patience, stop)
			_ = cmd.Wait()
			ended.Stop()
		})
		r.Cleanup(end)
		return cmd, log, end
	}
	// zebra takes a default in main that is not its own for better. What is for the peer stays on the first line, whatever the default is.
	r.sh("router", byHandMasquerade+fmt.Sprintf("ip route flush exact 0.0.0.0/0; ip rule add from %s to %s lookup 101; ip route add default via %s dev wan1 table 101",
		own, lab.Client4, fiber.Gateway4))
	_, _, endFar := start(lab.Internet, own, lab.Client4, "64496", "", "  neighbor "+own+" default-originate")
	cmd, log, endNear := start(lab.Router, lab.Client4, own, "64497", fmt.Sprintf("ip route %s/32 %s wan1\nip route 0.0.0.0/0 %s wan2 250",
		lab.Client4, fiber.Gateway4, lte.Gateway4), "")
	r.await("a default route by BGP and a session of BFD", func() error {
		route := r.sh("router", "ip route show default proto bgp")
		sessions, err := r.Host("router").Run("vtysh", "--vty_socket", filepath.Join(r.dir, "frr-router"), "-d", "bfdd", "-c", "show bfd peers brief")
		if !strings.Contains(route, "dev wan1") || !slices.Contains(strings.Fields(sessions), "up") {
			return fmt.Errorf("routes %q, sessions %q, %v; it says: %s", route, sessions, err, log)
		}
		return nil
	})
	return cmd.Process.Pid, func() { endNear(); endFar() }
}

func stalledBeside(b *testing.B, kind string, begin func(*router) (int, func())) time.Duration {
	r := newRouter(b, lab.Options{}, dualWAN)
	_, end := begin(r)
	defer func() {
		end()
		if err := r.Close(); err != nil {
			b.Error(err)
		}
	}()
	p := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort("192.0.2.1:7")}
	defer r.probe(p)()
	r.awaitFlow(p, "fiber")
	rest(b.Context(), time.Second+rand.N(time.Second))
	if err := r.Break(kind, "fiber"); err != nil {
		b.Fatal(err)
	}
	since := r.brokenSince()
	r.awaitFlow(p, "lte")
	return p.Stall(since)
}

// movesBeside counts how often new flows change their line in a minute.
func movesBeside(b *testing.B, begin func(*router) (int, func())) (moves int) {
	r := newRouter(b, lab.Options{}, dualWAN)
	_, end := begin(r)
	defer end()
	p := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort("192.0.2.1:7"), Interval: 100 * time.Millisecond}
	stop := r.probe(p)
	r.awaitFlow(p, "fiber")
	if err := r.Break("loss=2", "fiber"); err != nil {
		b.Fatal(err)
	}
	rest(b.Context(), time.Minute)
	stop()
	flows := slices.Clone(p.Flows())
	slices.SortFunc(flows, func(a, b lab.Flow) int { return a.Start.Compare(b.Start) })
	last := "fiber"
	for _, f := range flows {
		if f.Err != nil {
			continue
		}
		if by := r.UplinkOf(f.Source.Addr()); by != last {
			moves, last = moves+1, by
		}
	}
	return moves
}

// tree lists a process and what has come of it.
func tree(r *router, pid int) []int {
	list := []int{pid}
	for i := 0; i < len(list); i++ {
		children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", list[i]))
		for _, file := range children {
			text, _ := os.ReadFile(file) // it may have ended
			for id := range strings.FieldsSeq(string(text)) {
				if n, err := strconv.Atoi(id); err == nil {
					list = append(list, n)
				}
			}
		}
	}
	return list
}

// processorTime is that of a process, of its children, and of those that have ended.
func processorTime(r *router, pid int) (sum time.Duration) {
	const ticks = 100 // a second: USER_HZ
	for _, id := range tree(r, pid) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", id))
		if err != nil {
			continue
		}
		_, fields, _ := strings.Cut(string(text), ") ")
		for _, field := range strings.Fields(fields)[11:15] { // utime stime cutime cstime
			n, err := strconv.Atoi(field)
			if err != nil {
				r.Fatal(err)
			}
			sum += time.Duration(n) * time.Second / ticks
		}
	}
	return sum
}

// treeSwitches is how often threads of a process and of its children were switched to, of those that run: what has ended in between is
// not in it.
func treeSwitches(r *router, pid int) (sum int) {
	for _, id := range tree(r, pid) {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", id))
		for _, file := range threads {
			if _, err := os.Stat(file); err == nil {
				sum += field(r, file, "voluntary_ctxt_switches:") + field(r, file, "nonvoluntary_ctxt_switches:")
			}
		}
	}
	return sum
}

// treeMemory is what a process and its children have in memory, in KiB, shared pages divided by those that share them.
func treeMemory(r *router, pid int) (kib int) {
	for _, id := range tree(r, pid) {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/smaps_rollup", id)); err == nil {
			kib += field(r, fmt.Sprintf("/proc/%d/smaps_rollup", id), "Pss:")
		}
	}
	return kib
}
