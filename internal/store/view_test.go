package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/store"
)

func TestAViewChangesNothing(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	got := map[string]int{"before": 1}
	if err := store.View(missing).Load("ids", &got); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("looking made the directory")
	}
	v := store.View(dir)
	if err := os.WriteFile(v.Path("ids"), []byte(`{"fiber":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := v.Load("ids", &got); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(v.Path("ids")); err != nil {
		t.Errorf("the damaged document is gone: %v", err)
	}
	if len(got) != 1 {
		t.Errorf("%v", got)
	}
}

func TestADocumentThatIsNullLeavesTheValue(t *testing.T) {
	d := open(t)
	if err := os.WriteFile(d.Path("ids"), []byte("null\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	if err := d.Load("ids", &got); err != nil || got == nil {
		t.Errorf("%v, %v", got, err)
	}
}

func TestADamagedDocumentOnAReadOnlyDiskIsStillDamaged(t *testing.T) {
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatalf("mounting a disk: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	d := store.Open(disk)
	if err := os.WriteFile(d.Path("ids"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	var got map[string]int
	if err := d.Load("ids", &got); !errors.Is(err, store.ErrDamaged) || !errors.Is(err, unix.EROFS) {
		t.Errorf("%v", err)
	}
}
