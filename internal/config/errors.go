package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one mistake in a configuration file.
type Error struct {
	File string // the name given to Parse, or the path given to Load
	Line int    // from 1
	Col  int    // from 1, counted in bytes as compilers and editors do
	Msg  string // one line: what is wrong and what was meant
}

// Error returns FILE:LINE:COL: message.
func (e Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Col, e.Msg)
}

// Errors are all mistakes of a file, in the order of their positions. It is what errors.As finds in an error of Parse,
// and of Load where the file could be read.
type Errors []Error

// Error returns the mistakes, one per line, without a newline at the end.
func (es Errors) Error() string {
	var b strings.Builder
	for i, e := range es {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(e.Error())
	}
	return b.String()
}

// Unwrap gives errors.Is and errors.As each mistake.
func (es Errors) Unwrap() []error {
	all := make([]error, len(es))
	for i, e := range es {
		all[i] = e
	}
	return all
}

// source is a file's text, and the mistakes found in it so far.
type source struct {
	name  string
	data  []byte
	lines []int // offset of each line's first byte
	errs  Errors
}

func newSource(name string, data []byte) *source {
	s := &source{name: name, data: data, lines: []int{0}}
	for i, c := range data {
		if c == '\n' {
			s.lines = append(s.lines, i+1)
		}
	}
	return s
}

// position returns the line and column of a byte offset, both from 1.
func (s *source) position(off int) (line, col int) {
	i, found := slices.BinarySearch(s.lines, off)
	if !found {
		i--
	}
	return i + 1, off - s.lines[i] + 1
}

// where returns FILE:LINE:COL, for messages that refer to another place.
func (s *source) where(off int) string {
	line, col := s.position(off)
	return fmt.Sprintf("%s:%d:%d", s.name, line, col)
}

// errorf records a mistake at a byte offset.
func (s *source) errorf(off int, format string, args ...any) {
	line, col := s.position(off)
	s.errs = append(s.errs, Error{File: s.name, Line: line, Col: col, Msg: fmt.Sprintf(format, args...)})
}

// err returns the mistakes in order, nil if there are none.
func (s *source) err() error {
	if len(s.errs) == 0 {
		return nil
	}
	slices.SortStableFunc(s.errs, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return s.errs
}
