package main

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// A file with a mistake keeps nobody off the network: neither by a reload nor after a power cut.
func TestTheLastGoodConfigurationStandsInForAFileWithAMistake(t *testing.T) {
	r := newRouter(t, lab.Options{}, dualWAN)
	r.ready()
	good, err := os.ReadFile(r.config)
	if err != nil {
		t.Fatal(err)
	}
	inForce := func(wrong string) {
		t.Helper()
		r.awaitState("lte", uplink.Up)
		r.expectBy("lan", other4, "fiber")
		s := r.status()
		told := slices.ContainsFunc(s.Problems, func(p rules.Problem) bool { return p.Code == "config" && strings.Contains(p.Message, wrong) })
		if !strings.Contains(s.Config.Error, wrong) || s.Config.File != r.config || told != (wrong != "") {
			t.Errorf("config: %+v, problems: %+v; want %q", s.Config, s.Problems, wrong)
		}
	}
	inForce("")
	for wrong, text := range map[string]string{
		"did you mean device?": strings.Replace(string(good), "device =", "devcie =", 1),
		"no closing quote":     string(good[:strings.LastIndex(string(good), "http")]), // as after a power cut
	} {
		r.write(r.config, text)
		if out, err := r.program("reload", "--socket", r.dir+"/s").CombinedOutput(); err == nil || !strings.Contains(string(out), wrong) {
			t.Errorf("reload: %v, %s", err, out)
		}
		inForce(wrong)
		r.kill()
		r.sh("router", "for f in -4 -6; do ip $f rule flush protocol 117; done; ip route flush table 11700; nft flush ruleset")
		r.start()
		inForce(wrong)
		r.write(r.config, string(good))
		r.command("reload", "--socket", r.dir+"/s")
		inForce("")
	}
}

// Who has never run has nothing to fall back to.
func TestAFirstStartWithAMistakeIsRefused(t *testing.T) {
	r := newRouter(t, lab.Options{}, "[[uplink]]\n")
	out, err := r.program("run", "-c", r.config).CombinedOutput()
	var exit interface{ ExitCode() int }
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "this uplink has no name") {
		t.Errorf("%v: %s", err, out)
	}
}
