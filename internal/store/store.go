// Package store keeps small JSON documents in the state directory: uplink ids, what the kernel held
// before us, leases, last verdicts.
//
//	Save: temporary file -> fsync -> rename -> fsync of the directory
//
// A reader sees the old document or the new one, never half of either, and a full disk leaves the old. What grows for ever
// is a [Log].
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

// MaxDocument bounds what Load reads, in bytes.
const MaxDocument = 4 << 20

// ErrDamaged means that a document was there but could not be understood. Unless the directory is only
// looked at, or cannot be written, it has been moved aside to NAME.damaged, so that the next Save does not
// destroy it.
var ErrDamaged = errors.New("damaged document")

// Dir is a state directory.
type Dir struct {
	path   string
	viewed bool
}

// Open makes the directory if it is missing, readable by its owner only: leases and identifiers are
// nobody else's business.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	return &Dir{path: path}, nil
}

// View is for looking only: Load changes nothing, not even what is damaged. The directory need not exist.
func View(path string) *Dir { return &Dir{path: path, viewed: true} }

// Path returns the file of a document.
func (d *Dir) Path(name string) string { return filepath.Join(d.path, name+".json") }

// Load reads a document into v. A missing document leaves v as it is and is no error; a damaged one
// leaves v as it is and gives ErrDamaged.
func (d *Dir) Load(name string, v any) error {
	file := d.Path(name)
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	var b []byte
	if info.Size() <= MaxDocument {
		if b, err = os.ReadFile(file); err != nil {
			return fmt.Errorf("reading %s: %w", file, err)
		}
	}
	if string(bytes.TrimSpace(b)) == "null" {
		return nil // it would make v's map a nil one
	}
	if err := json.Unmarshal(b, v); err != nil {
		err = fmt.Errorf("%s: %w (%w)", file, ErrDamaged, err)
		if d.viewed {
			return err
		}
		if aside := os.Rename(file, file+".damaged"); aside != nil {
			return fmt.Errorf("%w; moving it aside: %w", err, aside)
		}
		return err
	}
	return nil
}

// Save replaces a document.
func (d *Dir) Save(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s: %w", name, err)
	}
	return WriteFile(d.Path(name), append(b, '\n'), 0o600)
}

// WriteFile replaces a file atomically and durably.
func WriteFile(file string, content []byte, mode fs.FileMode) (err error) {
	dir := filepath.Dir(file)
	tmp, err := os.CreateTemp(dir, filepath.Base(file)+".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
			err = fmt.Errorf("writing %s: %w", file, err)
		}
	}()
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), file); err != nil {
		return err
	}
	return syncDir(dir)
}
