package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// keptByOthers is what other programs keep on a router: rules and a table as Tailscale makes them, a full tunnel as
// wg-quick does, and a bridge with a container and its own translation as Docker does.
const keptByOthers = `
ip link add ts0 type veth peer name ts-far; ip link set ts0 up; ip link set ts-far up
ip route add 198.51.100.192/26 dev ts0 table 52
for f in -4 -6; do
  ip $f rule add pref 5210 fwmark 0x80000/0xff0000 lookup main
  ip $f rule add pref 5270 lookup 52
done
ip link add wg-far type veth peer name wg1; ip link set wg1 up; ip link set wg-far up
ip route add default dev wg1 table 51820
ip rule add pref 32764 not fwmark 0xca6c lookup 51820
ip link add br-box type bridge; ip link set br-box up; ip address add 198.51.100.161/28 dev br-box
ip link add box0 type veth peer name box1; ip link set box0 master br-box up; ip link set box1 netns $BOX
nsenter -t $BOX -n sh -ec 'ip link set box1 up; ip address add 198.51.100.162/28 dev box1; ip route add default via 198.51.100.161'
nft -f - <<'X'
table ip boxes {
  chain postrouting { type nat hook postrouting priority srcnat; ip saddr 198.51.100.160/28 oifname != "br-box" masquerade; }
  chain forward { type filter hook forward priority filter; policy accept; oifname "br-box" ct state established,related accept; oifname "br-box" drop; }
}
X
`

func TestOtherProgramsOnTheRouterAreLeftAlone(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN+"\n[[policy]]\nname = \"tight\"\nto = \"192.0.2.2\"\nuplinks = [\"fiber\"]\nfallback = \"unreachable\"\n")
	pid := r.unshareNet("router")
	r.sh("router", strings.ReplaceAll(keptByOthers, "$BOX", pid))
	theirs := func() string {
		return r.sh("router", `for f in -4 -6; do ip $f rule | grep -v 'proto 117'; done; ip route show table 52; ip route show table 51820
			nft list table ip boxes; ip -o address show dev br-box; ip route show dev br-box`)
	}
	before := theirs()
	await := func(uplink string) {
		t.Helper()
		r.await("the container by "+uplink, func() error {
			if by, err := r.byFrom(pid); err != nil || by != uplink {
				return fmt.Errorf("by %q: %w", by, errors.Join(err, errors.New("not yet")))
			}
			return nil
		})
	}
	r.ready()
	await("fiber")
	if out := r.sh("router", "ip route get 198.51.100.200; ip route get 192.0.2.1 mark 0x80000"); !strings.Contains(out, "dev ts0") || !strings.Contains(out, "dev wan1") {
		t.Errorf("Tailscale's routes and its bypass:\n%s", out)
	}
	var codes []string
	for _, p := range r.status().Problems {
		codes = append(codes, p.Code)
	}
	if !slices.Equal(codes, []string{"foreign-default"}) {
		t.Errorf("problems: %q", codes)
	}
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	await("lte")
	if out := r.sh("router", "ip route get 192.0.2.1 mark 0x80000"); !strings.Contains(out, "dev wan2") {
		t.Errorf("a program that reads table main only does not follow:\n%s", out)
	}
	if diff := cmp.Diff(before, theirs()); diff != "" {
		t.Errorf("what is others' has changed (-before +after):\n%s", diff)
	}
	r.stop()
	r.command("clean", "-c", r.config)
	if diff := cmp.Diff(before, theirs()); diff != "" {
		t.Errorf("what is others' has changed after cleaning up (-before +after):\n%s", diff)
	}
}

// fullTunnel is what wg-quick does for AllowedIPs = 0.0.0.0/0, with a pair of veths in the place of the tunnel: all that
// has not the mark of the tunnel's own socket enters it. Its rules have no preference, and so stand before all others.
const fullTunnel = `
ip link add wg-far type veth peer name wg1; ip link set wg1 up; ip link set wg-far up; ip address add 198.51.100.161/28 dev wg1
ip neigh add 198.51.100.162 dev wg1 lladdr 02:00:00:00:00:62
ip route add default via 198.51.100.162 dev wg1 table 51820
ip rule add not fwmark 0xca6c lookup 51820
ip rule add lookup main suppress_prefixlength 0
nft 'table ip wg-quick-wg1 {
	chain premangle { type filter hook prerouting priority mangle; meta l4proto udp meta mark set ct mark
	}
	chain postmangle { type filter hook postrouting priority mangle; meta l4proto udp meta mark 0xca6c ct mark set meta mark
	}
	chain looped { type filter hook postrouting priority 300; oifname "wg1" ip daddr 192.0.2.1 counter
	}
}'`

