package kernel_test

import (
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/encap"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// carrierScript is a device that carries tunnels, and a bridge.
const carrierScript = `
ip link set lo up
ip link add wan type veth peer name far
ip address add 198.51.100.2/24 dev wan
ip -6 address add 2001:db8:a::2/64 dev wan nodad
ip link set wan up; ip link set far up
ip link add br0 type bridge
ip link set br0 up
`

// planTunnels plans for nothing but tunnels.
func planTunnels(t *testing.T, k *kernel.Kernel, wanted ...rules.Tunnel) ([]netcfg.Op, []rules.Problem) {
	t.Helper()
	cfg := rules.Config{Kernel: numbers, Tunnels: wanted}
	obs := snapshot(t, k, cfg).Foresee(cfg)
	want, report := rules.Plan(cfg, obs, nil)
	return netcfg.Diff(rules.Ours(numbers, obs), want), report.Problems
}

// settleTunnels carries out what must change, after which nothing may be left.
func settleTunnels(t *testing.T, k *kernel.Kernel, wanted ...rules.Tunnel) []netcfg.Op {
	t.Helper()
	ops, problems := planTunnels(t, k, wanted...)
	if slices.ContainsFunc(problems, func(p rules.Problem) bool { return p.Code == "tunnel" }) {
		t.Fatalf("problems: %+v", problems)
	}
	if err := k.Apply(ops); err != nil {
		t.Fatal(err)
	}
	if left, _ := planTunnels(t, k, wanted...); len(left) > 0 {
		t.Fatalf("after %s there is still to do: %s", lines(ops), lines(left))
	}
	return ops
}

func lines(ops []netcfg.Op) string {
	var all []string
	for _, op := range ops {
		all = append(all, op.Command())
	}
	return strings.Join(all, "; ")
}

// checkTunnel takes a device through its life: made, narrowed with its carrier, lost, changed, a port, unwanted.
func checkTunnel(t *testing.T, spec rules.Tunnel, mtu int, shown ...string) {
	namespace(t)
	sh(t, carrierScript)
	k := open(t)
	settleTunnels(t, k, spec)
	out := sh(t, "ip -d link show dev "+spec.Device)
	for _, want := range append(shown, "mtu "+strconv.Itoa(mtu)+" ", "alias uplinkd: "+spec.For) {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	if !strings.Contains(out, ",UP") {
		t.Errorf("it is not up:\n%s", out)
	}

	sh(t, "ip link set wan mtu 1450")
	if got := lines(settleTunnels(t, k, spec)); got != "ip link set dev "+spec.Device+" mtu "+strconv.Itoa(mtu-50) {
		t.Errorf("with a carrier of 1450: %s", got)
	}
	sh(t, "ip link set "+spec.Device+" down")
	if got := lines(settleTunnels(t, k, spec)); got != "" {
		t.Errorf("what somebody set down stays down: %s", got)
	}
	sh(t, "ip link delete "+spec.Device)
	settleTunnels(t, k, spec)

	other := spec
	other.TTL = 7
	if got := lines(settleTunnels(t, k, other)); !strings.HasPrefix(got, "ip link delete dev "+spec.Device+"; ip link add") {
		t.Errorf("with another ttl: %s", got)
	}
	if spec.Spec().Carries == encap.Frames {
		other.Bridge = "br0"
		settleTunnels(t, k, other)
		if out := sh(t, "ip link show dev "+spec.Device); !strings.Contains(out, "master br0") {
			t.Errorf("it is no port of the bridge:\n%s", out)
		}
	}
	if got := lines(settleTunnels(t, k)); got != "ip link delete dev "+spec.Device {
		t.Errorf("nobody wants it: %s", got)
	}
}

var (
	ends4 = [2]netip.Addr{netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("203.0.113.9")}
	ends6 = [2]netip.Addr{netip.MustParseAddr("2001:db8:a::2"), netip.MustParseAddr("2001:db8:b::9")}
)

func tunnelOf(kind string, ends [2]netip.Addr) rules.Tunnel {
	s := rules.Tunnel{Device: "tap0", For: "campus6", Params: encap.Params{Kind: kind, Local: ends[0], Remote: ends[1], TTL: 64}}
	for _, setting := range s.Spec().Settings {
		switch {
		case setting.Default != 0:
			setting.Set(&s.Params, setting.Default)
		case setting.Required != "":
			setting.Set(&s.Params, 42)
		}
	}
	return s
}

func TestAVXLANIsMadeAndKept(t *testing.T) {
	checkTunnel(t, tunnelOf(encap.VXLAN, ends4), 1450, "vxlan id 42 remote 203.0.113.9 local 198.51.100.2", "dstport 4789")
}

func TestAVXLANOverIPv6IsMadeAndKept(t *testing.T) {
	checkTunnel(t, tunnelOf(encap.VXLAN, ends6), 1430, "vxlan id 42 remote 2001:db8:b::9 local 2001:db8:a::2")
}

func TestADeviceOfOthersIsUsedAsItIsAndNeverChanged(t *testing.T) {
	namespace(t)
	sh(t, carrierScript+"ip link add tap0 type vxlan id 42 dstport 4789 local 198.51.100.2 remote 203.0.113.9 ttl 64 nolearning; ip link set tap0 up mtu 1300\n")
	k := open(t)
	spec := tunnelOf(encap.VXLAN, ends4)
	if got := lines(settleTunnels(t, k, spec)); got != "" {
		t.Errorf("a device of others was changed: %s", got)
	}
	if got := lines(settleTunnels(t, k)); got != "" {
		t.Errorf("a device of others was not left: %s", got)
	}
	spec.ID = 43
	ops, problems := planTunnels(t, k, spec)
	if len(ops) != 1 || len(problems) != 1 || !strings.Contains(problems[0].Message, "already exists and is not") {
		t.Errorf("changes %s, problems %+v", lines(ops), problems)
	}
	if err := k.Apply(ops); !errors.Is(err, unix.EEXIST) {
		t.Errorf("it is made all the same: %v", err)
	}
}
