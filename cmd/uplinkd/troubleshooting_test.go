package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/uplink"
)

// TestTheCommandsOfTroubleshootingAreTyped types each block of docs/troubleshooting.md at a shell of a router that has other names than the
// page. Stopping the daemon is done as its unit would; what else is asked of systemd is typed in "make packages-test".
func TestTheCommandsOfTroubleshootingAreTyped(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	r := newHouse(t, besideScene{})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(r.dir, "bin")
	r.in(fmt.Sprintf("mkdir -p %[1]s /etc/uplinkd\ncp %[2]s /etc/uplinkd/uplinkd.toml\nprintf '#!/bin/sh\\nexec env %[3]s=1 %[4]s \"$@\"\\n' >%[1]s/uplinkd\nchmod 755 %[1]s/uplinkd", bin, r.config, actAsProgram, self))
	r.env = append(r.env, "PATH="+bin+":"+os.Getenv("PATH"))
	up := func() {
		r.launch("-c", "/etc/uplinkd/uplinkd.toml")
		r.await("the daemon to converge", r.converged)
		r.awaitState("fiber", uplink.Up)
		r.awaitState("lte", uplink.Up)
	}
	up()
	names := strings.NewReplacer("eth1", "wan1", "eth2", "wan2", "br-lan", "lan0", "1.1.1.1", "192.0.2.1")
	typed := map[string]int{}
	for _, block := range blocks(string(page), "sh") {
		for line := range strings.Lines(block) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), " #")
			words := strings.Fields(line)
			switch {
			case line == "systemctl stop uplinkd":
				r.stop()
				continue
			case slices.Contains([]string{"systemctl", "journalctl"}, words[0]):
				continue
			case strings.HasPrefix(line, "uplinkd reload --confirm"):
				r.in("sed -i 's/tier = 2/tier = 3/' /etc/uplinkd/uplinkd.toml") // what the admin is about to do
			}
			out, err := r.try(names.Replace(line))
			code, exit := 0, (*exec.ExitError)(nil)
			if errors.As(err, &exit) {
				code, err = exit.ExitCode(), nil
			}
			// What the doctor finds is in its code; an answer that "explain" gives of a packet that goes nowhere, too.
			if err != nil || code != 0 && !(code == exitWarnings && (words[1] == "doctor" || words[1] == "explain")) || strings.TrimSpace(out) == "" && !quiet[strings.Join(words[:2], " ")] {
				t.Errorf("%s: exit code %d, %v\n%s", line, code, err, out)
			}
			typed[words[0]]++
			if strings.HasPrefix(line, "uplinkd clean") {
				if rules := r.in("ip rule"); strings.Contains(rules, "117") {
					t.Errorf("cleaned, the rules are\n%s", rules)
				}
				r.awaitBy("router", other4, "fiber") // as table main says; for hosts nobody translates now
				up()
			}
		}
	}
	if typed["uplinkd"] < 25 || typed["ping"] != 2 || typed["conntrack"] != 1 {
		t.Errorf("the page has %v", typed)
	}
}

// quiet are commands that need not say anything when all went well.
var quiet = map[string]bool{"uplinkd check": true, "uplinkd plan": true, "uplinkd clean": true, "uplinkd confirm": true, "uplinkd drain": true, "uplinkd undrain": true, "conntrack -L": true}
