package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// TestScripts runs the command line as people and scripts do. Beside the commands of package testscript
// there is "exits N COMMAND...", which wants that very exit code.
func TestScripts(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Scripts that look at the kernel see a router, not the empty namespace of the tests.
	w, err := lab.New(t.Context(), lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	bin := t.TempDir()
	if err := os.Symlink(self, filepath.Join(bin, "uplinkd")); err != nil {
		t.Fatal(err)
	}
	err = w.Host("router").Do(func() error { // every process that the scripts start is on the router
		testscript.RunT(scriptT{t}, testscript.Params{
			Dir:         "testdata/script",
			WorkdirRoot: "/run", // a short path: a socket's name has 107 bytes
			Setup: func(env *testscript.Env) error {
				env.Setenv(actAsProgram, "1")
				env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH")+":/usr/sbin:/sbin")
				return nil
			},
			Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
		})
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// scriptT runs the scripts one after the other, on the test's own thread: that is in the router's namespace.
type scriptT struct{ *testing.T }

func (t scriptT) Parallel()     {}
func (t scriptT) Verbose() bool { return testing.Verbose() }
func (t scriptT) Run(name string, script func(testscript.T)) {
	t.Logf("script %s", name)
	script(t)
}

func exits(ts *testscript.TestScript, negated bool, args []string) {
	if negated || len(args) < 2 {
		ts.Fatalf("usage: exits N COMMAND [ARGUMENT...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var failed *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &failed) {
		got = failed.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}
