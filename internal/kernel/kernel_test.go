package kernel_test

import (
	"log/slog"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

var numbers = rules.Kernel{Protocol: 117, RulePriority: 10000, TableBase: 11700, MarkMask: 0x3f000000, LinkGroup: 117}

// namespace moves the test's thread into a network namespace of its own, which ends with the test.
func namespace(t testing.TB) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("making a network namespace: %v", err)
	}
	sh(t, "ip link set lo up")
}

func sh(t testing.TB, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-e", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// router is what a DHCP client and router advertisements leave behind on a box with two providers.
const router = `
sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0
n=1; for d in wan1 wan2 lan0; do
  ip link add $d address 02:00:00:00:00:0$n type veth peer name peer-$d address 02:00:00:00:01:0$n
  ip link set $d up; ip link set peer-$d up; n=$((n+1))
done
ip address add 198.51.100.2/26 dev wan1
ip address add 203.0.113.2/26 dev wan2
ip address add 203.0.113.129/25 dev lan0
ip address add 2001:db8:a::2/64 dev wan1 nodad
ip address add 2001:db8:b::2/64 dev wan2 nodad
ip address add 2001:db8:1::1/64 dev lan0 nodad
ip route add default via 198.51.100.1 dev wan1 metric 100
ip route add default via 203.0.113.1 dev wan2 metric 200
ip route add 192.0.2.128/25 via 198.51.100.1 dev wan1
ip -6 route add default via fe80::1 dev wan1 metric 100
ip -6 route add default via fe80::1 dev wan2 metric 200
`

func config() rules.Config {
	family := rules.Addressing{Enabled: true, Masquerade: true}
	return rules.Config{Kernel: numbers, Uplinks: []rules.Uplink{
		{ID: 1, Name: "fiber", Device: "wan1", Tier: 1, Weight: 3, IPv4: family, IPv6: family},
		{ID: 2, Name: "lte", Device: "wan2", Tier: 1, Weight: 1, IPv4: family, IPv6: family},
	}}
}

func verdicts(health ...rules.Health) map[rules.Path]rules.Verdict {
	v := make(map[rules.Path]rules.Verdict)
	for i, h := range health {
		for _, f := range rules.Families {
			v[rules.Path{Uplink: i + 1, Family: f}] = rules.Verdict{Health: h}
		}
	}
	return v
}

func open(t testing.TB) *kernel.Kernel {
	t.Helper()
	k, err := kernel.Open(numbers, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

func snapshot(t testing.TB, k *kernel.Kernel, cfg rules.Config) *rules.Observed {
	t.Helper()
	obs, err := k.Snapshot(rules.QueryOf(cfg, rules.Recorded{}))
	if err != nil {
		t.Fatal(err)
	}
	return obs
}

// converge plans and applies once, and fails unless nothing is left to do.
func converge(t *testing.T, k *kernel.Kernel, cfg rules.Config, recorded *rules.Recorded, v map[rules.Path]rules.Verdict) []netcfg.Op {
	t.Helper()
	obs := snapshot(t, k, cfg)
	obs.Recorded = recorded.Clone()
	want, report := rules.Plan(cfg, obs, v)
	if slices.ContainsFunc(report.Problems, func(p rules.Problem) bool { return p.Code != "policy-inactive" }) { // the dead uplinks are meant
		t.Errorf("problems: %v", report.Problems)
	}
	ops := netcfg.Diff(rules.Ours(numbers, obs), want)
	recorded.Record(ops)
	if err := k.Apply(ops); err != nil {
		t.Fatal(err)
	}
	obs = snapshot(t, k, cfg)
	obs.Recorded = recorded.Clone()
	want, _ = rules.Plan(cfg, obs, v)
	for _, op := range netcfg.Diff(rules.Ours(numbers, obs), want) {
		t.Errorf("still to do after applying: %s", op.Command())
	}
	return ops
}

// everything is what the kernel holds, in its own tools' words.
func everything(t *testing.T) string {
	t.Helper()
	return sh(t, `
for f in -4 -6; do ip -N $f rule; ip -N $f route show table all | grep -v 'table 255\|^ff00\|^5 ' | sed 's/ expires [0-9]*sec//' | sort; done
ip -o address | sed 's/valid_lft.*//'
ip -o link show group 117 | sed 's/.*: \(wan.*\)@.*/\1/'
nft list ruleset
grep -s . /proc/sys/net/ipv4/conf/*/src_valid_mark /proc/sys/net/ipv4/conf/*/rp_filter`)
}

func TestAppliedPlanConvergesAndCleansUp(t *testing.T) {
	namespace(t)
	sh(t, router)
	before := everything(t)
	k := open(t)
	cfg := config()
	var recorded rules.Recorded
	for _, health := range [][]rules.Health{{rules.Good, rules.Good}, {rules.Dead, rules.Good}, {rules.Good, rules.Dead}, {rules.Good, rules.Good}, {rules.Dead, rules.Dead}} {
		converge(t, k, cfg, &recorded, verdicts(health...))
	}
	cfg.Uplinks = nil
	obs := snapshot(t, k, config())
	obs.Recorded = recorded.Clone()
	want, _ := rules.Plan(cfg, obs, nil)
	if err := k.Apply(netcfg.Diff(rules.Ours(numbers, obs), want)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, everything(t)); diff != "" {
		t.Errorf("cleaning up leaves traces (-before +after):\n%s", diff)
	}
}

func TestPrintedCommandsMakeTheSameState(t *testing.T) {
	var byHand, byUs string
	t.Run("by us", func(t *testing.T) {
		namespace(t)
		sh(t, router)
		converge(t, open(t), config(), new(rules.Recorded), verdicts(rules.Good, rules.Good))
		byUs = everything(t)
	})
	t.Run("by hand", func(t *testing.T) {
		namespace(t)
		sh(t, router)
		obs := snapshot(t, open(t), config())
		want, _ := rules.Plan(config(), obs, verdicts(rules.Good, rules.Good))
		var script strings.Builder
		for _, op := range netcfg.Diff(rules.Ours(numbers, obs), want) {
			script.WriteString(op.Command() + "\n")
		}
		t.Log(script.String())
		sh(t, script.String())
		byHand = everything(t)
	})
	if diff := cmp.Diff(byUs, byHand); diff != "" {
		t.Errorf("the printed commands make another state than Apply (-apply +commands):\n%s", diff)
	}
	if !strings.Contains(byUs, "11700") {
		t.Errorf("nothing was applied:\n%s", byUs)
	}
}

func TestSnapshotReadsNeighboursWhenPoliciesAreAboutHosts(t *testing.T) {
	namespace(t)
	sh(t, router+`
ip neighbour add 203.0.113.130 lladdr 02:00:00:00:00:10 dev lan0
ip neighbour add 2001:db8:1::2 lladdr 02:00:00:00:00:10 dev lan0`)
	c := config()
	for want, policies := range map[int][]rules.Policy{0: nil, 2: {{Name: "camera", Select: rules.Selector{rules.SelectMACs{{2, 5: 0x10}}}}}} {
		c.Policies = policies
		got := 0
		for _, n := range snapshot(t, open(t), c).Neighbours {
			if n.Hardware == [6]byte{2, 5: 0x10} && (n.Address == netip.MustParseAddr("203.0.113.130") || n.Address == netip.MustParseAddr("2001:db8:1::2")) {
				got++
			}
		}
		if got != want {
			t.Errorf("%d neighbours with %d policies, want %d", got, len(policies), want)
		}
	}
}

func TestSnapshotReadsWhatOtherToolsWrote(t *testing.T) {
	namespace(t)
	sh(t, router+`
ip link set wan2 group 5
ip link add br9 type bridge
ip link set wan2 master br9
ip rule add pref 77 from 192.0.2.0/24 fwmark 0x5/0xff lookup 99
ip rule add pref 78 not from 192.0.2.0/24 lookup 99`)
	obs := snapshot(t, open(t), config())
	link, ok := obs.Link("wan2")
	if !ok || link.Group != 5 || !link.Up || !link.Carrier {
		t.Errorf("link wan2 = %+v, %v", link, ok)
	}
	if bridge, _ := obs.Link("br9"); bridge.Kind != "bridge" || link.Kind != "veth" || link.Master != bridge.Index || link.Master == 0 {
		t.Errorf("wan2 is a port of br9, but: %+v, %+v", link, bridge)
	}
	if a, b, none := kernel.Driver("wan2"), kernel.Driver("br9"), kernel.Driver("nothing"); a != "veth" || b != "bridge" || none != "" {
		t.Errorf("drivers %q, %q, %q", a, b, none)
	}
	var foreign []netcfg.Rule
	for _, r := range obs.Rules {
		if r.Priority == 77 || r.Priority == 78 {
			foreign = append(foreign, r)
		}
	}
	from := netip.MustParsePrefix("192.0.2.0/24")
	want := []netcfg.Rule{
		{Family: rules.IPv4, Priority: 77, From: from, Mark: 5, Mask: 0xff, Table: 99, SuppressPrefixLen: -1, SuppressGroup: -1},
		{Family: rules.IPv4, Priority: 78, From: from, Table: 99, SuppressPrefixLen: -1, SuppressGroup: -1, Selectors: netcfg.RuleSelectors{Not: true}},
	}
	if diff := cmp.Diff(want, foreign, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Error(diff)
	}
}
