package config

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2/unstable"
)

// maxSyntaxErrors bounds how many broken lines are reported: after some, the file is no TOML at all.
const maxSyntaxErrors = 20

// scan calls visit with each TOML expression and the offset that its ranges count from, and reports whether all of the
// text was TOML. Where a single line is broken, it is reported and scanning goes on behind it, because whoever forgot
// the quotes once has often forgotten them twice; a broken expression of several lines ends the scan, since nobody
// knows where it was meant to end.
func scan(src *source, visit func(base int, n *unstable.Node)) bool {
	base, broken := 0, 0
	for base <= len(src.data) {
		var p unstable.Parser
		p.Reset(src.data[base:])
		end := -1 // where the last whole expression ended
		for p.NextExpression() {
			n := p.Expression()
			visit(base, n)
			end = base + expressionEnd(n)
		}
		err := p.Error()
		if err == nil {
			return broken == 0
		}
		off := src.syntaxError(err, base)
		broken++
		next, ok := src.lineAfter(base, end, off)
		if !ok || broken == maxSyntaxErrors {
			return false
		}
		base = next
	}
	return broken == 0
}

// expressionEnd returns an offset on the last line of an expression.
func expressionEnd(n *unstable.Node) int {
	last := n
	if n.Kind != unstable.KeyValue { // headers carry no range of their own, their keys do
		for it := n.Key(); it.Next(); {
			last = it.Node()
		}
	}
	return int(last.Raw.Offset + last.Raw.Length)
}

// syntaxError records what the TOML parser found, in the words of this package where it can tell what was meant, and
// returns the offset.
func (s *source) syntaxError(err error, base int) int {
	off, msg := base, err.Error()
	var perr *unstable.ParserError
	if errors.As(err, &perr) && perr.Highlight != nil {
		// The highlight shares the document's array: capacities count to the same end.
		off = cap(s.data) - cap(perr.Highlight)
	}
	off = max(base, min(off, len(s.data)))
	if clearer, ok := clearerMessages[msg]; ok {
		msg = clearer
	}
	if strings.HasPrefix(msg, "expected newline") {
		msg = "unexpected text: each key and each section needs a line of its own"
	}
	if at, better, ok := s.typographicQuotes(off); ok {
		off, msg = at, better
	} else if at, better, ok := s.bareValue(off); ok {
		off, msg = at, better
	}
	s.errorf(off, "%s", msg)
	return off
}

// lineAfter returns the offset of the line behind the broken one at off. It fails if the broken expression began on an
// earlier line: if there is more than comments and blanks between off's line and end, where the last whole expression
// ended, or base, where this part of the text begins, if end is negative.
func (s *source) lineAfter(base, end, off int) (int, bool) {
	line, _ := s.position(off)
	if line == len(s.lines) {
		return 0, false
	}
	start := s.lines[line-1]
	if end >= 0 { // behind the last expression's line: there may be brackets or a comment left on it
		last, _ := s.position(end)
		base = s.lines[min(last, line-1)]
	}
	for l := range bytes.Lines(s.data[min(base, start):start]) {
		if l = bytes.TrimSpace(l); len(l) > 0 && l[0] != '#' {
			return 0, false
		}
	}
	return s.lines[line], true
}

// clearerMessages replaces messages of the TOML parser that speak of its grammar more than of the text.
var clearerMessages = map[string]string{
	"basic strings cannot have new lines":   "the string has no closing quote on its line",
	"unterminated basic string":             "the string has no closing quote on its line",
	"literal strings cannot have new lines": "the string has no closing quote on its line",
	"unterminated literal string":           "the string has no closing quote on its line",
	"array is incomplete":                   "the list has no closing bracket",
	"inline table is incomplete":            "the table has no closing brace",
}

// Lines that are not right but clear: a key without a value, a key with a word that nothing encloses.
var emptyLine = regexp.MustCompile(`^\s*([A-Za-z0-9_.-]+)\s*=\s*(?:#.*)?$`)
var bareLine = regexp.MustCompile(`^(\s*([A-Za-z0-9_.-]+)\s*=\s*)([^\s"'\[\]{}#,]+)\s*(?:#.*)?$`)

var badNumber = regexp.MustCompile(`^[+-]?(0[xob].*|[0-9_]*\.?[0-9_]*([eE][+-]?[0-9_]*)?)$`)

// typographic are the quotation marks that word processors and web pages put in the place of " and '.
const typographic = "“”„‟«»″‘’‚‛′"

// typographicQuotes recognises them outside of quotes in the line of a mistake, and returns where the first stands.
func (s *source) typographicQuotes(off int) (at int, msg string, ok bool) {
	start, text := s.lineAt(off)
	inside := byte(0)
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		switch c := text[i]; {
		case inside == 0 && c == '#':
			return 0, "", false
		case inside == 0 && strings.ContainsRune(typographic, r):
			return start + i, fmt.Sprintf("replace %c by \"", r), true
		case c == inside:
			inside = 0
		case inside == 0 && (c == '"' || c == '\''):
			inside = c
		case inside == '"' && c == '\\':
			i++
		}
		i += size
	}
	return 0, "", false
}

// lineAt returns the line of an offset and where it begins.
func (s *source) lineAt(off int) (start int, text []byte) {
	line, _ := s.position(off)
	start, end := s.lines[line-1], len(s.data)
	if line < len(s.lines) {
		end = s.lines[line] - 1
	}
	return start, bytes.TrimRight(s.data[start:max(start, end)], "\r")
}

// bareValue recognises a line without a value, and one with a text value that lacks its quotes, the commonest slip in
// TOML. It returns where the mistake stands and what to write.
func (s *source) bareValue(off int) (at int, msg string, ok bool) {
	start, text := s.lineAt(off)
	if m := emptyLine.FindSubmatch(text); m != nil {
		return off, fmt.Sprintf("%s has no value: write one after the =, or remove the line", clip(string(m[1]))), true
	}
	m := bareLine.FindSubmatch(text)
	if m == nil || off < start+len(m[1]) {
		return 0, "", false
	}
	at, key, val := start+len(m[1]), string(m[2]), string(m[3])
	switch strings.ToLower(val) {
	case "true", "yes", "on":
		return at, fmt.Sprintf("%s is not a value: write %s = true", clip(val), clip(key)), true
	case "false", "no", "off":
		if key == "method" {
			break
		}
		return at, fmt.Sprintf("%s is not a value: write %s = false", clip(val), clip(key)), true
	}
	if badNumber.MatchString(val) {
		return 0, "", false // the parser knows better what is wrong with it
	}
	return at, fmt.Sprintf("text needs quotes: write %s = %s", clip(key), quote(val)), true
}
