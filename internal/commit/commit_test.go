package commit

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/internal/status"
)

// box is a machine with a configuration file, a state directory and a daemon.
type box struct {
	fail func(format string, args ...any)
	dir  string
	boot int
	up   time.Duration

	keeper  *Keeper
	daemon  *Reloader
	force   Config
	unsaved error // of the latest write
}

func (b *box) file() string { return filepath.Join(b.dir, "uplinkd.toml") }

func (b *box) clock() Clock {
	return Clock{Now: func() time.Time { return time.Unix(0, 0) }, Uptime: func() time.Duration { return b.up }, Boot: fmt.Sprint(b.boot)}
}

// text is a configuration whose uplink has this device.
func (b *box) text(device string) string {
	return fmt.Sprintf("[daemon]\nstate_dir = %q\n[[uplink]]\nname = \"fiber\"\ndevice = %q\n", filepath.Join(b.dir, "state"), device)
}

func (b *box) write(text string) {
	if err := os.WriteFile(b.file(), []byte(text), 0o600); err != nil {
		b.fail("%v", err)
	}
}

// start starts the daemon anew, after kill -9 or another end.
func (b *box) start() error {
	k, c, _, err := Start(b.file(), b.clock())
	if err != nil {
		b.keeper, b.daemon = nil, nil
		return err
	}
	adopt := func(c Config) error {
		b.force = c
		b.daemon.Took(c)
		return nil
	}
	b.keeper = k
	b.daemon = &Reloader{Keeper: k, Log: slog.New(slog.DiscardHandler), Lock: new(sync.Mutex), Adopt: adopt, AdoptAnyhow: func(Config) {},
		Store: func(_ string, write func() error) { b.unsaved = write() }, OnEvent: func(status.Event) {}, OnReload: func(bool) {}}
	if err := adopt(c); err != nil {
		return err
	}
	return b.unsaved
}

// reload reads the file again; a wait of 0 asks for no confirmation.
func (b *box) reload(wait time.Duration) error {
	if err := b.daemon.Reload(wait); err != nil {
		return err
	}
	return b.unsaved
}

// pass lets time pass.
func (b *box) pass(d time.Duration) {
	b.up += d
	if c, due := b.daemon.Due(); due {
		b.daemon.takeBack(c)
		if b.unsaved != nil {
			b.fail("%v", b.unsaved)
		}
	}
}

func (b *box) device() string { return b.force.Uplinks[0].Device }

func newBox(t *testing.T) *box {
	b := &box{fail: t.Fatalf, dir: t.TempDir()}
	b.write(b.text("good0"))
	if err := b.start(); err != nil {
		t.Fatal(err)
	}
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheLastGoodConfigurationIsKeptForAStartWithAMistake(t *testing.T) {
	b := &box{fail: t.Fatalf, dir: t.TempDir()}
	for _, step := range []struct {
		name, text string
		device     string // of the configuration in force; "": none can be had
		wrong      bool
	}{
		{"a mistake before anything was good", strings.Replace(b.text("wan1"), "device", "devcie", 1), "", true},
		{"a good one", b.text("wan1"), "wan1", false},
		{"another one", b.text("wan2"), "wan2", false},
		{"a mistake", strings.Replace(b.text("wan3"), "device", "devcie", 1), "wan2", true},
		{"the same after another power cut", b.text("wan3")[:len(b.text("wan3"))-4], "wan2", true},
	} {
		b.write(step.text)
		err := b.start()
		if (err == nil) != (step.device != "") {
			t.Fatalf("%s: %v", step.name, err)
		}
		if err == nil && (b.device() != step.device || (b.force.Failure != nil) != step.wrong) {
			t.Errorf("%s: on %s, %v", step.name, b.device(), b.force.Failure)
		}
	}
}

func TestWhatStandsInThePlaceOfTheFileIsAMistakeToo(t *testing.T) {
	b := newBox(t)
	must(t, os.Remove(b.file()))
	must(t, unix.Mkfifo(b.file(), 0o600))
	if _, err := b.keeper.Read(); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("%v", err)
	}
}

