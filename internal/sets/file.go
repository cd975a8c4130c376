package sets

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules/inet"
)

const (
	// quiet is how long a file must not have changed before it is read: whoever writes it in place may not be through. One whose writer
	// has closed it, or that was renamed to its name, is read after settle.
	quiet  = 2 * time.Second
	settle = 200 * time.Millisecond
)

// fileID tells whether a file is still the one that it was.
type fileID struct {
	inode uint64
	size  int64
	time  time.Time
}

// fileState is what has been seen of the file of a set.
type fileState struct {
	read    fileID    // that was read last, whatever came of it
	pending fileID    // that waits until it is quiet
	since   time.Time // when that was seen first
	closed  time.Time // when its writer was last seen to be through
}

func identify(info fs.FileInfo) fileID {
	id := fileID{size: info.Size(), time: info.ModTime()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		id.inode = stat.Ino
	}
	return id
}

// lookFirst reads the file of a set that is new, unless it is just being written and the cache has something.
func (e *Engine) lookFirst(s *set, now time.Time) {
	switch s.Source() {
	case "url":
		if s.content == nil {
			s.err = errNotYet
		}
		return
	case "domains":
		return
	}
	info, err := os.Stat(s.File)
	if err == nil && now.Sub(info.ModTime()) < quiet && s.content != nil {
		return
	}
	e.readFile(s, now)
}

// lookAtFile reads the file of a set when it has changed and is quiet.
func (e *Engine) lookAtFile(s *set, now time.Time) {
	info, err := os.Stat(s.File)
	if err != nil {
		s.file.read, s.file.pending = fileID{}, fileID{}
		e.take(s, nil, describe(s.File, err), now)
		return
	}
	id := identify(info)
	f := &s.file
	if id == f.read {
		f.closed = time.Time{}
		return
	}
	if id != f.pending {
		f.pending, f.since = id, now
		if now.Sub(f.closed) > settle { // somebody goes on writing
			f.closed = time.Time{}
		}
	}
	wait := quiet - now.Sub(f.since)
	if !f.closed.IsZero() {
		wait = settle - now.Sub(f.closed)
	}
	if wait > 0 {
		if wait < lookInterval {
			time.AfterFunc(wait, e.wake)
		}
		return
	}
	e.readFile(s, now)
}

// readFile reads the file of a set. What changes meanwhile is read again.
func (e *Engine) readFile(s *set, now time.Time) {
	content, id, err := readList(s.File)
	s.file.read, s.file.closed = id, time.Time{}
	if err != nil {
		err = describe(s.File, err)
	}
	e.take(s, content, err, now)
}

var errChanging = errors.New("it changes while it is read")

func readList(path string) (*inet.Set, fileID, error) {
	// A FIFO would wait for its other end for ever.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fileID{}, err
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return nil, fileID{}, err
	}
	id := identify(before)
	if !before.Mode().IsRegular() {
		return nil, id, errors.New("it is no regular file")
	}
	content, err := parse(f)
	if after, statErr := f.Stat(); statErr != nil || identify(after) != id {
		return nil, fileID{}, errChanging
	}
	return content, id, err
}

// describe names the file, and the line where there is one: "/etc/uplinkd/cn.txt:7: ...".
func describe(path string, err error) error {
	var of *fs.PathError
	if errors.As(err, &of) {
		return fmt.Errorf("%s: %w", path, of.Err)
	}
	if line, is := strings.CutPrefix(err.Error(), "line "); is {
		return fmt.Errorf("%s:%s", path, line)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// watch hears from the kernel when the writer of a file is through. Without it a look a second is enough.
func (e *Engine) watch(ctx context.Context) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		e.o.Log.Info("files of sets are looked at once a second", "err", err)
		return
	}
	events := os.NewFile(uintptr(fd), "inotify")
	stop := context.AfterFunc(ctx, func() { _ = events.Close() })
	defer stop()
	defer events.Close()
	dirs := make(map[int32]string) // by watch
	add := func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, s := range e.sets {
			if s.File == "" {
				continue
			}
			// Adding it again gives the same watch, and a new one where the directory is another.
			dir := filepath.Dir(s.File)
			if wd, err := unix.InotifyAddWatch(fd, dir, unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_ONLYDIR); err == nil {
				dirs[int32(wd)] = dir
			}
		}
	}
	buffer := make([]byte, 64<<10)
	for {
		add()
		_ = events.SetReadDeadline(time.Now().Add(5 * time.Second)) // then directories are looked for again
		n, err := events.Read(buffer)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case err != nil:
			return
		}
		e.closed(dirs, buffer[:n])
	}
}

// closed notes which files are complete.
func (e *Engine) closed(dirs map[int32]string, b []byte) {
	now := time.Now()
	e.reading.Lock()
	defer e.reading.Unlock()
	e.mu.Lock()
	list := e.sets
	e.mu.Unlock()
	for len(b) >= unix.SizeofInotifyEvent {
		event := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
		end := min(unix.SizeofInotifyEvent+int(event.Len), len(b))
		name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:end]), "\x00")
		path := filepath.Join(dirs[event.Wd], name)
		b = b[end:]
		for _, s := range list {
			if s.File != "" && filepath.Clean(s.File) == path {
				s.file.closed = now
				e.wake()
			}
		}
	}
}

// CheckFiles reads the files of sets, and returns what is wrong with those that are not there or are no lists.
func CheckFiles(c *config.Config) (wrong []error) {
	for i := range c.Sets {
		if s := &c.Sets[i]; s.File != "" {
			if _, _, err := readList(s.File); err != nil {
				wrong = append(wrong, fmt.Errorf("set %s: %w", s.Name, describe(s.File, err)))
			}
		}
	}
	return wrong
}
