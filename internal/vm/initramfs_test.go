package vm

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestAnArchiveIsUnpackedByCpio(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Fatalf("%v: install the Debian package cpio", err)
	}
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	writeFile(t, source, "#!/bin/sh\n") // 10 bytes: padded
	var out bytes.Buffer
	a := archive{w: bufio.NewWriter(&out)}
	a.directory("d")
	a.file("d/program", 0o755, source)
	a.add("abc", modeFile|0o600, []byte("four"))
	a.add("empty", modeFile|0o644, nil)
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cpio", "--extract", "--quiet")
	cmd.Dir, cmd.Stdin = filepath.Join(dir, "to"), &out
	if err := os.Mkdir(cmd.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if text, err := cmd.CombinedOutput(); err != nil || len(text) > 0 {
		t.Fatalf("cpio: %v: %s", err, text)
	}
	for name, want := range map[string]string{"d/program": "#!/bin/sh\n", "abc": "four", "empty": ""} {
		got, err := os.ReadFile(filepath.Join(cmd.Dir, name))
		if err != nil || string(got) != want {
			t.Errorf("%s holds %q (%v), want %q", name, got, err, want)
		}
	}
	if info, err := os.Stat(filepath.Join(cmd.Dir, "d/program")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("d/program has mode %v (%v)", info.Mode(), err)
	}
}

func TestAnArchiveOfAnAbsentFileFails(t *testing.T) {
	a := archive{w: bufio.NewWriter(new(bytes.Buffer))}
	a.file("init", 0o755, filepath.Join(t.TempDir(), "absent"))
	if err := a.close(); !os.IsNotExist(err) {
		t.Fatalf("got %v", err)
	}
}

func TestModulesComeBehindWhatTheyNeed(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "modules.dep"), strings.Join([]string{
		"kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/netfs/netfs.ko",
		"kernel/net/9p/9pnet.ko:",
		"kernel/net/9p/9pnet_virtio.ko: kernel/net/9p/9pnet.ko kernel/virtio/virtio-ring.ko kernel/virtio/virtio.ko",
		"kernel/fs/squeezed.ko.xz:",
	}, "\n")+"\n")
	writeFile(t, filepath.Join(dir, "modules.builtin"), "kernel/fs/overlayfs/over-lay.ko\n")
	for _, tt := range []struct {
		name  string
		names []string
		want  []string
		error string
	}{
		{"what is needed by two is loaded once", []string{"9pnet_virtio", "9p"},
			[]string{"virtio/virtio.ko", "virtio/virtio-ring.ko", "net/9p/9pnet.ko", "net/9p/9pnet_virtio.ko", "fs/netfs/netfs.ko", "fs/9p/9p.ko"}, ""},
		{"what is built in needs no file", []string{"over_lay"}, nil, ""},
		{"what is missing is an error", []string{"dummy"}, nil, "has no module dummy"},
		{"what is compressed is an error", []string{"squeezed"}, nil, "is compressed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files, err := moduleFiles(dir, tt.names)
			if tt.error != "" {
				if err == nil || !strings.Contains(err.Error(), tt.error) {
					t.Fatalf("got %v, want %q", err, tt.error)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for _, w := range tt.want {
				want = append(want, filepath.Join(dir, "kernel", w))
			}
			if d := cmp.Diff(want, files); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestTheKernelPackageIsWhatTheMetaPackageDependsOn(t *testing.T) {
	name, err := kernelPackage("linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n  Conflicts: x\n")
	if err != nil || name != "linux-image-6.1.0-56-amd64" {
		t.Errorf("got %q, %v", name, err)
	}
	if _, err := kernelPackage("N: Unable to locate package linux-image-amd64\n"); err == nil {
		t.Error("no package, and no error")
	}
}

func TestAGuestsOutputBeginsBehindTheMark(t *testing.T) {
	for cut := range len("firmware" + started + "result") {
		var got strings.Builder
		begun := 0
		g := &guestOutput{to: &got, begun: func() { begun++ }}
		all := "firmware" + started + "result"
		for _, part := range []string{all[:cut], all[cut:], " and more"} {
			if n, err := g.Write([]byte(part)); err != nil || n != len(part) {
				t.Fatalf("writing %q: %d, %v", part, n, err)
			}
		}
		if got.String() != "result and more" || begun != 1 {
			t.Errorf("cut at %d: %q, begun %d times", cut, got.String(), begun)
		}
	}
}

func TestADynamicInitIsRefused(t *testing.T) {
	if err := checkStatic("/bin/sh"); err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
		t.Errorf("got %v", err)
	}
}
