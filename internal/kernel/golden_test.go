package kernel_test

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/encap"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// The machines that the goldens of package rules were written for (its golden_test.go), as a shell makes
// them. Link-local addresses and parameters are spelt out, because the kernel would make them up.
const (
	prepare = `
for d in all default; do
  sysctl -qw net.ipv4.conf.$d.rp_filter=0 net.ipv4.conf.$d.src_valid_mark=0 net.ipv4.conf.$d.arp_ignore=0 net.ipv4.conf.$d.arp_announce=0 \
    net.ipv4.conf.$d.promote_secondaries=0 net.ipv6.conf.$d.accept_dad=0 net.ipv6.conf.$d.accept_ra=0
done
sysctl -qw net.ipv4.conf.all.rp_filter=1
ethernet() { ip link add $1 type veth peer name peer-$1; ip link set peer-$1 addrgenmode none up; ready $1 $2; }
tunnel() { ip tuntap add $1 mode tun; ready $1 $2; }
ready() { ip link set $1 addrgenmode none; ip link set $1 up; ip -6 address add $2/64 dev $1 nodad; }
hold() { d=$1; shift; for a; do case $a in *:*) ip -6 address add $a dev $d nodad;; *) ip address add $a dev $d;; esac; done; }
lead() { ip route add default via $2 dev $1 metric $3 proto dhcp; ip -6 route add default via fe80::1 dev $1 metric $3 proto dhcp; }
ethernet lan0 fe80::1002
hold lan0 192.168.1.1/24 2001:db8:1::1/64
`
	providers = prepare + `
ethernet wan1 fe80::1003
ethernet wan2 fe80::1004
`
	dual = providers + `
hold wan1 198.51.100.2/26 2001:db8:a::2/64
hold wan2 203.0.113.2/26 2001:db8:b::2/64
lead wan1 198.51.100.1 100
lead wan2 203.0.113.1 200
`
	oneProvider = prepare + `
ethernet wan1 fe80::1003
hold wan1 198.51.100.2/26 2001:db8:a::2/64
lead wan1 198.51.100.1 100
`
	delegatedTo = dual + `
ip -6 address del 2001:db8:b::2/64 dev wan2
`
	twins = providers + `
for n in 1 2; do
  hold wan$n 198.51.100.2/26 2001:db8:a::2/64
  lead wan$n 198.51.100.1 ${n}00
done
`
	preferredSources = providers + `
hold lo 198.51.100.65/32
hold wan1 10.99.0.2/30
hold wan2 203.0.113.2/26 203.0.113.5/26
ip route add default via 10.99.0.1 dev wan1 metric 100 proto dhcp src 198.51.100.65
ip route add default via 203.0.113.1 dev wan2 metric 200 proto dhcp src 203.0.113.5
`
	wide = providers + `
hold wan1 198.51.100.2/8 192.168.100.2/24 2001:db8:a::2/64
ip -6 address add 2001:db8:ffff::2/64 dev wan1 nodad valid_lft 86400 preferred_lft 86400
lead wan1 198.51.100.1 100
`
	ppp = prepare + `
tunnel ppp0 fe80::1003
tunnel ppp1 fe80::1004
hold ppp0 198.51.100.2/32 2001:db8:a::2/64
hold ppp1 203.0.113.2/32 2001:db8:b::2/64
for n in 0 1; do
  ip route add default dev ppp$n metric $((n+1))00 proto static
  ip -6 route add default dev ppp$n metric $((n+1))00 proto static
done
`
)

