package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// A file with a mistake keeps nobody off the network: neither by a reload nor after a power cut.
func TestTheLastGoodConfigurationStandsInForAFileWithAMistake(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.ready()
	good := r.configured()
	inForce := func(wrong string) {
		t.Helper()
		r.awaitState("lte", uplink.Up)
		r.expectBy("lan", other4, "fiber")
		s := r.status()
		reported := slices.ContainsFunc(s.Problems, func(p rules.Problem) bool { return p.Code == "config" && strings.Contains(p.Message, wrong) })
		if !strings.Contains(s.Config.Error, wrong) || s.Config.File != r.config || reported != (wrong != "") {
			t.Errorf("config: %+v, problems: %+v; want %q", s.Config, s.Problems, wrong)
		}
	}
	inForce("")
	for wrong, text := range map[string]string{
		"did you mean device?": strings.Replace(good, "device =", "devcie =", 1),
		"no closing quote":     good[:strings.LastIndex(good, "http")], // as after a power cut
	} {
		r.write(r.config, text)
		r.fails(exitUsage, wrong, "reload", "--socket", r.socket())
		inForce(wrong)
		r.kill()
		r.sh("router", "for f in -4 -6; do ip $f rule flush protocol 117; done; ip route flush table 11700; nft flush ruleset")
		r.start()
		inForce(wrong)
		r.write(r.config, good)
		r.command("reload", "--socket", r.socket())
		inForce("")
	}
}

// Who has never run has nothing to fall back to.
func TestAFirstStartWithAMistakeIsRefused(t *testing.T) {
	r := newRouter(t, lab.Options{}, "[[uplink]]\n")
	r.fails(exitUsage, "this uplink has no name", "run", "-c", r.config)
}
