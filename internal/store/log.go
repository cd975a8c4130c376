package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Log is a document that only grows, a JSON value a line: what is written once is not written again, for flash wears
// out. It has two parts, NAME.log and, before that, NAME.log.1. When the first is full it takes the place of the second.
// Methods must not be called concurrently.
type Log struct {
	dir  *Dir
	path string
	part int64 // bytes of one part
	size int64 // of what is good in the latest
}

// Log returns the log of a name, which holds up to limit bytes.
func (d *Dir) Log(name string, limit int64) *Log {
	return &Log{dir: d, path: filepath.Join(d.path, name+".log"), part: limit / 2}
}

// Name returns the file of the latest part.
func (l *Log) Name() string { return l.path }

// Load passes on every value that was appended and is still there, the oldest first. What a power cut has left of a last line is
// cut off. Lines that are no JSON are left out, and so is a part that cannot be read; then the error is ErrDamaged.
func (l *Log) Load(each func(value json.RawMessage)) error {
	damaged := 0
	var failed error
	for _, file := range []string{l.path + ".1", l.path} {
		b, err := readFile(file, 2*l.part) // one append may be as long as another part
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			failed = errors.Join(failed, l.dir.damaged(file, err))
			continue
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
		failed = errors.Join(failed, fmt.Errorf("%s: %w: %d lines are left out", l.path, ErrDamaged, damaged))
	}
	return failed
}

// Gone reports whether somebody has taken away, or cut short, what was appended. The next Append begins anew then.
func (l *Log) Gone() bool {
	info, err := os.Lstat(l.path)
	gone := l.size > 0 && (errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() < l.size)
	if gone {
		l.size = 0
	}
	return gone
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
	if err := l.dir.make(); err != nil {
		return err
	}
	l.Gone()
	if l.size > 0 && l.size+int64(len(b)) > l.part {
		if err := replacing(l.path+".1", func() error { return os.Rename(l.path, l.path+".1") }); err != nil {
			return err
		}
		l.size = 0
	}
	return replacing(l.path, func() error { return l.write(b) })
}

// write puts the bytes behind what is good in the latest part.
func (l *Log) write(b []byte) error {
	if info, err := os.Stat(l.path); err == nil && !info.Mode().IsRegular() {
		return errNotRegular
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|unix.O_NONBLOCK, 0o600) // should it be a FIFO by now, it waits for nobody
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
