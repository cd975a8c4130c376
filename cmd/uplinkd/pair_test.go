package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
)

// The pair of routers of these scenes. Whoever has the virtual address also has that of the first line, 198.51.100.2.
const (
	virtual4    = "203.0.113.140"
	virtual6    = "fe80::7:1" // of the hosts' router
	ownOfFirst  = lab.LANRouter4
	ownOfSecond = "203.0.113.141"
	// A third line, of which each has its own address.
	lineOfFirst, lineOfSecond = "198.51.100.146", "198.51.100.147"
)

// pairMember is one of two routers, with keepalived and conntrackd.
type pairMember struct {
	*router
	own, peer string
	priority  int
	programs  []func() // what ends keepalived and conntrackd
}

// on runs a script on this router.
func (m *pairMember) on(script string) string {
	m.Helper()
	out, err := m.onOr(script)
	if err != nil {
		m.Fatalf("%v\n%s", err, out)
	}
	return out
}

func (m *pairMember) onOr(script string) (string, error) {
	cmd := netnsCommand(m.namespace, "sh", "-ec", script)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// playPair has both routers work, the first as primary; the leased line's provider leases one address.
func playPair(t *testing.T) (first, second *pairMember) {
	t.Helper()
	first, second = newPair(t, pairUplinks)
	first.serveLease("203.0.113.2")
	first.play()
	second.play()
	first.awaitRole("primary")
	second.awaitRole("backup")
	return first, second
}

// newPair builds a world with a second router beside the first: both on one LAN, and both at both providers.
func newPair(t testing.TB, uplinks string) (first, second *pairMember) {
	t.Helper()
	world := newRouter(t, lab.Options{Uplinks: 3}, "")
	other := &router{TB: t, dir: filepath.Join(world.dir, "2"), namespace: world.Host("router").Namespace() + "2"}
	first = &pairMember{router: world, own: ownOfFirst, peer: ownOfSecond, priority: 150}
	second = &pairMember{router: other, own: ownOfSecond, peer: ownOfFirst, priority: 100}
	world.namespace = world.Host("router").Namespace()
	// The host of the LAN is its switch, and so are the providers at their ends. A bridge has the least address of its ports, unless it is given one: the
	// host shall not become another one when a port vanishes.
	bridge := func(host, port, addresses string) {
		world.sh(host, fmt.Sprintf(`
ip link add br0 type bridge stp_state 0 forward_delay 0
sysctl -qw net.ipv6.conf.br0.accept_dad=0
ip address flush dev %[1]s
ip link set br0 address $(cat /sys/class/net/%[1]s/address)
ip link set %[1]s master br0
ip link set br0 up
%[2]s
`, port, addresses))
	}
	bridge("lan", "eth0", "ip address add "+lab.LANHost4+"/25 dev br0")
	bridge("isp1", "cust1", "ip address add 198.51.100.1/26 dev br0; ip address add fe80::1/64 dev br0 nodad; ip address add 2001:db8:a::1/64 dev br0 nodad")
	bridge("isp2", "cust2", "ip address add 203.0.113.1/26 dev br0")
	bridge("isp3", "cust3", "ip address add 198.51.100.145/28 dev br0")
	world.sh("lan", "ip route replace default via "+virtual4)
	second.plugIn(world)
	t.Cleanup(second.pullOut)
	world.sh("router", "for d in wan1 wan2 wan3; do ip address flush dev $d; done; ip -6 address flush dev lan0 scope global; ip route flush proto dhcp; ip -6 route flush proto static")
	key := filepath.Join(world.dir, "pair.key")
	if err := os.WriteFile(key, []byte("6n2XhHdpYVJcKpQG0cVZk1yJq3vTqzXb\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(other.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	other.config, other.client = filepath.Join(other.dir, "uplinkd.toml"), api.Dial(filepath.Join(other.dir, "s"))
	t.Cleanup(other.kill)
	for _, m := range []*pairMember{first, second} {
		m.configure(fmt.Sprintf("[pair]\nvirtual = [%q, %q]\ndevice = \"lan0\"\npeer = \"%s:9276\"\nkey_file = %q\nprepare = [%q, \"prepare\"]\n", virtual4, virtual6, m.peer, key, m.dir+"/pair-flows") + uplinks)
		m.files()
	}
	return first, second
}

// plugIn makes the network namespace of a second router, with a port at each segment of a world.
func (m *pairMember) plugIn(world *router) {
	m.Helper()
	if out, err := exec.Command("ip", "netns", "add", m.namespace).CombinedOutput(); err != nil {
		m.Fatalf("%v: %s", err, out)
	}
	m.on(`
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.forwarding=1 net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1 \
	net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.default.dad_transmits=0
ip link set lo up
`)
	for host, device := range map[string]string{"lan": "lan0", "isp1": "wan1", "isp2": "wan2", "isp3": "wan3"} {
		world.sh(host, fmt.Sprintf(`
ip link add second type veth peer name %[1]s netns %[2]s
ip link set second master br0
ip link set second up
ip netns exec %[2]s ip link set %[1]s up
`, device, m.namespace))
	}
	for isp, line := range map[string][2]string{"isp1": {"fiber", "@fiber_net4"}, "isp2": {"lte", "@lte_net4"}, "isp3": {"isp3", lineOfSecond}} {
		world.sh(isp, fmt.Sprintf(`nft delete chain netdev isp second 2>/dev/null || true
nft -f - <<'X'
table netdev isp {
	chain second {
		type filter hook ingress device "second" priority 0; policy accept;
		ip saddr 0.0.0.0 accept
		ip saddr %[2]s counter name %[1]s_passed4 accept
		meta protocol ip add @%[1]s_seen4 { ip saddr . ip daddr }
		meta protocol ip counter name %[1]s_foreign4 drop
		icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept
		ip6 saddr :: accept
		ip6 saddr fe80::/10 accept
		ip6 saddr @%[1]s_net6 counter name %[1]s_passed6 accept
		meta protocol ip6 add @%[1]s_seen6 { ip6 saddr . ip6 daddr }
		meta protocol ip6 counter name %[1]s_foreign6 drop
	}
}
X`, line[0], line[1]))
	}
	m.on("ip address add " + m.own + "/25 dev lan0")
}

// pullOut takes the namespace away, with all that runs in it.
func (m *pairMember) pullOut() {
	_ = exec.Command("sh", "-c", "ip netns pids "+m.namespace+" | xargs -r kill -9; ip netns del "+m.namespace).Run()
}

// files writes those of keepalived and conntrackd: the examples, with what is different here.
func (m *pairMember) files() {
	m.Helper()
	replace := strings.NewReplacer("br-lan", "lan0", "eth1", "wan1", "192.168.7.1/24", virtual4+"/25", "192.168.7.2", m.own, "192.168.7.3", m.peer,
		"priority 100", fmt.Sprintf("priority %d", m.priority), "/etc/uplinkd/pair-flows", m.dir+"/pair-flows",
		"/var/lib/uplinkd/", m.dir+"/state/", "/etc/conntrackd/", m.dir+"/", "/var/lock/conntrack.lock", m.dir+"/lock", "/run/conntrackd.ctl", m.dir+"/ctl")
	for name, mode := range map[string]os.FileMode{"keepalived.conf": 0o644, "conntrackd.conf": 0o644, "pair-flows": 0o755} {
		text, err := os.ReadFile(filepath.Join(examples, "pair", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(m.dir, name), []byte(replace.Replace(string(text))), mode)
		}
		if err != nil {
			m.Fatal(err)
		}
	}
}

// play starts conntrackd, keepalived and uplinkd.
func (m *pairMember) play() {
	m.Helper()
	m.on("sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal=1")
	m.serveOwn("conntrackd", "-C", m.dir+"/conntrackd.conf")
	m.await("conntrackd", func() error { _, err := m.onOr("conntrackd -C " + m.dir + "/conntrackd.conf -s"); return err })
	m.launch()
	m.await("the daemon to converge", m.converged)
	m.serveKeepalived()
}

func (m *pairMember) serveOwn(argv ...string) {
	m.Helper()
	_, _, stop := m.runBeside(netnsCommand(m.namespace, argv...))
	m.programs = append(m.programs, stop)
}

func (m *pairMember) serveKeepalived() {
	m.Helper()
	m.serveOwn("keepalived", "-n", "-l", "-D", "-P", "-f", m.dir+"/keepalived.conf", "-p", m.dir+"/keepalived.pid", "-r", m.dir+"/vrrp.pid")
}

// die is a power cut.
func (m *pairMember) die() {
	m.Helper()
	m.on("for d in lan0 wan1 wan2 wan3; do ip link set $d down; done")
	for _, end := range m.programs {
		end()
	}
	m.programs = nil
	_, _ = m.onOr("kill -9 $(cat " + m.dir + "/keepalived.pid " + m.dir + "/vrrp.pid)")
	m.kill()
}

// reborn is the router after a boot.
func (m *pairMember) reborn() {
	m.Helper()
	m.on(fmt.Sprintf(`rm -f %[1]s/*.pid %[1]s/lock %[1]s/ctl; conntrack -F 2>/dev/null
ip address del %[2]s/25 dev lan0 2>/dev/null || true
ip address flush dev wan1; ip address flush dev wan2
for d in lan0 wan1 wan2 wan3; do ip link set $d up; done`, m.dir, virtual4))
	m.play()
}

func (m *pairMember) awaitRole(roles ...string) {
	m.Helper()
	m.await(fmt.Sprintf("%s to be %v", m.own, roles), func() error {
		s, err := m.client.Status(context.Background())
		if err != nil {
			return err
		}
		if s.Pair == nil || !contains(roles, s.Pair.Role) || !s.Converged {
			return fmt.Errorf("%+v", s.Pair)
		}
		return nil
	})
}

// connections says what this router has of a connection of the LAN's host, in the kernel and in conntrackd's two caches.
func (m *pairMember) connections(conn net.Conn) string {
	_, port, _ := net.SplitHostPort(conn.LocalAddr().String())
	out, err := m.onOr(fmt.Sprintf(`{ conntrack -L -p tcp -o extended; conntrackd -C %[1]s/conntrackd.conf -i; conntrackd -C %[1]s/conntrackd.conf -e; } 2>/dev/null | grep 'sport=%[2]s ' || true
conntrack -S; nft list table inet uplinkd | grep -B1 -A1 'packets [1-9]' || true; ip -s neigh show dev lan0`, m.dir, port))
	if err != nil {
		return err.Error()
	}
	return out
}

// nothing checks that a backup has no address and no way out by the primary's lines.
func (m *pairMember) nothing() error {
	out, err := m.onOr("ip -o address show dev wan1 scope global; ip -o address show dev wan2 scope global; for t in 11700 11701 11702; do ip route show table $t 2>/dev/null | grep via || true; done")
	if err == nil && out != "" {
		err = errors.New(out)
	}
	return err
}

// pairUplinks are a line whose address moves, and one that the primary leases.
const pairUplinks = `
[[uplink]]
name = "fiber"
id = 1
device = "wan1"
shared = true
  [uplink.ipv6]
  method = "off"
` + targets + `
[[uplink]]
name = "lte"
id = 2
device = "wan2"
tier = 2
primary_only = true
  [uplink.ipv4]
  method = "dhcp"
  [uplink.ipv6]
  method = "off"
` + targets

// serveLease lends one address of the second line, to whoever has it already.
func (r *router) serveLease(address string) *dhcpServer {
	r.Helper()
	dir, err := os.MkdirTemp(r.dir, "dhcpd-")
	if err != nil {
		r.Fatal(err)
	}
	conf := fmt.Sprintf("authoritative; ping-check false; default-lease-time 600; max-lease-time 600;\nsubnet 203.0.113.0 netmask 255.255.255.192 { range %[1]s %[1]s; option routers 203.0.113.1; }\n", address)
	for name, content := range map[string]string{"conf": conf, "leases": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			r.Fatal(err)
		}
	}
	_, log, stop := r.background("isp2", "dhcpd", "-4", "-d", "-cf", filepath.Join(dir, "conf"), "-lf", filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid"), "br0")
	return &dhcpServer{log, stop}
}

func lineStatus(s *status.Status, name string) *status.Uplink {
	for i := range s.Uplinks {
		if s.Uplinks[i].Name == name {
			return &s.Uplinks[i]
		}
	}
	return &status.Uplink{}
}

// TestAPairOfRouters has the first of two routers die, and come back.
func TestAPairOfRouters(t *testing.T) {
	t.Parallel()
	// Each line's provider knows the customer by one hardware address.
	const customer1, customer2 = "02:00:5e:10:00:01", "02:00:5e:10:00:02"
	first, second := newPair(t, strings.NewReplacer("shared = true", "shared = true\nhardware_address = \""+customer1+"\"",
		"primary_only = true", "primary_only = true\nhardware_address = \""+customer2+"\"").Replace(pairUplinks))
	const leased = "203.0.113.2"
	server := first.serveLease(leased)
	first.play()
	first.awaitRole("alone")
	second.play()
	first.awaitRole("primary")
	second.awaitRole("backup")
	leasedBy := func(m *pairMember) func() error {
		return func() error {
			s, err := m.client.Status(context.Background())
			if err != nil {
				return err
			}
			if u := lineStatus(&s, "lte"); len(u.IPv4.Addresses) != 1 || u.IPv4.Addresses[0].Addr().String() != leased {
				return fmt.Errorf("%+v", u.IPv4)
			}
			return nil
		}
	}
	first.await("the lease", leasedBy(first))
	customerIs := func(m, other *pairMember) {
		t.Helper()
		m.await("the lines' hardware addresses", func() error {
			if got := m.on("ip -o link show dev wan1; ip -o link show dev wan2"); !strings.Contains(got, customer1) || !strings.Contains(got, customer2) {
				return errors.New(got)
			}
			return nil
		})
		if got := other.on("ip -o link show dev wan1; ip -o link show dev wan2"); strings.Contains(got, customer1) || strings.Contains(got, customer2) {
			t.Errorf("both routers call themselves so: %s", got)
		}
	}
	customerIs(first, second)
	s := second.status()
	for _, name := range []string{"fiber", "lte"} {
		if u := lineStatus(&s, name); u.IPv4.State != "disabled" || u.IPv4.Code != "elsewhere" {
			t.Errorf("the backup's %s: %+v", name, u.IPv4)
		}
	}
	if !strings.HasPrefix(s.Headline, "Backup") {
		t.Error(s.Headline)
	}
	for _, m := range []*pairMember{first, second} {
		m.await("plan to want nothing", func() error { // what conntrackd brings is expected for two seconds
			for line := range strings.Lines(m.command("plan", "-c", m.config)) {
				if !strings.HasPrefix(line, "#") {
					return errors.New(line)
				}
			}
			return nil
		})
	}
	if out := second.command("status", "--socket", filepath.Join(second.dir, "s")); !strings.Contains(out, "the other router of the pair has it") {
		t.Errorf("the status for people:\n%s", out)
	}
	if err := second.nothing(); err != nil {
		t.Errorf("the backup has of the primary's lines: %v", err)
	}

	_, stop := first.streamFrom("lan", "192.0.2.1:7")
	tcp, err := first.Host("lan").Dial(t.Context(), "tcp", "", "192.0.2.1:7")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tcp.Close() }()
	if err := echoes(tcp); err != nil {
		t.Fatal(err)
	}
	second.await("the other router's connections in conntrackd's cache", func() error {
		out, err := second.onOr("conntrackd -C " + second.dir + "/conntrackd.conf -e")
		if err == nil && (strings.Count(out, "mark=16777216") < 2 || !strings.Contains(out, "tcp")) {
			err = errors.New(out)
		}
		return err
	})
	second.await("the lease to be known to the backup", func() error {
		text, err := os.ReadFile(filepath.Join(second.dir, "state", "pair.json"))
		if err == nil && !strings.Contains(string(text), leased) {
			err = errors.New(string(text))
		}
		return err
	})

	died := time.Now()
	discovers := server.count("DHCPDISCOVER")
	first.die()
	second.await("the lease at the other router", leasedBy(second))
	t.Logf("the lease was back %v after the primary died", time.Since(died))
	second.awaitRole("alone")
	second.await("the lines' hardware addresses", func() error { // the first is without power, and its devices keep what they had
		if got := second.on("ip -o link show dev wan1; ip -o link show dev wan2"); !strings.Contains(got, customer1) || !strings.Contains(got, customer2) {
			return errors.New(got)
		}
		return nil
	})
	if err := echoes(tcp); err != nil {
		t.Errorf("the old TCP connection: %v", err)
	}
	if n := server.count("DHCPDISCOVER"); n != discovers {
		t.Errorf("the lease was asked for anew, %d times", n-discovers)
	}
	st := stop()
	t.Logf("the LAN was silent for %v: %+v", st.LongestGap, st)
	if len(st.Moves) != 1 {
		t.Errorf("the old UDP flow did not survive: %+v", st.Moves)
	}

	_, stop = first.streamFrom("lan", "192.0.2.1:7")
	first.reborn()
	first.awaitRole("primary")
	second.awaitRole("backup")
	first.await("the lease to be back", leasedBy(first))
	customerIs(first, second)
	if err := echoes(tcp); err != nil {
		t.Errorf("the old TCP connection, back at the first router: %v", err)
	}
	if st := stop(); len(st.Moves) != 1 {
		t.Errorf("the old UDP flow did not survive the way back: %+v", st)
	} else {
		t.Logf("on the way back the LAN was silent for %v", st.LongestGap)
	}
	if n := first.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source: %s", n, first.foreignSources())
	}
	second.await("the backup to have nothing of the primary's lines", second.nothing)
}

// delegatedUplink is a line whose address moves, with a prefix that is delegated to the pair.
const delegatedUplink = `
[[uplink]]
name = "fiber"
id = 1
device = "wan1"
shared = true
  [uplink.ipv6]
  delegation = true
` + targets + `
[[lan]]
device = "lan0"
subnet_id = 1
`

// delegate has the provider of the first line delegate a prefix to the pair, and the host of the LAN take what routers advertise.
func (m *pairMember) delegate() *delegationServer {
	m.Helper()
	pool := pools["fiber"]
	kea := m.serveKea("br0", pool, anHour)
	m.sh("isp1", fmt.Sprintf("ip route add %v via fe80::9:1 dev br0; nft add element netdev isp fiber_net6 { %[1]v }", pool))
	m.sh("inet", fmt.Sprintf("ip route add %v via 2001:db8:fff1::1 dev isp1", pool))
	m.sh("lan", "ip -6 route flush proto boot; ip -6 route flush proto static; sysctl -qw net.ipv6.conf.br0.accept_ra=1 net.ipv6.conf.br0.addr_gen_mode=0")
	return kea
}

// TestAPairOfRoutersKeepsThePrefixesOfItsHosts has a prefix delegated to the pair, and one router after the other die.
func TestAPairOfRoutersKeepsThePrefixesOfItsHosts(t *testing.T) {
	t.Parallel()
	first, second := newPair(t, delegatedUplink)
	pool := pools["fiber"]
	kea := first.delegate()
	told := func() (addresses []hostAddress, router string) {
		var links []struct {
			AddrInfo []hostAddress `json:"addr_info"`
		}
		if err := json.Unmarshal([]byte(first.sh("lan", "ip -6 -j address show dev br0 scope global")), &links); err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			for _, a := range l.AddrInfo {
				if a.Preferred, a.Valid = 0, 0; a.Local.IsValid() {
					addresses = append(addresses, a)
				}
			}
		}
		slices.SortFunc(addresses, func(a, b hostAddress) int { return a.Local.Compare(b.Local) })
		return addresses, strings.Join(regexp.MustCompile(`via \S+`).FindAllString(first.sh("lan", "ip -6 route show default"), -1), " ")
	}
	first.play()
	second.play()
	first.awaitRole("primary")
	second.awaitRole("backup")
	first.await("the host to have a prefix", func() error {
		addresses, router := told()
		if len(addresses) != 2 || router != "via "+virtual6 || !slices.ContainsFunc(addresses, func(a hostAddress) bool { return pool.Contains(a.Local) }) {
			return fmt.Errorf("%v %s", addresses, router)
		}
		return nil
	})
	before, _ := told()
	same := func(when string) {
		t.Helper()
		if after, router := told(); !slices.Equal(before, after) || router != "via "+virtual6 {
			t.Errorf("%s the host has %v %s, and had %v", when, after, router, before)
		}
	}
	known := func(m *pairMember) {
		m.await("what hosts were told to be known to the backup", func() error {
			text, err := os.ReadFile(filepath.Join(m.dir, "state", "pair.json"))
			if err == nil && (!strings.Contains(string(text), "lans6/lan0") || !strings.Contains(string(text), "leases6/fiber")) {
				err = errors.New(string(text))
			}
			return err
		})
	}
	known(second)
	stream, stop := first.streamFrom("lan", "[2001:db8:ffff::1]:7")
	granted := len(kea.log.String())
	first.die()
	second.await("the prefix at the other router", func() error {
		s, err := second.client.Status(context.Background())
		if err == nil && len(lineStatus(&s, "fiber").IPv6.Delegated) != 1 {
			err = errors.New("none")
		}
		return err
	})
	first.awaitMore(stream)
	same("after the primary died")
	st := stop()
	t.Logf("the LAN was silent for %v", st.LongestGap)
	if len(st.Moves) != 1 {
		t.Errorf("the flow did not survive: %+v", st)
	}
	stream, stop = first.streamFrom("lan", "[2001:db8:ffff::1]:7")
	first.reborn()
	first.awaitRole("primary")
	second.awaitRole("backup")
	second.await("the backup to have nothing", second.nothing)
	first.awaitMore(stream)
	same("back at the first router")
	if st := stop(); len(st.Moves) != 1 {
		t.Errorf("the flow did not survive the way back: %+v", st)
	}
	if n := first.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source: %s", n, first.foreignSources())
	}
	if log := kea.log.String()[granted:]; strings.Contains(log, "RELEASE") || strings.Contains(log, "LEASE_ADVERT") || !strings.Contains(log, "PD_LEASE_RENEW") {
		t.Errorf("the server was told that the prefix is not needed, or asked for another:\n%s", log)
	}
}

