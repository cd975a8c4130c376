package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/api"
)

const howto = "../../docs/howto"

var (
	// fenced finds the code blocks of a page: what their fence says, and what is in them.
	fenced = regexp.MustCompile("(?ms)^ *```([a-z]*)\n(.*?)^ *```$")
	// testNames finds what a page names as a test, testFunctions those of a file.
	testNames     = regexp.MustCompile(`\bTest[A-Z]\w+`)
	testFunctions = regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	separators    = regexp.MustCompile(`\s*(?:\|\|?|&&|;)\s*`)
	redirections  = regexp.MustCompile(`\s\d?>>?\s*\S+`)
)

// howtoPages are the pages by name, without the index.
func howtoPages(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(howto, "*.md"))
	if err != nil || len(files) < 10 {
		t.Fatalf("%q, %v", files, err)
	}
	pages := make(map[string]string)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if name := filepath.Base(file); name != "README.md" {
			pages[name] = string(text)
		}
	}
	return pages
}

// blocks are the code blocks of a page whose fence says kind.
func blocks(page, kind string) (found []string) {
	for _, block := range fenced.FindAllStringSubmatch(page, -1) {
		if block[1] == kind {
			found = append(found, block[2])
		}
	}
	return found
}

// TestHowtoConfigurationsPassCheck gives every configuration of the pages to "uplinkd check".
func TestHowtoConfigurationsPassCheck(t *testing.T) {
	for name, page := range howtoPages(t) {
		configurations := blocks(page, "toml")
		if len(configurations) == 0 {
			t.Errorf("%s has no configuration", name)
		}
		for i, text := range configurations {
			file := filepath.Join(t.TempDir(), fmt.Sprintf("%s-%d.toml", strings.TrimSuffix(name, ".md"), i+1))
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			var errs strings.Builder
			if code := run(context.Background(), []string{"check", "-c", file}, streams{strings.NewReader(""), io.Discard, &errs}); code != exitOK {
				t.Errorf("%s, configuration %d: exit code %d\n%s", name, i+1, code, errs.String())
			}
		}
	}
}

// TestCommandsOfThePagesAreThoseOfTheProgram parses every call of uplinkd in all pages as the program would, and runs none.
func TestCommandsOfThePagesAreThoseOfTheProgram(t *testing.T) {
	for name, page := range allPages(t) {
		calls := 0
		for _, block := range blocks(page, "sh") {
			for line := range strings.Lines(block) {
				line, _, _ = strings.Cut(line, " #")
				for _, part := range separators.Split(strings.TrimSpace(redirections.ReplaceAllString(line, "")), -1) {
					words := strings.Fields(strings.TrimPrefix(part, "sudo "))
					if len(words) == 0 || words[0] != "uplinkd" {
						continue
					}
					calls++
					if err := parseCall(words[1:]); err != nil {
						t.Errorf("%s: %s: %v", name, part, err)
					}
				}
			}
		}
		if calls == 0 && strings.HasPrefix(name, "docs/howto/") && name != "docs/howto/README.md" {
			t.Errorf("%s says nothing to check: no call of uplinkd", name)
		}
	}
}

// parseCall parses what follows "uplinkd" on a command line.
func parseCall(args []string) error {
	if len(args) == 0 {
		return errors.New("no command")
	}
	all := commands()
	i := slices.IndexFunc(all, func(c command) bool { return c.name == args[0] })
	if i < 0 {
		return fmt.Errorf("there is no command %q", args[0])
	}
	set, _ := all[i].options()
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	if _, err := all[i].parse(set, args[1:]); err != nil {
		return err
	}
	if all[i].name != "explain" {
		return nil
	}
	packet := make(url.Values)
	set.Visit(func(f *flag.Flag) {
		if !slices.Contains([]string{"c", "socket", "json", "all"}, f.Name) {
			packet.Set(f.Name, f.Value.String())
		}
	})
	_, err := api.ParsePacket(packet)
	return err
}

func TestHowtoCallsWithMistakesAreFound(t *testing.T) {
	for _, call := range []string{
		"", "explane --to 192.0.2.1", "status --wach", "status now", "drain", "drain fiber lte", "explain",
		"explain --to router.lan", "explain --to 192.0.2.1 --proto tpc", "explain --dport",
	} {
		if parseCall(strings.Fields(call)) == nil {
			t.Errorf("uplinkd %s: no mistake was found", call)
		}
	}
}

// TestHowtoIndexNamesEveryPageAndTestsThatExist checks the table of situations.
func TestHowtoIndexNamesEveryPageAndTestsThatExist(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(howto, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	index, pages := string(text), howtoPages(t)
	for name := range pages {
		if !strings.Contains(index, "]("+name+")") {
			t.Errorf("README.md does not lead to %s", name)
		}
	}

	exist := make(map[string]bool)
	err = filepath.WalkDir("../..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, function := range testFunctions.FindAllStringSubmatch(string(source), -1) {
			exist[function[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(index) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| ---") || strings.HasPrefix(line, "| situation ") {
			continue
		}
		rows++
		names := testNames.FindAllString(line, -1)
		if len(names) == 0 {
			t.Errorf("no test shows this: %s", line)
		}
		for _, name := range names {
			if !exist[name] {
				t.Errorf("README.md names %s, which does not exist", name)
			}
		}
	}
	if rows < len(pages) {
		t.Errorf("README.md has %d situations for %d pages", rows, len(pages))
	}

}
