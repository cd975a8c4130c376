package store_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/store"
)

// numbers reads the numbers that a log of a directory holds.
func numbers(t *testing.T, dir string) (log *store.Log, held []int, err error) {
	t.Helper()
	d := store.Open(dir)
	log = d.Log("events", 64)
	err = log.Load(func(v json.RawMessage) {
		var n int
		if err := json.Unmarshal(v, &n); err != nil {
			t.Errorf("%s: %v", v, err)
		}
		held = append(held, n)
	})
	return log, held, err
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestALogHoldsTheLatestAndIsBounded(t *testing.T) {
	dir := t.TempDir()
	log, held, err := numbers(t, dir)
	if err != nil || held != nil {
		t.Fatalf("%v, %v", held, err)
	}
	for n := range 100 {
		if err := log.Append(10+n, 10+n); err != nil {
			t.Fatal(err)
		}
		if n%7 == 0 { // a restart
			if log, held, err = numbers(t, dir); err != nil || held[len(held)-1] != 10+n {
				t.Fatalf("after %d: %v, %v", n, held, err)
			}
		}
	}
	_, held, _ = numbers(t, dir)
	if len(held) < 8 || !slices.IsSorted(held) || held[len(held)-1] != 109 {
		t.Errorf("%v", held)
	}
	for _, file := range []string{"events.log", "events.log.1"} {
		info, err := os.Stat(filepath.Join(dir, file))
		if err != nil || info.Size() > 32 || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
}

func TestWhatIsBrokenInALogCostsItsOwnLine(t *testing.T) {
	for name, c := range map[string]struct {
		text    string
		want    []int
		damaged bool
	}{
		"a power cut in the middle of a line": {"1\n2\n[3", []int{1, 2}, false},
		"one before the first was written":    {"[1", nil, false},
		"blocks of zeros":                     {"1\n\x00\x00\x00\n3\n", []int{1, 3}, true},
		"an empty line":                       {"1\n\n3\n", []int{1, 3}, true},
	} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "events.log"), c.text)
		log, held, err := numbers(t, dir)
		if !slices.Equal(held, c.want) || errors.Is(err, store.ErrDamaged) != c.damaged {
			t.Errorf("%s: %v, %v", name, held, err)
		}
		if err := log.Append(9); err != nil {
			t.Fatal(err)
		}
		if _, held, _ = numbers(t, dir); !slices.Equal(held, append(c.want, 9)) {
			t.Errorf("%s, appended to: %v", name, held)
		}
	}
}

func TestAFullDiskLeavesALogAsItWas(t *testing.T) {
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatalf("mounting a small disk: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	d := store.Open(disk)
	log := d.Log("events", 1<<20)
	if err := log.Append(1); err != nil {
		t.Fatal(err)
	}
	if err := log.Append(2, strings.Repeat("x", 128<<10)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("appending more than the disk holds: %v", err)
	}
	if err := log.Append(3); err != nil {
		t.Error(err)
	}
	if _, held, err := numbers(t, disk); err != nil || !slices.Equal(held, []int{1, 3}) {
		t.Errorf("%v, %v", held, err)
	}
}
