package main

import (
	"os"
	"path/filepath"
	"runtime"
)

// timerSlack is by how much timers may be late, in nanoseconds: a millisecond, where Linux has 50 µs. Nothing here is
// promised more exactly.
const timerSlack = "1000000"

// reduceWakeups has the daemon, which sleeps most of the time, wake as little of the machine as it can. While any goroutine
// runs, Go's own monitor sleeps for 20 µs and looks, again and again, so most switches between threads were its, and every
// goroutine that becomes ready has another processor look for work. See BenchmarkCost.
func reduceWakeups() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
	// Threads to come have the slack of those that make them. That of others takes CAP_SYS_NICE; the unit has
	// TimerSlackNSec= instead.
	threads, _ := filepath.Glob("/proc/self/task/*")
	for _, thread := range threads {
		_ = os.WriteFile(filepath.Join("/proc", filepath.Base(thread), "timerslack_ns"), []byte(timerSlack), 0) // costs what it did
	}
}
