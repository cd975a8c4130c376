package kernel_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/kernel"
)

// patience is how long a hint or an end may take on a busy machine before a test gives up.
const patience = 10 * time.Second

// watched is a watcher that runs.
type watched struct {
	hints chan struct{} // one is kept, as the reconciler keeps one
	done  chan error
	stop  context.CancelFunc
}

// watch subscribes in the calling thread's namespace; what happens between that and run is kept by the
// kernel.
func watch(t *testing.T) *kernel.Watcher {
	t.Helper()
	w, err := kernel.Subscribe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func run(t *testing.T, w *kernel.Watcher) *watched {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &watched{make(chan struct{}, 1), make(chan error, 1), cancel}
	go func() {
		r.done <- w.Run(ctx, func() {
			select {
			case r.hints <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(cancel)
	return r
}

// expectHint fails unless a hint comes.
func (w *watched) expectHint(t *testing.T, after string) {
	t.Helper()
	select {
	case <-w.hints:
	case err := <-w.done:
		t.Fatalf("after %q the watcher ended: %v", after, err)
	case <-time.After(patience):
		t.Fatalf("no hint after %q", after)
	}
}

func (w *watched) expectEnd(t *testing.T) {
	t.Helper()
	w.stop()
	select {
	case err := <-w.done:
		if err != nil {
			t.Errorf("after its context ended: %v", err)
		}
	case <-time.After(patience):
		t.Error("the watcher outlives its context")
	}
}

// Each change is watched for by a watcher that has seen nothing else, so that no hint of an earlier change
// can be taken for one of this.
func TestEveryKindOfChangeGivesAHint(t *testing.T) {
	namespace(t)
	sh(t, "ip link add wan1 type veth peer name peer1 && ip link set wan1 up")
	for _, change := range []string{
		"ip link set wan1 mtu 1400",
		"ip link set wan1 group 117",
		"ip link set peer1 up",
		"ip address add 198.51.100.2/24 dev wan1",
		"ip -6 address add 2001:db8::2/64 dev wan1 nodad",
		"ip route add 192.0.2.0/24 via 198.51.100.1 dev wan1",
		"ip -6 route add 2001:db8:1::/48 via fe80::1 dev wan1",
		"ip route add unreachable default table 11701",
		"ip rule add pref 10000 lookup 11701",
		"ip -6 rule add pref 10000 lookup 11701",
		"ip rule del pref 10000",
		"nft add table inet somebody",
		"nft delete table inet somebody",
		"ip link del wan1",
	} {
		w := watch(t)
		sh(t, change)
		running := run(t, w)
		running.expectHint(t, change)
		running.expectEnd(t)
	}
}

// The kernel drops events when the receive buffer is full, and says so with ENOBUFS.
func TestAFloodThatLosesEventsGivesAHintAndEndsNothing(t *testing.T) {
	namespace(t)
	sh(t, "ip link add wan1 type veth peer name peer1 && ip link set wan1 up && ip address add 198.51.100.2/24 dev wan1")
	w := watch(t)
	// Nobody reads yet: a megabyte holds some thousand of these.
	var flood strings.Builder
	for n := range 40000 {
		fmt.Fprintf(&flood, "route add 192.0.%d.%d/32 dev wan1 table %d\n", n/256%256, n%256, 1000+n/65536)
	}
	batch := filepath.Join(t.TempDir(), "flood")
	if err := os.WriteFile(batch, []byte(flood.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	sh(t, "ip -batch "+batch)
	if netlinkColumn(t, drops) == 0 {
		t.Fatal("the flood did not overflow the receive buffer")
	}
	running := run(t, w)
	running.expectHint(t, "a flood")
	for start := time.Now(); netlinkColumn(t, received) > 0; {
		if time.Since(start) > patience {
			t.Fatal("the watcher does not read what is left of the flood")
		}
	}
	select {
	case <-running.hints: // of the flood
	case err := <-running.done:
		t.Fatalf("the flood ended the watcher: %v", err)
	default:
	}
	sh(t, "ip link set wan1 mtu 1400")
	running.expectHint(t, "a change after the flood")
	running.expectEnd(t)
}

// Columns of /proc/net/netlink: bytes that wait to be read, and messages that were lost.
const (
	received = 4
	drops    = 8
)

// netlinkColumn sums up a column over the routing sockets of this namespace.
func netlinkColumn(t *testing.T, column int) int {
	t.Helper()
	sum := 0
	for _, line := range strings.Split(sh(t, "cat /proc/self/net/netlink"), "\n") {
		var n int
		if fields := strings.Fields(line); len(fields) > drops && fields[1] == "0" {
			fmt.Sscan(fields[column], &n)
			sum += n
		}
	}
	return sum
}

func TestTheWatcherEndsWithItsContext(t *testing.T) {
	namespace(t)
	w := watch(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := w.Run(ctx, func() {}); err != nil {
		t.Errorf("with a context that has ended already: %v", err)
	}
	run(t, watch(t)).expectEnd(t)
}
