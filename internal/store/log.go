package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Log is a document that only grows, a JSON value a line: what is written once is not written again, for flash wears
// out. It has two parts, NAME.log and, before that, NAME.log.1. When the first is full it takes the place of the second.
// Methods must not be called concurrently.
type Log struct {
	path string
	part int64 // bytes of one part
	size int64 // of what is good in the latest
}

// Log returns the log of a name, which holds up to limit bytes.
func (d *Dir) Log(name string, limit int64) *Log {
	return &Log{path: filepath.Join(d.path, name+".log"), part: limit / 2}
}

// Load passes on every value that was appended and is still there, the oldest first. What a power cut has left of a last line is
// cut off. Lines that are no JSON are left out, and then the error is ErrDamaged.
func (l *Log) Load(each func(value json.RawMessage)) error {
	damaged := 0
	for _, file := range []string{l.path + ".1", l.path} {
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", file, err)
		}
		good := bytes.LastIndexByte(b, '\n') + 1
		if file == l.path {
			l.size = int64(good)
		}
		for line := range bytes.Lines(b[:good]) {
			if !json.Valid(line) {
				damaged++
				continue
			}
			each(bytes.TrimSpace(line))
		}
	}
	if damaged > 0 {
		return fmt.Errorf("%s: %w: %d lines are left out", l.path, ErrDamaged, damaged)
	}
	return nil
}

// Append writes values durably, all of them or, when the disk is full, none.
func (l *Log) Append(values ...any) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("appending to %s: %w", l.path, err)
		}
	}()
	var b []byte
	for _, v := range values {
		line, err := json.Marshal(v)
		if err != nil {
			return err
		}
		b = append(append(b, line...), '\n')
	}
	if l.size > 0 && l.size+int64(len(b)) > l.part {
		if err := os.Rename(l.path, l.path+".1"); err != nil {
			return err
		}
		l.size = 0
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, l.size)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return errors.Join(err, f.Truncate(l.size), f.Close())
	}
	fresh := l.size == 0
	l.size += int64(len(b))
	if err := f.Close(); err != nil || !fresh {
		return err
	}
	return syncDir(filepath.Dir(l.path))
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
