package main

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	// linked finds the links of a page to other files here, the part behind #, and pictures.
	linked   = regexp.MustCompile(`\]\(([^)#:]*)(?:#([^)]*))?\)`)
	headings = regexp.MustCompile(`(?m)^(#+) +(.*)$`)
	// anchored is what is left out of a heading that a link leads to.
	anchored = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// allPages are all pages for users, by their path in the repository.
func allPages(t *testing.T) map[string]string {
	t.Helper()
	const root = "../.."
	pages := make(map[string]string)
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(root, file)
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && !strings.HasPrefix(name, "docs") && !strings.HasPrefix(name, "packaging") && name != "examples":
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(file) != ".md":
			return nil
		}
		text, err := os.ReadFile(file)
		pages[filepath.ToSlash(name)] = string(text)
		return err
	})
	if err != nil || len(pages) < 40 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	return pages
}

// anchors are what links into a page may name, as GitHub makes them of its headings.
func anchors(page string) map[string]bool {
	found := make(map[string]bool)
	for _, h := range headings.FindAllStringSubmatch(fenced.ReplaceAllString(page, ""), -1) {
		found[strings.ReplaceAll(anchored.ReplaceAllString(strings.ToLower(h[2]), ""), " ", "-")] = true
	}
	return found
}

func TestLinksOfThePagesLeadSomewhere(t *testing.T) {
	pages := allPages(t)
	for name, page := range pages {
		for _, link := range linked.FindAllStringSubmatch(fenced.ReplaceAllString(page, ""), -1) {
			to := name
			if link[1] != "" {
				to = path.Join(path.Dir(name), link[1])
			}
			if _, err := os.Stat(filepath.Join("../..", to)); err != nil {
				t.Errorf("%s leads to a file that does not exist: %v", name, err)
				continue
			}
			if text, known := pages[to]; known && link[2] != "" && !anchors(text)[link[2]] {
				t.Errorf("%s leads to #%s, which %s does not have", name, link[2], to)
			}
		}
	}
}
