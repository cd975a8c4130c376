package offline

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/discovery"
	"github.com/uplinkd/uplinkd/internal/lease"
	"github.com/uplinkd/uplinkd/internal/programs"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// machineWith is a machine with these devices, each with a default route of a family.
func machineWith(devices ...string) *rules.Observed {
	obs := &rules.Observed{}
	for i, device := range devices {
		obs.Links = append(obs.Links, rules.Link{Index: i + 1, Name: device, Up: true, Carrier: true})
		obs.Routes = append(obs.Routes, netcfg.Route{Family: rules.IPv4, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: rules.IPv4.Default(), Metric: uint32(100 * (i + 1)),
			Protocol: 16, Nexthops: []netcfg.Nexthop{{Device: device, Gateway: netip.MustParseAddr("198.51.100.1"), Weight: 1}}})
	}
	return obs
}

// uncommented removes the sign before keys and sections that are proposed, and leaves remarks.
func uncommented(text string) string {
	return regexp.MustCompile(`(?m)^( *)#( ?)([^#\n]|$)`).ReplaceAllString(text, "$1$3")
}

// proposed is what init proposes of a machine, and what that means. It must pass as it is, uncommented as a whole, and with each
// group of its lines uncommented.
func proposed(t fatal, obs *rules.Observed, m discovery.Machine) (string, *config.Config) {
	t.Helper()
	text := proposal(obs, m, nil)
	parse := func(text string) *config.Config {
		t.Helper()
		c, err := config.Parse("proposed", []byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		return c
	}
	parse(uncommented(text))
	for _, group := range regexp.MustCompile(`(?m)(^ *#[^#].*\n)+`).FindAllStringIndex(text, -1) {
		parse(text[:group[0]] + uncommented(text[group[0]:group[1]]) + text[group[1]:])
	}
	return text, parse(text)
}

type fatal interface {
	Helper()
	Fatalf(format string, args ...any)
}

func (m *testMachine) address(device, prefix string, change ...func(*rules.Addr)) {
	a := rules.Addr{Device: device, Prefix: netip.MustParsePrefix(prefix)}
	for _, c := range change {
		c(&a)
	}
	m.Addrs = append(m.Addrs, a)
}

func dynamic(a *rules.Addr) { a.Dynamic = true }

// testMachine is a machine that grows by device.
type testMachine struct{ *rules.Observed }

func (m *testMachine) link(name, kind string, change ...func(*rules.Link)) int {
	l := rules.Link{Index: len(m.Links) + 1, Name: name, Kind: kind, Up: true, Carrier: true}
	for _, c := range change {
		c(&l)
	}
	m.Links = append(m.Links, l)
	return l.Index
}

func (m *testMachine) route6(device string) {
	m.Routes = append(m.Routes, netcfg.Route{Family: rules.IPv6, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: rules.IPv6.Default(), Metric: 1024,
		Protocol: 9, Nexthops: []netcfg.Nexthop{{Device: device, Gateway: netip.MustParseAddr("fe80::2"), Weight: 1}}})
}

func lacks(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("it lacks %q:\n%s", w, text)
		}
	}
}

func TestTheStarterConfigurationSaysWhatWasFound(t *testing.T) {
	m := &testMachine{machineWith("eth0.7", "wwan0")}
	m.address("eth0.7", "198.51.100.2/26")
	m.address("eth0.7", "fe80::1/64", func(a *rules.Addr) { a.LinkScope = true })
	m.route6("eth0.7")
	text, c := proposed(t, m.Observed, discovery.Machine{})
	lacks(t, text,
		"## eth0.7: 198.51.100.2/26; ipv4 default via 198.51.100.1, metric 100 (DHCP); ipv6 default via fe80::2, metric 1024 (router advertisement)\n",
		"name = \"eth0-7\"\ndevice = \"eth0.7\"\n", "There is no global IPv6 address on the device", "## wwan0: mobile network or phone, by its name; ", "tier = 2 ", "metered = true ")
	if len(c.Uplinks) != 2 || c.Uplinks[0].IPv6.Method != config.MethodAuto || c.Uplinks[1].IPv6.Method != config.MethodOff || !c.Uplinks[1].Metered || c.Uplinks[1].Tier != 2 {
		t.Errorf("it means %+v", c.Uplinks)
	}
	text, c = proposed(t, &rules.Observed{}, discovery.Machine{})
	if len(c.Uplinks) != 0 || !strings.Contains(text, "# device = \"eth1\"") {
		t.Errorf("of a machine without uplinks:\n%s", text)
	}
}

