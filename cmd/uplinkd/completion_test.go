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

	"github.com/uplinkd/uplinkd/docs"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
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
	if got := asked(t, "zsh", zsh, "uplinkd", "status", "--w"); !slices.Contains(got, "--watch[refresh every second]") {
		t.Errorf("zsh completes options with %q", got)
	}
	if got := asked(t, "zsh", zsh, "uplinkd", "drain", ""); !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "1:uplink:(fiber") }) {
		t.Errorf("zsh completes uplinks with %q", got)
	}
}

// formatted is a manual page as readers see it, in one line a paragraph. A warning of troff fails the test.
func formatted(t *testing.T, args ...string) string {
	t.Helper()
	tool, err := exec.LookPath("man")
	if err != nil {
		t.Fatal("the Debian package man-db is needed: run make deps")
	}
	page := filepath.Join(t.TempDir(), "page")
	if err := os.WriteFile(page, []byte(printed(t, args...)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool, "--warnings=all", "-Tascii", "-l", page)
	cmd.Env = append(os.Environ(), "MANWIDTH=2000", "LC_ALL=C")
	var text, warnings bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &warnings
	if err := cmd.Run(); err != nil || warnings.Len() > 0 {
		t.Fatalf("%v\n%s", err, warnings.String())
	}
	return regexpOverstrike.ReplaceAllString(text.String(), "")
}

func TestTheManualNamesEveryCommandAndOption(t *testing.T) {
	plain := formatted(t, "man")
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

// TestTheDocumentationHasEveryKeyAndNoOther compares its tables, which uplinkd.toml(5) is made from, with what check goes by.
func TestTheDocumentationHasEveryKeyAndNoOther(t *testing.T) {
	documented := make(map[string][]string) // keys by section
	for _, page := range []string{docs.Configuration, docs.Policies, docs.Tunnels, docs.Notify} {
		for _, s := range markdownSections(page) {
			for _, table := range s.keyTables() {
				for _, title := range table.titles {
					for _, row := range table.rows {
						documented[title] = append(documented[title], row.keys...)
					}
				}
			}
		}
	}
	documented["peers"] = documented["[uplink.wireguard]"] // one table for both
	known := make(map[string]bool)
	for _, s := range config.Sections() {
		for _, k := range s.Keys {
			known[s.Title+k.Name] = true
			if !slices.Contains(documented[s.Title], k.Name) {
				t.Errorf("no table of docs/ has the key %s of %s", k.Name, s.Title)
			}
			if s.Title == "peers" {
				known["[uplink.wireguard]"+k.Name] = true
			}
		}
	}
	// These tables say which family, kind or list a key is for.
	shared := map[string][]string{
		"[uplink.ipv4]":   {"[uplink.ipv6]"},
		"[uplink.gretap]": {"[uplink.vxlan]", "[uplink.sit]"},
		"peers":           {"[uplink.wireguard]"},
	}
	for title, keys := range documented {
		for _, key := range keys {
			ok := known[title+key]
			for first, others := range shared {
				all := append([]string{first}, others...)
				if slices.Contains(all, title) {
					ok = ok || slices.ContainsFunc(all, func(other string) bool { return known[other+key] })
				}
			}
			if !ok {
				t.Errorf("docs/ has a key %s of %s that check does not know", key, title)
			}
		}
	}
	plain := strings.Join(strings.Fields(formatted(t, "man", "--config")), " ")
	for _, want := range []string{" tier (1 to 255; default: 1) ", "failback (\"after-stable\", \"immediate\", \"immediate-all\", \"new-flows-only\" or \"manual\"; default", " [[lan]] ", "allowed_ips (", "on_failure (", "secret_file ("} {
		if !strings.Contains(plain, want) {
			t.Errorf("uplinkd.toml(5) lacks %q", want)
		}
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

func TestEventsAreFollowedAfterTheLastOnes(t *testing.T) {
	r := newRouter(t, lab.Options{}, dualWAN)
	r.start()
	r.awaitState("lte", uplink.Up)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errs lines
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"events", "--follow", "-n", "1", "--json", "--socket", filepath.Join(r.dir, "s")}, streams{strings.NewReader(""), &out, &errs})
	}()
	r.await("the last event", func() error { return out.has(`{"id":`) })
	if out.has(`"kind":"start"`) == nil {
		t.Error("it begins with the first event")
	}
	r.command("drain", "--socket", filepath.Join(r.dir, "s"), "lte")
	r.await("the new event", func() error { return out.has(`"kind":"drain","uplink":"lte"`) })
	cancel()
	if code := <-ended; code != exitOK {
		t.Errorf("exit code %d: %s", code, errs.text.String())
	}
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