// machines says, per golden, how the machine is made, how it is configured, and how it fares.
var machines = map[string]struct {
	script string
	config func(*rules.Config)
	health []rules.Health
	vm     bool // its kernel must have WireGuard or GRE
}{
	"dual": {script: dual},
	"inherited": {script: dual, config: func(c *rules.Config) {
		c.Uplinks[0].Inherits, c.Uplinks[1].Shared = true, true
		c.Uplinks[1].Expects = true
	}},
	"tiers":      {script: dual, config: func(c *rules.Config) { c.Uplinks[1].Tier = 2 }, health: []rules.Health{rules.Dead, rules.Good}},
	"twins":      {script: twins},
	"static":     {script: providers, config: assignAddresses},
	"delegated":  {script: delegatedTo, config: delegate, health: []rules.Health{rules.Dead, rules.Good}},
	"translated": {script: delegatedTo, config: func(c *rules.Config) { delegate(c); c.Uplinks[1].IPv6.PrefixNAT = true }, health: []rules.Health{rules.Dead, rules.Good}},
	"underlay":   {script: dual + "ip link set wan2 mtu 1420\n", config: underlay},
	"sites":      {script: dual, config: sites},
	"shared":     {script: delegatedTo + "ip -6 route del default dev wan2\n", config: shareSegment},
	"clat":       {script: dual + "ip address del 198.51.100.2/26 dev wan1\ntunnel clat-fiber fe80::1005\n", config: translator},
	"sources":    {script: preferredSources},
	"wide":       {script: wide, config: wideLease},
	"policies":   {script: dual, config: policies},
	"forwards":   {script: delegatedTo, config: func(c *rules.Config) { delegate(c); c.Forwards = forwards() }, health: []rules.Health{rules.Dead, rules.Good}},
	"vxlan":      {script: oneProvider, config: vxlan},
	"gretap":     {script: oneProvider + "ip link add br0 type bridge; ip link set br0 up\n", config: gretap, vm: true},
	"sit":        {script: oneProvider, config: sit, vm: true},
	"6rd":        {script: oneProvider, config: sixRD, vm: true},
	"wireguard":  {script: dual, config: wireGuard, health: []rules.Health{rules.Good, rules.Good, rules.Good}, vm: true},
	"ppp":        {script: ppp, config: func(c *rules.Config) { c.Uplinks[0].Device, c.Uplinks[1].Device = "ppp0", "ppp1" }},
}

func policies(c *rules.Config) {
	c.Groups = []rules.Group{{ID: 3, Tiers: [][]int{{2}}}, {ID: 4, Tiers: [][]int{{1}}, KillSwitch: true, Except: nets("192.0.2.7/32", "2001:db8:77::/48")},
		{ID: 5, LeftTo: rules.LeftToMain}, {ID: 6, LeftTo: rules.LeftToDefault}}
	c.Policies = []rules.Policy{
		{Name: "hosts", Group: 3, Select: rules.Selector{rules.SelectAddresses{Prefixes: nets("192.168.1.7/32", "192.168.1.8/32", "2001:db8:1::7/128")}}},
		{Name: "mail", Group: 3, Select: rules.Selector{rules.SelectDevices{"lan0"}, rules.SelectProtocols{6}, rules.SelectPorts{Dest: true, List: []netcfg.Ports{{First: 25, Last: 25}}}}},
		{Name: "guests", Group: 4, Select: rules.Selector{rules.SelectDevices{"lan*"}, rules.SelectAddresses{Prefixes: nets("192.168.1.128/25")}, rules.SelectAddresses{Dest: true, Prefixes: nets("192.0.2.0/24")}, rules.SelectProtocols{6, 17}}},
		{Name: "user", Group: 4, Select: rules.Selector{rules.SelectUIDs{{Set: true, First: 1000, Last: 1999}}}},
		{Name: "marked", Group: 3, Select: rules.Selector{rules.SelectMark{Value: 0x1, Mask: 0xff}}},
		{Name: "filled", Group: 4, Select: rules.Selector{rules.SelectAddresses{Dest: true, Sets: []string{"streaming"}}, rules.SelectProtocols{17}, rules.SelectPorts{List: []netcfg.Ports{{First: 1024, Last: 65535}}}}},
		{Name: "voice", Group: 3, Select: rules.Selector{rules.SelectDSCP{46, 34}}},
		{Name: "camera", Group: 4, Select: rules.Selector{rules.SelectMACs{{2, 5: 0x10}}}},
		{Name: "alone", Group: 5, Select: rules.Selector{rules.SelectAddresses{Dest: true, Prefixes: nets("192.0.2.128/25")}}},
		{Name: "usual", Group: 6, Select: rules.Selector{rules.SelectAddresses{Dest: true, Prefixes: nets("192.0.2.64/26")}, rules.SelectProtocols{6}}},
		{Name: "country", Group: 4, Select: rules.Selector{rules.SelectAddresses{Dest: true, Lists: []rules.List{{Name: "country", Set: set("192.0.2.0/27", "192.0.2.40-192.0.2.50", "2001:db8:99::/48")}}}}},
	}
}

func translator(c *rules.Config) {
	line, tun := c.Uplinks[0].Translate(rules.CLAT{Device: "clat-fiber", Addr4: netip.MustParseAddr("192.0.0.1"), Addr6: netip.MustParseAddr("fd75:706c:696e:6b::1"), NAT64: netip.MustParsePrefix("64:ff9b::/96")})
	c.Uplinks[0], c.Uplinks[1].Tier = line, 2
	c.Uplinks = append(c.Uplinks, tun)
}

