package store_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/store"
)

// inPlace is what may stand where a file should be.
var inPlace = map[string]func(t *testing.T, file string){
	"a directory":              func(t *testing.T, file string) { must(t, os.Mkdir(file, 0o700)) },
	"a directory that is full": func(t *testing.T, file string) { must(t, os.MkdirAll(filepath.Join(file, "x"), 0o700)) },
	"a FIFO":                   func(t *testing.T, file string) { must(t, unix.Mkfifo(file, 0o600)) },
	"a socket": func(t *testing.T, file string) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: file, Net: "unix"})
		must(t, err)
		l.SetUnlinkOnClose(false)
		must(t, l.Close())
	},
	"a symbolic link to itself": func(t *testing.T, file string) { must(t, os.Symlink(filepath.Base(file), file)) },
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWhatStandsInTheWayOfADocumentIsMovedAside(t *testing.T) {
	for name, make := range inPlace {
		for when, loads := range map[string]bool{"before the start": true, "later": false} {
			t.Run(name+" "+when, func(t *testing.T) {
				d := open(t)
				must(t, d.Save("other", 1))
				for range 3 { // the former damaged ones stay where they are, or give way
					_ = os.Remove(d.Path("ids"))
					make(t, d.Path("ids"))
					var got map[string]int
					if loads {
						if err := d.Load("ids", &got); !errors.Is(err, store.ErrDamaged) || got != nil {
							t.Errorf("%v, %v", err, got)
						}
					}
					must(t, d.Save("ids", map[string]int{"fiber": 1}))
					if err := d.Load("ids", &got); err != nil || got["fiber"] != 1 {
						t.Errorf("%v, %v", err, got)
					}
				}
			})
			t.Run(name+" in the place of a log "+when, func(t *testing.T) {
				dir := t.TempDir()
				file := filepath.Join(dir, "events.log")
				log := store.Open(dir).Log("events", 64)
				make(t, file)
				if loads {
					make(t, file+".1")
					var held []int
					if log, held, _ = numbers(t, dir); held != nil {
						t.Errorf("%v", held)
					}
				}
				for n := range 20 {
					must(t, log.Append(10+n))
				}
				if _, held, err := numbers(t, dir); err != nil || len(held) < 8 {
					t.Errorf("%v, %v", held, err)
				}
			})
		}
	}
}

func TestADirectoryIsMadeWhenItCanBe(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	must(t, os.WriteFile(dir, nil, 0o600))
	d := store.Open(dir)
	got := 7
	if err := d.Load("ids", &got); err != nil || got != 7 {
		t.Errorf("%v, %d", err, got)
	}
	if err := d.Save("ids", 1); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("saving below a file: %v", err)
	}
	if err := d.Log("events", 64).Append(1); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("appending below a file: %v", err)
	}
	must(t, os.Remove(dir))
	must(t, d.Save("ids", 2))
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestWhatWasTakenAwayIsWrittenAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	must(t, store.Open(dir).Save("loaded", 1))
	d := store.Open(dir)
	var got int
	must(t, d.Load("loaded", &got))
	must(t, d.Save("saved", 2))
	must(t, d.Save("removed", 3))
	must(t, d.Remove("removed"))
	if names, err := d.Restore(); err != nil || names != nil {
		t.Errorf("while all is there: %v, %v", names, err)
	}
	must(t, os.RemoveAll(dir))
	if names, err := d.Restore(); err != nil || !slices.Equal(names, []string{"loaded", "saved"}) {
		t.Errorf("%v, %v", names, err)
	}
	for name, want := range map[string]int{"loaded": 1, "saved": 2, "removed": 0} {
		got = 0
		if err := store.Open(dir).Load(name, &got); err != nil || got != want {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
}

func TestALogThatWasTakenAwayBeginsAnew(t *testing.T) {
	dir := t.TempDir()
	log, _, _ := numbers(t, dir)
	must(t, log.Append(1, 2, 3))
	must(t, os.Truncate(filepath.Join(dir, "events.log"), 1))
	if !log.Gone() || log.Gone() {
		t.Error("it does not tell, or tells for ever")
	}
	must(t, log.Append(4))
	must(t, os.Remove(filepath.Join(dir, "events.log")))
	must(t, log.Append(5))
	if _, held, err := numbers(t, dir); err != nil || !slices.Equal(held, []int{5}) {
		t.Errorf("%v, %v", held, err)
	}
}

func TestWhatAPowerCutHasLeftIsSwept(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"ids.json.new-1234", "leases4.json.new-99", "ids.json", "mine.new-1"} {
		write(t, filepath.Join(dir, name), "{}")
	}
	store.View(dir)
	if left, _ := filepath.Glob(filepath.Join(dir, "*.new-*")); len(left) != 3 {
		t.Errorf("looking changed something: %v", left)
	}
	store.Open(dir)
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 2 {
		t.Errorf("%v", left)
	}
}

func TestAFileThatIsHalfRightLeavesNoHalf(t *testing.T) {
	d := open(t)
	write(t, d.Path("ids"), `{"fiber": 2, "lte": "x"}`)
	got := map[string]int{"kept": 1}
	if err := d.Load("ids", &got); !errors.Is(err, store.ErrDamaged) || len(got) != 1 {
		t.Errorf("%v, %v", err, got)
	}
}
