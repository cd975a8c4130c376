// Package secret reads files that hold a password, a token or a key.
package secret

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// limit bounds such a file, in bytes.
const limit = 4 << 10

// Read returns the text of a regular file that its owner alone may read, without the space around it. What names the key of the configuration,
// for the errors.
func Read(what, file string) (string, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0) // else a FIFO holds us up
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", what, err)
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	switch {
	case err != nil:
		return "", fmt.Errorf("reading %s: %w", what, err)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s %s is not a regular file", what, file)
	case info.Mode().Perm()&0o077 != 0:
		return "", fmt.Errorf("the %s %s is readable by others (mode %#o), so it is not used: chmod 600 %s, and put a new secret there", what, file, info.Mode().Perm(), file)
	}
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("reading %s: %w", what, err)
	case len(text) > limit:
		return "", errors.New(what + " " + file + " is too long for a secret")
	}
	return strings.TrimSpace(string(text)), nil
}
