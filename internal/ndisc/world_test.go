package ndisc

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/linksession"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is a network namespace of a test.
type host struct {
	t  *testing.T
	ns *os.File
}

// newHost makes a namespace that ends with the test.
func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			h.ns, err = os.Open("/proc/thread-self/ns/net")
		}
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatalf("making a network namespace: %v", err)
	}
	t.Cleanup(func() { _ = h.ns.Close() })
	h.sh(`ip link set lo up; sysctl -qw net.ipv6.conf.default.accept_ra=0 net.ipv6.conf.default.router_solicitations=0`)
	return h
}

// inside runs fn on a thread of the namespace.
func (h *host) inside(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			h.t.Errorf("entering a namespace: %v", err)
			return
		}
		fn()
	}()
	<-done
}

func (h *host) try(script string) (string, error) {
	var out []byte
	var err error
	h.inside(func() { out, err = exec.Command("sh", "-e", "-c", script).CombinedOutput() })
	return string(out), err
}

func (h *host) sh(script string) string {
	h.t.Helper()
	out, err := h.try(script)
	if err != nil {
		h.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

// connect makes a cable between two hosts. Addresses are not checked for duplicates, which saves seconds.
func connect(a *host, deviceA, macA string, b *host, deviceB, macB string) {
	a.t.Helper()
	for _, h := range []*host{a, b} {
		h.sh(`sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0`)
	}
	a.sh(fmt.Sprintf(`ip link add %s address %s type veth peer name %s address %s netns /proc/%d/fd/%d
		ip link set %s up`, deviceA, macA, deviceB, macB, os.Getpid(), b.ns.Fd(), deviceA))
	b.sh(fmt.Sprintf(`ip link set %s up`, deviceB))
}

// index is a device's index; 0 while there is none.
func (h *host) index(device string) (index int) {
	h.inside(func() {
		if ifc, err := net.InterfaceByName(device); err == nil {
			index = ifc.Index
		}
	})
	return index
}

// linkLocal waits for a device's link-local address.
func (h *host) linkLocal(device string) (addr netip.Addr) {
	h.t.Helper()
	index := h.index(device)
	eventually(h.t, "a link-local address of "+device, func() bool {
		ok := false
		h.inside(func() {
			usable, err := linksession.LinkLocals(index, false)
			if ok = err == nil; ok {
				addr = usable[0]
			}
		})
		return ok
	})
	return addr
}

// run runs an engine on a thread of the namespace until the test ends.
func (h *host) run(engine interface{ Run(context.Context) error }) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		h.inside(func() {
			if err := engine.Run(ctx); err != nil {
				h.t.Errorf("Run: %v", err)
			}
		})
	})
	h.t.Cleanup(func() { cancel(); running.Wait() })
}

// radvd runs a radvd; the returned function ends it, with its final advertisement.
func (h *host) radvd(config string) (stop func()) {
	h.t.Helper()
	path, err := exec.LookPath("radvd")
	if err != nil {
		h.t.Fatal("radvd is missing: install the Debian package radvd")
	}
	dir := h.t.TempDir()
	file := filepath.Join(dir, "radvd.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		h.t.Fatal(err)
	}
	log := &strings.Builder{}
	cmd := exec.Command(path, "--nodaemon", "--logmethod", "stderr", "--debug", "1", "--config", file, "--pidfile", filepath.Join(dir, "pid"))
	cmd.Stdout, cmd.Stderr = log, log
	h.sh("sysctl -qw net.ipv6.conf.all.forwarding=1")
	h.inside(func() { err = cmd.Start() })
	if err != nil {
		h.t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
		if h.t.Failed() {
			h.t.Logf("radvd said:\n%s", log)
		}
	})
	h.t.Cleanup(stop)
	return stop
}

// address is an address as `ip` shows it.
type address struct {
	Local      string `json:"local"`
	Deprecated bool   `json:"deprecated"`
	Dynamic    bool   `json:"dynamic"`
	Preferred  int64  `json:"preferred_life_time"`
	Valid      int64  `json:"valid_life_time"`
}

// addresses lists a device's global addresses of a prefix.
func (h *host) addresses(device, prefix string) []address {
	h.t.Helper()
	var links []struct {
		Info []address `json:"addr_info"`
	}
	if err := json.Unmarshal([]byte(h.sh("ip -6 -json address show dev "+device+" scope global")), &links); err != nil {
		h.t.Fatal(err)
	}
	var found []address
	within := netip.MustParsePrefix(prefix)
	for _, l := range links {
		for _, a := range l.Info {
			if addr, err := netip.ParseAddr(a.Local); err == nil && within.Contains(addr) {
				found = append(found, a)
			}
		}
	}
	return found
}

// eventually waits for the real kernel and real servers. Nothing of ours is timed by it.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if is() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not seen within 20 s: %s", what)
		}
	}
}

// views keeps what a Discoverer tells.
type views struct {
	mu   sync.Mutex
	last View
	n    int
}

func (v *views) deliver(view View) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last, v.n = view, v.n+1
}

func (v *views) now() View {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last
}

func (v *views) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.n
}

// testLog shows warnings of a failed test.
func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}
