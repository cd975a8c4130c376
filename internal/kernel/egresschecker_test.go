package kernel_test

import (
	"net/netip"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/kernel"
)

const routesScript = router + `
for f in -4 -6; do
  ip $f route add unreachable default table 101 metric 9999
  ip $f route add unreachable default table 102 metric 9999
  ip $f rule add fwmark 0x1000000/0x3f000000 lookup 101 pref 10011
  ip $f rule add fwmark 0x2000000/0x3f000000 lookup 102 pref 10012
done
ip route add default via 198.51.100.1 dev wan1 table 101
ip route add default via 203.0.113.1 dev wan2 table 102
ip -6 route add default via fe80::1 dev wan1 table 101
ip -6 route add default via fe80::1 dev wan2 table 102
`

const (
	mark1, mark2 = 0x1000000, 0x2000000
	far4, far6   = "192.0.2.1", "2001:db8:ffff::1"
)

func address(text string) netip.Addr {
	a, _ := netip.ParseAddr(text) // none is one that is invalid
	return a
}

func TestARequestLeavesByADeviceWhenNothingTakesItElsewhere(t *testing.T) {
	namespace(t)
	sh(t, routesScript)
	var checker kernel.EgressChecker
	defer checker.Close()
	type question struct {
		device, source4, source6 string
		mark                     uint32
	}
	own1 := question{"wan1", "198.51.100.2", "2001:db8:a::2", mark1}
	own2 := question{"wan2", "203.0.113.2", "2001:db8:b::2", mark2}
	unbound := question{"wan2", "", "", mark2}
	for _, step := range []struct {
		name, change string
		leads, not   []question
	}{
		{"each by its own", "true", []question{own1, own2, unbound, {"wan1", "", "", 0}},
			[]question{{"wan2", own1.source4, own1.source6, mark1}, {"wan1", own2.source4, own2.source6, mark2}, {"wan9", "", "", mark1}, {"lo", "", "", mark1}, {"", "", "", mark1},
				{"a-name-that-is-too-long", "", "", mark1}}},
		{"a foreign rule comes first", "ip rule add pref 100 from all lookup main; ip -6 rule add pref 100 from all lookup main", []question{own1}, []question{own2, unbound}},
		{"a foreign rule for echo requests comes first", "ip rule del pref 100; ip -6 rule del pref 100; ip rule add pref 100 ipproto icmp lookup main; ip -6 rule add pref 100 ipproto ipv6-icmp lookup main",
			[]question{own1}, []question{own2, unbound}},
		{"it is gone", "ip rule del pref 100; ip -6 rule del pref 100", []question{own1, own2}, nil},
		{"only the unreachable route is left", "ip route del default via 203.0.113.1 table 102; ip -6 route del default via fe80::1 table 102", []question{own1}, []question{own2, unbound}},
		{"a blackhole is left", "ip route add blackhole default table 102; ip -6 route add blackhole default table 102", []question{own1}, []question{own2, unbound}},
	} {
		sh(t, step.change)
		for want, questions := range map[bool][]question{true: step.leads, false: step.not} {
			for _, q := range questions {
				for target, source := range map[string]string{far4: q.source4, far6: q.source6} {
					if got := checker.LeavesBy(q.device, q.mark, address(source), address(target)); got != want {
						t.Errorf("%s: %+v to %s: %v, want %v", step.name, q, target, got, want)
					}
				}
			}
		}
	}
	for target, source := range map[string]string{"198.51.100.2": "", "2001:db8:a::2": "", far4: "198.51.100.60"} {
		if checker.LeavesBy("wan1", mark1, address(source), address(target)) {
			t.Errorf("to %s from %q leads by wan1", target, source)
		}
	}
}

