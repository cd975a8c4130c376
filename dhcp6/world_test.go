package dhcp6

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// world is two network namespaces, of an ISP and of a router. The ISP's device "isp" is a bridge, so that
// servers on it live on when the router's device "wan", one end of a veth pair, is made anew.
type world struct {
	t           testing.TB
	isp, router *os.File
	dir         string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, isp: namespace(t), router: namespace(t), dir: t.TempDir()}
	// Dibbler gives up on a device whose address is still checked for duplicates; the client must not.
	w.sh(w.isp, `ip link set lo up
		ip link add isp type bridge mcast_snooping 0 forward_delay 0
		ip link set isp addrgenmode none up
		ip address add fe80::1/64 dev isp nodad
		ip address add 2001:db8:ffff::1/64 dev isp nodad`)
	w.wire()
	return w
}

// wire makes the router's device anew.
func (w *world) wire() {
	w.t.Helper()
	w.sh(w.isp, fmt.Sprintf(`ip link show port >/dev/null 2>&1 && ip link delete port
		ip link add port type veth peer name wan netns /proc/%d/fd/%d
		ip link set port addrgenmode none master isp up`, os.Getpid(), w.router.Fd()))
	w.sh(w.router, "ip link set wan up")
}

// noDAD spares a test the seconds that the kernel looks for duplicates.
func (w *world) noDAD() *world {
	w.t.Helper()
	w.sh(w.router, "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.wan.accept_dad=0")
	return w
}

// namespace makes a network namespace.
func namespace(t testing.TB) *os.File {
	t.Helper()
	var f *os.File
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			f, err = os.Open("/proc/thread-self/ns/net")
		}
	}()
	<-done
	if err != nil {
		t.Fatalf("making a network namespace (needs root): %v", err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// inside runs f on a thread in a namespace.
func inside(ns *os.File, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}

func (w *world) sh(ns *os.File, script string) string {
	w.t.Helper()
	var out []byte
	if err := inside(ns, func() (err error) {
		out, err = exec.Command("sh", "-e", "-c", script).CombinedOutput()
		return err
	}); err != nil {
		w.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// index returns the router's index of the device wan; 0 for none.
func (w *world) index() int {
	var n int
	if err := inside(w.router, func() error {
		out, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil || !strings.Contains(string(out), "wan:") {
			return err
		}
		text, err := exec.Command("sh", "-c", "ip -o link show wan").Output()
		if err != nil {
			return err
		}
		_, err = fmt.Sscanf(string(text), "%d:", &n)
		return err
	}); err != nil {
		w.t.Errorf("looking for wan: %v", err)
	}
	return n
}

// program is a running server.
type program struct {
	cmd  *exec.Cmd
	out  lockedBuffer
	done chan struct{}
}

// lockedBuffer may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// command starts a shell script in the ISP's namespace, with mounts of its own: some servers have fixed paths.
// It ends with the test.
func (w *world) command(script string, args ...string) *program {
	w.t.Helper()
	p := &program{done: make(chan struct{})}
	argv := append([]string{"-m", "--propagation", "private", "sh", "-e", "-c", script, "sh"}, args...)
	p.cmd = exec.Command("unshare", argv...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := inside(w.isp, p.cmd.Start); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	w.t.Cleanup(p.kill)
	return p
}

func (p *program) kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

func (w *world) file(name, content string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return path
}

func (w *world) installed(pkg, command string) {
	w.t.Helper()
	if _, err := exec.LookPath(command); err != nil {
		if _, err := os.Stat("/usr/sbin/" + command); err != nil {
			w.t.Fatalf("%s is missing: install the Debian package %s (scripts/deps does)", command, pkg)
		}
	}
}

// household is a client on the router's device wan, and what it told.
type household struct {
	*Client
	w       *world
	stop    context.CancelFunc
	done    chan error
	changes chan Change
	log     *lockedBuffer
	last    *Lease
}

// household starts a client in the router's namespace.
func (w *world) household(last *Lease, modify func(*Config)) *household {
	w.t.Helper()
	h := &household{w: w, done: make(chan error, 1), changes: make(chan Change, 1000), log: &lockedBuffer{}, last: last}
	cfg := Config{Device: "wan", DUID: ours, IAPD: []IAPD{{ID: 1, Hint: mustPrefix("::/56")}}, Last: last,
		Log:      slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		OnChange: func(ch Change) { h.changes <- ch }}
	if modify != nil {
		modify(&cfg)
	}
	h.Client = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	h.stop = cancel
	go func() { h.done <- inside(w.router, func() error { return h.Run(ctx) }) }()
	w.t.Cleanup(func() { h.end() })
	h.SetLink(w.index(), true)
	return h
}

// end stops the client without a Release.
func (h *household) end() {
	h.stop()
	if err := <-h.done; err != nil {
		h.w.t.Error(err)
	}
	h.done <- nil
}

// await waits for a change with one of some reasons and returns it. Others pass by, except what takes a prefix
// away.
func (h *household) await(within time.Duration, server *program, reasons ...Reason) Change {
	h.w.t.Helper()
	deadline := time.After(within)
	for {
		select {
		case ch := <-h.changes:
			h.last = ch.Lease
			if slices.Contains(reasons, ch.Reason) {
				return ch
			}
			for _, p := range ch.Prefixes {
				if p.Outcome.Gone() {
					h.w.t.Errorf("while waiting for %s: %v %s %s", reasons, p.Prefix, p.Outcome, ch.Note)
				}
			}
		case <-deadline:
			h.w.t.Fatalf("no lease was %s within %v\nclient:\n%s\nserver:\n%s", reasons, within, h.log, &server.out)
		}
	}
}

// relink tells the client what became of its device.
func (h *household) relink(script string) {
	h.w.t.Helper()
	h.SetLink(h.w.index(), false)
	h.w.sh(h.w.router, script)
	h.SetLink(h.w.index(), true)
}
