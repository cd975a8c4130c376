package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// vxlans is an uplink over fiber, and a far end on a bridge.
const vxlans = dualWAN + `
[[uplink]]
name = "campus"
kind = "vxlan"
device = "vx0"
over = "fiber"
tier = 3
  [uplink.vxlan]
  local = "LOCAL"
  remote = "192.0.2.9"
  id = 42
  [uplink.ipv4]
  method = "static"
  address = "10.99.0.2/24"
  gateway = "10.99.0.1"
  [uplink.ipv6]
  method = "static"
  address = "2001:db8:99::2/64"
  gateway = "2001:db8:99::1"
  [uplink.probe]
  targets = ["10.99.0.1", "2001:db8:99::1"]
[[tunnel]]
kind = "vxlan"
device = "vx1"
bridge = "br0"
local = "LOCAL"
remote = "192.0.2.10"
id = 43
`

func TestThePlanOfVXLANsIsWhatRunDoes(t *testing.T) { checkPlanOfTunnels(t, vxlans) }

// changed finds the changes in the daemon's log.
var changed = regexp.MustCompile(`msg="changing the kernel" change=("(?:[^"\\]|\\.)*"|\S+)`)

// checkPlanOfTunnels compares what "plan" prints with what "run" does until it has converged, after which nothing is left. Then
// "clean" takes it all away. LOCAL stands for the router's address at fiber.
func checkPlanOfTunnels(t *testing.T, config string) {
	r := newRouter(t, lab.Options{}, "")
	r.sh("router", "ip link add br0 type bridge; ip link set br0 up")
	local := strings.TrimSpace(r.sh("router", "ip -4 -o address show dev wan1 | sed 's/.*inet //; s,/.*,,'"))
	r.configure(strings.ReplaceAll(config, "LOCAL", local))
	links := func() string {
		return r.sh("router", "ip -br link | sed 's/@.*//; s/ .*//' | grep -vxE 'gre0|gretap0|erspan0|sit0' | sort")
	}
	before := links()
	var plan struct {
		Changes []struct{ Command string }
	}
	if err := json.Unmarshal([]byte(r.command("plan", "--json", "-c", r.config)), &plan); err != nil {
		t.Fatal(err)
	}
	var planned, done []string
	for _, c := range plan.Changes {
		planned = append(planned, c.Command)
	}
	r.start()
	if out := r.command("plan", "-c", r.config); !strings.Contains(out, "# nothing to change") {
		t.Errorf("after the daemon has converged there is still to do:\n%s", out)
	}
	devices := links()
	r.stop()
	for _, m := range changed.FindAllStringSubmatch(r.log.String(), -1) {
		command := m[1]
		if unquoted, err := strconv.Unquote(command); err == nil {
			command = unquoted
		}
		done = append(done, command)
	}
	if diff := cmp.Diff(planned, done); diff != "" {
		t.Errorf("what was planned and what was done (-plan +run):\n%s", diff)
	}
	if !slices.ContainsFunc(planned, func(c string) bool { return strings.HasPrefix(c, "ip link add name ") }) || devices == before {
		t.Errorf("no tunnel was planned and made:\n%s", strings.Join(planned, "\n"))
	}
	r.command("clean", "-c", r.config)
	if diff := cmp.Diff(before, links()); diff != "" {
		t.Errorf("devices before and after (-before +after):\n%s", diff)
	}
}

// A tunnel that somebody else's device leaves no room for keeps the daemon from being healthy, and nothing else from working.
func TestATunnelThatCannotBeMadeIsNamedAndFlowsMoveAllTheSame(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, "")
	local := strings.TrimSpace(r.sh("router", "ip -4 -o address show dev wan1 | sed 's/.*inet //; s,/.*,,'"))
	r.sh("router", "ip link add br0 type bridge; ip link add theirs type vxlan id 42 dstport 4789 local "+local+" remote 192.0.2.9")
	r.configure(strings.ReplaceAll(vxlans, "LOCAL", local))
	r.launch()
	r.await("the problem", func() error { return r.hasProblem("tunnel") })
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	healthy := func() string {
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(r.dir, "s"))
		}
		answer, err := (&http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}).Get("http://uplinkd/healthz")
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		return string(text)
	}
	unmade := func() {
		t.Helper()
		if err := r.hasProblem("tunnel"); err != nil || r.converged() == nil || !strings.Contains(healthy(), "ip link add name vx0") {
			t.Errorf("%v; converged %v; healthz: %s", err, r.converged(), healthy())
		}
	}
	unmade()
	stream, _ := r.streamFrom("lan", "192.0.2.1:7")
	r.await("the stream to use fiber", over(stream, "fiber"))
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.await("the stream to move to lte", over(stream, "fiber", "lte"))
	unmade()
	r.sh("router", "ip link delete theirs")
	r.await("the daemon to converge", r.converged)
	if text := healthy(); !strings.Contains(text, "ok") {
		t.Errorf("healthz: %s", text)
	}
}

// A plan is a shell script: whatever an error says is no command of it.
func TestWhatAPlanSaysOfAnErrorIsAComment(t *testing.T) {
	for line := range strings.SplitSeq(comment("error: refused: bad\nip link del wan1\n\nreboot"), "\n") {
		if !strings.HasPrefix(line, "# ") {
			t.Errorf("%q", line)
		}
	}
}
