package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTranslationsSayTheSame compares what a translation keeps as it is: code, headings by their depth, rows of tables, and where it leads.
func TestTranslationsSayTheSame(t *testing.T) {
	pages, translations := allPages(t), 0
	for name, page := range pages {
		of, is := strings.CutPrefix(name, "docs/zh/")
		if !is {
			continue
		}
		translations++
		if of != "README.md" {
			of = "docs/" + of
		}
		original, ok := pages[of]
		if !ok {
			t.Errorf("%s is a translation of nothing", name)
			continue
		}
		type kept struct {
			Code  []string
			Depth []string
			Rows  int
		}
		keep := func(text string) (k kept) {
			for _, block := range fenced.FindAllString(text, -1) {
				var lines []string // remarks are translated
				for line := range strings.Lines(block) {
					code, _, _ := strings.Cut(line, "# ")
					lines = append(lines, strings.TrimSpace(code))
				}
				k.Code = append(k.Code, strings.Join(lines, "\n"))
			}
			text = fenced.ReplaceAllString(text, "")
			for _, h := range headings.FindAllStringSubmatch(text, -1) {
				k.Depth = append(k.Depth, h[1])
			}
			k.Rows = strings.Count(text, "\n|")
			return k
		}
		if diff := cmp.Diff(keep(original), keep(page)); diff != "" {
			t.Errorf("%s is not what %s is (-original +translation):\n%s", name, of, diff)
		}
	}
	if translations < 4 {
		t.Errorf("%d translations", translations)
	}
}