// TestAPairOfRoutersWithTwoPrimaries has keepalived killed where nobody takes the addresses away, so that both routers have them.
func TestAPairOfRoutersWithTwoPrimaries(t *testing.T) {
	t.Parallel()
	first, second := playPair(t)
	first.on("kill -9 $(cat " + first.dir + "/keepalived.pid " + first.dir + "/vrrp.pid)")
	for _, m := range []*pairMember{first, second} {
		m.awaitRole("primary")
		m.await("two primaries to be told", func() error { return m.hasProblem("pair-both-primary") })
	}
	events := second.decisions()
	if !slices.ContainsFunc(events, func(e status.Event) bool { return e.Kind == status.EventPair && e.Code == "primary" }) {
		t.Errorf("no event tells of it: %+v", events)
	}
	first.on("rm -f " + first.dir + "/*.pid")
	first.serveKeepalived() // it takes away what is left of the other one, and then takes over again
	second.awaitRole("backup")
	first.awaitRole("primary")
	for _, m := range []*pairMember{first, second} {
		m.await("one primary", func() error {
			if m.hasProblem("pair-both-primary") == nil {
				return errors.New("two are told")
			}
			return nil
		})
	}
	first.streamFrom("lan", "192.0.2.1:7")
	if n := first.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source: %s", n, first.foreignSources())
	}
}