// The count stands still while nobody receives events: what is answered from memory is told apart from what the kernel is asked.
func TestAnAnswerHoldsUntilTheKernelTellsOfAChange(t *testing.T) {
	namespace(t)
	sh(t, routesScript)
	w := watch(t)
	checker := kernel.EgressChecker{Changes: w.Changes}
	defer checker.Close()
	expect := func(when string, want bool) {
		t.Helper()
		for target, source := range map[string]string{far4: "203.0.113.2", far6: "2001:db8:b::2"} {
			if got := checker.LeavesBy("wan2", mark2, address(source), address(target)); got != want {
				t.Errorf("%s: to %s by wan2: %v, want %v", when, target, got, want)
			}
		}
	}
	expect("at first", true)
	sh(t, "ip rule add pref 100 from all lookup main; ip -6 rule add pref 100 from all lookup main")
	expect("before anybody was told", true)
	before := w.Changes()
	running := run(t, w)
	told := func(more uint64) {
		t.Helper()
		for deadline := time.Now().Add(patience); w.Changes() < before+more; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d changes were counted, want %d", w.Changes()-before, more)
			}
		}
		before = w.Changes()
	}
	told(2)
	expect("a foreign rule comes first", false)
	sh(t, "ip rule del pref 100; ip -6 rule del pref 100")
	expect("it is gone", true) // what is refused is not remembered
	for _, c := range []struct{ change, undo string }{
		{"ip route del default via 203.0.113.1 table 102", "ip route add default via 203.0.113.1 dev wan2 table 102"},
		{"ip link set wan2 down", "ip link set wan2 up; ip route add default via 203.0.113.1 dev wan2 table 102"},
		{"ip link del wan2", "true"},
	} {
		leaves := func() bool { return checker.LeavesBy("wan2", mark2, address("203.0.113.2"), address(far4)) }
		if !leaves() {
			t.Fatalf("before %q no way leads by wan2", c.change)
		}
		sh(t, c.change)
		for deadline := time.Now().Add(patience); leaves(); time.Sleep(time.Millisecond) { // until it is told
			if time.Now().After(deadline) {
				t.Fatalf("after %q it is still believed to leave", c.change)
			}
		}
		sh(t, c.undo)
	}
	running.expectEnd(t)
}

func TestManyAskAtOnce(t *testing.T) {
	namespace(t)
	sh(t, routesScript)
	var checker kernel.EgressChecker
	defer checker.Close()
	checker.LeavesBy("wan1", mark1, netip.Addr{}, address(far4)) // the others may be on threads of other namespaces
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			device, mark, other := "wan1", uint32(mark1), "wan2"
			if i%2 == 0 {
				device, mark, other = "wan2", mark2, "wan1"
			}
			for range 200 {
				for _, target := range []string{far4, far6} {
					if !checker.LeavesBy(device, mark, netip.Addr{}, address(target)) || checker.LeavesBy(other, mark, netip.Addr{}, address(target)) {
						t.Errorf("the way to %s with mark %#x does not lead by %s alone", target, mark, device)
						return
					}
				}
			}
		})
	}
	group.Wait()
}

func TestASocketThatFailsIsOpenedAnew(t *testing.T) {
	namespace(t)
	sh(t, routesScript)
	before := netlinkSockets(t)
	var checker kernel.EgressChecker
	defer checker.Close()
	ask := func() bool { return checker.LeavesBy("wan1", mark1, netip.Addr{}, address(far4)) }
	if !ask() {
		t.Fatal("no way leads by wan1")
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(null) }()
	broken := 0
	for fd := range netlinkSockets(t) {
		if before[fd] {
			continue
		}
		broken++
		if err := unix.Dup3(null, fd, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
	}
	if broken != 1 {
		t.Fatalf("it has %d sockets, want 1", broken)
	}
	if ask() {
		t.Error("a broken socket answers")
	}
	if !ask() {
		t.Error("it stays broken")
	}
}

// netlinkSockets returns this process's descriptors of netlink sockets.
func netlinkSockets(t *testing.T) map[int]bool {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[int]bool)
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && domain == unix.AF_NETLINK {
			found[fd] = true
		}
	}
	return found
}
