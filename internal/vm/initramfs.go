package vm

import (
	"bufio"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// job is what the guest shall run.
type job struct {
	Args    []string // the program and its arguments
	Dir     string
	Env     []string
	Modules string // the directory of modules on the host
	Release string
}

// Names in the initramfs.
const (
	jobFile    = "job.json"
	modulesDir = "modules"
)

// bootModules bring the host's files into the guest: its bus, its file system, and what makes it look writable.
var bootModules = []string{"virtio_pci", "9pnet_virtio", "9p", "overlay"}

// writeInitramfs writes what the kernel unpacks as its first root. Init is a static program.
func writeInitramfs(w io.Writer, init string, k Kernel, j job) error {
	modules, err := moduleFiles(k.Modules, bootModules)
	if err != nil {
		return err
	}
	if err := checkStatic(init); err != nil {
		return err
	}
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	a := archive{w: bufio.NewWriter(w)}
	a.directory("dev")
	a.directory("proc")
	a.directory(modulesDir)
	a.file("init", 0o755, init)
	a.add(jobFile, modeFile|0o600, text)
	for i, m := range modules {
		// Numbered: the guest loads them in this order.
		a.file(fmt.Sprintf("%s/%02d-%s", modulesDir, i, filepath.Base(m)), 0o644, m)
	}
	return a.close()
}

// checkStatic refuses an init that needs a loader: there is none in an initramfs.
func checkStatic(program string) error {
	f, err := elf.Open(program)
	if err != nil {
		return fmt.Errorf("reading %s: %w", program, err)
	}
	defer f.Close()
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return fmt.Errorf("%s is linked dynamically: build it with CGO_ENABLED=0", program)
	}
	return nil
}

// moduleFiles lists the files of modules and of what they depend on, each behind what it needs. What is built into the
// kernel has no file.
func moduleFiles(dir string, names []string) ([]string, error) {
	index, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	needs := make(map[string][]string) // path to paths
	paths := make(map[string]string)   // name to path
	for line := range strings.Lines(string(index)) {
		path, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		needs[path] = strings.Fields(rest)
		paths[moduleName(path)] = path
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(builtin)) {
		if name := moduleName(strings.TrimSpace(line)); paths[name] == "" {
			paths[name] = builtinPath
		}
	}
	var files []string
	for _, name := range names {
		path := paths[moduleName(name)]
		if path == "" {
			return nil, fmt.Errorf("%s has no module %s", dir, name)
		}
		if path == builtinPath {
			continue
		}
		// modules.dep lists the whole closure, the last to be loaded first.
		for _, p := range slices.Backward(append([]string{path}, needs[path]...)) {
			if !strings.HasSuffix(p, ".ko") {
				return nil, fmt.Errorf("module %s is compressed: the kernel cannot be given it as it is", p)
			}
			if f := filepath.Join(dir, p); !slices.Contains(files, f) {
				files = append(files, f)
			}
		}
	}
	return files, nil
}

const builtinPath = "builtin"

// moduleName is the kernel's name of a module file: it makes no difference between - and _.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// Types of files in an archive (cpio(5)).
const (
	modeFile = 0o100000
	modeDir  = 0o040000
)

// archive writes the "new ASCII format" of cpio that the kernel unpacks
// (Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	w     *bufio.Writer
	inode int
	err   error
}

func (a *archive) directory(name string) { a.add(name, modeDir|0o755, nil) }

func (a *archive) file(name string, mode int, path string) {
	content, err := os.ReadFile(path)
	if err != nil && a.err == nil {
		a.err = err
	}
	a.add(name, modeFile|mode, content)
}

func (a *archive) add(name string, mode int, content []byte) {
	if a.err != nil {
		return
	}
	a.inode++
	links := 1
	// Thirteen fields of eight hexadecimal digits; the length of the name counts its NUL.
	n, _ := fmt.Fprintf(a.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
	a.pad(n)
	_, a.err = a.w.Write(content)
	a.pad(len(content))
}

// pad fills up to a multiple of four bytes.
func (a *archive) pad(n int) { _, _ = a.w.Write(make([]byte, -n&3)) }

func (a *archive) close() error {
	a.add("TRAILER!!!", 0, nil)
	if a.err != nil {
		return a.err
	}
	return a.w.Flush()
}