func forwards() []rules.Forward {
	return []rules.Forward{
		{Name: "web", Protocols: []uint8{6}, Ports: netcfg.Ports{First: 443, Last: 443}, ToPort: 8443, Device: "lan0", To4: netip.MustParseAddr("192.168.1.10"), ID6: 0x10},
		{Name: "game", Protocols: []uint8{17, 6}, Ports: netcfg.Ports{First: 27000, Last: 27010}, Device: "lan0", To4: netip.MustParseAddr("192.168.1.11")},
		{Name: "mail", Protocols: []uint8{6}, Ports: netcfg.Ports{First: 25, Last: 25}, Device: "lan0", To4: netip.MustParseAddr("192.168.1.12"), ID6: 0x12, Uplinks: []int{1}},
	}
}

func underlay(c *rules.Config) {
	c.Uplinks[1].Tier, c.Uplinks[1].IPv4.Masquerade = 2, false
	c.Uplinks[1].IPv4.MasqueradeFrom = []netip.Prefix{netip.MustParsePrefix("10.7.0.0/24")}
	c.Underlays = []rules.Underlay{{ID: 9, Uplink: 2, Carriers: []int{1}}}
}

func sites(c *rules.Config) {
	tunnel := &c.Uplinks[1]
	tunnel.Site, tunnel.IPv4.Masquerade = true, false
	peers := func(here, gone string) *rules.Assignment {
		return &rules.Assignment{NoDefault: true, Peers: []rules.PeerNetwork{{Dst: netip.MustParsePrefix(here), Alive: true}, {Dst: netip.MustParsePrefix(gone)}}}
	}
	tunnel.IPv4.Assign, tunnel.IPv6.Assign = peers("10.9.0.0/24", "10.9.0.7/32"), peers("fd00:9::/64", "fd00:9::7/128")
}

func tap(c *rules.Config, params encap.Params) {
	assign := func(address, gateway string) *rules.Assignment {
		return &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix(address)}}, Gateway: netip.MustParseAddr(gateway)}
	}
	c.Tunnels = []rules.Tunnel{{Device: "tap0", For: "campus", Params: params}}
	c.Uplinks[0].Weight = 3
	u := &c.Uplinks[1]
	u.Name, u.Device, u.Tier, u.IPv4.Managed, u.IPv6.Managed = "campus", "tap0", 2, true, true
	u.IPv4.Assign, u.IPv6.Assign = assign("10.99.0.2/24", "10.99.0.1"), assign("2001:db8:99::2/64", "2001:db8:99::1")
}

func vxlan(c *rules.Config) {
	tap(c, encap.Params{Kind: encap.VXLAN, Local: netip.MustParseAddr("198.51.100.2"), Remote: netip.MustParseAddr("192.0.2.9"), TTL: 64, ID: 42, Port: 4789})
}

func gretap(c *rules.Config) {
	tap(c, encap.Params{Kind: encap.GRETAP, Local: netip.MustParseAddr("2001:db8:a::2"), Remote: netip.MustParseAddr("2001:db8:9::9"), TTL: 64, Key: 7, HasKey: true})
	c.Tunnels = append(c.Tunnels, rules.Tunnel{Device: "far0", For: "tunnel far0", Bridge: "br0", Params: encap.Params{Kind: encap.GRETAP,
		Local: netip.MustParseAddr("198.51.100.2"), Remote: netip.MustParseAddr("192.0.2.9"), TTL: 64, Fragment: true}})
}

func sit(c *rules.Config) {
	tap(c, encap.Params{Kind: encap.SIT, Local: netip.MustParseAddr("198.51.100.2"), Remote: netip.MustParseAddr("192.0.2.9"), TTL: 64})
	c.Uplinks[1].IPv4 = rules.Addressing{}
}

func sixRD(c *rules.Config) {
	tap(c, encap.Params{Kind: encap.SixRD, Local: netip.MustParseAddr("198.51.100.2"), TTL: 64,
		Prefix6: netip.MustParsePrefix("2001:db8:9000::/36"), Prefix4: netip.MustParsePrefix("198.51.96.0/20")})
	u := &c.Uplinks[1]
	u.IPv4, u.IPv6.Assign = rules.Addressing{}, &rules.Assignment{Gateway: netip.MustParseAddr("::192.0.2.9"),
		Routes: []rules.AssignedRoute{{Dst: netip.MustParsePrefix("2001:db8:9000::/36")}}}
	u.Delegations = []rules.Delegation{{Prefix: netip.MustParsePrefix("2001:db8:9402::/48"), Configured: true}}
	c.LANs = []rules.LAN{{Device: "lan0", SubnetID: 1, From: []int{2}}}
}

