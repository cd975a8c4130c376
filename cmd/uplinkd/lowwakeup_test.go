package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestEveryThreadOfTheDaemonMayWakeAMillisecondLate(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	t.Setenv("GOMAXPROCS", "")
	reduceWakeups()
	if n := runtime.GOMAXPROCS(0); n != 1 {
		t.Errorf("%d processors are used", n)
	}
	threads, err := filepath.Glob("/proc/self/task/*")
	if err != nil || len(threads) < 2 {
		t.Fatalf("%d threads: %v", len(threads), err)
	}
	for _, thread := range threads {
		slack, err := os.ReadFile(filepath.Join("/proc", filepath.Base(thread), "timerslack_ns"))
		if os.IsNotExist(err) {
			continue // it has ended
		}
		if err != nil || strings.TrimSpace(string(slack)) != timerSlack {
			t.Errorf("thread %s: slack %q, %v", filepath.Base(thread), slack, err)
		}
	}
}
