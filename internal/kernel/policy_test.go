package kernel_test

import (
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/inet"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

func nets(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// selective is a configuration with a policy for each selector and each way to compile one, and proxies.
func selective() rules.Config {
	c := config()
	c.Uplinks[0].Delegations = []rules.Delegation{{Prefix: netip.MustParsePrefix("2001:db8:a00::/56")}}
	c.Groups = []rules.Group{
		{ID: 3, Tiers: [][]int{{2}}},
		{ID: 4, Tiers: [][]int{{1}}, KillSwitch: true, Except: nets("192.0.2.0/26", "192.0.2.128/26", "2001:db8:77::/48")},
		{ID: 5, Tiers: [][]int{{1, 2}}},
	}
	many := make([]netcfg.Ports, 0, 40)
	for n := range 40 {
		many = append(many, netcfg.Ports{First: uint16(1000 + 10*n), Last: uint16(1003 + 10*n)})
	}
	for _, p := range []struct {
		name  string
		group int
		s     rules.Selector
	}{
		{"addresses", 3, rules.Selector{rules.SelectAddresses{Prefixes: nets("203.0.113.128/25", "2001:db8:1::/64")}, rules.SelectAddresses{Dest: true, Prefixes: nets("192.0.2.2/32", "192.0.2.64/26", "2001:db8:ffff::2/128")}}},
		{"device", 3, rules.Selector{rules.SelectDevices{"lan0"}, rules.SelectProtocols{6, 17}, rules.SelectPorts{List: []netcfg.Ports{{First: 1024, Last: 65535}}}, rules.SelectPorts{Dest: true, List: []netcfg.Ports{{First: 25, Last: 25}, {First: 8000, Last: 8080}}}}},
		{"owner", 4, rules.Selector{rules.SelectUIDs{{Set: true, First: 1000, Last: 1999}, {Set: true, First: 7, Last: 7}}}},
		{"one-owner", 4, rules.Selector{rules.SelectUIDs{{Set: true, First: 7, Last: 9}}}},
		{"single-owner", 4, rules.Selector{rules.SelectUIDs{{Set: true, First: 7, Last: 7}}, rules.SelectDSCP{0}}},
		{"mark", 4, rules.Selector{rules.SelectMark{Value: 0x1, Mask: 0xff}}},
		{"voice", 3, rules.Selector{rules.SelectDSCP{46}}},
		{"more-voice", 3, rules.Selector{rules.SelectDSCP{34, 46, 10}}},
		{"many-ports", 5, rules.Selector{rules.SelectProtocols{6}, rules.SelectPorts{Dest: true, List: many}}},
		{"filled", 5, rules.Selector{rules.SelectAddresses{Prefixes: nets("203.0.113.130/32", "203.0.113.140/30")}, rules.SelectAddresses{Dest: true, Sets: []string{"streaming", "more"}}}},
		{"pattern", 4, rules.Selector{rules.SelectDevices{"lan*", "br0", "br1", "guest*"}, rules.SelectAddresses{Dest: true, Prefixes: nets("192.0.2.200/32")}}},
		{"merged", 5, rules.Selector{rules.SelectAddresses{Dest: true, Sets: []string{"lists"}}}},
		{"list", 4, rules.Selector{rules.SelectAddresses{Dest: true, Prefixes: nets("192.0.2.77/32"), Lists: []rules.List{{Name: "some", Set: set("192.0.2.128/26", "192.0.2.192-192.0.2.220", "2001:db8:ffff::/64", "255.255.255.0/24")}}}}},
		{"lists", 3, rules.Selector{rules.SelectAddresses{Lists: []rules.List{{Name: "some", Set: set("203.0.113.128/25")}, {Name: "none", Set: set()}}}}},
		{"two-devices", 4, rules.Selector{rules.SelectDevices{"lan0", "lan1"}, rules.SelectAddresses{Prefixes: nets("203.0.113.128/25")}}},
		{"host", 4, rules.Selector{rules.SelectMACs{{2, 5: 0x10}}}},
		{"hosts", 4, rules.Selector{rules.SelectAddresses{Prefixes: nets("203.0.113.128/25")}, rules.SelectProtocols{6}, rules.SelectDSCP{46}, rules.SelectMACs{{2, 5: 0x11}, {2, 5: 0x10}}}},
	} {
		c.Policies = append(c.Policies, rules.Policy{Name: p.name, Group: p.group, Select: p.s})
	}
	c.Policies = append(c.Policies, rules.Policy{Name: "sticky", Group: 5, Sticky: true, Select: rules.Selector{rules.SelectAddresses{Dest: true, Prefixes: nets("192.0.2.0/24", "2001:db8:ffff::/64")}}})
	c.MergedSets = []string{"lists"}
	c.TProxies = []rules.TProxy{
		{Name: "web", Group: 9, Port: 12345, Reject: true, Select: rules.Selector{rules.SelectDevices{"lan0"}, rules.SelectProtocols{6, 17}, rules.SelectPorts{Dest: true, List: []netcfg.Ports{{First: 443, Last: 443}}}, rules.SelectMACs{{2, 5: 0x10}}}, Except: nets("192.0.2.7/32")},
		{Name: "rest", Group: 9, Port: 12346, Select: rules.Selector{rules.SelectDevices{"lan0", "lan1"}, rules.SelectAddresses{Prefixes: nets("203.0.113.128/25")}, rules.SelectProtocols{6}}},
	}
	return c
}

// set is a set of prefixes and ranges.
func set(list ...string) *inet.Set {
	var ranges []inet.Range
	for _, s := range list {
		if first, last, is := strings.Cut(s, "-"); is {
			ranges = append(ranges, inet.Range{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)})
		} else {
			ranges = append(ranges, inet.RangeOf(netip.MustParsePrefix(s)))
		}
	}
	return inet.NewSet(ranges)
}

func TestPoliciesConvergeAndCleanUp(t *testing.T) {
	namespace(t)
	sh(t, router)
	before := everything(t)
	k := open(t)
	cfg := selective()
	var recorded rules.Recorded
	for _, health := range [][]rules.Health{{rules.Good, rules.Good}, {rules.Dead, rules.Good}, {rules.Good, rules.Dead}, {rules.Dead, rules.Dead}} {
		converge(t, k, cfg, &recorded, verdicts(health...))
	}
	obs := snapshot(t, k, cfg)
	obs.Recorded = recorded.Clone()
	cfg.Uplinks, cfg.Policies, cfg.Groups, cfg.TProxies = nil, nil, nil, nil
	want, _ := rules.Plan(cfg, obs, nil)
	if err := k.Apply(netcfg.Diff(rules.Ours(numbers, obs), want)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, everything(t)); diff != "" {
		t.Errorf("cleaning up leaves traces (-before +after):\n%s", diff)
	}
}

// selected is a kernel that has the policies of selective, while both uplinks are good.
func selected(t *testing.T) (k *kernel.Kernel, cfg rules.Config, recorded *rules.Recorded, ops []netcfg.Op) {
	t.Helper()
	namespace(t)
	sh(t, router)
	k, cfg, recorded = open(t), selective(), new(rules.Recorded)
	return k, cfg, recorded, converge(t, k, cfg, recorded, verdicts(rules.Good, rules.Good))
}

// What we compile for the kernel and what nft compiles out of the printed lines must be the same, as nft shows
// both.
func TestPoliciesAreWhatTheirLinesSay(t *testing.T) {
	_, _, _, ops := selected(t)
	ours := sh(t, "nft list table inet "+nft.PolicyTableName)
	sh(t, "nft delete table inet "+nft.PolicyTableName)
	for _, op := range ops {
		if put, ok := op.(netcfg.PutPolicies); ok {
			sh(t, put.Command())
		}
	}
	if diff := cmp.Diff(strings.Split(sh(t, "nft list table inet "+nft.PolicyTableName), "\n"), strings.Split(ours, "\n")); diff != "" {
		t.Errorf("(-by nft +by us):\n%s", diff)
	}
}

// Other programs' addresses stay when the policies change around them.
func TestAFilledSetIsKeptWhenPoliciesChange(t *testing.T) {
	k, cfg, recorded, _ := selected(t)
	sh(t, "nft add element inet "+nft.PolicyTableName+" streaming4 '{ 192.0.2.9, 192.0.2.16/28 }'; nft add element inet "+nft.PolicyTableName+" streaming6 '{ 2001:db8:ffff::9 timeout 1h }'")
	cfg.Policies[0].Select[1] = rules.SelectAddresses{Dest: true, Prefixes: nets("192.0.2.3/32")}
	cfg.Policies[9].Select[1] = rules.SelectAddresses{Dest: true, Sets: []string{"streaming"}}
	converge(t, k, cfg, recorded, verdicts(rules.Dead, rules.Good))
	out := sh(t, "nft list table inet "+nft.PolicyTableName)
	for _, kept := range []string{"192.0.2.9", "192.0.2.16/28", "2001:db8:ffff::9 timeout 1h"} {
		if !strings.Contains(out, kept) {
			t.Errorf("%s is lost:\n%s", kept, out)
		}
	}
	if strings.Contains(out, "more4") {
		t.Errorf("a set that no policy names is still there:\n%s", out)
	}
	sh(t, "nft delete table inet "+nft.PolicyTableName)
	converge(t, k, cfg, recorded, verdicts(rules.Good, rules.Good))
	sh(t, "nft flush chain inet "+nft.PolicyTableName+" output; nft delete chain inet "+nft.PolicyTableName+" output; nft add chain inet "+nft.PolicyTableName+" mine")
	converge(t, k, cfg, recorded, verdicts(rules.Good, rules.Good))
}

// A list that changes is another set in the same transaction, and one that stays is not loaded again.
func TestAListIsReplacedAsAWhole(t *testing.T) {
	k, cfg, recorded, _ := selected(t)
	policy := func(name string) *rules.Policy {
		return &cfg.Policies[slices.IndexFunc(cfg.Policies, func(p rules.Policy) bool { return p.Name == name })]
	}
	sh(t, "nft add element inet "+nft.PolicyTableName+" "+onlySet(t, "some6")+" '{ 2001:db8:fffe::/64 }'") // by which the set is known again
	policy("list").Select[0] = rules.SelectAddresses{Dest: true, Lists: []rules.List{{Name: "some", Set: set("192.0.2.128/27", "2001:db8:ffff::/64")}}}
	ops := converge(t, k, cfg, recorded, verdicts(rules.Good, rules.Good))
	if len(ops) != 1 {
		t.Errorf("one transaction is enough, not %d", len(ops))
	}
	if out := sh(t, "nft list set inet "+nft.PolicyTableName+" "+onlySet(t, "some6")); !strings.Contains(out, "fffe") {
		t.Errorf("the list of IPv6 has not changed, and was loaded again:\n%s", out)
	}
	out := sh(t, "nft list table inet "+nft.PolicyTableName)
	if !strings.Contains(out, "192.0.2.128/27") || strings.Contains(out, "192.0.2.220") {
		t.Errorf("the list of IPv4 is not the new one:\n%s", out)
	}
}

// Somebody's flush of a set opens kill switches and sends answers by wrong uplinks, while all rules stand.
func TestWhatSomebodyTakesFromASetComesBack(t *testing.T) {
	k, cfg, recorded, _ := selected(t)
	long := make([]inet.Range, 20_000)
	for n := range long {
		long[n] = inet.RangeOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18 + byte(n>>15), byte(n >> 7), byte(n << 1)}), 32))
	}
	cfg.Policies = append(cfg.Policies, rules.Policy{Name: "long", Group: 4, Select: rules.Selector{rules.SelectAddresses{Dest: true, Lists: []rules.List{{Name: "long", Set: inet.NewSet(long)}}}}})
	converge(t, k, cfg, recorded, verdicts(rules.Good, rules.Good))
	flushed, one := 0, 0
	for _, table := range []string{nft.TableName, nft.PolicyTableName} {
		before := sh(t, "nft list table inet "+table)
		for line := range strings.Lines(sh(t, "nft -t list table inet "+table)) {
			words := strings.Fields(line)
			if len(words) != 3 || words[0] != "set" && words[0] != "map" {
				continue
			}
			of := words[0] + " inet " + table + " " + words[1]
			content := sh(t, "nft list "+of)
			if !strings.Contains(content, "elements") {
				continue // others fill it
			}
			sh(t, "nft flush "+of)
			flushed++
			converge(t, k, cfg, recorded, verdicts(rules.Good, rules.Good))
			if diff := cmp.Diff(content, sh(t, "nft list "+of)); diff != "" {
				t.Fatalf("%s (-before +after its flush):\n%s", of, diff)
			}
			_, elements, _ := strings.Cut(content, "elements = {")
			if element := strings.Fields(strings.TrimRight(strings.TrimSpace(strings.SplitN(elements, ",", 2)[0]), "}\n\t ")); words[0] == "set" && len(content) < 2000 && len(element) == 1 {
				sh(t, "nft delete element inet "+table+" "+words[1]+" '{ "+element[0]+" }'")
				one++
				converge(t, k, cfg, recorded, verdicts(rules.Good, rules.Good))
				if diff := cmp.Diff(content, sh(t, "nft list "+of)); diff != "" {
					t.Fatalf("%s (-before +without %s):\n%s", of, element[0], diff)
				}
			}
		}
		if diff := cmp.Diff(before, sh(t, "nft list table inet "+table)); diff != "" {
			t.Errorf("%s (-before +after):\n%s", table, diff)
		}
	}
	t.Logf("%d sets were flushed, %d have lost an element", flushed, one)
	if flushed < 5 || one < 3 {
		t.Error("too few sets to show anything")
	}
}

