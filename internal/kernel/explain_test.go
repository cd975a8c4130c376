package kernel_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/explain"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// randomRouter is a router with random uplinks, LANs and other people's rules and routes, planned and applied.
type randomRouter struct {
	*rand.Rand
	script   strings.Builder
	cfg      rules.Config
	verdicts map[rules.Path]rules.Verdict
	devices  []string
	own      []netip.Addr
	far      []netip.Addr
}

func (m *randomRouter) sh(format string, args ...any) { fmt.Fprintf(&m.script, format+"\n", args...) }
func (m *randomRouter) oneIn(n int) bool              { return m.IntN(n) == 0 }

// pick returns one of the values.
func pick[T any](m *randomRouter, values ...T) T { return values[m.IntN(len(values))] }

func newRandomRouter(seed uint64) *randomRouter {
	m := &randomRouter{Rand: rand.New(rand.NewPCG(seed, 117)), verdicts: make(map[rules.Path]rules.Verdict)}
	m.cfg.Kernel = numbers
	m.sh("sysctl -qw net.ipv4.conf.all.rp_filter=%d net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0", m.IntN(3))
	m.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	if m.oneIn(3) {
		m.sh("sysctl -qw net.ipv4.conf.all.src_valid_mark=1")
	}
	for n := range 1 + m.IntN(4) {
		m.uplink(n + 1)
	}
	for n := range m.IntN(3) {
		m.lan(n + 1)
	}
	m.foreignRulesAndRoutes()
	for _, text := range []string{"192.0.2.1", "192.0.2.129", "192.0.2.200", "198.18.0.5", "10.1.2.3", "2001:db8:ffff::1", "2001:db8:fffe::9", "2001:db8:7::7", "fd00:7::7"} {
		m.far = append(m.far, netip.MustParseAddr(text))
	}
	return m
}

func (m *randomRouter) device(name string) {
	m.devices = append(m.devices, name)
	m.sh("ip link add %[1]s type veth peer name p-%[1]s; ip link set %[1]s up; ip link set p-%[1]s up", name)
}

func (m *randomRouter) address(device, prefix string) {
	m.own = append(m.own, netip.MustParsePrefix(prefix).Addr())
	nodad := ""
	if strings.Contains(prefix, ":") {
		nodad = " nodad"
	}
	m.sh("ip address add %s dev %s%s", prefix, device, nodad)
}

func (m *randomRouter) uplink(n int) {
	name := fmt.Sprintf("wan%d", n)
	m.device(name)
	u := rules.Uplink{ID: n, Name: fmt.Sprintf("up%d", n), Device: name, Tier: 1 + m.IntN(2), Weight: 1 + m.IntN(3),
		IPv4: rules.Addressing{Enabled: true, Masquerade: true}, IPv6: rules.Addressing{Enabled: true, Masquerade: m.oneIn(2)}}
	if m.oneIn(9) {
		u.ID = rules.MaxUplinks - n
	}
	subnet := n
	if m.oneIn(6) {
		subnet = 1
	}
	m.address(name, fmt.Sprintf("198.51.100.%d/26", 64*(subnet-1)+n+1))
	m.address(name, fmt.Sprintf("2001:db8:a%d::2/64", n))
	if m.oneIn(4) {
		m.address(name, fmt.Sprintf("203.0.113.%d/28", 16*n+2))
	}
	metric := 100 * n
	if !m.oneIn(6) {
		m.sh("ip route append default via 198.51.100.%d dev %s metric %d", 64*(subnet-1)+60, name, metric)
	}
	if !m.oneIn(6) {
		m.sh("ip -6 route append default via fe80::1 dev %s metric %d", name, metric)
	}
	if m.oneIn(3) {
		m.sh("ip route add 192.0.2.128/25 via 198.51.100.%d dev %s || true", 64*(subnet-1)+61, name)
		m.sh("ip -6 route add 2001:db8:fffe::/48 via fe80::2 dev %s || true", name)
	}
	for _, f := range rules.Families {
		m.verdicts[rules.Path{Uplink: u.ID, Family: f}] = rules.Verdict{Health: pick(m, rules.Good, rules.Good, rules.Dead, rules.Doubtful), Drained: m.oneIn(6)}
	}
	m.cfg.Uplinks = append(m.cfg.Uplinks, u)
	switch m.IntN(8) {
	case 0:
		m.sh("ip link set p-%s down", name) // no carrier
	case 1:
		m.sh("ip link set %s down", name)
	case 2:
		m.sh("sysctl -qw net.ipv4.conf.%[1]s.ignore_routes_with_linkdown=1 net.ipv6.conf.%[1]s.ignore_routes_with_linkdown=1; ip link set p-%[1]s down", name)
	}
}

