package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// closeTimeout bounds how long Close waits for killed processes to be gone.
const closeTimeout = 10 * time.Second

// World is a running world. Its methods may be called concurrently.
type World struct {
	opts  Options
	tools tools
	hosts map[string]*Host
	order []string // hosts' names, from the LAN outwards
	isps  []*isp

	ctx     context.Context // ends with Close: servers and Host.Run live in it
	cancel  context.CancelFunc
	servers sync.WaitGroup

	mu      sync.Mutex // breaks, renumbering
	uplinks []*uplink

	closing sync.Once
	closed  error
}

// New builds a world. It works only inside the private namespaces of [Main] or [Enter]; elsewhere it returns
// [ErrNotChild]. Everything works at once when it returns: addresses are usable, links are up. ctx bounds the building
// only; the world lives until [World.Close].
func New(ctx context.Context, o Options) (*World, error) {
	if !isChild() {
		return nil, ErrNotChild
	}
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	t, err := findTools()
	if err != nil {
		return nil, err
	}
	w := &World{opts: o, tools: t, hosts: make(map[string]*Host), isps: topology(o)}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	for _, p := range w.isps {
		w.uplinks = append(w.uplinks, p.uplinks...)
	}
	for i, u := range w.uplinks {
		u.number = i + 1
	}
	if err := w.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("building the world: %w", err), w.Close())
	}
	return w, nil
}

// Host returns a host by its name: lan, router, isp1, ..., inet. It panics on a name that this world does not have,
// because only a mistake in the program can ask for one; [World.Hosts] lists them.
func (w *World) Host(name string) *Host {
	h, ok := w.hosts[name]
	if !ok {
		panic(fmt.Sprintf("lab: no host %q in this world, only %s", name, strings.Join(w.order, ", ")))
	}
	return h
}

// Hosts returns the hosts' names, from the LAN outwards.
func (w *World) Hosts() []string { return slices.Clone(w.order) }

// Uplinks returns the uplinks as they are now, in the order of their metrics.
func (w *World) Uplinks() []Uplink {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]Uplink, 0, len(w.uplinks))
	for _, u := range w.uplinks {
		all = append(all, u.export())
	}
	return all
}

// Uplink returns one uplink as it is now; the zero value if there is none of that name.
func (w *World) Uplink(name string) Uplink {
	for _, u := range w.Uplinks() {
		if u.Name == name {
			return u
		}
	}
	return Uplink{}
}

// UplinkOf tells which uplink a flow used, from the source address that the Internet saw; "" if none has it.
func (w *World) UplinkOf(source netip.Addr) string {
	source = source.Unmap()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range w.uplinks {
		if slices.ContainsFunc(u.delegated, func(p netip.Prefix) bool { return p.Contains(source) }) {
			return u.name
		}
		for _, a := range u.plans {
			switch {
			case u.isp.nat && source.Is4():
				if source == u.isp.transit.isp4.Addr() {
					return u.name
				}
			case u.isp.bridged():
				if source == a.addr4.Addr() || source == a.addr6.Addr() {
					return u.name
				}
			case a.addr4.Contains(source) || a.addr6.Contains(source):
				return u.name
			}
		}
	}
	return ""
}

// find returns the record of an uplink. The caller holds mu.
func (w *World) find(name string) (*uplink, error) {
	var names []string
	for _, u := range w.uplinks {
		if u.name == name {
			return u, nil
		}
		names = append(names, u.name)
	}
	return nil, fmt.Errorf("no uplink %q in this world, only %s", name, strings.Join(names, ", "))
}

// Close ends the servers, kills every process in the world's namespaces and removes them. It may be called again.
func (w *World) Close() error {
	w.closing.Do(func() { w.closed = w.close() })
	return w.closed
}

func (w *World) close() error {
	w.cancel()
	w.servers.Wait()
	errs := []error{w.killProcesses()}
	var batch []string
	for _, name := range w.order {
		h, ok := w.hosts[name]
		if !ok {
			continue
		}
		errs = append(errs, h.ns.Close())
		batch = append(batch, "netns delete "+h.netns)
	}
	if len(batch) > 0 {
		errs = append(errs, feed(context.Background(), strings.Join(batch, "\n")+"\n", w.tools.ip, "-batch", "-"))
	}
	return errors.Join(errs...)
}

// killProcesses kills what runs in the world's namespaces, this process excepted, until nothing does.
func (w *World) killProcesses() error {
	namespaces := make(map[uint64]bool)
	for _, h := range w.hosts {
		var st unix.Stat_t
		if err := unix.Fstat(int(h.ns.Fd()), &st); err != nil {
			return fmt.Errorf("identifying namespace %s: %w", h.netns, err)
		}
		namespaces[st.Ino] = true
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return Until(ctx, "the world's processes to be gone", func() error {
		pids, err := processesIn(namespaces)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("killing process %d: %w", pid, err)
			}
		}
		return fmt.Errorf("%d processes remain", len(pids))
	})
}

// processesIn lists the processes whose network namespace is one of those, by inode.
func processesIn(namespaces map[uint64]bool) ([]int, error) {
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, link := range links {
		info, err := os.Stat(link)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ESRCH) {
				continue // gone meanwhile, a zombie, or not ours
			}
			return nil, err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		pid, err := strconv.Atoi(strings.Split(link, "/")[2])
		if ok && err == nil && pid != os.Getpid() && namespaces[st.Ino] {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Until calls check every few milliseconds until it returns nil; when ctx ends first, the error holds check's last.
func Until(ctx context.Context, what string, check func() error) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w: %w", what, ctx.Err(), err)
		case <-tick.C:
		}
	}
}