// onlySet returns the full name of the newest of our sets whose name begins with a list's.
func onlySet(t *testing.T, list string) string {
	t.Helper()
	for line := range strings.Lines(sh(t, "nft -t list table inet "+nft.PolicyTableName)) {
		if name, is := strings.CutPrefix(strings.TrimSpace(line), "set "+list+"."); is {
			return list + "." + strings.TrimSuffix(name, " {")
		}
	}
	t.Fatalf("there is no set of the list %s", list)
	return ""
}

// BenchmarkAListOf100000Prefixes measures the first load of a list, and a replacement by another that differs in one prefix.
func BenchmarkAListOf100000Prefixes(b *testing.B) {
	many := func(one int) *inet.Set {
		var ranges []inet.Range
		for n := range 50_000 { // every other network, so that none is joined
			ranges = append(ranges, inet.RangeOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{11 + byte(n>>15), byte(n >> 7), byte(n << 1), byte(one)}), 25).Masked()),
				inet.RangeOf(netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, byte(n >> 15), byte(n >> 7), byte(n << 1), byte(one)}), 64)))
		}
		return inet.NewSet(ranges)
	}
	namespace(b)
	sh(b, router)
	k, cfg := open(b), config()
	cfg.Groups = []rules.Group{{ID: 3, Tiers: [][]int{{2}}, KillSwitch: true}}
	for n := 0; b.Loop(); n++ {
		b.StopTimer()
		list := many(n % 256)
		if list.Len() != 100_000 {
			b.Fatalf("the list has %d ranges", list.Len())
		}
		cfg.Policies = []rules.Policy{{Name: "list", Group: 3, Select: rules.Selector{rules.SelectAddresses{Dest: true, Lists: []rules.List{{Name: "many", Set: list}}}}}}
		b.StartTimer()
		obs := snapshot(b, k, cfg)
		want, _ := rules.Plan(cfg, obs, nil)
		if err := k.Apply(netcfg.Diff(rules.Ours(cfg.Kernel, obs), want)); err != nil {
			b.Fatal(err)
		}
		obs = snapshot(b, k, cfg)
		if want, _ = rules.Plan(cfg, obs, nil); !want.Policies.Matches(obs.Policies) {
			b.Fatal("the list is not loaded")
		}
	}
}

