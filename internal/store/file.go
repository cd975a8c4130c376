package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// temporary stands between a file's name and a number in the name of what replaces it.
const temporary = ".new-"

// unusable is what is wrong with a file itself, rather than with reading it.
type unusable struct{ error }

func (u *unusable) Unwrap() error { return u.error }

var (
	errNotRegular = errors.New("it is not a regular file")
	errTooLarge   = errors.New("it is too large")
)

// readFile reads a regular file of at most so many bytes. Nothing else is opened: a FIFO would wait for its other end for ever,
// and a device may do anything.
func readFile(file string, limit int64) ([]byte, error) {
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, unix.ENOTDIR): // a file where the directory should be: saving will say so
		return nil, fs.ErrNotExist
	case errors.Is(err, unix.ELOOP):
		return nil, &unusable{err}
	case err != nil:
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &unusable{errNotRegular}
	}
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrPermission) {
		return nil, &unusable{err}
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err = f.Stat(); err == nil && !info.Mode().IsRegular() {
		err = &unusable{errNotRegular}
	}
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = &unusable{errTooLarge}
	}
	return b, err
}

// asideNames bounds how many things are kept that stood where a file should be.
const asideNames = 10

// moveAside renames a file to NAME.damaged. What that name stands for already is replaced where that is possible without
// looking into it, and else stays.
func moveAside(file string) error {
	to := file + ".damaged"
	err := os.Rename(file, to)
	for n := 2; err != nil && n <= asideNames && isOccupied(err); n++ {
		err = os.Rename(file, to+"-"+strconv.Itoa(n))
	}
	return err
}

func isOccupied(err error) bool {
	return errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOTDIR)
}

// replacing writes a file, and moves aside what stands in its place and is none.
func replacing(file string, write func() error) error {
	err := write()
	if err == nil {
		return nil
	}
	info, look := os.Lstat(file)
	if look != nil || info.Mode().IsRegular() {
		return err
	}
	if link := info.Mode().Type() == fs.ModeSymlink; link && !errors.Is(err, unix.ELOOP) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if aside := moveAside(file); aside != nil {
		return fmt.Errorf("%w; moving aside what stands there: %w", err, aside)
	}
	return write()
}

// sweep removes what a power cut has left of writing the files that a pattern of [filepath.Glob] names.
func sweep(pattern string) {
	left, _ := filepath.Glob(pattern + temporary + "*") // of a directory that cannot be read: none
	for _, file := range left {
		if info, err := os.Lstat(file); err == nil && info.Mode().IsRegular() {
			_ = os.Remove(file) // it does no harm
		}
	}
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
