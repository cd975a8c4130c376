package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

func TestMonitoringIsToldByExitCodes(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	awaitCheck := func(wantCode int, want string) {
		t.Helper()
		r.await(fmt.Sprintf("status --check to end with %d", wantCode), func() error {
			cmd := r.program("status", "--check", "--socket", filepath.Join(r.dir, "s"))
			out, _ := cmd.Output() // the code is looked at
			if code := cmd.ProcessState.ExitCode(); code != wantCode || !strings.HasPrefix(string(out), want) || strings.Count(string(out), "\n") != 1 {
				return fmt.Errorf("it ends with %d: %s", code, out)
			}
			return nil
		})
	}
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	awaitCheck(0, "Online by fiber; lte ready. IPv6 by fiber.")
	if err := r.Break(lab.Carrier, "fiber"); err != nil {
		t.Fatal(err)
	}
	awaitCheck(3, "Online by lte; fiber down. IPv6 by lte.")
	if err := r.Break(lab.Carrier, "lte"); err != nil {
		t.Fatal(err)
	}
	awaitCheck(1, "Offline; fiber down, lte down.")
}
