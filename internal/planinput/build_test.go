package planinput

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// named is a configuration with uplinks of these names, each on a device that is called alike.
func named(names ...string) *config.Config {
	c := config.Default()
	for _, n := range names {
		c.Uplinks = append(c.Uplinks, config.DefaultUplink(n, n))
	}
	return c
}

// defaultTargets are what the uplinks of named ask, each once.
func defaultTargets() []netip.Addr {
	var list []netip.Addr
	for _, t := range config.DefaultUplink("any", "any0").Probe.Targets {
		list = append(list, t.Addr())
	}
	return list
}

// numbered lists n names.
func numbered(prefix string, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%s%02d", prefix, i)
	}
	return names
}

// each gives names the ids 1, 2, ...
func each(names ...string) map[string]int {
	ids := make(map[string]int)
	for i, n := range names {
		ids[n] = i + 1
	}
	return ids
}

func TestIDsAreStable(t *testing.T) {
	for name, c := range map[string]struct {
		kept    map[string]int
		names   []string
		want    map[string]int
		changed bool
	}{
		"the first run":                      {map[string]int{}, []string{"fiber", "lte"}, each("fiber", "lte"), true},
		"nothing new":                        {each("fiber", "lte"), []string{"fiber", "lte"}, each("fiber", "lte"), false},
		"another order":                      {each("fiber", "lte"), []string{"lte", "fiber"}, each("fiber", "lte"), false},
		"one was removed and is remembered":  {each("fiber", "lte"), []string{"lte"}, each("fiber", "lte"), false},
		"a new one leaves removed ones' ids": {each("fiber", "lte"), []string{"dsl", "lte"}, each("fiber", "lte", "dsl"), true},
		"a gap is filled":                    {map[string]int{"lte": 2}, []string{"lte", "dsl"}, map[string]int{"dsl": 1, "lte": 2}, true},
		"impossible ids are given anew": {map[string]int{"fiber": 0, "lte": 63, "old": -1, "dsl": 2}, []string{"fiber", "lte", "dsl"},
			map[string]int{"fiber": 1, "lte": 3, "dsl": 2}, true},
		"one id twice stays with the first name": {map[string]int{"b": 1, "a": 1}, []string{"b", "a"}, map[string]int{"a": 1, "b": 2}, true},
		"one id twice stays with a name in use":  {map[string]int{"b": 1, "a": 1}, []string{"b"}, map[string]int{"b": 1}, true},
	} {
		t.Run(name, func(t *testing.T) {
			for range 20 { // whatever the order in which a map is walked
				got := maps.Clone(c.kept)
				changed, err := AssignIDs(named(c.names...), got)
				if err != nil || changed != c.changed {
					t.Fatalf("changed %v, %v", changed, err)
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Fatalf("(-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestAnIDIsReusedOnlyWhenNoFreshOneIsLeft(t *testing.T) {
	all := numbered("u", rules.MaxUplinks)
	kept := each(all...)
	config := named(append([]string{"new"}, all[2:]...)...) // u00 and u01 are gone from the file
	if _, err := AssignIDs(config, kept); err != nil {
		t.Fatal(err)
	}
	want := each(all...)
	delete(want, "u00")
	want["new"] = 1
	if diff := cmp.Diff(want, kept); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	seen := make(map[int]string)
	for name, id := range kept {
		if seen[id] != "" {
			t.Errorf("%s and %s share id %d", name, seen[id], id)
		}
		seen[id] = name
	}
	if _, err := AssignIDs(named(numbered("x", rules.MaxUplinks+1)...), each(all...)); err == nil {
		t.Error("more uplinks than ids were given ids")
	}
}

// Groups of policies have ids of the same space. No connection is pinned to one, so that they give way first.
func TestGroupsOfPoliciesShareTheSpaceOfIDs(t *testing.T) {
	c := named("fiber", "lte")
	policy := func(name string, fallback config.Fallback, except []netip.Prefix, tiers ...[]string) {
		c.Policies = append(c.Policies, config.Policy{Name: name, Uplinks: tiers, Fallback: fallback, Except: except})
	}
	private := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	policy("a", config.FallbackDefault, nil, []string{"lte"})
	policy("b", config.FallbackDefault, nil, []string{"lte"})
	policy("c", config.FallbackUnreachable, nil, []string{"lte"})
	policy("d", config.FallbackDefault, private, []string{"lte"})
	policy("e", config.FallbackDefault, nil, []string{"lte", "fiber"})
	policy("f", config.FallbackDefault, nil, []string{"fiber", "lte"})
	policy("g", config.FallbackDefault, nil, []string{"lte"}, []string{"fiber"})
	c.TProxies = []config.TProxy{{Name: "web"}}
	kept := make(map[string]int)
	if _, err := AssignIDs(c, kept); err != nil {
		t.Fatal(err)
	}
	var groups []int
	for i := range c.Policies {
		groups = append(groups, kept[c.Policies[i].Group()])
	}
	// a and b share, and so do e and f, whose tier has the same members.
	if diff := cmp.Diff([]int{3, 3, 4, 5, 6, 6, 7}, groups); diff != "" || kept[config.TProxyGroup] != 8 {
		t.Errorf("(-want +got):\n%s%v", diff, kept)
	}
	c = named(append([]string{"fiber", "lte"}, numbered("u", 58)...)...)
	if _, err := AssignIDs(c, kept); err != nil {
		t.Fatal(err)
	}
	seen := make(map[int]string)
	for name, id := range kept {
		if other := seen[id]; other != "" {
			t.Errorf("%s and %s share id %d", name, other, id)
		}
		seen[id] = name
	}
	for i := range c.Uplinks {
		if kept[c.Uplinks[i].Name] == 0 {
			t.Errorf("%s has no id while groups that nobody wants have", c.Uplinks[i].Name)
		}
	}
}

func TestPoliciesArePlannedAsTheyAreConfigured(t *testing.T) {
	c, err := config.Parse("test", []byte(`
[[uplink]]
name = "fiber"
device = "wan1"
[[uplink]]
name = "lte"
device = "wan2"
[[policy]]
name = "all"
uplinks = [["lte:5", "fiber"]]
fallback = "unreachable"
sticky = "source"
from = "192.168.1.0/24"
to = ["2001:db8::/32", "192.0.2.1"]
iif = "lan0"
protocol = "tcp"
sport = "1024-2048"
dport = 25
fwmark = "0x1/0xf"
dscp = "ef"
mac = "02:00:00:00:00:10"
except = "192.0.2.7"
[[policy]]
name = "own"
uplinks = ["lte"]
uid = "1000-1999"
[[policy]]
name = "alone"
uplinks = ["main"]
to = "192.0.2.10-192.0.2.11"
[[policy]]
name = "usual"
uplinks = ["default"]
to = "192.0.2.9"
[[set]]
name = "fixed"
addresses = "198.51.100.0/24"
[[set]]
name = "merged"
filled = true
[[set]]
name = "expiring"
filled = true
timeouts = true
[[tproxy]]
name = "web"
iif = "lan0"
port = 12345
protocol = "tcp"
dport = 443
except = "192.0.2.7"
on_failure = "reject"
[[forward]]
name = "web"
protocol = ["tcp", "udp"]
port = 443
to_port = 8443
to4 = "192.168.7.10"
to6 = "::10"
lan = "lan0"
uplinks = ["lte"]
[[forward]]
name = "all"
port = "8000-8010"
mac = "02:00:00:00:00:10"
lan = "lan0"
`))
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]int{"fiber": 7, "lte": 8, c.Policies[0].Group(): 9, c.Policies[1].Group(): 10, c.Policies[2].Group(): 12, c.Policies[3].Group(): 13, config.TProxyGroup: 11}
	got := Build(c, ids, nil, netip.Prefix{})
	nets := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	want := rules.Config{
		Targets: defaultTargets(),
		Groups: []rules.Group{{ID: 9, Tiers: [][]int{{8, 7}}, Weights: map[int]int{8: 5}, KillSwitch: true, Except: nets("192.0.2.7/32")}, {ID: 10, Tiers: [][]int{{8}}},
			{ID: 12, LeftTo: rules.LeftToMain}, {ID: 13, LeftTo: rules.LeftToDefault}},
		Policies: []rules.Policy{
			{Name: "all", Group: 9, Sticky: true, Select: rules.Selector{
				rules.SelectDevices{"lan0"}, rules.SelectAddresses{Prefixes: nets("192.168.1.0/24")},
				rules.SelectAddresses{Dest: true, Prefixes: nets("192.0.2.1/32", "2001:db8::/32")}, rules.SelectProtocols{6},
				rules.SelectPorts{List: []netcfg.Ports{{First: 1024, Last: 2048}}}, rules.SelectPorts{Dest: true, List: []netcfg.Ports{{First: 25, Last: 25}}},
				rules.SelectMark{Value: 1, Mask: 0xf}, rules.SelectDSCP{46}, rules.SelectMACs{{2, 5: 0x10}}}},
			{Name: "own", Group: 10, Select: rules.Selector{rules.SelectUIDs{{Set: true, First: 1000, Last: 1999}}}},
			{Name: "alone", Group: 12, Select: rules.Selector{rules.SelectAddresses{Dest: true, Prefixes: nets("192.0.2.10/31")}}},
			{Name: "usual", Group: 13, Select: rules.Selector{rules.SelectAddresses{Dest: true, Prefixes: nets("192.0.2.9/32")}}},
		},
		TProxies: []rules.TProxy{{Name: "web", Group: 11, Port: 12345, Reject: true, Except: nets("192.0.2.7/32"),
			Select: rules.Selector{rules.SelectDevices{"lan0"}, rules.SelectProtocols{6}, rules.SelectPorts{Dest: true, List: []netcfg.Ports{{First: 443, Last: 443}}}}}},
		Forwards: []rules.Forward{
			{Name: "web", Protocols: []uint8{6, 17}, Ports: netcfg.Ports{First: 443, Last: 443}, ToPort: 8443, Device: "lan0", To4: netip.MustParseAddr("192.168.7.10"), ID6: 0x10, Uplinks: []int{8}},
			{Name: "all", Protocols: []uint8{6}, Ports: netcfg.Ports{First: 8000, Last: 8010}, Device: "lan0", ID6: 0xff_fe00_0010},
		},
		MergedSets: []string{"merged"},
	}
	got.Kernel, got.Uplinks = want.Kernel, want.Uplinks
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Who adds a key, or a kind of condition, is told what is missing between them.
	keys, fields := make(map[string]bool), make(map[string]bool)
	for i := range got.Policies {
		for _, condition := range got.Policies[i].Select {
			keys[condition.Key()] = true
		}
		for field, value := range reflect.ValueOf(c.Policies[i].Match).Fields() {
			fields[field.Name] = fields[field.Name] || !value.IsZero()
		}
	}
	for _, condition := range rules.Conditions() {
		if !keys[condition.Key()] {
			t.Errorf("no policy of this test has %s", condition.Key())
		}
	}
	for name, given := range fields {
		if !given {
			t.Errorf("no policy of this test has the key of config.Match.%s", name)
		}
	}
}

func TestPlanningTakesWhatTheConfigurationSays(t *testing.T) {
	c, err := config.Parse("test", []byte(`
[kernel]
rule_priority = 20000
table_base = 20000
mark_mask = "0x00fc0000"
link_group = 7
protocol = 200
ingress_qdisc = true
offload = true
[[uplink]]
name = "follows"
device = "wan1"
tier = 2
weight = 9
default = false
  [uplink.ipv6]
  method = "off"
[[uplink]]
name = "static"
device = "wan2"
bandwidth = { down = "10Mbit" }
  [uplink.ipv4]
  method = "static"
  address = "198.51.100.2/26"
  gateway = "198.51.100.1"
  masquerade = false
  [uplink.ipv6]
  method = "static"
  address = "2001:db8:a::2/64"
[[uplink]]
name = "leased"
device = "wan3"
  [uplink.ipv4]
  method = "dhcp"
  [uplink.ipv6]
  method = "ra"
  delegation = true
  translate = true
[[uplink]]
name = "waiting"
device = "wan4"
  [uplink.ipv4]
  method = "dhcp"
  [uplink.ipv6]
  method = "ra"
[[tier]]
tier = 1
overflow = 0.9
[[lan]]
device = "lan0"
subnet_id = 0xabc
delegate_length = 60
`))
	if err != nil {
		t.Fatal(err)
	}
	lease := &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix("203.0.113.2/26")}}, Gateway: netip.MustParseAddr("203.0.113.1"), MTU: 1400}
	ids := map[string]int{"follows": 4, "static": 3, "leased": 2, "waiting": 1, "gone": 5}
	routed := &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix("2001:db8:c::2/64")}}, Gateway: netip.MustParseAddr("fe80::1")}
	delegations := []rules.Delegation{{Prefix: netip.MustParsePrefix("2001:db8:c00::/56")}}
	all := &LearnedUplink{IPv4: lease, IPv6: routed, Delegations: delegations}
	got := Build(c, ids, Learned{"leased": all, "follows": all, "gone": all}, netip.MustParsePrefix("fd00:77::/48"))
	masqueraded := rules.Addressing{Enabled: true, Masquerade: true}
	want := rules.Config{
		Targets:      defaultTargets(),
		Kernel:       rules.Kernel{Protocol: 200, RulePriority: 20000, TableBase: 20000, MarkMask: 0x00fc0000, LinkGroup: 7},
		IngressQdisc: true,
		Offload:      true,
		Uplinks: []rules.Uplink{
			{ID: 4, Name: "follows", Device: "wan1", Tier: 2, Weight: 9, PoliciesOnly: true, IPv4: masqueraded},
			{ID: 3, Name: "static", Device: "wan2", Tier: 1, Weight: 1, Overflows: true,
				IPv4: rules.Addressing{Enabled: true, Managed: true, Assign: &rules.Assignment{
					Addresses: []rules.Address{{Prefix: netip.MustParsePrefix("198.51.100.2/26")}}, Gateway: netip.MustParseAddr("198.51.100.1")}},
				IPv6: rules.Addressing{Enabled: true, Managed: true, Assign: &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix("2001:db8:a::2/64")}}}}},
			{ID: 2, Name: "leased", Device: "wan3", Tier: 1, Weight: 1,
				IPv4:        rules.Addressing{Enabled: true, Managed: true, Masquerade: true, Assign: lease},
				IPv6:        rules.Addressing{Enabled: true, Managed: true, Discovers: true, PrefixNAT: true, Assign: routed},
				Delegations: delegations},
			{ID: 1, Name: "waiting", Device: "wan4", Tier: 1, Weight: 1,
				IPv4: rules.Addressing{Enabled: true, Managed: true, Masquerade: true},
				IPv6: rules.Addressing{Enabled: true, Managed: true, Discovers: true}},
		},
		Site: netip.MustParsePrefix("fd00:77::/48"),
		LANs: []rules.LAN{{Device: "lan0", SubnetID: 0xabc, From: []int{2}, ULA: netip.MustParsePrefix("fd00:77:0:abc::/64"), DelegateLength: 60}},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhetherOurDefaultStandsInMainIsPlannedAsItIsConfigured(t *testing.T) {
	for text, want := range map[string]rules.MainDefault{"": rules.MainDefaultAuto, `main_default = "auto"`: rules.MainDefaultAuto,
		"main_default = true": rules.MainDefaultAlways, "main_default = false": rules.MainDefaultNever} {
		c, err := config.Parse("test", []byte("[kernel]\n"+text))
		if err != nil {
			t.Fatal(err)
		}
		if got := Build(c, nil, nil, netip.Prefix{}).MainDefault; got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

func TestTheFailbackPolicyReachesThePlan(t *testing.T) {
	c := named("fiber", "lte")
	c.Uplinks[0].Failback = config.FailbackNewFlowsOnly
	in := Build(c, each("fiber", "lte"), Learned{}, netip.Prefix{})
	if !in.Uplinks[0].NewFlowsOnly || in.Uplinks[0].TakesBack || in.Uplinks[1].NewFlowsOnly {
		t.Errorf("%+v", in.Uplinks)
	}
}

func TestAnIDThatTheConfigurationSaysIsTheUplinks(t *testing.T) {
	c := named("fiber", "lte", "dsl")
	c.Uplinks[0].ID, c.Uplinks[2].ID = 2, 9
	before := each("fiber", "lte", "dsl")
	kept := maps.Clone(before)
	changed, err := AssignIDs(c, kept)
	if err != nil || !changed || kept["fiber"] != 2 || kept["dsl"] != 9 || kept["lte"] == 2 || kept["lte"] == 9 || kept["lte"] == 0 {
		t.Errorf("%v, %v, %v", kept, changed, err)
	}
	if diff := cmp.Diff([]int{1, 2, 3}, Reassigned(before, kept)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if changed, err := AssignIDs(c, kept); changed || err != nil {
		t.Errorf("a second time: %v, %v", changed, err)
	}
	if ids := Reassigned(kept, kept); len(ids) > 0 {
		t.Errorf("%v", ids)
	}
	// One that is in use nowhere else moves alone; an uplink that leaves takes nothing with it.
	if ids := Reassigned(map[string]int{"fiber": 1, "@group": 3, "gone": 4}, map[string]int{"fiber": 1, "@group": 5, "lte": 3}); len(ids) > 0 {
		t.Errorf("%v", ids)
	}
}

func TestTheBackupOfAPairGuardsTheDevicesOfThePrimary(t *testing.T) {
	c, err := config.Parse("test", []byte(`
[pair]
virtual = "192.168.7.1"
device = "br-lan"
peer = "192.168.7.3:9276"
key_file = "/etc/uplinkd/pair.key"
[[uplink]]
name = "own"
id = 4
device = "wan3"
[[uplink]]
name = "fiber"
id = 1
device = "wan1"
shared = true
[[uplink]]
name = "lte"
id = 2
device = "wan2"
hardware_address = "02:00:00:00:00:99"
primary_only = true
  [uplink.ipv4]
  method = "dhcp"
[[uplink]]
name = "vx"
id = 3
device = "vx0"
kind = "vxlan"
primary_only = true
[[lan]]
device = "br-lan"
prefixes_from = []
[[policy]]
name = "some"
uplinks = ["lte", "own"]
protocol = "tcp"
dport = 25
[[policy]]
name = "locked"
uplinks = ["lte"]
protocol = "tcp"
dport = 26
fallback = "unreachable"
`))
	if err != nil {
		t.Fatal(err)
	}
	ids := make(map[string]int)
	standby := c.Standby()
	for _, c := range []*config.Config{c, standby} {
		if _, err := AssignIDs(c, ids); err != nil {
			t.Fatal(err)
		}
	}
	lease := &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix("203.0.113.2/26")}}}
	got := Build(standby, ids, Learned{}, netip.Prefix{})
	var names []string
	for _, u := range got.Uplinks {
		names = append(names, u.Name)
		if u.IPv4.Assign != nil {
			t.Errorf("%s has %v", u.Name, u.IPv4.Assign)
		}
		if u.Hardware != (netcfg.Hardware{}) { // the primary calls itself so, in the same network
			t.Errorf("%s has %v", u.Name, u.Hardware)
		}
	}
	if diff := cmp.Diff([]string{"own", "fiber", "lte"}, names); diff != "" || len(got.LANs) != 0 || len(got.Elsewhere) != 3 || len(got.Policies) != 2 {
		t.Errorf("(-want +got):\n%s%+v", diff, got)
	}
	for _, g := range got.Groups { // the kill switch stays one, with nobody behind it
		if g.ID == 0 || g.KillSwitch && len(g.Tiers) != 0 || !g.KillSwitch && !reflect.DeepEqual(g.Tiers, [][]int{{4}}) {
			t.Errorf("%+v", g)
		}
	}
	if whole := Build(c, ids, Learned{"lte": {IPv4: lease}}, netip.Prefix{}); len(whole.Uplinks) != 4 || whole.Uplinks[2].Hardware[5] != 0x99 || len(whole.LANs) != 1 || whole.Elsewhere != nil || !reflect.DeepEqual(whole.Groups[0].Tiers, [][]int{{2}, {4}}) {
		t.Errorf("the primary: %+v", whole)
	}
}
