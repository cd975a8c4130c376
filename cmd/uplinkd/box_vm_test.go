//go:build vm

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/api"
)

// script runs a script in the namespace of the test.
func script(text string) (string, error) {
	out, err := exec.Command("sh", "-e", "-c", text).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", text, err, out)
	}
	return string(out), err
}

func mustScript(t testing.TB, text string) string {
	t.Helper()
	out, err := script(text)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// linkFunction connects two namespaces: link NAMESPACE DEVICE ADDRESS PEER-NAMESPACE PEER-DEVICE PEER-ADDRESS.
const linkFunction = `
	link() {
		ip link add $2 netns $1 type veth peer name $5 netns $4
		ip -n $1 address add $3 dev $2; ip -n $4 address add $6 dev $5
		ip -n $1 link set $2 up; ip -n $4 link set $5 up
	}
`

// namespaces makes network namespaces that last as long as the test.
func namespaces(t testing.TB, names ...string) {
	t.Helper()
	for _, n := range names {
		t.Cleanup(func() { _, _ = script("ip netns delete " + n) })
		mustScript(t, fmt.Sprintf("ip netns add %[1]s; ip -n %[1]s link set lo up", n))
	}
}

// newBox prepares uplinkd on a machine that is a namespace, and whose state is kept in a directory of its own.
func newBox(t testing.TB, namespace string) *router {
	t.Helper()
	dir, err := os.MkdirTemp("", "uplinkd-vm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &router{TB: t, dir: dir, config: filepath.Join(dir, "uplinkd.toml"), client: api.Dial(filepath.Join(dir, "s")), namespace: namespace, pace: emulated}
	t.Cleanup(r.kill)
	return r
}

// newKey makes a private key in a file and returns its public one.
func newKey(t testing.TB, file string) string {
	t.Helper()
	return strings.TrimSpace(mustScript(t, "umask 077; wg genkey | tee "+file+" | wg pubkey"))
}

// in runs a script in the box.
func (r *router) in(text string) string {
	r.Helper()
	return mustScript(r, "ip netns exec "+r.namespace+" sh -e -c '"+text+"'")
}

// serveIn runs a program in a namespace until the test ends.
func serveIn(t testing.TB, namespace, name string, args ...string) {
	t.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", namespace, name}, args...)...)
	log := new(safeBuffer)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", name, log.String())
		}
	})
}

// emulated is how often it is looked whether something has happened: each look takes time from what is looked at.
const emulated = 200 * time.Millisecond

// unhurriedProbes are for an emulated machine, which stands still for longer than any line is silent.
const unhurriedProbes = "  timeout = \"5s\"\n  fast_interval = \"200ms\"\n  fall = 12\n  rise = 2\n"
