package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/store"
)

func open(t *testing.T) *store.Dir {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return store.Open(dir)
}

func TestADocumentComesBackAsItWasSaved(t *testing.T) {
	d := open(t)
	want := map[string]int{"fiber": 1, "lte": 2}
	if err := d.Save("ids", want); err != nil {
		t.Fatal(err)
	}
	var got map[string]int
	if err := d.Load("ids", &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	info, err := os.Stat(d.Path("ids"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestAMissingDocumentIsNoError(t *testing.T) {
	got := 7
	if err := open(t).Load("nothing", &got); err != nil || got != 7 {
		t.Errorf("%v, %d", err, got)
	}
}

func TestADamagedDocumentIsKeptAside(t *testing.T) {
	for name, content := range map[string][]byte{"cut short": []byte(`{"fiber":`), "empty": nil, "huge": make([]byte, store.MaxDocument+1)} {
		t.Run(name, func(t *testing.T) {
			d := open(t)
			if err := os.WriteFile(d.Path("ids"), content, 0o600); err != nil {
				t.Fatal(err)
			}
			var got map[string]int
			if err := d.Load("ids", &got); !errors.Is(err, store.ErrDamaged) || got != nil {
				t.Errorf("%v, %v", err, got)
			}
			kept, err := os.ReadFile(d.Path("ids") + ".damaged")
			if err != nil || len(kept) != len(content) {
				t.Errorf("kept %d bytes of %d, %v", len(kept), len(content), err)
			}
		})
	}
}

func TestAFullDiskLeavesTheOldDocument(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatalf("mounting a small disk: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, 0) })
	d := store.Open(disk)
	if err := d.Save("ids", 1); err != nil {
		t.Fatal(err)
	}
	if err := d.Save("ids", strings.Repeat("x", 128<<10)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("saving more than the disk holds: %v", err)
	}
	var got int
	if err := d.Load("ids", &got); err != nil || got != 1 {
		t.Errorf("%v, %d", err, got)
	}
	entries, err := os.ReadDir(disk)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