// pushes are packets that somebody in the Internet sends to a host of the LAN, which has asked for them once.
type pushes struct{ sent, received, seen atomic.Int64 }

// goesOn is nil when some more have come since it was asked last.
func (p *pushes) goesOn() error {
	now := p.received.Load()
	if now < p.seen.Load()+50 {
		return fmt.Errorf("%d packets", now)
	}
	p.seen.Store(now)
	return nil
}

// push has the Internet send 200 packets a second, from a port, until the test ends.
func (r *router) push(port int) *pushes {
	r.Helper()
	server, err := r.Host("inet").ListenPacket("udp", fmt.Sprintf("192.0.2.1:%d", port))
	if err != nil {
		r.Fatal(err)
	}
	client, err := r.Host("lan").Dial(context.Background(), "udp", "", server.LocalAddr().String())
	if err != nil {
		r.Fatal(err)
	}
	p := new(pushes)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for buffer := make([]byte, 64); ; {
			if _, err := client.Read(buffer); errors.Is(err, net.ErrClosed) {
				return
			} else if err == nil {
				p.received.Add(1)
			}
		}
	})
	running.Go(func() {
		buffer := make([]byte, 64)
		_, to, err := server.ReadFrom(buffer)
		if err != nil {
			return
		}
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if _, err := server.WriteTo(buffer[:8], to); err == nil { // what is refused is sent again
					p.sent.Add(1)
				}
			}
		}
	})
	r.Cleanup(func() { cancel(); _ = client.Close(); _ = server.Close(); running.Wait() })
	r.await("the Internet to send", func() error {
		if _, err := client.Write([]byte("send!")); err != nil {
			return err
		}
		return p.goesOn()
	})
	return p
}

