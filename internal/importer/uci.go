package importer

import (
	"bytes"
	"slices"
	"strings"
	"unicode/utf8"
)

// uciFile is a file of OpenWrt's configuration, as https://openwrt.org/docs/guide-user/base-system/uci describes them.
type uciFile struct {
	sections []*uciSection
	broken   []brokenLine
}

// uciSection is one "config" line and the options below it. Name is "" for an anonymous one.
type uciSection struct {
	pkg, kind, name string // pkg: of the "package" line above, "" for none
	from            origin
	options         []*uciOption
}

// uciOption is an option or a list. Of an option that is given twice the last one holds, as libuci has it.
type uciOption struct {
	name   string
	values []string
	list   bool
	from   origin
	used   bool // by a translator: what is not is named in the end
}

// brokenLine is what cannot be read.
type brokenLine struct {
	from origin
	why  string
}

const (
	maxInput    = 1 << 20 // bytes of a file
	maxSections = 5000    // sections of UCI, nodes of VyOS times ten
)

// parseUCI reads a file. It never fails: what cannot be read is listed.
func parseUCI(file File) *uciFile {
	u := new(uciFile)
	s := &uciScanner{data: clip(file.Data), file: file.Name, line: 1}
	var at *uciSection
	pkg := ""
	for {
		from := origin{s.file, s.line}
		words, ok, why := s.statement()
		if !ok {
			return u
		}
		fail := func(why string) { u.broken = append(u.broken, brokenLine{from, why}) }
		if why != "" {
			fail(why)
		}
		if len(words) == 0 {
			continue
		}
		from.line = s.began
		switch keyword := words[0]; keyword {
		case "package":
			if len(words) > 1 {
				pkg, at = words[1], nil
			}
		case "config":
			if len(words) < 2 || words[1] == "" {
				fail("a section without a type")
				at = nil
				continue
			}
			name := ""
			if len(words) > 2 {
				name = words[2]
			}
			if at = u.section(pkg, words[1], name, from); at == nil {
				fail("too many sections")
				return u
			}
		case "option", "list":
			switch {
			case at == nil:
				fail("an option above the first section: the beginning of the file is missing")
			case len(words) < 3:
				fail(keyword + " without a name or a value: the line is cut")
			default:
				at.put(words[1], words[2], keyword == "list", from)
			}
		default:
			if path, first, shown := strings.Cut(keyword, "="); shown && u.show(strings.Split(path, "."), append([]string{first}, words[1:]...), from) {
				continue
			}
			if strings.Contains(keyword, "@") && (strings.HasSuffix(keyword, "#") || strings.HasSuffix(keyword, "$")) {
				continue // a prompt that was copied too
			}
			fail("a line that begins with " + quoted(keyword) + ", which is no keyword")
		}
	}
}

// show reads a line of "uci show": package.section=type, or package.section.option='value' 'value'. An anonymous section is called
// @type[number] there.
func (u *uciFile) show(path, values []string, from origin) bool {
	if len(path) < 2 || len(path) > 3 || path[0] == "" || path[1] == "" {
		return false
	}
	i := slices.IndexFunc(u.sections, func(s *uciSection) bool { return s.pkg == path[0] && s.name == path[1] })
	switch {
	case len(path) == 2:
		return u.section(path[0], values[0], path[1], from) != nil
	case i < 0:
		return false
	}
	for _, v := range values {
		u.sections[i].put(path[2], v, len(values) > 1, from)
	}
	return true
}

// section returns the section of a "config" line: a name that was there before means the same section.
func (u *uciFile) section(pkg, kind, name string, from origin) *uciSection {
	for _, s := range u.sections {
		if name != "" && s.pkg == pkg && s.kind == kind && s.name == name {
			return s
		}
	}
	if len(u.sections) >= maxSections {
		return nil
	}
	s := &uciSection{pkg: pkg, kind: kind, name: name, from: from}
	u.sections = append(u.sections, s)
	return s
}

func (s *uciSection) option(name string) *uciOption {
	for _, o := range s.options {
		if o.name == name {
			return o
		}
	}
	return nil
}

func (s *uciSection) put(name, value string, list bool, from origin) {
	o := s.option(name)
	switch {
	case o == nil:
		s.options = append(s.options, &uciOption{name: name, values: []string{value}, list: list, from: from})
	case list:
		o.values, o.list = append(o.values, value), true
	default:
		o.values, o.list, o.from = []string{value}, false, from
	}
}