// thousand is a configuration with a thousand policies, of which each has a host in each family, for three groups.
func thousand() rules.Config {
	c := config()
	c.Groups = []rules.Group{{ID: 3, Tiers: [][]int{{2}}}, {ID: 4, Tiers: [][]int{{1}}, KillSwitch: true}, {ID: 5, Tiers: [][]int{{1, 2}}}}
	for n := range 1000 {
		c.Policies = append(c.Policies, rules.Policy{Name: fmt.Sprintf("p%d", n), Group: 3 + n*3/1000,
			Select: rules.Selector{rules.SelectAddresses{Prefixes: nets(fmt.Sprintf("10.1.%d.%d/32", n/250, n%250), fmt.Sprintf("2001:db8:1::%x/128", n))}}})
	}
	return c
}

func TestOnePolicysChangeTouchesItsOwnRulesAlone(t *testing.T) {
	namespace(t)
	sh(t, router)
	k := open(t)
	cfg := thousand()
	var recorded rules.Recorded
	good := verdicts(rules.Good, rules.Good)
	converge(t, k, cfg, &recorded, good)
	for _, c := range []struct {
		policy int
		from   []netip.Prefix
		want   string
	}{
		// It stands before a kill switch, whose lock names what comes first.
		{77, nets("10.2.0.1/32", "2001:db8:1::2:1/128"), "2 rules added, 2 removed, 1 table"},
		{500, nets("10.2.0.2/32"), "1 rules added, 2 removed, 1 table"},
		{900, nets("10.2.0.3/32", "2001:db8:1::2:3/128"), "2 rules added, 2 removed, 0 table"},
	} {
		cfg.Policies[c.policy].Select = rules.Selector{rules.SelectAddresses{Prefixes: c.from}}
		if got := changed(converge(t, k, cfg, &recorded, good)); got != c.want {
			t.Errorf("the hosts of policy %d changed: %s, want %s", c.policy, got, c.want)
		}
	}
	// An uplink's death touches the groups' routes, and none of the rules.
	for _, op := range converge(t, k, cfg, &recorded, verdicts(rules.Good, rules.Dead)) {
		if _, rule := op.(netcfg.AddRule); rule {
			t.Errorf("a dead uplink changes %s", op.Command())
		}
	}
}

