package kernel_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/rules"
)

// flows puts connections of both families into connection tracking: pinned to uplink 1, pinned to it
// with bits of somebody else, pinned to uplink 2, and not pinned. The source port names them.
const flows = `
for f in "198.51.100.2 192.0.2.1 ipv4" "2001:db8::2 2001:db8:ffff::1 ipv6"; do
  set -- $f; n=1000
  for mark in 0x1000000 0x10000ff 0x2000000 0x0 0xff; do
    n=$((n+1))
    conntrack -I -s $1 -d $2 -p udp --sport $n --dport 53 --timeout 120 --mark $mark
  done
done 2>&1`

// flowPorts lists the source ports of what connection tracking holds.
func flowPorts(t *testing.T, family rules.Family) []string {
	t.Helper()
	var ports []string
	for _, m := range regexp.MustCompile(`sport=(10\d\d) dport=53`).FindAllStringSubmatch(sh(t, "conntrack -L -f "+family.String()+" 2>/dev/null"), -1) {
		ports = append(ports, m[1])
	}
	slices.Sort(ports)
	return ports
}

func TestFlushPinDeletesTheFlowsOfOneUplinkAndFamily(t *testing.T) {
	namespace(t)
	sh(t, flows)
	all := []string{"1001", "1002", "1003", "1004", "1005"}
	for _, f := range rules.Families {
		if diff := cmp.Diff(all, flowPorts(t, f)); diff != "" {
			t.Fatalf("%v before:\n%s", f, diff)
		}
	}
	k := open(t)
	if err := k.FlushConntrack(rules.IPv4, numbers.Mark(1), numbers.MarkMask); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1003", "1004", "1005"}, flowPorts(t, rules.IPv4)); diff != "" {
		t.Errorf("ipv4 after flushing uplink 1:\n%s", diff)
	}
	if diff := cmp.Diff(all, flowPorts(t, rules.IPv6)); diff != "" {
		t.Errorf("ipv6 after flushing uplink 1 in ipv4:\n%s", diff)
	}
	if err := k.FlushConntrack(rules.IPv6, numbers.Mark(2), numbers.MarkMask); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1001", "1002", "1004", "1005"}, flowPorts(t, rules.IPv6)); diff != "" {
		t.Errorf("ipv6 after flushing uplink 2:\n%s", diff)
	}
}

func TestFlushPinOfNoFlowsIsNoError(t *testing.T) {
	namespace(t)
	if err := open(t).FlushConntrack(rules.IPv4, numbers.Mark(7), numbers.MarkMask); err != nil {
		t.Error(err)
	}
}

// Mark zero is what unpinned connections have: all the rest of the machine.
func TestFlushPinRefusesMarkZero(t *testing.T) {
	namespace(t)
	sh(t, flows)
	k := open(t)
	for _, mark := range []uint32{0, 0xff, ^numbers.MarkMask} {
		if err := k.FlushConntrack(rules.IPv4, mark, numbers.MarkMask); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("flushing mark %#x: %v", mark, err)
		}
	}
	if n := len(flowPorts(t, rules.IPv4)); n != 5 {
		t.Errorf("%d of 5 flows are left", n)
	}
}
