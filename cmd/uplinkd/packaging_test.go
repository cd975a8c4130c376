package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const sources = "../.."

// makeAs runs make as root does by sudo: without Go in PATH.
func makeAs(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "make", append([]string{"--no-print-directory", "-C", sources}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + t.TempDir()}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("make %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// filesBelow lists the files of a directory, by their paths within it.
func filesBelow(t *testing.T, dir string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			list = append(list, strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestInstallTakesTheBinaryThatIsThereAndUninstallLeavesNothing(t *testing.T) {
	t.Parallel()
	bin := filepath.Join(t.TempDir(), "uplinkd")
	build := exec.Command("go", "build", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as make cross has built it
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	stamp, err := os.Stat(bin)
	if err != nil {
		t.Fatal(err)
	}
	for prefix, places := range map[string]struct{ units, groups string }{
		"/usr/local": {"/etc/systemd/system/", "/etc/sysusers.d/"},
		"/usr":       {"/usr/lib/systemd/system/", "/usr/lib/sysusers.d/"},
	} {
		t.Run(prefix, func(t *testing.T) {
			root := t.TempDir()
			where := []string{"PREFIX=" + prefix, "DESTDIR=" + root, "BIN=" + bin}
			if out := makeAs(t, append([]string{"install"}, where...)...); strings.Contains(out, "go build") {
				t.Errorf("it builds:\n%s", out)
			}
			if now, err := os.Stat(bin); err != nil || now.ModTime() != stamp.ModTime() {
				t.Errorf("the binary was made again: %v, %v", now, err)
			}
			want := []string{
				prefix + "/sbin/uplinkd", prefix + "/share/man/man8/uplinkd.8", prefix + "/share/man/man5/uplinkd.toml.5",
				prefix + "/share/bash-completion/completions/uplinkd", prefix + "/share/zsh/site-functions/_uplinkd",
				prefix + "/share/fish/vendor_completions.d/uplinkd.fish",
				places.units + "uplinkd.service", places.units + "uplinkd-guard.service", places.groups + "uplinkd.conf",
			}
			slices.Sort(want)
			if got := filesBelow(t, root); !slices.Equal(got, want) {
				t.Errorf("it installs %q, want %q", got, want)
			}
			for _, path := range want {
				if text, err := os.ReadFile(root + path); err != nil || len(text) == 0 {
					t.Errorf("%s is empty, %v", path, err)
				}
			}
			unit, _ := os.ReadFile(root + places.units + "uplinkd.service")
			if !strings.Contains(string(unit), "\nExecStart="+prefix+"/sbin/uplinkd run ") || !strings.Contains(string(unit), "\nExecReload="+prefix+"/sbin/uplinkd reload") {
				t.Errorf("the unit starts something else:\n%s", unit)
			}
			makeAs(t, append([]string{"uninstall"}, where...)...)
			if left := filesBelow(t, root); len(left) > 0 {
				t.Errorf("uninstall leaves %q", left)
			}
		})
	}
}

// regexpSource finds the files that nfpm.yaml names: scripts, and what is not staged by make install.
var regexpSource = regexp.MustCompile(`(?m)^ +(?:src|post\w+|pre\w+): ([^$\s]+)$`)

func TestPackagesAreMadeOfFilesThatExist(t *testing.T) {
	packaging := filepath.Join(sources, "packaging")
	config, err := os.ReadFile(filepath.Join(packaging, "nfpm.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	named := regexpSource.FindAllStringSubmatch(string(config), -1)
	if len(named) < 8 {
		t.Errorf("only %d files are named: %q", len(named), named)
	}
	for _, m := range named {
		if _, err := os.Stat(filepath.Join(packaging, m[1])); err != nil {
			t.Error(err)
		}
	}
	scripts := 0
	for _, path := range filesBelow(t, packaging) {
		file := packaging + path
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(text), "\n")
		if !strings.HasPrefix(first, "#!") {
			continue
		}
		scripts++
		if out, err := exec.Command("sh", "-n", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", path, err, out)
		}
		if info, err := os.Stat(file); err != nil || info.Mode()&0o111 == 0 {
			t.Errorf("%s cannot be executed", path)
		}
	}
	if scripts < 10 {
		t.Errorf("only %d scripts were found", scripts)
	}
}