// A tunnel's own packets never enter it again, whoever came first. With our pin in their mark they would be none of
// the tunnel's any more, from the second packet on.
func TestAFullTunnelOfAnotherProgramDoesNotLoop(t *testing.T) {
	for _, first := range []string{"ours", "theirs"} {
		t.Run(first+" first", func(t *testing.T) {
			t.Parallel()
			r := newRouter(t, lab.Options{}, dualWAN)
			r.sh("router", "sysctl -qw net.ipv4.conf.all.rp_filter=1")
			conn := r.markedSocket("router", 0xca6c, "192.0.2.1:7")
			if first == "theirs" {
				r.sh("router", fullTunnel)
			}
			r.ready()
			if first == "ours" {
				r.sh("router", fullTunnel)
			}
			r.await("the tunnel's problem to be told", func() error {
				return errors.Join(r.hasProblem(map[string]string{"ours": "foreign-full-tunnel", "theirs": "foreign-default"}[first]), r.converged())
			})
			for n := range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				if _, err := lab.AskUDP(ctx, conn, []byte{byte(n)}); err != nil {
					t.Fatalf("packet %d of the tunnel's socket: %v", n, err)
				}
				cancel()
			}
			if out := r.sh("router", "nft list chain ip wg-quick-wg1 looped"); !strings.Contains(out, "counter packets 0 bytes 0") {
				t.Errorf("packets of the tunnel's socket entered the tunnel:\n%s", out)
			}
			if n := r.foreign(); n != 0 {
				t.Errorf("%d packets left with a foreign source", n)
			}
		})
	}
}

// markedSocket connects a UDP socket with a mark of its own (SO_MARK).
func (r *router) markedSocket(host string, mark int, to string) net.Conn {
	r.Helper()
	conn, err := r.Host(host).Dial(context.Background(), "udp", "", to)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = conn.Close() })
	raw, err := conn.(*net.UDPConn).SyscallConn()
	if err == nil {
		err = errors.Join(raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark) }), err)
	}
	if err != nil {
		r.Fatal(err)
	}
	return conn
}

// unshareNet makes a network namespace of its own beside a host, and returns the id of a process in it.
func (r *router) unshareNet(host string) (pid string) {
	r.Helper()
	holder, _, _ := r.background(host, "unshare", "--net", "sleep", "infinity")
	pid = strconv.Itoa(holder.Process.Pid)
	r.await("a network apart from "+host, func() error {
		outside, err := r.Host(host).Run("readlink", "/proc/self/ns/net")
		inside, readErr := os.Readlink("/proc/" + pid + "/ns/net")
		if err = errors.Join(err, readErr); err == nil && strings.TrimSpace(outside) == inside {
			err = errors.New("not yet")
		}
		return err
	})
	return pid
}

// byFrom says by which uplink a new flow of such a namespace leaves.
func (r *router) byFrom(pid string) (uplink string, err error) {
	out, err := r.Host("router").Run("nsenter", "-t", pid, "-n", "timeout", "5", "bash", "-c", "exec 3<>/dev/udp/192.0.2.1/7 && echo hello >&3 && head -n1 <&3")
	if err != nil {
		return "", err
	}
	source, err := netip.ParseAddrPort(strings.Fields(out)[0])
	return r.UplinkOf(source.Addr()), err
}

// A far office comes in by a VXLAN that LTE carries. The kernel leaves a packet the mark that its carrier was pinned
// by (net/ipv4/ip_tunnel_core.c __iptunnel_pull_header, within a namespace), which is no reason to leave by LTE.
func TestWhatATunnelBringsDoesNotLeaveByItsCarrier(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN+`
[[tunnel]]
kind = "vxlan"
id = 7
device = "far"
bridge = "br-far"
local = "203.0.113.2"
remote = "192.0.2.1"
`)
	pid := r.unshareNet("inet")
	r.sh("router", "ip link add br-far type bridge; ip link set br-far up; ip address add 198.51.100.161/28 dev br-far")
	r.sh("inet", "ip link add far type vxlan id 7 local 192.0.2.1 remote 203.0.113.2 dstport 4789; ip link set far netns "+pid+`
		nsenter -t `+pid+` -n sh -ec 'ip link set far up; ip address add 198.51.100.162/28 dev far; ip route add default via 198.51.100.161'`)
	r.ready()
	carried := r.countVXLAN("wan1")
	for range 5 {
		r.await("the far office by fiber", func() error {
			by, err := r.byFrom(pid)
			if err == nil && by != "fiber" {
				t.Fatalf("by %s", by)
			}
			return err
		})
	}
	if n := carried(); n != 0 {
		t.Errorf("fiber carried %d packets of a tunnel that has the address of LTE", n)
	}
}