// get returns an option's value, the elements of a list with blanks between them, or the default when there is none.
func (s *uciSection) get(name, absent string) string {
	o := s.option(name)
	if o == nil {
		return absent
	}
	o.used = true
	if v := strings.TrimSpace(strings.Join(o.values, " ")); v != "" {
		return v
	}
	return absent
}

// words returns the elements of a list, and of an option what stands between blanks.
func (s *uciSection) words(name string) []string { return strings.Fields(s.get(name, "")) }

// flag reads a boolean as config_get_bool does.
func (s *uciSection) flag(name string, absent bool) bool {
	switch s.get(name, "") {
	case "1", "on", "true", "yes", "enabled":
		return true
	case "0", "off", "false", "no", "disabled":
		return false
	}
	return absent
}

// at is where an option stands, or else the section.
func (s *uciSection) at(name string) origin {
	if o := s.option(name); o != nil {
		return o.from
	}
	return s.from
}

// unused lists the options that nobody has asked for.
func (s *uciSection) unused() (list []*uciOption) {
	for _, o := range s.options {
		if !o.used {
			list = append(list, o)
		}
	}
	return list
}

// uciScanner cuts a text into statements: words that may be quoted, up to the end of a line or a semicolon.
type uciScanner struct {
	data  []byte
	file  string
	line  int // of the next byte, from 1
	began int // of the statement's first word
}

// statement returns the words of the next statement, and what is wrong with it; ok is false at the end.
func (s *uciScanner) statement() (words []string, ok bool, why string) {
	if len(s.data) == 0 {
		return nil, false, ""
	}
	s.began = s.line
	for len(s.data) > 0 {
		switch c := s.data[0]; {
		case c == '\n' || c == ';':
			s.next()
			return words, true, why
		case c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f':
			s.next()
		case bytes.HasPrefix(s.data, []byte("\\\n")) || bytes.HasPrefix(s.data, []byte("\\\r\n")):
			for s.next() != '\n' {
			}
		case c == '#':
			for len(s.data) > 0 && s.data[0] != '\n' {
				s.next()
			}
		default:
			if len(words) == 0 {
				s.began = s.line
			}
			w, mistake := s.word()
			if mistake != "" {
				why = mistake
			}
			words = append(words, w)
		}
	}
	return words, true, why
}

func (s *uciScanner) next() byte {
	c := s.data[0]
	s.data = s.data[1:]
	if c == '\n' {
		s.line++
	}
	return c
}

// word reads one word, of quoted and plain pieces. A quotation without an end is one to the end of its line: the file
// is cut, or an apostrophe stands where none should.
func (s *uciScanner) word() (string, string) {
	var b strings.Builder
	for len(s.data) > 0 {
		switch c := s.data[0]; c {
		case ' ', '\t', '\r', '\n', ';', '\v', '\f':
			return text(b.String()), ""
		case '\'', '"':
			end := closing(s.data, c)
			if end < 0 {
				s.next()
				for len(s.data) > 0 && s.data[0] != '\n' {
					b.WriteByte(s.next())
				}
				return text(strings.TrimSpace(b.String())), "a quotation without an end"
			}
			s.next()
			for n := end - 1; n > 0; n-- {
				ch := s.next()
				if ch == '\\' && c == '"' && n > 1 {
					ch = s.next()
					n--
				}
				b.WriteByte(ch)
			}
			s.next()
		case '\\':
			s.next()
			if len(s.data) > 0 {
				if ch := s.next(); ch != '\n' {
					b.WriteByte(ch)
				}
			}
		default:
			b.WriteByte(s.next())
		}
	}
	return text(b.String()), ""
}

// closing is the index of the quotation mark that ends what begins at data[0], or -1. A line that begins a new
// statement ends the search: a quotation mark was forgotten.
func closing(data []byte, mark byte) int {
	for i := 1; i < len(data); i++ {
		switch {
		case data[i] == '\\' && mark == '"':
			i++
		case data[i] == mark:
			return i
		case data[i] == '\n':
			rest := bytes.TrimLeft(data[i+1:min(len(data), i+40)], " \t")
			for _, keyword := range []string{"option ", "list ", "config ", "package "} {
				if bytes.HasPrefix(rest, []byte(keyword)) {
					return -1
				}
			}
		}
	}
	return -1
}

// text is what a file says, as UTF-8.
func text(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "?")
}

// clip takes the byte order mark away that editors of Windows write, and what is more than any such file has.
func clip(data []byte) []byte {
	return bytes.TrimPrefix(data[:min(len(data), maxInput)], []byte("\ufeff"))
}
