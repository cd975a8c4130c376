package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Host is one network namespace of the world.
type Host struct {
	name  string   // lan, router, isp1, ...
	netns string   // its name below /run/netns
	ns    *os.File // keeps the namespace, and setns needs it
	tools tools
	world *World
}

// Name returns the host's name in the world: lan, router, isp1, isp2, ... or inet.
func (h *Host) Name() string { return h.name }

// Namespace returns the name by which `ip netns exec` knows the host.
func (h *Host) Namespace() string { return h.netns }

// Do runs fn on a thread inside the host's network namespace. Sockets that fn opens, processes that it starts and
// /proc/sys/net that it writes are the host's; /proc/self is the main thread's, so read /proc/thread-self instead.
// Goroutines that fn starts run outside. Do may be nested.
func (h *Host) Do(fn func() error) (err error) {
	runtime.LockOSThread()
	original, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("opening this thread's network namespace: %w", err)
	}
	if err := unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET); err != nil {
		_ = original.Close()
		runtime.UnlockOSThread()
		return fmt.Errorf("entering namespace %s: %w", h.netns, err)
	}
	// Deferred, because a test may leave fn by Goexit. The thread is put back rather than thrown away: a thread that
	// ends takes along the children that it forked and that have a parent-death signal.
	defer func() {
		restore := unix.Setns(int(original.Fd()), unix.CLONE_NEWNET)
		_ = original.Close()
		if restore != nil {
			panic(fmt.Sprintf("lab: thread cannot leave namespace %s: %v", h.netns, restore))
		}
		runtime.UnlockOSThread()
	}()
	return fn()
}

// Command returns a program to be run on the host, with a /sys of its own; it dies with this process, with ctx and
// with the world. The process is the program itself: its id and its signals are the program's.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	argv := append([]string{"netns", "exec", h.netns, name}, args...)
	cmd := exec.CommandContext(ctx, h.tools.ip, argv...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Run runs a program on the host and returns its standard output; the error holds all that it wrote.
func (h *Host) Run(name string, args ...string) (string, error) {
	var out strings.Builder
	var all transcript
	cmd := h.Command(h.world.ctx, name, args...)
	cmd.Stdout = io.MultiWriter(&out, &all)
	cmd.Stderr = &all
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %s %s: %w: %s", h.name, name, strings.Join(args, " "), err, all.String())
	}
	return out.String(), nil
}

// transcript collects what several streams write.
type transcript struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.Write(p)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(t.buf.String())
}

// Sysctl returns the host's value of a network sysctl such as net/ipv4/conf/wan1/rp_filter.
func (h *Host) Sysctl(key string) (value string, err error) {
	err = h.Do(func() error {
		data, err := os.ReadFile(filepath.Join("/proc/sys", key))
		value = strings.TrimSpace(string(data))
		return err
	})
	return value, err
}

// SetSysctl sets a network sysctl of the host.
func (h *Host) SetSysctl(key, value string) error {
	return h.Do(func() error { return writeSysctl(key, value) })
}

func writeSysctl(key, value string) error {
	err := os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0o644)
	if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(key, "net/ipv6/") {
		return fmt.Errorf("the lab needs IPv6 in the kernel: %w", err)
	}
	return err
}

// ip runs a batch of ip commands inside the namespace, one process for all of them.
func (h *Host) ip(ctx context.Context, commands []string) error {
	if len(commands) == 0 {
		return nil
	}
	return h.feed(ctx, strings.Join(commands, "\n")+"\n", h.tools.ip, "-batch", "-")
}

// nft applies a ruleset atomically inside the namespace.
func (h *Host) nft(ctx context.Context, script string) error {
	return h.feed(ctx, script, h.tools.nft, "-f", "-")
}

func (h *Host) feed(ctx context.Context, script, name string, args ...string) error {
	return h.Do(func() error {
		if err := feed(ctx, script, name, args...); err != nil {
			return fmt.Errorf("%s: %w", h.name, err)
		}
		return nil
	})
}

// feed runs a tool of the lab with a script on its standard input.
func feed(ctx context.Context, script, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s\nin the script:\n%s", filepath.Base(name), strings.Join(args, " "), err, strings.TrimSpace(string(out)), numbered(script))
	}
	return nil
}

// numbered prefixes lines with their numbers, which the tools' messages refer to.
func numbered(script string) string {
	var b strings.Builder
	for i, line := range strings.Split(strings.TrimRight(script, "\n"), "\n") {
		fmt.Fprintf(&b, "%4d  %s\n", i+1, line)
	}
	return b.String()
}