// changed counts changes by their kind.
func changed(ops []netcfg.Op) string {
	added, removed, table, other := 0, 0, 0, ""
	for _, op := range ops {
		switch op.(type) {
		case netcfg.AddRule:
			added++
		case netcfg.DelRule:
			removed++
		case netcfg.PutPolicies:
			table++
		default:
			other += ", " + op.Command()
		}
	}
	return fmt.Sprintf("%d rules added, %d removed, %d table%s", added, removed, table, other)
}

// More addresses than one message to the kernel takes.
func TestALongListOfAddressesIsLoadedWhole(t *testing.T) {
	namespace(t)
	sh(t, router)
	k := open(t)
	cfg := config()
	cfg.Groups = []rules.Group{{ID: 3, Tiers: [][]int{{2}}}}
	var to []netip.Prefix
	for n := range 2*nft.MaxSet + 7 {
		cfg.Groups[0].Except = append(cfg.Groups[0].Except, nets(fmt.Sprintf("10.3.%d.%d/32", n/200, n%200), fmt.Sprintf("2001:db8:3::%x/128", n))...)
		to = append(to, nets(fmt.Sprintf("10.2.%d.%d/31", n/120, n%120*2), fmt.Sprintf("2001:db8:2::%x/127", 2*n))...)
	}
	cfg.Policies = []rules.Policy{{Name: "long", Group: 3, Select: rules.Selector{rules.SelectAddresses{Dest: true, Prefixes: to}}}}
	var recorded rules.Recorded
	converge(t, k, cfg, &recorded, verdicts(rules.Good, rules.Good))
	var sets []string
	for line := range strings.Lines(sh(t, "nft -t list table inet "+nft.PolicyTableName)) {
		if name, is := strings.CutPrefix(strings.TrimSpace(line), "set "); is {
			sets = append(sets, strings.TrimSuffix(name, " {"))
		}
	}
	for _, last := range []string{"10.2.8.92", "2001:db8:2::7dc", "10.3.5.6", "2001:db8:3::3ee"} {
		if !slices.ContainsFunc(sets, func(set string) bool {
			return exec.Command("nft", "get", "element", "inet", nft.PolicyTableName, set, "{ "+last+" }").Run() == nil
		}) {
			t.Errorf("%s is in none of %v", last, sets)
		}
	}
}

