// Package store keeps small JSON documents in the state directory: uplink ids, what the kernel held
// before us, leases, last verdicts.
//
//	Save: temporary file -> fsync -> rename -> fsync of the directory
//
// A reader sees the old document or the new one, never half of either, and a full disk leaves the old. What grows for ever
// is a [Log]. Whatever is wrong with the directory is an error of Load and Save alone, for the daemon works without it.
package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
)

// MaxDocument bounds what Load reads, in bytes.
const MaxDocument = 4 << 20

// ErrDamaged means that a document was there but could not be read or understood. Unless the directory is only
// looked at, or cannot be written, it has been moved aside to NAME.damaged, so that the next Save does not
// destroy it.
var ErrDamaged = errors.New("damaged document")

// Dir is a state directory. Its methods may be called by any goroutine.
type Dir struct {
	path   string
	viewed bool

	mu sync.Mutex
	// held is the text of each document, as it was loaded or is to be saved.
	held map[string][]byte
}

// Open returns a directory that is made by the first Save, readable by its owner only: leases and identifiers are
// nobody else's business. What a power cut has left of saves is removed.
func Open(path string) *Dir {
	sweep(filepath.Join(path, "*.json"))
	return &Dir{path: path, held: make(map[string][]byte)}
}

// View is for looking only: Load changes nothing, not even what is damaged. The directory need not exist.
func View(path string) *Dir { return &Dir{path: path, viewed: true, held: make(map[string][]byte)} }

// Path returns the file of a document.
func (d *Dir) Path(name string) string { return filepath.Join(d.path, name+".json") }

// Load reads a document into v, a pointer. A missing document leaves v as it is and is no error; a damaged one
// leaves v as it is and gives ErrDamaged.
func (d *Dir) Load(name string, v any) error {
	file := d.Path(name)
	b, err := readFile(file, MaxDocument)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
	case string(bytes.TrimSpace(b)) == "null":
		return nil // it would make v's map a nil one
	default:
		read := reflect.New(reflect.TypeOf(v).Elem()) // what goes wrong halfway leaves no half in v
		if err = json.Unmarshal(b, read.Interface()); err == nil {
			reflect.ValueOf(v).Elem().Set(read.Elem())
			d.mu.Lock()
			defer d.mu.Unlock()
			d.held[name] = b
			return nil
		}
		err = &unusable{err}
	}
	return d.damaged(file, err)
}

// damaged returns the error of a file that cannot be used, and moves the file aside when it is to blame itself.
func (d *Dir) damaged(file string, err error) error {
	var itself *unusable
	blame := errors.As(err, &itself)
	err = fmt.Errorf("%s: %w (%w)", file, ErrDamaged, err)
	if d.viewed || !blame {
		return err
	}
	if aside := moveAside(file); aside != nil {
		return fmt.Errorf("%w; moving it aside: %w", err, aside)
	}
	return err
}

// Save replaces a document.
func (d *Dir) Save(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s: %w", name, err)
	}
	b = append(b, '\n')
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held[name] = b
	return d.write(name, b)
}

// write replaces a document, and whatever stands in its place. The lock is held.
func (d *Dir) write(name string, b []byte) error {
	if err := d.make(); err != nil {
		return err
	}
	return replacing(d.Path(name), func() error { return WriteFile(d.Path(name), b, 0o600) })
}

// Remove takes a document away for good.
func (d *Dir) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.held, name)
	if err := os.Remove(d.Path(name)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("removing a document: %w", err)
	}
	return syncDir(d.path)
}

// Restore writes the documents again that somebody has taken away, or the whole directory. It returns their names.
func (d *Dir) Restore() (restored []string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(d.held)) {
		if _, gone := os.Lstat(d.Path(name)); !errors.Is(gone, fs.ErrNotExist) {
			continue
		}
		if err := d.write(name, d.held[name]); err != nil {
			return restored, err
		}
		restored = append(restored, name)
	}
	return restored, nil
}

func (d *Dir) make() error {
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return fmt.Errorf("making the state directory: %w", err)
	}
	return nil
}

// WriteFile replaces a file atomically and durably.
func WriteFile(file string, content []byte, mode fs.FileMode) (err error) {
	dir := filepath.Dir(file)
	tmp, err := os.CreateTemp(dir, filepath.Base(file)+temporary+"*")
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