func TestWhatIsNoUplinkIsNamedAndPlaced(t *testing.T) {
	m := &testMachine{machineWith("eth0.7")}
	eth0 := m.link("eth0", "")
	m.Links[0].Kind, m.Links[0].Parent = "vlan", eth0
	lan := m.link("br-lan", "bridge")
	m.link("eth1", "", func(l *rules.Link) { l.Master = lan })
	m.address("br-lan", "192.168.7.1/24")
	m.link("docker0", "bridge")
	m.address("docker0", "172.17.0.1/16")
	m.link("wg0", "wireguard", func(l *rules.Link) { l.PointToPoint = true })
	m.address("wg0", "10.0.31.2/24")
	text, c := proposed(t, m.Observed, discovery.Machine{})
	lacks(t, text, "## eth0.7: VLAN on eth0; ", "## * eth0: eth0.7 is on it\n", "## br-lan: bridge of eth1; 192.168.7.1/24\n## No uplink has IPv6 now.", "# [[lan]]\n# device = \"br-lan\"\n",
		"## * eth1: a port of br-lan\n", "## * docker0: bridge of nothing; 172.17.0.1/16; of containers", "## * wg0: WireGuard; 10.0.31.2/24; no default route leads there",
		"# name = \"wg0\"\n# kind = \"wireguard\"\n# device = \"wg0\"\n# default = false ")
	if len(c.Uplinks) != 1 || len(c.LANs) != 0 {
		t.Errorf("it means %+v", c)
	}
}

func TestKnownProgramsAreRemarks(t *testing.T) {
	text := proposal(machineWith("eth0"), discovery.Machine{}, programs.Find(programs.Seen{Processes: []string{"keepalived"}, Devices: []string{"docker0"}}))
	lacks(t, text, "## Also here", "## * Docker, by the device docker0: it translates", "##   to write: accept what", "## * keepalived, by the process keepalived: it adds")
	if _, err := config.Parse("proposed", []byte(uncommented(text))); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
	if text := proposal(machineWith("eth0"), discovery.Machine{}, nil); strings.Contains(text, "Also here") {
		t.Errorf("of a machine without any:\n%s", text)
	}
}

func TestALANIsProposedDelegationWhereAProviderHasIPv6(t *testing.T) {
	m := &testMachine{machineWith("wan", "wwan0")}
	m.route6("wan")
	m.route6("wwan0")
	m.link("lan0", "")
	m.address("lan0", "192.168.7.1/24")
	m.link("lan1", "")
	m.address("lan1", "192.168.8.1/24")
	m.address("lan1", "2001:db8:8::1/64")
	m.link("mgmt", "")
	m.address("mgmt", "192.168.9.77/24", dynamic)
	text, c := proposed(t, m.Observed, discovery.Machine{})
	lacks(t, text, "## lan1: 192.168.8.1/24; 2001:db8:8::1/64\n## Somebody else gives it IPv6 already.", "# [[lan]]\n# device = \"lan1\"\n", "## * mgmt: 192.168.9.77/24\n")
	if len(c.LANs) != 1 || c.LANs[0].Device != "lan0" || !c.Uplinks[0].IPv6.Delegation || c.Uplinks[1].IPv6.Delegation {
		t.Errorf("it means %+v", c)
	}
}