// The bar is 300 ms for the first application of a thousand policies.
func BenchmarkFirstApply(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		namespace(b)
		sh(b, router)
		k := open(b)
		cfg := thousand()
		obs := snapshot(b, k, cfg)
		b.StartTimer()
		want, _ := rules.Plan(cfg, obs, verdicts(rules.Good, rules.Good))
		if err := k.Apply(netcfg.Diff(rules.Ours(numbers, obs), want)); err != nil {
			b.Fatal(err)
		}
	}
}

// Lists of countries and clouds have prefixes within prefixes.
func TestPrefixesOfAMergedSetMayOverlap(t *testing.T) {
	k, cfg, recorded, _ := selected(t)
	for _, list := range []string{"10.128.0.0/16", "10.128.0.7", "172.20.0.0/16, 172.20.1.0/24"} {
		sh(t, "nft add element inet "+nft.PolicyTableName+" lists4 '{ "+list+" }'")
	}
	sh(t, "nft add element inet "+nft.PolicyTableName+" lists6 '{ 2001:db8:7::/48, 2001:db8:7:1::/64, 2001:db8:7:1::9 }'")
	if out := sh(t, "nft list set inet "+nft.PolicyTableName+" lists6"); !strings.Contains(out, "{ 2001:db8:7::/48 }") {
		t.Error(out)
	}
	if out := sh(t, "nft list set inet "+nft.PolicyTableName+" lists4"); !strings.Contains(out, "10.128.0.0/16, 172.20.0.0/16 }") {
		t.Error(out)
	}
	if out, err := exec.Command("nft", "add", "element", "inet", nft.PolicyTableName, "lists4", "{ 192.0.2.9 timeout 1h }").CombinedOutput(); err == nil {
		t.Errorf("what expires is taken, and would be merged: %s", out)
	}
	cfg.MergedSets = nil // another kind of set by the same name
	converge(t, k, cfg, recorded, verdicts(rules.Good, rules.Good))
	sh(t, "nft add element inet "+nft.PolicyTableName+" lists4 '{ 192.0.2.9 timeout 1h }'")
}
