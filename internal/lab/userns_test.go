package lab

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRunIsPrivateInsideTheNamespaces(t *testing.T) {
	t.Parallel()
	if !isChild() {
		t.Error("the tests do not run inside")
	}
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), "tmpfs /run tmpfs") {
		t.Errorf("no tmpfs on /run:\n%s", data)
	}
}

func TestWhatProgramsAreFoundThroughStaysVisible(t *testing.T) {
	t.Setenv("PATH", "/run/wrappers/bin:/usr/bin")
	t.Setenv("TMPDIR", "/run/user/1000")
	for dir, want := range map[string]bool{
		"/run/wrappers": true, "/run/user": true, "/run/systemd": false, "/run/netns": false, "/run/wrap": false,
	} {
		if got := neededInRun(dir); got != want {
			t.Errorf("%s stays visible: %v, want %v", dir, got, want)
		}
	}
}

func TestAWorldIsRefusedOutsideTheNamespaces(t *testing.T) {
	t.Setenv(childEnv, "")
	if _, err := New(t.Context(), Options{}); !errors.Is(err, ErrNotChild) {
		t.Errorf("got %v", err)
	}
	if err := isolateNamespaces(); !errors.Is(err, ErrNotChild) {
		t.Errorf("got %v", err)
	}
}

func TestDoMayBeNestedAndLeavesTheThreadWhereItWas(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Options{})
	devices := func() string {
		data, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	failed := errors.New("failed on purpose")
	err := w.Host(Router).Do(func() error {
		err := w.Host(LAN).Do(func() error {
			if d := devices(); !strings.Contains(d, "eth0:") || strings.Contains(d, "wan1:") {
				t.Errorf("on the LAN host: %s", d)
			}
			return failed
		})
		if !strings.Contains(devices(), "wan1:") {
			t.Error("not back on the router")
		}
		return err
	})
	if !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
	if strings.Contains(devices(), "wan1:") {
		t.Error("still on the router")
	}
}

func TestALockTellsARunningLabFromAKilledOne(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "d")
	first, err := claim(path)
	if err != nil || first.stale {
		t.Fatal(first, err)
	}
	if _, err := claim(path); !errors.Is(err, errLabRuns) {
		t.Errorf("a second claim: %v", err)
	}
	if err := os.WriteFile(first.config(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := first.lock.Close(); err != nil { // as if killed
		t.Fatal(err)
	}
	// A program that another test starts holds the lock too, from its fork until its exec.
	var second *directory
	err = Until(t.Context(), "the lock to be free", func() (err error) {
		second, err = claim(path)
		return err
	})
	if err != nil || !second.stale {
		t.Fatal(second, err)
	}
	if err := second.remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
	if _, err := claim("/tmp/" + strings.Repeat("x", 100)); err == nil || !strings.Contains(err.Error(), "set TMPDIR to a shorter one") {
		t.Errorf("a long path: %v", err)
	}
}

func FuzzParseEcho(f *testing.F) {
	f.Add([]byte("198.51.100.2:40000 hello"))
	f.Add([]byte("[2001:db8:a::2]:7 "))
	f.Add([]byte("nothing"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		source, request, err := parseEcho(answer)
		if err != nil {
			return
		}
		if !source.IsValid() || len(request) >= len(answer) {
			t.Errorf("%q is parsed as %v, %q", answer, source, request)
		}
	})
}

func FuzzParseKind(f *testing.F) {
	for _, seed := range append(Kinds(), "loss=5", "loss=0.1%", "loss=NaN", "loss=1e-9", "far=") {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, kind string) {
		name, percent, err := parseKind(kind)
		if err == nil && (name == Loss) != (percent > 0 && percent <= 100) {
			t.Errorf("%q is %s with %v %%", kind, name, percent)
		}
	})
}
