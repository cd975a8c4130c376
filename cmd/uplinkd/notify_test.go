package main

import (
	"errors"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// TestTheServiceManagerIsToldWhatItWaitsFor plays systemd's side of sd_notify(3).
func TestTheServiceManagerIsToldWhatItWaitsFor(t *testing.T) {
	r := newRouter(t, lab.Options{}, dualWAN)
	path := filepath.Join(r.dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var reported []string
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			mu.Lock()
			reported = append(reported, string(b[:n]))
			mu.Unlock()
		}
	}()
	t.Cleanup(func() { _ = conn.Close() })
	hear := func(what string) {
		t.Helper()
		r.await(what, func() error {
			mu.Lock()
			defer mu.Unlock()
			i := slices.Index(reported, what)
			if i < 0 {
				return errors.New("not yet told")
			}
			reported = reported[i+1:]
			return nil
		})
	}
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "400000")
	r.launch()
	hear("READY=1")
	if err := r.converged(); err != nil {
		t.Errorf("ready before the first plan has converged: %v", err)
	}
	hear("WATCHDOG=1")
	hear("WATCHDOG=1")
	if err := r.process.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	hear("RELOADING=1")
	hear("READY=1")
	if err := r.process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	hear("STOPPING=1")
	r.stop()
}
