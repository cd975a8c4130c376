package dns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/lease"
)

// dnsmasq is told of servers by a file for its servers-file, which it reads again at SIGHUP.
type dnsmasq struct {
	file     string
	asConfig bool         // the file is for conf-file or conf-dir rather than for servers-file
	told     map[int]bool // processes that have been told what the file holds
}

// errNobodyReads means that the file is written, and no dnsmasq has it in its configuration.
var errNobodyReads = errors.New("no running dnsmasq reads it")

func newDnsmasq(dir string) *dnsmasq { return &dnsmasq{file: filepath.Join(dir, "servers")} }

func (d *dnsmasq) tell(_ context.Context, servers, _ []server) error {
	content := dnsmasqServers(servers)
	if have, err := os.ReadFile(d.file); err != nil || !bytes.Equal(have, content) {
		if err := writeFor(d.file, content); err != nil {
			return err
		}
		d.told = nil
	}
	readers := d.readers()
	if len(readers) == 0 {
		d.told = nil
		return fmt.Errorf("%s: %w", d.file, errNobodyReads)
	}
	told := make(map[int]bool)
	var failed []error
	for _, pid := range readers {
		// One that has just started may have read the file before this: once more costs it its cache.
		if !d.told[pid] {
			if !catchesHangup(pid) {
				failed = append(failed, fmt.Errorf("dnsmasq, process %d, is still starting", pid))
				continue
			}
			if err := unix.Kill(pid, unix.SIGHUP); err != nil {
				failed = append(failed, fmt.Errorf("telling dnsmasq, process %d: %w", pid, err))
				continue
			}
		}
		told[pid] = true
	}
	d.told = told
	return errors.Join(failed...)
}

// dnsmasqServers writes the file. Behind the @ stands the device that dnsmasq binds the socket of a query to: so it goes by its own
// uplink whatever else leads there, and one address on two uplinks is two servers.
func dnsmasqServers(servers []server) []byte {
	var b bytes.Buffer
	b.WriteString(mine + "DNS servers of the uplinks that work, best first, for servers-file of dnsmasq.\n")
	for i := range servers {
		if s := &servers[i]; s.Addr.Zone() != "" { // dnsmasq binds to the zone as well
			fmt.Fprintf(&b, "server=%v\n", s.Addr)
		} else {
			fmt.Fprintf(&b, "server=%v@%s\n", s.Addr, s.Device)
		}
	}
	return b.Bytes()
}

// giveBack leaves the file: dnsmasq has no other servers in its place.
func (d *dnsmasq) giveBack(context.Context) error { return nil }

// readers lists the processes in our network namespace whose command line or configuration names the file. Others (libvirt, LXC and
// container hosts run some) are left alone.
func (d *dnsmasq) readers() []int {
	var list []int
	own, err := os.Readlink("/proc/self/ns/net")
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, notAProcess := strconv.Atoi(entry.Name())
		if notAProcess != nil {
			continue
		}
		dir := filepath.Join("/proc", entry.Name())
		if comm, _ := os.ReadFile(dir + "/comm"); strings.TrimSpace(string(comm)) != "dnsmasq" {
			continue
		}
		if ns, nsErr := os.Readlink(dir + "/ns/net"); err == nil && nsErr == nil && ns != own {
			continue
		}
		if line, err := os.ReadFile(dir + "/cmdline"); err == nil && d.namedBy(strings.Split(string(line), "\x00"), rootOf(dir)) && !isChildOf(dir, list) {
			list = append(list, pid)
		}
	}
	return list
}

// catchesHangup reports whether SIGHUP would not end a process: dnsmasq reads its files before it has a handler.
func catchesHangup(pid int) bool {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(text)) {
		if mask, ok := strings.CutPrefix(line, "SigCgt:"); ok {
			caught, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			return err == nil && caught&(1<<(uint(unix.SIGHUP)-1)) != 0
		}
	}
	return false
}

// rootOf is the root directory of a process. That of another user may be seen with CAP_SYS_PTRACE alone: it is taken for ours then.
func rootOf(dir string) string {
	if _, err := os.Stat(dir + "/root"); err != nil {
		return "/"
	}
	return dir + "/root"
}

// isChildOf reports whether a process was made by one of some others: dnsmasq has one for scripts, and one for each TCP connection.
func isChildOf(dir string, list []int) bool {
	stat, _ := os.ReadFile(dir + "/stat")
	_, rest, _ := strings.Cut(string(stat), ") ") // a name may hold anything
	words := strings.Fields(rest)
	if len(words) < 2 {
		return false
	}
	parent, _ := strconv.Atoi(words[1])
	return slices.Contains(list, parent)
}

// namedBy reports whether a command line, or a file of configuration that it names, names our file. Root is the root directory of the
// process.
func (d *dnsmasq) namedBy(args []string, root string) bool {
	files, given := []string{"/etc/dnsmasq.conf"}, false
	add := func(path string) {
		if !given {
			files, given = nil, true
		}
		files = append(files, path)
	}
	value := func(i int, short, long string) (string, bool) {
		switch arg := args[i]; {
		case strings.HasPrefix(arg, long+"="):
			return strings.TrimPrefix(arg, long+"="), true
		case (arg == short || arg == long) && i+1 < len(args):
			return args[i+1], true
		case strings.HasPrefix(arg, short) && len(arg) > 2 && arg[1] != '-':
			return arg[2:], true
		}
		return "", false
	}
	var dirs []string
	for i := range args {
		if path, ok := value(i, "--", "--servers-file"); ok && !d.asConfig && filepath.Clean(path) == filepath.Clean(d.file) {
			return true
		}
		if path, ok := value(i, "-C", "--conf-file"); ok {
			add(path)
		}
		if path, ok := value(i, "-7", "--conf-dir"); ok {
			dirs = append(dirs, path)
		}
	}
	const maxFiles = 256
	for n := 0; n < len(files)+len(dirs) && n < maxFiles; n++ {
		if d.asConfig && n < len(files) && filepath.Clean(files[n]) == filepath.Clean(d.file) {
			return true
		}
		if n >= len(files) {
			dir, _, _ := strings.Cut(dirs[n-len(files)], ",")
			if d.asConfig && filepath.Clean(dir) == filepath.Dir(d.file) {
				return true
			}
			entries, _ := fs.Glob(os.DirFS(filepath.Join(root, dir)), "*")
			for _, name := range entries {
				if named, _, _ := d.namedIn(filepath.Join(root, dir, name)); named {
					return true
				}
			}
			continue
		}
		named, moreFiles, moreDirs := d.namedIn(filepath.Join(root, files[n]))
		if named {
			return true
		}
		files, dirs = append(files, moreFiles...), append(dirs, moreDirs...)
	}
	return false
}

// namedIn looks for our file in a file of configuration, and for others that it includes.
func (d *dnsmasq) namedIn(path string) (named bool, files, dirs []string) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > lease.MaxSize {
		return false, nil, nil
	}
	content, _ := os.ReadFile(path)
	for line := range strings.Lines(string(content)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "servers-file":
			named = named || !d.asConfig && filepath.Clean(value) == filepath.Clean(d.file)
		case "conf-file":
			files = append(files, value)
		case "conf-dir":
			dirs = append(dirs, value)
		}
	}
	return named, files, dirs
}
