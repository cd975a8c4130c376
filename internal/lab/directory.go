package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// directoryEnv names the lab's directory for a child, whose user id is another inside, and for tests.
const directoryEnv = "UPLINKD_LAB_DIR"

// errLabRuns is returned where a lab of this user runs already.
var errLabRuns = errors.New("a lab is running already")

// directory is where a running lab keeps its control socket, its daemon's configuration, state and log. One user has
// one. A lock inside tells a running lab from the leavings of a killed one, because the kernel drops it with the last
// of the lab's processes.
type directory struct {
	path  string
	lock  *os.File // nil while only looking
	stale bool     // a killed lab's leavings were removed
}

func directoryPath() string {
	if path := os.Getenv(directoryEnv); path != "" {
		return path
	}
	return filepath.Join(os.TempDir(), "uplinkd-lab-"+strconv.Itoa(os.Getuid()))
}

func (d *directory) control() string { return filepath.Join(d.path, "control.sock") }
func (d *directory) socket() string  { return filepath.Join(d.path, "uplinkd.sock") }
func (d *directory) config() string  { return filepath.Join(d.path, "uplinkd.toml") }
func (d *directory) log() string     { return filepath.Join(d.path, "uplinkd.log") }
func (d *directory) state() string   { return filepath.Join(d.path, "state") }

// claim makes the directory and takes its lock, or returns errLabRuns. What a killed lab left is removed.
func claim(path string) (*directory, error) {
	d := &directory{path: path}
	if len(d.control()) > 107 { // sun_path of unix(7)
		return nil, fmt.Errorf("the lab's directory %s is too long a path for a socket in it: set TMPDIR to a shorter one", path)
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("making the lab's directory: %w", err)
	}
	if err := checkOwner(path); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lab's lock: %w", err)
	}
	if err := takeLock(lock); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	d.lock = lock
	left, err := d.empty()
	d.stale = left > 0
	if err != nil {
		return nil, errors.Join(fmt.Errorf("removing what a killed lab left: %w", err), lock.Close())
	}
	return d, nil
}

// checkOwner refuses a directory that somebody else has put at our place in a directory that all may write.
func checkOwner(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("looking at the lab's directory: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(st.Uid) != os.Getuid() || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s is not a directory of yours alone (owner and mode 0700): remove it", path)
	}
	return nil
}

// takeLock also sees that the lock file is not one which an ending lab has removed meanwhile.
func takeLock(lock *os.File) error {
	err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errLabRuns
	}
	if err != nil {
		return fmt.Errorf("locking the lab's directory: %w", err)
	}
	mine, err := lock.Stat()
	if err != nil {
		return fmt.Errorf("looking at the lab's lock: %w", err)
	}
	current, err := os.Stat(lock.Name())
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(mine, current) {
		return errLabRuns // just ending: a moment later there is none
	}
	return err
}

// empty removes everything but the lock and returns how much that was.
func (d *directory) empty() (removed int, err error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, e := range entries {
		if e.Name() != "lock" {
			removed++
			errs = append(errs, os.RemoveAll(filepath.Join(d.path, e.Name())))
		}
	}
	return removed, errors.Join(errs...)
}

// removeTries bounds how often remove begins anew, 10 ms apart.
const removeTries = 100

// remove takes the directory away and then gives up the lock. A process of the lab that has been told to end may
// still write a last file into it.
func (d *directory) remove() error {
	err := os.RemoveAll(d.path)
	for range removeTries {
		if !errors.Is(err, unix.ENOTEMPTY) {
			break
		}
		time.Sleep(10 * time.Millisecond)
		err = os.RemoveAll(d.path)
	}
	if err := errors.Join(err, d.lock.Close()); err != nil {
		return fmt.Errorf("removing the lab's directory: %w", err)
	}
	return nil
}