// TestAPairOfRoutersOneOfWhichVanishes has the primary's whole network go at once, without a word to anybody, and a new machine take its place.
func TestAPairOfRoutersOneOfWhichVanishes(t *testing.T) {
	t.Parallel()
	first, second := newPair(t, pairUplinks)
	second.priority = 200
	second.files()
	first.serveLease("203.0.113.2")
	first.play()
	second.play()
	second.awaitRole("primary")
	first.awaitRole("backup")
	pushed := first.push(9)
	var silent []time.Duration
	for range envNumber(t, failoversEnv, 1) {
		tcp := first.talkThrough(first)
		stream, stop := first.streamOf(500, "lan", "192.0.2.1:7")
		first.awaitTracked(int(stream.Stats().Moves[0].Source.Port()))
		second.pullOut()
		for _, end := range second.programs {
			end()
		}
		second.programs = nil
		second.kill()
		first.awaitRole("alone", "primary")
		if err := echoes(tcp); err != nil {
			t.Errorf("the old TCP connection: %v", err)
		}
		first.await("what the Internet sends to go on", func() error { return pushed.goesOn() })
		st := stop()
		if len(st.Moves) != 1 {
			t.Errorf("the old UDP flow: %+v", st.Moves)
		}
		silent = append(silent, st.LongestGap)
		second.plugIn(first.router)
		second.on(fmt.Sprintf("rm -f %[1]s/*.pid %[1]s/lock %[1]s/ctl", second.dir))
		second.play()
		second.awaitRole("primary")
		first.awaitRole("backup")
		if err := echoes(tcp); err != nil {
			t.Errorf("the old TCP connection, at the new machine: %v", err)
		}
		_ = tcp.Close()
	}
	t.Logf("the LAN was silent for %v", silent)
	if n := first.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source: %s", n, first.foreignSources())
	}
}