func TestADefaultRouteThatWasRefusedIsExplained(t *testing.T) {
	m := &testMachine{machineWith("wan1")}
	m.Routes[0].Metric = 0
	m.address("wan1", "198.51.100.2/24", dynamic)
	m.link("wan2", "")
	m.address("wan2", "203.0.113.7/24", dynamic)
	m.link("ppp0", "ppp", func(l *rules.Link) { l.PointToPoint = true })
	m.address("ppp0", "198.51.100.99/32")
	leased := lease.Lease{Address: netip.MustParseAddr("203.0.113.7"), Routers: []netip.Addr{netip.MustParseAddr("203.0.113.1")}, From: "dhclient"}
	machine := discovery.Machine{Lease: func(device string, _ int) (lease.Lease, bool) { return leased, device == "wan2" }}
	text, c := proposed(t, m.Observed, machine)
	lacks(t, text, "dhclient has leased 203.0.113.7, with the gateway 203.0.113.1, but there is no default route of it: that of wan1 has the same\n  ## metric (0)",
		"\"iface wan2 inet manual\"", "It needs no default route, which pppd does not install beside that of wan1")
	methods := make(map[string]config.Method)
	for _, u := range c.Uplinks {
		methods[fmt.Sprint(u.Name, " ", u.Tier)] = u.IPv4.Method
	}
	if diff := cmp.Diff(map[string]config.Method{"wan1 1": config.MethodAuto, "wan2 1": config.MethodDHCP, "ppp0 1": config.MethodAuto}, methods); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Not so with another network's lease, of an address that it has not, or once it has its route.
	for name, change := range map[string]func(){
		"another address": func() { leased.Address = netip.MustParseAddr("203.0.113.8") },
		"another network": func() {
			leased.Address, leased.Routers = netip.MustParseAddr("203.0.113.7"), []netip.Addr{netip.MustParseAddr("192.0.2.1")}
		},
		"no router": func() { leased.Routers = nil },
	} {
		change()
		if text, _ := proposed(t, m.Observed, machine); strings.Contains(text, "has leased") {
			t.Errorf("%s:\n%s", name, text)
		}
	}
}

// TestTheStarterConfigurationAlwaysPasses draws devices with every name that the kernel takes.
func TestTheStarterConfigurationAlwaysPasses(t *testing.T) {
	kinds := []string{"", "bridge", "vlan", "wireguard", "ppp", "veth"}
	rapid.Check(t, func(t *rapid.T) {
		devices := rapid.SliceOfNDistinct(rapid.StringMatching(`[!-.0-9;-~]{1,15}|eth[0-9]\.[0-9]{1,3}|main|default|all|lo|[0-9]|[^\x00-\x20/:\x7f]{1,5}`), 0, 12, rapid.ID[string]).Draw(t, "devices")
		devices = slices.DeleteFunc(devices, func(name string) bool { return name == "." || name == ".." }) // dev_valid_name
		n := rapid.IntRange(0, len(devices)).Draw(t, "with a default route")
		m := &testMachine{machineWith(devices[:n]...)}
		for i := range m.Routes {
			if rapid.Bool().Draw(t, fmt.Sprint("ipv6 ", i)) {
				m.Routes[i].Family, m.Routes[i].Dst = rules.IPv6, rules.IPv6.Default()
			}
		}
		for _, device := range devices[n:] {
			m.link(device, "")
		}
		for i := range m.Links {
			l := &m.Links[i]
			l.Kind = rapid.SampledFrom(kinds).Draw(t, l.Name+" is")
			l.Master, l.Parent = rapid.IntRange(0, len(devices)).Draw(t, "master"), rapid.IntRange(0, len(devices)).Draw(t, "parent")
			for j, a := range []string{"192.168.%d.1/24", "203.0.113.%d/24", "2001:db8:%d::1/64"} {
				if rapid.Bool().Draw(t, fmt.Sprint("address ", j)) {
					lifetime := rapid.Bool().Draw(t, "lifetime")
					m.address(l.Name, fmt.Sprintf(a, i+1), func(a *rules.Addr) { a.Dynamic = lifetime })
				}
			}
		}
		leases := rapid.Bool().Draw(t, "leases")
		proposed(t, m.Observed, discovery.Machine{Lease: func(device string, index int) (lease.Lease, bool) {
			a := netip.MustParseAddr(fmt.Sprintf("203.0.113.%d", index))
			return lease.Lease{Address: a, Routers: []netip.Addr{netip.MustParseAddr("203.0.113.254")}, From: "dhclient"}, leases
		}})
	})
}
