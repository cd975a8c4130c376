package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// recoveries are the codes of what was told of an uplink's help, since the start.
func (r *router) recoveries() (codes []string) {
	r.Helper()
	for _, e := range r.decisions() {
		if e.Kind == status.EventRecover {
			codes = append(codes, e.Code)
		}
	}
	return codes
}

// TestALineThatStaysDeadIsHelped sets the device of LTE down, which the owner's program sets up again, and then kills both providers at once.
func TestALineThatStaysDeadIsHelped(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	program := filepath.Join(r.dir, "help")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nip link set \"$UPLINKD_DEVICE\" up && echo \"$1\" >> \"${0%/*}/helped\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	r.configure(dualWAN + fmt.Sprintf("  [uplink.recover]\n  after = \"30s\"\n  run = [%q, \"wwan0\"]\n", program))
	if out := r.command("check", "-c", r.config); strings.Contains(out, "warning: uplink lte") {
		t.Errorf("check says\n%s", out)
	}
	r.up()
	addresses := r.sh("router", "ip -6 -o address show dev wan2 scope global | awk '{print $4}'")
	r.sh("router", "ip link set wan2 down")
	r.awaitState("lte", uplink.Down)
	began := time.Now()
	r.await("help", func() error {
		if codes := r.recoveries(); !strings.HasPrefix(strings.Join(codes, " "), "started done") {
			return fmt.Errorf("%q", codes)
		}
		return nil
	})
	if took := time.Since(began); took < 25*time.Second {
		t.Errorf("it was helped after %v", took)
	}
	for _, a := range strings.Fields(addresses) { // the kernel forgets them while a device is down
		r.sh("router", "ip -6 address replace "+a+" dev wan2 nodad")
	}
	r.sh("router", "ip route replace default via "+r.Uplink("lte").Gateway4.String()+" dev wan2 metric 200; ip -6 route replace default via fe80::1 dev wan2 metric 200")
	r.awaitState("lte", uplink.Up)
	if text, err := os.ReadFile(filepath.Join(r.dir, "helped")); err != nil || string(text) != "wwan0\n" {
		t.Errorf("the program was given %q, %v", text, err)
	}
	s := r.status().Uplinks
	if s[0].Recover != nil || s[1].Recover == nil || s[1].Recover.RunsToday != 1 || s[1].Recover.MaxPerDay != 6 {
		t.Errorf("%+v, %+v", s[0].Recover, s[1].Recover)
	}
	if text := r.command("status", "--socket", filepath.Join(r.dir, "s")); !strings.Contains(text, "helped 1 of 6 times") {
		t.Errorf("status says\n%s", text)
	}
	r.kill()
	r.start() // the run is not forgotten
	r.awaitState("lte", uplink.Up)
	if s := r.status().Uplinks[1].Recover; s == nil || s.RunsToday != 1 {
		t.Errorf("after a kill: %+v", s)
	}
	before := len(r.recoveries())
	if err := errors.Join(r.Break(lab.Upstream, "fiber"), r.Break(lab.Upstream, "lte")); err != nil {
		t.Fatal(err)
	}
	r.awaitFor(2*time.Minute, "word that it is no fault of this line", func() error {
		if codes := r.recoveries()[before:]; len(codes) != 1 || codes[0] != string(uplink.HoldCommon) {
			return fmt.Errorf("%q", codes)
		}
		return nil
	})
}