func TestWhatIsNotConfirmedIsTakenBack(t *testing.T) {
	for name, meanwhile := range map[string]func(b *box){
		"nothing":    func(*box) {},
		"kill -9":    func(b *box) { must(t, b.start()) },
		"power cuts": func(b *box) { b.boot++; b.up = 0; must(t, b.start()) },
		"a bad file": func(b *box) {
			b.write(b.text("x") + "nonsense")
			_ = b.reload(0)
		},
		"a bad file and kill -9": func(b *box) {
			b.write(b.text("x") + "nonsense")
			_ = b.start()
		},
		"another reload":                func(b *box) { b.write(b.text("other")); must(t, b.reload(0)) },
		"another file and kill -9":      func(b *box) { b.write(b.text("other")); must(t, b.start()) },
		"another file that is not read": func(b *box) { b.write(b.text("other")) },
		"a shorter wait":                func(b *box) { must(t, b.reload(time.Second)) },
		"a full disk": func(b *box) {
			must(t, os.RemoveAll(filepath.Join(b.dir, "state")))
			must(t, os.WriteFile(filepath.Join(b.dir, "state"), nil, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			b.write(b.text("cut-off"))
			must(t, b.reload(time.Minute))
			if left, waits := b.keeper.Remaining(); b.device() != "cut-off" || left != time.Minute || !waits {
				t.Fatalf("%s, %v, %v", b.device(), left, waits)
			}
			b.fail = func(string, ...any) {} // the disk may be full
			meanwhile(b)
			b.pass(59 * time.Second)
			b.pass(time.Second)
			if b.device() != "good0" || b.force.Failure == nil {
				t.Fatalf("in force: %s, %v", b.device(), b.force.Failure)
			}
			if err := b.keeper.Confirm(); !errors.Is(err, ErrNotWaiting) {
				t.Errorf("confirmed too late: %v", err)
			}
			if name == "a full disk" {
				return
			}
			for range 3 {
				b.boot++
				must(t, b.start())
				if b.device() != "good0" {
					t.Errorf("after a restart: %s", b.device())
				}
			}
			b.write(b.text("good1")) // by hand, and then a start is one as ever
			must(t, b.start())
			if b.device() != "good1" || b.force.Failure != nil {
				t.Errorf("a corrected file: %s, %v", b.device(), b.force.Failure)
			}
		})
	}
}

func TestWhatWasTakenBackIsTakenOverOnlyWithAConfirmation(t *testing.T) {
	b := newBox(t)
	b.write(b.text("cut-off"))
	must(t, b.reload(time.Minute))
	b.pass(time.Minute)
	if err := b.reload(0); !errors.Is(err, ErrTakenBack) || b.device() != "good0" {
		t.Errorf("a program that reloads brings it back: %v, %s", err, b.device())
	}
	must(t, b.reload(time.Minute))
	must(t, b.keeper.Confirm())
	must(t, b.keeper.Save())
	b.pass(time.Hour)
	must(t, b.start())
	if b.device() != "cut-off" || b.force.Failure != nil {
		t.Errorf("%s, %v", b.device(), b.force.Failure)
	}
}

func TestACrashBetweenConfirmationAndItsCleanupIsNoDoubt(t *testing.T) {
	b := newBox(t)
	b.write(b.text("new"))
	must(t, b.reload(time.Minute))
	must(t, b.keeper.Confirm())
	b.boot++ // before Save has removed the other document
	must(t, b.start())
	b.pass(time.Hour)
	if b.device() != "new" || b.force.Failure != nil {
		t.Errorf("%s, %v", b.device(), b.force.Failure)
	}
}

func TestNoPromiseIsGivenThatCannotBeKept(t *testing.T) {
	b := newBox(t)
	must(t, os.RemoveAll(filepath.Join(b.dir, "state")))
	must(t, os.WriteFile(filepath.Join(b.dir, "state"), nil, 0o600))
	b.write(b.text("cut-off"))
	if err := b.reload(time.Minute); err == nil || b.device() != "good0" {
		t.Errorf("%v, %s", err, b.device())
	}
	if _, waits := b.keeper.Remaining(); waits {
		t.Error("it waits")
	}
}

func TestADocumentThatCannotBeReadMayHaveHeldWhatWaits(t *testing.T) {
	b := newBox(t)
	b.write(b.text("cut-off"))
	must(t, b.reload(time.Minute))
	must(t, os.WriteFile(filepath.Join(b.dir, "state", "unconfirmed.json"), []byte("{"), 0o600))
	must(t, b.start())
	if b.device() != "good0" {
		t.Errorf("%s", b.device())
	}
	// With the file as it was before, there is no doubt.
	must(t, os.WriteFile(filepath.Join(b.dir, "state", "unconfirmed.json"), []byte("{"), 0o600))
	b.write(b.text("good0"))
	must(t, b.start())
	if b.device() != "good0" || b.force.Failure != nil {
		t.Errorf("%s, %v", b.device(), b.force.Failure)
	}
}

// Whatever happens in whatever order, what is in force was good, or waits and has time left.
func TestNothingUnconfirmedStays(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil { // disks take their time
		t.Fatalf("mounting memory: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		b := &box{fail: t.Fatalf, dir: filepath.Join(dir, fmt.Sprint(runs))}
		if err := os.Mkdir(b.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		b.write(b.text("d0"))
		if err := b.start(); err != nil {
			t.Fatal(err)
		}
		good := map[string]bool{"d0": true} // taken over without a wait, or confirmed
		var until time.Duration             // 0: nothing waits
		written := "d0"
		t.Repeat(map[string]func(*rapid.T){
			"edit": func(t *rapid.T) {
				written = rapid.SampledFrom([]string{"d0", "d1", "d2", "d3", ""}).Draw(t, "device")
				b.write(strings.Replace(b.text(written), `device = ""`, "nonsense", 1))
			},
			"reload": func(*rapid.T) {
				if b.reload(0) == nil && until == 0 {
					good[written] = true
				}
			},
			"reload --confirm": func(t *rapid.T) {
				wait := time.Duration(rapid.IntRange(1, 100).Draw(t, "wait")) * time.Second
				if b.reload(wait) == nil {
					until = b.up + wait
				}
			},
			"confirm": func(t *rapid.T) {
				if err := b.keeper.Confirm(); err == nil {
					if until == 0 || b.up >= until {
						t.Fatal("there was nothing to confirm")
					}
					good[b.device()], until = true, 0
					if rapid.Bool().Draw(t, "cleaned up") {
						_ = b.keeper.Save()
					}
				}
			},
			"time": func(t *rapid.T) {
				b.pass(time.Duration(rapid.IntRange(1, 60).Draw(t, "seconds")) * time.Second)
			},
			"kill": func(t *rapid.T) {
				b.up += time.Duration(rapid.IntRange(0, 30).Draw(t, "seconds")) * time.Second
				if err := b.start(); err != nil {
					t.Fatal(err)
				}
			},
			"power cut": func(t *rapid.T) {
				b.boot, b.up, until = b.boot+1, time.Duration(rapid.IntRange(0, 300).Draw(t, "uptime"))*time.Second, 0
				if err := b.start(); err != nil {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				if _, waits := b.keeper.Remaining(); !waits {
					if until = 0; b.force.Failure == nil { // an edited file that a start has taken over
						good[b.device()] = true
					}
				}
				if now := b.device(); until != 0 && b.up < until {
					return
				} else if !good[now] {
					t.Fatalf("%s is in force, good are %v", now, good)
				}
			},
		})
	})
}

// What is in force, why not the file's, and until when, is in the status.
func TestTheStatusTellsOfTheConfiguration(t *testing.T) {
	b := newBox(t)
	told := func(when, loaded string, codes ...string) {
		t.Helper()
		s, problems := b.daemon.Status(time.Unix(0, 0))
		var got []string
		for _, p := range problems {
			got = append(got, p.Code)
		}
		if b.device() != loaded || !slices.Equal(got, codes) || (s.Error != "") != slices.Contains(codes, "config") || s.ConfirmUntil.IsZero() == slices.Contains(codes, "config-unconfirmed") {
			t.Errorf("%s: %s is in force, %q, %+v", when, b.device(), got, s)
		}
	}
	told("at the start", "good0")
	b.write("nonsense")
	if b.reload(0) == nil {
		t.Error("nonsense is taken over")
	}
	told("a mistake", "good0", "config")
	b.write(b.text("cut-off"))
	must(t, b.reload(time.Minute))
	told("it waits", "cut-off", "config-unconfirmed")
	b.pass(time.Minute)
	told("it is taken back", "good0", "config")
	if _, problems := b.daemon.Status(time.Unix(0, 0)); !strings.Contains(problems[0].Fix, "uplinkd confirm") {
		t.Errorf("%+v", problems)
	}
	must(t, b.reload(time.Minute))
	must(t, b.daemon.Confirm())
	told("it is confirmed", "cut-off")
	b.write(strings.Replace(b.text("cut-off"), "[daemon]\n", "[daemon]\nlisten = \"\"\n", 1))
	if err := b.reload(0); err == nil || !strings.Contains(err.Error(), "need a restart") {
		t.Errorf("%v", err)
	}
	told("it needs a restart", "cut-off", "config")
}
