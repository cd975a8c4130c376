//go:build vm

package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestEveryEndOfTheGuestIsTold boots guests on this machine: it runs here, and not in one.
func TestEveryEndOfTheGuestIsTold(t *testing.T) {
	program := filepath.Join(t.TempDir(), "vmexec")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, tt := range []struct {
		name, script string
		code         int
		out, errs    string
	}{
		{"success, on the kernel of the package, with nothing that leads out",
			"uname -v; pwd; ip -o link | wc -l; echo changed > main.go && cat main.go", 0, "Debian", ""},
		{"the code of a program that fails", "echo before; exit 7", 7, "before\n", ""},
		{"a signal", "kill -9 $$", 125, "", "signal killed"},
		{"a crash of the kernel", "echo c > /proc/sysrq-trigger", 125, "", "sysrq triggered crash"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			told := false
			for tries := 3; tries > 0 && !told; tries-- { // the last words on a console may go down with the machine
				var out, errs bytes.Buffer
				cmd := exec.Command(program, "sh", "-c", tt.script)
				cmd.Stdout, cmd.Stderr = &out, &errs
				_ = cmd.Run() // the code says it
				if got := cmd.ProcessState.ExitCode(); got != tt.code {
					t.Fatalf("code %d, want %d: %s", got, tt.code, &errs)
				}
				told = strings.Contains(out.String(), tt.out) && strings.Contains(errs.String(), tt.errs)
				if !told {
					t.Logf("it wrote %q, and of the guest: %q", out.String(), errs.String())
				}
			}
			if !told {
				t.Error("not told in three tries")
			}
		})
	}
}