// talkThrough opens a TCP connection of the LAN's host, which the backup knows of when it returns.
func (m *pairMember) talkThrough(backup *pairMember) net.Conn {
	m.Helper()
	tcp, err := m.Host("lan").Dial(m.Context(), "tcp", "", "192.0.2.1:7")
	if err == nil {
		err = echoes(tcp)
	}
	if err != nil {
		m.Fatal(err)
	}
	backup.awaitTracked(tcp.LocalAddr().(*net.TCPAddr).Port)
	return tcp
}

// awaitTracked waits until conntrackd has heard of a connection from a port.
func (m *pairMember) awaitTracked(port int) {
	m.Helper()
	m.await("the other router's connections in conntrackd's cache", func() error {
		out, err := m.onOr("conntrackd -C " + m.dir + "/conntrackd.conf -e")
		if err == nil && !strings.Contains(out, fmt.Sprintf("sport=%d ", port)) {
			err = errors.New(out)
		}
		return err
	})
}

// failoversEnv is how often the primary fails, in several ways.
const failoversEnv = "UPLINKD_FAILOVERS"

// TestAPairOfRoutersThatFailInTurn has the primary fail, and come back.
func TestAPairOfRoutersThatFailInTurn(t *testing.T) {
	t.Parallel()
	first, second := playPair(t)
	ways := []struct {
		name       string
		fail, mend func()
	}{
		{"the LAN's cable is pulled", func() { first.on("ip link set lan0 down") }, func() { first.on("ip link set lan0 up; ip address replace " + ownOfFirst + "/25 dev lan0") }},
		{"a power cut", first.die, first.reborn},
		{"keepalived stops, with uplinkd killed", func() { first.kill(); first.on("kill $(cat " + first.dir + "/keepalived.pid)") }, func() {
			first.launch()
			first.await("the daemon to converge", first.converged)
			first.on("rm -f " + first.dir + "/*.pid")
			first.serveKeepalived()
		}},
	}
	pushed := first.push(9)
	var silent []time.Duration
	for n := range envNumber(t, failoversEnv, len(ways)) {
		way := ways[n%len(ways)]
		_, stop := first.streamOf(500, "lan", "192.0.2.1:7")
		tcp := first.talkThrough(second)
		way.fail()
		second.awaitRole("alone", "primary")
		if err := echoes(tcp); err != nil {
			t.Errorf("%s: the old TCP connection: %v\nfirst:\n%s\nsecond:\n%s", way.name, err, first.connections(tcp), second.connections(tcp))
		}
		first.await("what the Internet sends to go on", func() error { return pushed.goesOn() })
		st := stop()
		if len(st.Moves) != 1 {
			t.Errorf("%s: the old UDP flow: %+v", way.name, st.Moves)
		}
		silent = append(silent, st.LongestGap)
		way.mend()
		first.awaitRole("primary")
		second.awaitRole("backup")
		second.await("the backup to have nothing", second.nothing)
		if err := echoes(tcp); err != nil {
			t.Errorf("%s: the old TCP connection, back at the first router: %v\nfirst:\n%s\nsecond:\n%s", way.name, err, first.connections(tcp), second.connections(tcp))
		}
		first.await("what the Internet sends to go on at the first router", func() error { return pushed.goesOn() })
		_ = tcp.Close()
	}
	t.Logf("the LAN was silent for %v", silent)
	if n := first.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source: %s", n, first.foreignSources())
	}
}

