package config

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

// MaxSize is the largest file that is read, in bytes.
const MaxSize = 1 << 20

// Load reads and parses the file at path. An error of reading names the path and wraps the system's error
// (errors.Is with fs.ErrNotExist for a missing file); every other error is an Errors.
func Load(path string) (*Config, error) {
	c, _, err := LoadLines(path)
	return c, err
}

// LoadLines is Load, and says where in the file things stand.
func LoadLines(path string) (*Config, Lines, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return parse(path, data)
}

// Parse reads a configuration from data. The name stands for the file in messages. An error is always an Errors with
// at least one element, and then there is no Config. If the text is no TOML, the errors are about that alone.
func Parse(name string, data []byte) (*Config, error) {
	c, _, err := parse(name, data)
	return c, err
}

func parse(name string, data []byte) (*Config, Lines, error) {
	if len(data) > MaxSize {
		return nil, nil, Errors{{File: name, Line: 1, Col: 1,
			Msg: fmt.Sprintf("the file is larger than %d bytes: this is no configuration of uplinkd", MaxSize)}}
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