// countVXLAN counts what VXLANs of the router send by a device.
func (r *router) countVXLAN(device string) (sent func() int) {
	r.Helper()
	r.sh("router", `nft 'table inet seen { counter vxlan {
		}; chain o { type filter hook postrouting priority 300; oifname "`+device+`" udp dport 4789 counter name vxlan
	}; }'`)
	return func() (n int) {
		r.Helper()
		out := r.sh("router", "nft list counter inet seen vxlan")
		if _, err := fmt.Sscan(strings.Fields(out[strings.Index(out, "packets"):])[1], &n); err != nil {
			r.Fatal(err)
		}
		return n
	}
}

// TestAnUplinkByVXLANCarriesConnections has a policy lead to an uplink which is a tunnel itself: the mark of what it carries leads into it, and
// must not lead what carries that.
func TestAnUplinkByVXLANCarriesConnections(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN+`
[[uplink]]
name = "office"
kind = "vxlan"
device = "vx0"
over = "lte"
default = false
  [uplink.vxlan]
  local = "203.0.113.2"
  remote = "192.0.2.1"
  id = 42
  [uplink.ipv4]
  method = "static"
  address = "198.51.100.162/28"
  gateway = "198.51.100.161"
  [uplink.ipv6]
  method = "off"
  [uplink.probe]
  targets = ["198.51.100.161"]
[[policy]]
name = "office"
to = ["198.51.100.200"]
uplinks = ["office"]
`)
	r.sh("inet", `ip link add vx0 type vxlan id 42 local 192.0.2.1 remote 203.0.113.2 dstport 4789; ip link set vx0 up
		ip address add 198.51.100.161/28 dev vx0; ip address add 198.51.100.200/32 dev lo`)
	server := addrPort("198.51.100.200:7000")
	if err := r.Host("inet").ServeTCPEcho(r.Context(), server); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.awaitState("office", uplink.Up)
	byLTE := r.countVXLAN("wan2")
	since := r.typing("lan", "", server)
	r.await("the connection to get on", func() error {
		if byLTE() < 50 {
			return errors.New("not yet")
		}
		return nil
	})
	if silent := since(); silent > unhurried {
		t.Errorf("silent for %v", silent)
	}
}

// A firewall has masqueraded before we came: its work is not done twice, and when it fails nothing leaves as it is
// until ours does it. Hosts behind another router of the LAN are no exception.
func TestAFirewallThatMasqueradesIsLeftToIt(t *testing.T) {
	r := newRouter(t, lab.Options{}, dualWAN)
	r.sh("router", `nft 'table inet fw4 {
		chain srcnat { type nat hook postrouting priority srcnat; oifname { "wan1", "wan2" } jump srcnat_wan
		}
		chain srcnat_wan { meta nfproto ipv4 masquerade
		}
	}'; ip route add 198.51.100.160/28 via 203.0.113.130`)
	r.sh("lan", "ip address add 198.51.100.161/32 dev lo")
	r.ready()
	masquerades := func() bool {
		return strings.Contains(r.sh("router", "nft list chain inet uplinkd srcnat"), `meta nfproto ipv4 oifname "wan1" masquerade`)
	}
	if masquerades() {
		t.Error("it is done twice")
	}
	var reported []string
	for _, p := range r.status().Problems {
		reported = append(reported, p.Code+": "+p.Message)
	}
	if want := []string{
		"foreign-masquerade: the nftables table inet fw4 already rewrites the source of everything that leaves by wan1 (ipv4), so fiber is not masqueraded again",
		"foreign-masquerade: the nftables table inet fw4 already rewrites the source of everything that leaves by wan2 (ipv4), so lte is not masqueraded again",
	}; !slices.Equal(reported, want) {
		t.Errorf("problems: %q", reported)
	}
	r.expectBy("lan", other4, "fiber")
	r.expectBy("lan", other6, "fiber")
	probes := []*lab.FlowProbe{
		{From: r.Host("lan"), Network: "udp", Target: addrPort(other4), Interval: time.Millisecond},
		{From: r.Host("lan"), Network: "udp", Source: netip.MustParseAddr("198.51.100.161"), Target: addrPort(other4), Interval: time.Millisecond},
	}
	for _, p := range probes {
		defer r.probe(p)()
		r.awaitFlow(p, "fiber")
	}
	r.sh("router", "nft delete table inet fw4")
	r.await("uplinkd to masquerade itself", func() error {
		if !masquerades() {
			return errors.New("not yet")
		}
		return nil
	})
	for _, p := range probes {
		r.awaitFlow(p, "fiber")
	}
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left as they were", n)
	}
	r.await("no problem to be left", func() error {
		if problems := r.status().Problems; len(problems) != 0 {
			return fmt.Errorf("%+v", problems)
		}
		return nil
	})
}
