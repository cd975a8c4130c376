package kernel_test

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/internal/tunnel"
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

// decide looks at the tunnels that are there and returns what must change.
func decide(t *testing.T, k *kernel.Kernel, wanted ...tunnel.Spec) []tunnel.Change {
	t.Helper()
	links, err := k.TunnelLinks()
	if err != nil {
		t.Fatal(err)
	}
	obs := snapshot(t, k, config())
	changes, problems := tunnel.Decide(wanted, tunnel.World{Links: links, Carrier: func(local netip.Addr) (int, bool) {
		for _, a := range obs.Addrs {
			if a.Prefix.Addr() == local {
				link, ok := obs.Link(a.Device)
				return link.MTU, ok
			}
		}
		return 0, false
	}})
	if len(problems) > 0 {
		t.Fatalf("problems: %+v", problems)
	}
	return changes
}

// settleTunnels carries out what must change, after which nothing may be left.
func settleTunnels(t *testing.T, k *kernel.Kernel, wanted ...tunnel.Spec) []tunnel.Change {
	t.Helper()
	changes := decide(t, k, wanted...)
	for _, c := range changes {
		if err := k.ChangeTunnel(c); err != nil {
			t.Fatal(err)
		}
	}
	if left := decide(t, k, wanted...); len(left) > 0 {
		t.Fatalf("after %s there is still to do: %s", lines(changes), lines(left))
	}
	return changes
}

func lines(changes []tunnel.Change) string {
	var all []string
	for _, c := range changes {
		all = append(all, c.Line())
	}
	return strings.Join(all, "; ")
}

// checkTunnel takes a device through its life: made, narrowed with its carrier, lost, changed, a port, unwanted.
func checkTunnel(t *testing.T, spec tunnel.Spec, mtu int, shown ...string) {
	namespace(t)
	sh(t, carrierScript)
	k := open(t)
	settleTunnels(t, k, spec)
	out := sh(t, "ip -d link show dev "+spec.Device)
	for _, want := range append(shown, "mtu "+strconv.Itoa(mtu)+" ", "alias "+spec.Alias()) {
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
	other.Bridge = "br0"
	settleTunnels(t, k, other)
	if out := sh(t, "ip link show dev "+spec.Device); !strings.Contains(out, "master br0") {
		t.Errorf("it is no port of the bridge:\n%s", out)
	}
	if got := lines(settleTunnels(t, k)); got != "ip link delete dev "+spec.Device {
		t.Errorf("nobody wants it: %s", got)
	}
}

var (
	ends4 = [2]netip.Addr{netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("203.0.113.9")}
	ends6 = [2]netip.Addr{netip.MustParseAddr("2001:db8:a::2"), netip.MustParseAddr("2001:db8:b::9")}
)

func ethernet(kind string, ends [2]netip.Addr) tunnel.Spec {
	s := tunnel.Spec{Device: "tap0", For: "campus6", Params: tunnel.Params{Kind: kind, Local: ends[0], Remote: ends[1], TTL: 64}}
	if kind == tunnel.VXLAN {
		s.ID, s.Port = 42, 4789
	}
	return s
}

func TestAVXLANIsMadeAndKept(t *testing.T) {
	checkTunnel(t, ethernet(tunnel.VXLAN, ends4), 1450, "vxlan id 42 remote 203.0.113.9 local 198.51.100.2", "dstport 4789")
}

func TestAVXLANOverIPv6IsMadeAndKept(t *testing.T) {
	checkTunnel(t, ethernet(tunnel.VXLAN, ends6), 1430, "vxlan id 42 remote 2001:db8:b::9 local 2001:db8:a::2")
}

func TestADeviceOfOthersIsUsedAsItIsAndNeverChanged(t *testing.T) {
	namespace(t)
	sh(t, carrierScript+"ip link add tap0 type vxlan id 42 dstport 4789 local 198.51.100.2 remote 203.0.113.9 ttl 64 nolearning; ip link set tap0 up mtu 1300\n")
	k := open(t)
	spec := ethernet(tunnel.VXLAN, ends4)
	if got := lines(settleTunnels(t, k, spec)); got != "" {
		t.Errorf("a device of others was changed: %s", got)
	}
	if got := lines(settleTunnels(t, k)); got != "" {
		t.Errorf("a device of others was not left: %s", got)
	}
	spec.ID = 43
	links, err := k.TunnelLinks()
	if err != nil {
		t.Fatal(err)
	}
	changes, problems := tunnel.Decide([]tunnel.Spec{spec}, tunnel.World{Links: links, Carrier: func(netip.Addr) (int, bool) { return 1500, true }})
	if len(changes) > 0 || len(problems) != 1 || !strings.Contains(problems[0].Message, "made by others") {
		t.Errorf("changes %s, problems %+v", lines(changes), problems)
	}
}
