package dns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/uplinkd/uplinkd/internal/store"
)

// docFormer is the name of the document with what outputs held before us. After a crash we would take our own for that.
const docFormer = "dns-former"

// formers are what outputs held before us, over restarts.
type formers struct {
	mu   sync.Mutex
	kept former
}

type former struct {
	// ResolvConf is what stood at a path, by that.
	ResolvConf map[string]formerFile `json:"resolv_conf,omitempty"`
	// Unbound are the forwarders of everything; nil: not known. None is an empty list: it asked the root servers itself.
	Unbound *[]string `json:"unbound,omitempty"`
}

// formerFile is a file, or a symbolic link.
type formerFile struct {
	Link    string      `json:"link,omitempty"`
	Content []byte      `json:"content,omitempty"`
	Mode    fs.FileMode `json:"mode,omitempty"`
}

// mine begins every file that we write, by which it is known.
const mine = "# Written by uplinkd: "

// maxNameservers is how many the C libraries read (MAXNS of resolv.h).
const maxNameservers = 3

func (f *formers) read() any {
	f.mu.Lock()
	defer f.mu.Unlock()
	return former{maps.Clone(f.kept.ResolvConf), f.kept.Unbound}
}

// resolvConf is a file as resolv.conf(5) has it.
type resolvConf struct {
	path   string
	former *formers
	save   func()
}

func (r *resolvConf) tell(_ context.Context, servers, _ []server) error {
	content := resolvConfOf(servers)
	have, err := os.ReadFile(r.path)
	if err == nil && bytes.Equal(have, content) && !isLink(r.path) {
		return nil
	}
	if err := r.keep(have, err); err != nil {
		return err
	}
	return writeFor(r.path, content)
}

// resolvConfOf writes the file. One address is written once, whichever uplinks have it: its rule leads to the best.
func resolvConfOf(servers []server) []byte {
	var b bytes.Buffer
	b.WriteString(mine + "DNS servers of the uplinks that work, best first.\n")
	seen := make(map[netip.Addr]bool)
	for i := range servers {
		if a := servers[i].Addr; !seen[a] && len(seen) < maxNameservers {
			seen[a] = true
			fmt.Fprintf(&b, "nameserver %v\n", a)
		}
	}
	return b.Bytes()
}

// keep remembers what somebody else has put there.
func (r *resolvConf) keep(have []byte, err error) error {
	var was formerFile
	switch link, linkErr := os.Readlink(r.path); {
	case linkErr == nil:
		was.Link = link
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case bytes.HasPrefix(have, []byte(mine)):
		return nil
	default:
		was.Content, was.Mode = have, 0o644
		if info, err := os.Stat(r.path); err == nil {
			was.Mode = info.Mode().Perm()
		}
	}
	r.former.mu.Lock()
	if r.former.kept.ResolvConf == nil {
		r.former.kept.ResolvConf = make(map[string]formerFile)
	}
	r.former.kept.ResolvConf[r.path] = was
	r.former.mu.Unlock()
	r.save()
	return nil
}

// giveBack puts back what somebody else had there. A file that was not there before stays: whoever reads it has no other.
func (r *resolvConf) giveBack(context.Context) error {
	r.former.mu.Lock()
	was, there := r.former.kept.ResolvConf[r.path]
	delete(r.former.kept.ResolvConf, r.path)
	r.former.mu.Unlock()
	if !there {
		return nil
	}
	defer r.save()
	if have, err := os.ReadFile(r.path); err == nil && !bytes.HasPrefix(have, []byte(mine)) {
		return nil // somebody has put something else there
	}
	if was.Link == "" {
		return store.WriteFile(r.path, was.Content, was.Mode)
	}
	aside := r.path + ".uplinkd"
	_ = os.Remove(aside)
	if err := os.Symlink(was.Link, aside); err != nil {
		return err
	}
	return os.Rename(aside, r.path)
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

// writeFor writes a file that other users read, and the directories above it.
func writeFor(path string, content []byte) error {
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
			return err
		}
	}
	return store.WriteFile(path, content, 0o644)
}

// fields splits what resolv.conf(5) and its like say into words, line by line.
func fields(content []byte) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for line := range strings.Lines(string(content)) {
			if words := strings.Fields(line); len(words) > 0 && !yield(words) {
				return
			}
		}
	}
}
