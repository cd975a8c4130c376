package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// startOver is how long after its begin the daemon does nothing any more that only a start needs.
const startOver = 30 * time.Second

// releaseStartMemory gives back what only the start has needed: free memory of Go's heap, and the pages of the program itself, which the
// kernel maps by the dozen around each that is touched. Those that are run again are mapped again out of the page cache.
func releaseStartMemory(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(startOver):
	}
	debug.FreeOSMemory()
	_ = dropProgramPages() // costs what it did
}

// dropProgramPages unmaps the code of the running program: nothing has written there, as a loader may have to data that is read-only since.
func dropProgramPages() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer func() { _ = maps.Close() }()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to uintptr
		var mode string
		line := lines.Text()
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil || !strings.Contains(mode, "x") || !strings.HasSuffix(line, " "+program) {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
			return errno
		}
	}
	return nil
}
