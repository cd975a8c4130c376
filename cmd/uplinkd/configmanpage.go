package main

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/docs"
	"github.com/uplinkd/uplinkd/internal/config"
)

// configManPage writes uplinkd.toml(5): what a key does is what the documentation says, and what it takes is what
// the program itself goes by.
func configManPage(w io.Writer) {
	fmt.Fprintf(w, ".TH UPLINKD.TOML 5 \"\" \"uplinkd %s\" \"File Formats\"\n.nh\n.ad l\n.SH NAME\nuplinkd.toml \\- configuration of uplinkd\n"+
		".SH SYNOPSIS\n.I %s\n.SH DESCRIPTION\n", roff(version()), roff(defaultConfigFile))
	for i, page := range []string{docs.Configuration, docs.Policies, docs.Tunnels, docs.Notify} {
		for _, s := range markdownSections(page) {
			if i == 0 || len(s.keyTables()) > 0 {
				s.write(w)
			}
		}
	}
	io.WriteString(w, ".SH FILES\n.TP\n.I "+roff(defaultConfigFile)+"\nThe configuration.\n.SH SEE ALSO\n.BR uplinkd (8)\n")
}

// markdownSection is a heading with what follows it, in blocks: each is some lines without an empty one between them.
type markdownSection struct {
	level   int // how many # there were
	heading string
	blocks  [][]string
}

// markdownSections takes a page apart. What stands for examples, between fences, is one block.
func markdownSections(page string) (list []markdownSection) {
	var s markdownSection
	var block []string
	end := func() {
		if len(block) > 0 {
			s.blocks = append(s.blocks, block)
		}
		block = nil
	}
	fenced := false
	for line := range strings.Lines(page) {
		line = strings.TrimRight(line, "\n")
		switch title := strings.TrimLeft(line, "#"); {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
			if fenced {
				end()
			}
			block = append(block, line)
		case fenced:
			block = append(block, line)
		case len(title) < len(line):
			end()
			list = append(list, s)
			s = markdownSection{level: len(line) - len(title), heading: strings.TrimSpace(title)}
		case strings.TrimSpace(line) == "":
			end()
		default:
			block = append(block, line)
		}
	}
	end()
	return append(list, s)[1:]
}

// keyTable is a table of keys, and the sections of the file that they are for.
type keyTable struct {
	titles []string
	rows   []keyRow
}

// keyRow is a row: several keys may share one.
type keyRow struct {
	keys        []string
	byDefault   string
	description string
}

var (
	sectionTitle = regexp.MustCompile(`\[+[a-z][a-z0-9_.]*\]+`)
	codeSpan     = regexp.MustCompile("`([^`]*)`")
)

// keyTables returns the tables of keys. Their first column is headed "key", or with the sections that they are for.
func (s *markdownSection) keyTables() (list []keyTable) {
	for _, b := range s.blocks {
		if t, ok := s.keyTable(b); ok {
			list = append(list, t)
		}
	}
	return list
}

func (s *markdownSection) keyTable(block []string) (keyTable, bool) {
	head := cells(block[0])
	if len(head) < 2 || len(block) < 3 || head[len(head)-1] != "is" {
		return keyTable{}, false
	}
	t := keyTable{titles: sectionTitle.FindAllString(head[0], -1)}
	if len(t.titles) == 0 {
		t.titles = sectionTitle.FindAllString(s.heading, -1)
	}
	for _, line := range block[2:] {
		c := cells(line)
		row := keyRow{description: c[len(c)-1]}
		if len(head) == 3 {
			row.byDefault = c[1]
		}
		for _, m := range codeSpan.FindAllStringSubmatch(c[0], -1) {
			row.keys = append(row.keys, m[1])
		}
		t.rows = append(t.rows, row)
	}
	return t, len(t.titles) > 0
}

// cells splits a row of a table. None of ours has a bar within a cell.
func cells(line string) []string {
	c := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
	for i := range c {
		c[i] = strings.TrimSpace(c[i])
	}
	return c
}

// write prints the section. A page's first heading needs none here.
func (s *markdownSection) write(w io.Writer) {
	macro := ".SH "
	if s.level > 2 {
		macro = ".SS "
	}
	if s.level > 1 || len(s.keyTables()) > 0 {
		fmt.Fprintf(w, "%s%s\n", macro, prose(s.heading))
	}
	for _, b := range s.blocks {
		if t, ok := s.keyTable(b); ok {
			t.write(w)
			continue
		}
		switch {
		case strings.HasPrefix(b[0], "```"):
			fmt.Fprintf(w, ".PP\n.RS 4\n.EX\n")
			for _, line := range b[1 : len(b)-1] {
				fmt.Fprintln(w, roff(line))
			}
			fmt.Fprint(w, ".EE\n.RE\n")
		case strings.HasPrefix(b[0], "| "):
			for _, line := range b[2:] {
				c := cells(line)
				fmt.Fprintf(w, ".TP\n%s\n%s\n", prose(c[0]), prose(strings.Join(c[1:], "; ")))
			}
		default:
			fmt.Fprintf(w, ".PP\n")
			for _, line := range b {
				if item, ok := strings.CutPrefix(line, "* "); ok {
					fmt.Fprintf(w, ".IP \\(bu 2\n%s\n", prose(item))
					continue
				}
				fmt.Fprintln(w, prose(strings.TrimSpace(line)))
			}
		}
	}
}

func (t *keyTable) write(w io.Writer) {
	for _, row := range t.rows {
		fmt.Fprintf(w, ".TP\n\\fB%s\\fR\n", roff(strings.Join(row.keys, ", ")))
		var says []string
		if takes := t.takes(row.keys); len(takes) > 0 {
			says = append(says, roff(strings.Join(takes, "; ")))
		}
		switch row.byDefault {
		case "":
		case "required", "*required*":
			says = append(says, "required")
		default:
			says = append(says, "default: "+prose(row.byDefault))
		}
		if len(says) > 0 {
			fmt.Fprintf(w, "(%s)\n", strings.Join(says, "; "))
		}
		if row.description != "" {
			fmt.Fprintln(w, prose(row.description))
		}
	}
}

// takes says what the keys of a row take, each thing once.
func (t *keyTable) takes(keys []string) (list []string) {
	for _, s := range config.Sections() {
		if !slices.Contains(t.titles, s.Title) && !(s.Title == "peers" && slices.Contains(t.titles, "[uplink.wireguard]")) {
			continue
		}
		for _, k := range s.Keys {
			if slices.Contains(keys, k.Name) && !slices.Contains(list, k.Takes) {
				list = append(list, k.Takes)
			}
		}
	}
	return list
}

var (
	link   = regexp.MustCompile(`\[([^\]]+)\]\([^)]*\)`)
	strong = regexp.MustCompile(`\*\*([^*]+)\*\*|\*([^*]+)\*`)
)

// prose turns a line of Markdown into one of man(7): code and what is strong is bold, a link is its text. Code keeps
// its own asterisks and brackets.
func prose(text string) string {
	var b strings.Builder
	for i, part := range strings.Split(text, "`") {
		if i%2 == 1 {
			b.WriteString(`\fB` + strings.ReplaceAll(escaped(part), ",", `,\:`) + `\fR`) // a long one may be broken there
			continue
		}
		part = escaped(link.ReplaceAllString(part, "$1"))
		b.WriteString(strong.ReplaceAllString(part, `\fI$1$2\fR`))
	}
	return guarded(b.String())
}