// keyFile is where the golden's key is said to be.
const keyFile = "/etc/uplinkd/wg.key"

func wireGuard(c *rules.Config) {
	c.Tunnels = []rules.Tunnel{{Device: "wg0", For: "vps", Params: encap.Params{Kind: encap.WireGuard}}}
	c.WireGuard = []netcfg.WireGuard{{Device: "wg0", PrivateKey: netcfg.Secret{Key: netcfg.Key{0: 8, 31: 64}, File: keyFile}, FwMark: numbers.Mark(9), UnderlayTable: numbers.Table(9),
		Peers: []netcfg.WireGuardPeer{{PublicKey: netcfg.Key{2}, Endpoint: netip.MustParseAddrPort("192.0.2.9:51820"), Called: true, Keepalive: 25 * time.Second,
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.9.0.0/24")}}}}}
	c.Underlays = []rules.Underlay{{ID: 9, Uplink: 3, Carriers: []int{1, 2}}}
	c.Uplinks = append(c.Uplinks, rules.Uplink{ID: 3, Name: "vps", Device: "wg0", Tier: 2, Weight: 1,
		IPv4: rules.Addressing{Enabled: true, Managed: true, Masquerade: true, Assign: &rules.Assignment{
			Addresses: []rules.Address{{Prefix: netip.MustParsePrefix("10.0.31.2/24")}}, Peers: []rules.PeerNetwork{{Dst: netip.MustParsePrefix("10.9.0.0/24"), Alive: true}}}}})
}

func wideLease(c *rules.Config) {
	c.Uplinks[1].IPv4.Managed = true
	c.Uplinks[1].IPv4.Assign = &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix("203.0.113.2/2")}}, Gateway: netip.MustParseAddr("203.0.113.1")}
}

func assignAddresses(c *rules.Config) {
	assign := func(address, gateway string, mtu int) *rules.Assignment {
		return &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix(address)}}, Gateway: netip.MustParseAddr(gateway), MTU: mtu}
	}
	c.Uplinks[0].IPv4.Assign = assign("198.51.100.2/26", "198.51.100.1", 1500)
	c.Uplinks[0].IPv6.Assign = assign("2001:db8:a::2/64", "2001:db8:a::1", 1500)
	c.Uplinks[1].IPv4.Assign = assign("203.0.113.2/32", "203.0.113.1", 1492)
	c.Uplinks[1].IPv6.Assign = assign("2001:db8:b::2/64", "fe80::1", 1492)
}

func delegate(c *rules.Config) {
	c.Uplinks[1].Tier = 2
	c.Uplinks[0].Delegations = []rules.Delegation{{Prefix: netip.MustParsePrefix("2001:db8:a00::/56"), Exclude: netip.MustParsePrefix("2001:db8:a00::/64")}}
	c.Uplinks[1].Delegations = []rules.Delegation{{Prefix: netip.MustParsePrefix("2001:db8:b00::/64")}}
	c.LANs = []rules.LAN{{Device: "lan0", SubnetID: 1, From: []int{1, 2}, ULA: netip.MustParsePrefix("fd00:77:0:1::/64"), Downstream: []rules.Downstream{
		{Prefix: netip.MustParsePrefix("2001:db8:a00:fc::/62"), Router: netip.MustParseAddr("fe80::9")},
		{Prefix: netip.MustParsePrefix("2001:db8:c00:fc::/62"), Router: netip.MustParseAddr("fe80::9")}}}} // of a delegation that is gone
}

func shareSegment(c *rules.Config) {
	u := &c.Uplinks[1]
	u.IPv6.Managed, u.IPv6.Assign = true, &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix("2001:db8:b::9/64")}}, Gateway: netip.MustParseAddr("fe80::1")}
	u.Delegations = []rules.Delegation{{Prefix: netip.MustParsePrefix("2001:db8:b::/64"), Shared: true}}
	u.Proxied = rules.ProxiedHosts{LAN: []netip.Addr{netip.MustParseAddr("2001:db8:b::7")}, Line: []netip.Addr{netip.MustParseAddr("2001:db8:b::1")}}
	c.LANs = []rules.LAN{{Device: "lan0", SubnetID: 1, From: []int{1, 2}}}
}

const goldenDir = "../../rules/testdata"

