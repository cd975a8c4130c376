package kernel

import (
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/rules"
)

func TestConnectionsAreDeletedByWhatTheyAre(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with the test, and the namespace with it
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	script := `ip link set lo up; ip addr add 192.0.2.1/32 dev lo; ip -6 addr add 2001:db8::1/128 dev lo nodad
nft 'table inet t { chain o { type filter hook output priority 0; udp dport 9 ct mark set 0x5; udp dport 10 ct mark set 0x6; }; }'`
	if out, err := exec.Command("sh", "-e", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, to := range []string{"192.0.2.1:9", "192.0.2.1:10", "[2001:db8::1]:9"} {
		conn, err := net.Dial("udp", to)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte("x"))
		_ = conn.Close()
	}
	k, err := Open(rules.Kernel{Protocol: 117, RulePriority: 10000, TableBase: 11700, MarkMask: 0x3f000000, LinkGroup: 117}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	seen := make(map[netip.AddrPort]rules.Connection)
	deleted := func(old func(*rules.Connection) string) map[string]int {
		t.Helper()
		clear(seen)
		n, err := k.DeleteConnections(func(c *rules.Connection) string {
			seen[netip.AddrPortFrom(c.Dest, c.DPort)] = *c
			return old(c)
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	nine := netip.MustParseAddrPort("192.0.2.1:9")
	for end := time.Now().Add(10 * time.Second); len(seen) < 3 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		deleted(func(*rules.Connection) string { return "" }) // a busy machine is late with what loops back
	}
	if n, err := k.PinConnections(func(c *rules.Connection) int {
		if c.DPort == 10 {
			return 7
		}
		return 0
	}); n != 1 || err != nil {
		t.Errorf("pinned: %d, %v", n, err)
	}
	deleted(func(*rules.Connection) string { return "" })
	if ten := seen[netip.MustParseAddrPort("192.0.2.1:10")]; ten.Mark != k.numbers.Mark(7)|6 || seen[nine].Mark != 5 {
		t.Errorf("pinned: %+v, and beside it %+v", ten, seen[nine])
	}
	if n := deleted(func(c *rules.Connection) string {
		if c.DPort == 9 {
			return "port 9"
		}
		return ""
	}); n["port 9"] != 2 || len(n) != 1 {
		t.Errorf("deleted: %v of %v", n, seen)
	}
	if c := seen[nine]; c.Family != rules.IPv4 || c.Source != nine.Addr() || c.ReplyDest != nine.Addr() || c.Protocol != unix.IPPROTO_UDP || c.Mark != 5 || c.SPort == 0 {
		t.Errorf("%+v", c)
	}
	deleted(func(*rules.Connection) string { return "" })
	if _, there := seen[nine]; there || len(seen) != 1 {
		t.Errorf("what is left: %v", seen)
	}
	if err := k.flushCachedRoutes(); err != nil {
		t.Error(err)
	}
	if out, err := exec.Command("ip", "rule", "show", "pref", "10000").CombinedOutput(); err != nil || len(out) != 0 {
		t.Errorf("%v, left behind: %s", err, out)
	}
}