// TestAPairOfRoutersWithALineOfEach has connections by a line of which each router has an address of its own: what the other one has begun cannot go on
// there, and must not try.
func TestAPairOfRoutersWithALineOfEach(t *testing.T) {
	t.Parallel()
	first, second := newPair(t, `
[[uplink]]
name = "own"
id = 3
device = "wan3"
  [uplink.ipv6]
  method = "off"
`+targets+strings.Replace(pairUplinks, "shared = true", "shared = true\ntier = 2", 1))
	for m, address := range map[*pairMember]string{first: lineOfFirst, second: lineOfSecond} {
		m.on("ip address add " + address + "/28 dev wan3; ip route add default via 198.51.100.145 dev wan3 metric 50")
		m.play()
	}
	first.awaitRole("primary")
	second.awaitRole("backup")
	ownLine := func(m *pairMember) func() error {
		return func() error {
			s, err := m.client.Status(context.Background())
			if err == nil && lineStatus(&s, "own").IPv4.State != "up" {
				err = fmt.Errorf("%+v", lineStatus(&s, "own").IPv4)
			}
			return err
		}
	}
	first.await("its own line", ownLine(first))
	second.await("the backup to judge its own line", ownLine(second))
	stream, stop := first.streamFrom("lan", "192.0.2.1:7")
	second.await("the connection in conntrackd's cache", func() error {
		out, err := second.onOr("conntrackd -C " + second.dir + "/conntrackd.conf -e")
		if err == nil && !strings.Contains(out, lineOfFirst) {
			err = errors.New(out)
		}
		return err
	})
	first.die()
	second.awaitRole("alone")
	first.awaitMore(stream)
	st := stop()
	if len(st.Moves) != 2 || st.Moves[0].Source.Addr().String() != lineOfFirst || st.Moves[1].Source.Addr().String() != lineOfSecond {
		t.Errorf("the flow had the sources %+v", st.Moves)
	}
	if n := first.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source: %s", n, first.foreignSources())
	}
}

// hasProblem is nil where the status names a problem.
func (m *pairMember) hasProblem(code string) error {
	s, err := m.client.Status(context.Background())
	if err == nil && !slices.ContainsFunc(s.Problems, func(p rules.Problem) bool { return p.Code == code }) {
		err = fmt.Errorf("%+v", s.Problems)
	}
	return err
}

// echoes sends something by a connection, and waits for it to come back.
func echoes(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(2 * unhurried)); err != nil {
		return err
	}
	word := fmt.Sprintf("still there at %d?", time.Now().UnixNano())
	if _, err := conn.Write([]byte(word)); err != nil {
		return err
	}
	var seen []byte
	for buffer := make([]byte, 256); !strings.Contains(string(seen), word); {
		n, err := conn.Read(buffer)
		if err != nil {
			return err
		}
		seen = append(seen, buffer[:n]...)
	}
	return nil
}

// netnsCommand is a program in a namespace.
func netnsCommand(namespace string, argv ...string) *exec.Cmd {
	cmd := exec.Command("ip", append([]string{"netns", "exec", namespace}, argv...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}