func TestEveryGoldenHasItsMachine(t *testing.T) {
	files, err := filepath.Glob(goldenDir + "/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no goldens: %v", err)
	}
	for _, file := range files {
		if name := strings.TrimSuffix(filepath.Base(file), ".txt"); machines[name].script == "" {
			t.Errorf("nothing makes the machine of %s", file)
		}
	}
}

func TestGoldensDoWhatTheySayOnARealKernel(t *testing.T) { checkGoldens(t, false) }

func checkGoldens(t *testing.T, vm bool) {
	for name, m := range machines {
		if m.vm != vm {
			continue
		}
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(goldenDir, name+".txt"))
			if err != nil {
				t.Fatal(err)
			}
			golden := string(text)
			namespace(t)
			sh(t, m.script)
			cfg := config()
			for i := range cfg.Uplinks {
				cfg.Uplinks[i].IPv6.Masquerade = false
			}
			if m.config != nil {
				m.config(&cfg)
			}
			health := m.health
			if health == nil {
				health = []rules.Health{rules.Good, rules.Good}
			}
			k := open(t)
			obs := snapshot(t, k, cfg).Foresee(cfg)
			want, _ := rules.Plan(cfg, obs, verdicts(health...))
			ops := netcfg.Diff(rules.Ours(numbers, obs), want)
			if diff := cmp.Diff(golden, script(ops)); diff != "" {
				t.Errorf("the machine in the namespace is another than the golden's (-golden +namespace):\n%s", diff)
			}
			checkNft(t, golden)
			key := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(key, []byte(netcfg.Key{0: 8, 31: 64}.String()), 0o600); err != nil {
				t.Fatal(err)
			}
			sh(t, strings.ReplaceAll(golden, keyFile, key))

			// iproute2 cannot tag addresses; the record tells that they are ours.
			var recorded rules.Recorded
			recorded.Record(ops)
			obs = snapshot(t, k, cfg)
			obs.Recorded = recorded
			want, _ = rules.Plan(cfg, obs, verdicts(health...))
			if left := netcfg.Diff(rules.Ours(numbers, obs), want); len(left) > 0 {
				t.Errorf("still to do after the golden's lines:\n%s", script(left))
			}
		})
	}
}

func script(ops []netcfg.Op) string {
	var b strings.Builder
	for _, op := range ops {
		b.WriteString(op.Command() + "\n")
	}
	return b.String()
}

// checkNft gives the nftables part of a golden to the real nft, which must find nothing wrong.
func checkNft(t *testing.T, golden string) {
	t.Helper()
	_, rest, ok := strings.Cut(golden, "nft -f - <<'EOF'\n")
	table, _, ended := strings.Cut(rest, "EOF\n")
	if !ok || !ended {
		t.Fatal("the golden has no nftables part")
	}
	cmd := exec.Command("nft", "-c", "-f", "-")
	cmd.Stdin = strings.NewReader(table)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("nft -c: %v\n%s", err, out)
	}
}

// A lease may move within its subnet. The kernel holds the new address for a secondary of the old one, and
// would remove it along with the old one.
func TestAnAddressOfTheSameSubnetOutlivesTheOldOne(t *testing.T) {
	namespace(t)
	sh(t, providers)
	k := open(t)
	cfg := config()
	assignAddresses(&cfg)
	v := verdicts(rules.Good, rules.Good)
	var recorded rules.Recorded
	settle := func() {
		t.Helper()
		for range 3 {
			obs := snapshot(t, k, cfg)
			obs.Recorded = recorded.Clone()
			want, _ := rules.Plan(cfg, obs, v)
			ops := netcfg.Diff(rules.Ours(numbers, obs), want)
			if len(ops) == 0 {
				return
			}
			recorded.Record(ops)
			if err := k.Apply(ops); err != nil {
				t.Fatal(err)
			}
			if out := sh(t, "ip -4 -o address show dev wan1"); !strings.Contains(out, cfg.Uplinks[0].IPv4.Assign.Addresses[0].Prefix.String()) {
				t.Fatalf("the new address is lost:\n%s", out)
			}
		}
		t.Fatal("not converged after three rounds")
	}
	settle()
	cfg.Uplinks[0].IPv4.Assign = &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix("198.51.100.9/26")}}, Gateway: netip.MustParseAddr("198.51.100.1")}
	settle()
	if out := sh(t, "ip -4 -o address show dev wan1"); strings.Contains(out, "198.51.100.2/") {
		t.Errorf("the old address is still there:\n%s", out)
	}
	if out := sh(t, "ip route get 192.0.2.77 from 198.51.100.9"); !strings.Contains(out, "dev wan1") {
		t.Errorf("from the new address: %s", out)
	}
}