func (m *randomRouter) lan(n int) {
	name := fmt.Sprintf("lan%d", n)
	m.device(name)
	m.address(name, fmt.Sprintf("192.168.%d.1/24", n))
	m.address(name, fmt.Sprintf("2001:db8:%d::1/64", n))
	m.far = append(m.far, netip.MustParseAddr(fmt.Sprintf("192.168.%d.77", n)), netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::77", n)))
	if m.oneIn(2) {
		m.sh("ip route add 10.%d.0.0/16 via 192.168.%d.2", n, n)
	}
}

// foreignRulesAndRoutes are rules and routes of other programs, with every selector and action that there is.
func (m *randomRouter) foreignRulesAndRoutes() {
	selectors := []string{"from 198.51.100.0/24", "from 192.168.0.0/16", "to 192.0.2.0/25", "to 198.18.0.0/15", "fwmark 0x5/0xff", "iif lan1", "iif lo",
		"oif wan1", "ipproto tcp", "ipproto udp dport 1000-2000", "ipproto udp sport 53", "uidrange 1000-2000", "tos 0x10", "dscp 46", "not from 198.51.100.0/24",
		"not ipproto udp", "not uidrange 0-10"}
	selectors6 := []string{"from 2001:db8::/33", "to 2001:db8:ffff::/48", "fwmark 0x5/0xff", "iif lan1", "ipproto tcp dport 443", "uidrange 1000-2000", "not from 2001:db8:a1::/64"}
	actions := []string{"lookup 52", "lookup 53", "lookup main", "unreachable", "blackhole", "prohibit", "goto 31000", "nop",
		"lookup main suppress_prefixlength 0", "lookup main suppress_ifgroup 117", "lookup 53 suppress_prefixlength 24"}
	for range m.IntN(5) {
		pref := pick(m, 100, 5270, 9999, 10000, 10005, 10150, 10500, 32000)
		m.sh("ip rule add pref %d %s %s 2>/dev/null || true", pref, pick(m, selectors...), pick(m, actions...))
		m.sh("ip -6 rule add pref %d %s %s 2>/dev/null || true", pref, pick(m, selectors6...), pick(m, actions...))
	}
	m.sh("ip rule add pref 31000 to 198.18.0.0/16 lookup main; ip -6 rule add pref 31000 nop")
	for range m.IntN(4) {
		m.sh("ip route add %s table 52 2>/dev/null || true", pick(m, "throw 192.0.2.0/24", "unreachable 198.18.0.0/15", "prohibit 10.0.0.0/8",
			"default dev wan1", "blackhole default metric 900", "192.0.2.0/24 dev wan1 tos 0x10"))
		m.sh("ip -6 route add %s table 52 2>/dev/null || true", pick(m, "throw 2001:db8:ffff::/48", "unreachable 2001:db8:7::/48", "default dev wan1",
			"default from 2001:db8:1::/64 via fe80::9 dev wan1", "2001:db8::/32 from 2001:db8:a1::/64 dev wan1"))
		m.sh("ip route add default table 53 nexthop dev wan1 weight 2 nexthop dev lan1 2>/dev/null || true")
	}
	if m.oneIn(3) {
		m.device("vpn0")
		m.address("vpn0", "172.16.9.2/24")
		m.sh("ip route add 0.0.0.0/1 dev vpn0; ip route add 128.0.0.0/1 dev vpn0; ip -6 route add 2000::/3 dev vpn0")
	}
	if m.oneIn(4) {
		m.sh("ip route add unreachable default metric 4294967290; ip -6 route add unreachable default metric 4294967290")
	}
}

// packet is a random one: made here or forwarded.
func (m *randomRouter) packet() explain.Packet {
	for {
		p := explain.Packet{To: pick(m, pick(m, m.far...), pick(m, m.far...), pick(m, m.own...)), Mark: pick(m, uint32(0), 0, 5, 0x105, 0x80000)}
		if m.oneIn(3) {
			p.Mark = numbers.Mark(m.cfg.Uplinks[m.IntN(len(m.cfg.Uplinks))].ID)
		}
		p.Protocol = pick(m, uint8(1), 6, 17)
		if p.Protocol != 1 {
			p.SPort, p.DPort = pick(m, uint16(0), 53, 40000), pick(m, uint16(53), 443, 1500)
		}
		p.TOS = pick(m, uint8(0), 0, 0x10, 46<<2)
		if m.oneIn(2) {
			p.In, p.From = pick(m, m.devices...), pick(m, pick(m, m.far...), pick(m, m.own...))
		} else {
			p.UID = pick(m, uint32(0), 1500)
			switch m.IntN(3) {
			case 0:
				p.From = pick(m, m.own...)
			case 1:
				p.Out = pick(m, m.devices...)
			}
		}
		if p.Protocol == 1 && p.To.Is6() {
			p.Protocol = 58
		}
		if !p.From.IsValid() || p.From.Is4() == p.To.Is4() {
			return p
		}
	}
}

// TestExplainAgreesWithTheKernel asks both for a thousand random packets over random plans.
func TestExplainAgreesWithTheKernel(t *testing.T) {
	const mazes, packets = 40, 35
	tally := make(map[explain.Outcome]int)
	for seed := range uint64(mazes) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			namespace(t)
			m := newRandomRouter(seed)
			sh(t, m.script.String())
			k := open(t)
			obs := snapshot(t, k, m.cfg)
			state, _ := rules.Plan(m.cfg, obs, m.verdicts)
			for range 3 { // what the kernel makes of addresses follows in a second round
				// A stranger's rule that refuses everything also keeps the kernel from finding a gateway.
				// Whatever stands then has to be explained all the same.
				if err := k.Apply(netcfg.Diff(rules.Ours(numbers, obs), state)); err != nil {
					t.Log(err)
				}
				obs = snapshot(t, k, m.cfg)
				state, _ = rules.Plan(m.cfg, obs, m.verdicts)
			}
			rt, err := k.Routing()
			if err != nil {
				t.Fatal(err)
			}
			for range packets {
				p := m.packet()
				compare(t, k, m.cfg, rt, &state, p, tally)
			}
		})
	}
	t.Logf("outcomes: %v", tally)
	if tally["compared"] < 1000 {
		t.Errorf("only %d packets were compared", tally["compared"])
	}
	for _, o := range []explain.Outcome{explain.Leaves, explain.Delivered, explain.Refused} {
		if tally[o] < mazes {
			t.Errorf("only %d packets were %s: the test proves little", tally[o], o)
		}
	}
}

// compare asks the kernel as Explain has asked itself: with the mark that our packet filter sets, and for a
// socket without a source a second time with the one that it got.
func compare(t *testing.T, k *kernel.Kernel, cfg rules.Config, rt *explain.Routing, state *netcfg.State, p explain.Packet, tally map[explain.Outcome]int) {
	t.Helper()
	e, err := explain.Explain(cfg, rt, state, p)
	if err != nil {
		t.Fatal(err)
	}
	tally[e.Outcome]++
	if e.Lookup == nil {
		return
	}
	a, err := k.Lookup(e.Lookup.Packet)
	if err != nil {
		t.Fatal(err)
	}
	tally["compared"]++
	if e.Lookup.Agrees(a) {
		return
	}
	var steps strings.Builder
	for _, s := range e.Steps {
		fmt.Fprintf(&steps, "\n  %v %-6s %s: %s", s.Counts, s.Kind, s.What, s.Why)
	}
	t.Errorf("%+v\nthe kernel says %+v\nexplain says %s %+v: %s%s", p, a, e.Outcome, e.Egresses, e.Reason, steps.String())
}
