package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// regexpOverstrike finds what terminals of paper make bold.
var regexpOverstrike = regexp.MustCompile(".\x08")

// printed is what a command of the program prints.
func printed(t *testing.T, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run(context.Background(), args, streams{strings.NewReader(""), &out, &errs}); code != exitOK {
		t.Fatalf("uplinkd %v: exit code %d: %s", args, code, errs.String())
	}
	return out.String()
}

// asked runs a script of a shell with the completion in a file $1.
func asked(t *testing.T, shell, script string, args ...string) []string {
	t.Helper()
	tool, err := exec.LookPath(shell)
	if err != nil {
		t.Fatalf("the Debian package %s is needed: run make deps", shell)
	}
	file := filepath.Join(t.TempDir(), "completion")
	if err := os.WriteFile(file, []byte(printed(t, "completion", shell)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool, append([]string{"-c", script, shell, file}, args...)...)
	if shell == "fish" { // its arguments begin behind the script
		cmd = exec.Command(tool, append([]string{"-c", script, file}, args...)...)
	}
	// An uplinkd that knows two uplinks.
	bin := t.TempDir()
	fake := "#!/bin/sh\ncat <<'END'\n{\n  \"uplinks\": [\n    {\n      \"name\": \"fiber\",\n      \"ipv4\": {\n        \"name\": \"none\",\n    {\n      \"name\": \"lte\",\nEND\n"
	if err := os.WriteFile(filepath.Join(bin, "uplinkd"), []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(lines)
	return lines
}

func TestShellsComplete(t *testing.T) {
	const bash = `. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _uplinkd; printf '%s\n' "${COMPREPLY[@]}"`
	const fish = `source $argv[1]; complete -C (string join ' ' -- $argv[2..]) | string replace -r '\t.*' ''; true`
	for _, c := range []struct {
		words []string
		want  []string
	}{
		{[]string{"uplinkd", "st"}, []string{"status"}},
		{[]string{"uplinkd", "d"}, []string{"doctor", "drain"}},
		{[]string{"uplinkd", "status", "--w"}, []string{"--watch"}},
		{[]string{"uplinkd", "explain", "--dp"}, []string{"--dport"}},
		{[]string{"uplinkd", "drain", "f"}, []string{"fiber"}},
		{[]string{"uplinkd", "undrain", ""}, []string{"fiber", "lte"}},
		{[]string{"uplinkd", "completion", "z"}, []string{"zsh"}},
		{[]string{"uplinkd", "lab", "he"}, []string{"heal"}},
	} {
		for shell, script := range map[string]string{"bash": bash, "fish": fish} {
			got := slices.DeleteFunc(asked(t, shell, script, c.words...), func(s string) bool { return s == "--socket" || s == "-s" })
			if !slices.Equal(got, c.want) {
				t.Errorf("%s completes %q with %q, want %q", shell, c.words, got, c.want)
			}
		}
	}
	// Of zsh's own machinery only the functions are stood in for that are given the choices.
	const zsh = `compdef() {}; _describe() { print -l -- ${(P)2} }; _arguments() { print -l -- "$@" }; f=$1; shift; words=("$@"); CURRENT=$#words; source $f`
	if got := asked(t, "zsh", zsh, "uplinkd", "st"); !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "status:") }) {
		t.Errorf("zsh completes commands with %q", got)
	}
	if got := asked(t, "zsh", zsh, "uplinkd", "status", "--w"); !slices.Contains(got, "--watch[show it anew every second]") {
		t.Errorf("zsh completes options with %q", got)
	}
	if got := asked(t, "zsh", zsh, "uplinkd", "drain", ""); !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "1:uplink:(fiber") }) {
		t.Errorf("zsh completes uplinks with %q", got)
	}
}

func TestTheManualNamesEveryCommandAndOption(t *testing.T) {
	tool, err := exec.LookPath("man")
	if err != nil {
		t.Fatal("the Debian package man-db is needed: run make deps")
	}
	page := filepath.Join(t.TempDir(), "uplinkd.8")
	if err := os.WriteFile(page, []byte(printed(t, "man")), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool, "--warnings=all", "-Tascii", "-l", page)
	cmd.Env = append(os.Environ(), "MANWIDTH=2000", "LC_ALL=C")
	var text, warnings bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &warnings
	if err := cmd.Run(); err != nil || warnings.Len() > 0 {
		t.Fatalf("%v\n%s", err, warnings.String())
	}
	plain := regexpOverstrike.ReplaceAllString(text.String(), "")
	for _, w := range commandsWithOptions(commands()) {
		if !strings.Contains(plain, "uplinkd "+w.name) {
			t.Errorf("it does not name %s", w.name)
		}
		for _, f := range w.options {
			if !strings.Contains(plain, dashes(f.Name)) {
				t.Errorf("it does not name %s of %s", dashes(f.Name), w.name)
			}
		}
	}
}

func TestTheStarterConfigurationPassesCheckOnARouter(t *testing.T) {
	r := newRouter(t, lab.Options{}, "")
	text := r.command("init")
	file := filepath.Join(r.dir, "proposed.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := r.command("check", "-c", file); !strings.Contains(out, "fine, 2 uplinks") {
		t.Errorf("check says %q of\n%s", out, text)
	}
	if !strings.Contains(text, "# wan1: 198.51.100.2/26; 2001:db8:a::2/64; ipv4 default via 198.51.100.1, metric 100 (DHCP)") {
		t.Errorf("it says\n%s", text)
	}
}

// lines collects what is written, for a reader beside it.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) has(words string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !strings.Contains(l.text.String(), words) {
		return fmt.Errorf("it shows %q", l.text.String())
	}
	return nil
}

func TestAWatchOutlivesARestartAndIsWithoutColourInAFile(t *testing.T) {
	r := newRouter(t, lab.Options{}, dualWAN)
	r.start()
	ctx, cancel := context.WithCancel(t.Context())
	var out, errs lines
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"status", "--watch", "--socket", filepath.Join(r.dir, "s")}, streams{strings.NewReader(""), &out, &errs})
	}()
	r.await("the first picture", func() error { return out.has("fiber") })
	if out.has("\x1b[32m") == nil {
		t.Error("it is coloured, and this is no terminal")
	}
	r.stop()
	r.await("word of the end", func() error { return out.has("is it running?") })
	r.start()
	r.await("a picture of the new daemon", func() error { return out.has("running for 0s") })
	cancel()
	if code := <-ended; code != exitOK {
		t.Errorf("exit code %d, %v", code, errs.has("nothing"))
	}
}
