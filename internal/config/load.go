package config

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

// MaxSize is the largest file that is read, in bytes.
const MaxSize = 1 << 20

// Read returns what is in the file at path, up to one byte more than a configuration may have.
func Read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return data, nil
}

// StateDir returns the state directory that a text names, whatever else of it is wrong. It is the default one when the text
// names none, or cannot be understood.
func StateDir(data []byte) string {
	if root := readDocument(newSource("", data)); root != nil {
		r := &reader{source: newSource("", data)}
		if c := r.config(root); c.Daemon.StateDir != "" {
			return c.Daemon.StateDir
		}
	}
	inDaemon := false
	for line := range strings.Lines(strings.TrimPrefix(string(data), "\ufeff")) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			inDaemon = strings.HasPrefix(line, "[daemon")
		}
		if m := stateDirLine.FindStringSubmatch(line); inDaemon && m != nil && checkDir("state_dir", m[1]+m[2]) == "" {
			return m[1] + m[2]
		}
	}
	return Default().Daemon.StateDir
}

// stateDirLine finds the directory in a line of a text that breaks off, or is no TOML for another reason: a basic string
// without escapes, or a literal one.
var stateDirLine = regexp.MustCompile(`^state_dir[ \t]*=[ \t]*(?:"([^"\\]+)"|'([^']+)')`)

// Parse reads a configuration from data. The name stands for the file in messages. An error is always an Errors with
// at least one element, and then there is no Config. If the text is no TOML, the errors are about that alone.
func Parse(name string, data []byte) (*Config, error) {
	c, _, err := ParseLines(name, data)
	return c, err
}

// File is a configuration, and where it is from.
type File struct {
	*Config
	Lines Lines  // nil without a file
	Text  []byte // as read; nil without a file
}

// Load reads and parses a file; without a name it gives the defaults. An error of reading names the file and wraps the system's
// error (errors.Is with fs.ErrNotExist for a missing file); every other error is an [Errors].
func Load(name string) (File, error) {
	if name == "" {
		return File{Config: Default()}, nil
	}
	text, err := Read(name)
	if err != nil {
		return File{}, err
	}
	if len(bytes.TrimSpace(text)) == 0 { // taken for a configuration without uplinks, it would take all of them away
		return File{}, Errors{{File: name, Line: 1, Col: 1,
			Msg: "the file is empty, as a power cut leaves it: write it again, or [daemon] alone if there are to be no uplinks"}}
	}
	c, lines, err := ParseLines(name, text)
	return File{c, lines, text}, err
}

// ParseLines is Parse, and says where in the text things stand.
func ParseLines(name string, data []byte) (*Config, Lines, error) {
	if len(data) > MaxSize {
		return nil, nil, Errors{{File: name, Line: 1, Col: 1,
			Msg: fmt.Sprintf("the file is larger than %d bytes: this is not a configuration of uplinkd", MaxSize)}}
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	src := newSource(name, data)
	root := readDocument(src)
	if err := src.err(); err != nil && root == nil {
		return nil, nil, err
	}
	r := &reader{source: src}
	cfg := r.config(root)
	if err := src.err(); err != nil {
		return nil, nil, err
	}
	return cfg, linesOf(src, root), nil
}
