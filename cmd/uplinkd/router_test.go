package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// patience bounds every wait of the end-to-end tests. It is no figure of ours: machines are shared.
const patience = 60 * time.Second

// unhurried is the time that a flow has where none may fail: a busy machine is no fault of ours.
const unhurried = 5 * time.Second

// router is a world with uplinkd on its router.
type router struct {
	testing.TB
	*lab.World
	dir     string
	config  string
	client  *api.Client
	process *exec.Cmd
	log     *bytes.Buffer

	binary    string        // its uplinkd; "" for this test's, which acts as one
	env       []string      // of its programs, besides that of the test
	namespace string        // of a router without a world
	mounts    string        // a process whose mounts its programs have; "" for the machine's
	pace      time.Duration // of looks while something is awaited, where each is expensive
}

// worlds counts the worlds of this process: those of parallel tests must not share the names of their namespaces.
var worlds atomic.Int64

// newRouter builds a world and writes a configuration for its router. Nothing runs yet.
func newRouter(t testing.TB, o lab.Options, config string) *router {
	t.Helper()
	if o.Prefix == "" {
		o.Prefix = fmt.Sprintf("w%d-", worlds.Add(1))
	}
	w, err := lab.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := w.ServeInternet(context.Background()); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "uplinkd-e2e-") // a short path: a socket's name has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &router{TB: t, World: w, dir: dir, config: filepath.Join(dir, "uplinkd.toml"), client: api.Dial(filepath.Join(dir, "s"))}
	r.configure(config)
	t.Cleanup(r.kill)
	return r
}

// configure writes the configuration: the given uplinks behind a preamble of the test's own.
func (r *router) configure(uplinks string) {
	r.Helper()
	preamble := fmt.Sprintf("[daemon]\nstate_dir = %q\nsocket = %q\nlisten = \"\"\nhooks = \"\"\n[kernel]\ntable_names = %q\n",
		filepath.Join(r.dir, "state"), filepath.Join(r.dir, "s"), filepath.Join(r.dir, "names.conf"))
	// A daemon that starts at this moment reads the former file or this one, and never half of it.
	err := os.WriteFile(r.config+".new", []byte(preamble+uplinks), 0o600)
	if err == nil {
		err = os.Rename(r.config+".new", r.config)
	}
	if err != nil {
		r.Fatal(err)
	}
}

// configured is the configuration as it stands in the file.
func (r *router) configured() string {
	r.Helper()
	text, err := os.ReadFile(r.config)
	if err != nil {
		r.Fatal(err)
	}
	return string(text)
}

// dualWAN is the usual configuration: fiber first, LTE behind it, both families, targets of the lab.
const dualWAN = `
[[uplink]]
name = "fiber"
device = "wan1"
` + families + `
[[uplink]]
name = "lte"
device = "wan2"
tier = 2
` + families

const families = `
  [uplink.ipv6]
  masquerade = true
` + targets

const targets = `
  [uplink.probe]
  targets = ["192.0.2.1", "tcp://192.0.2.2:443", "http://192.0.2.3/generate_204", "dns://192.0.2.53?name=example.net",
    "2001:db8:ffff::1", "tcp://[2001:db8:ffff::2]:443", "http://[2001:db8:ffff::3]/generate_204", "dns://[2001:db8:ffff::53]?name=example.net"]
`

// ipv4Only is fiber, with these lines of its own, and LTE in a tier; IPv6 is off, so that the family under test stands alone.
func ipv4Only(fiber string, lteTier int) string {
	const off = "  [uplink.ipv6]\n  method = \"off\"\n" + targets
	return "[[uplink]]\nname = \"fiber\"\ndevice = \"wan1\"\n" + fiber + off +
		fmt.Sprintf("[[uplink]]\nname = \"lte\"\ndevice = \"wan2\"\ntier = %d\n", lteTier) + off
}

// program is uplinkd, to be run on the router.
func (r *router) program(args ...string) *exec.Cmd {
	self := r.binary
	if self == "" {
		var err error
		if self, err = os.Executable(); err != nil {
			r.Fatal(err)
		}
	}
	cmd := exec.Command("ip", append([]string{"netns", "exec", r.namespace, self}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	switch {
	case r.mounts != "":
		cmd = r.mounted(append([]string{self}, args...)...)
	case r.World != nil:
		cmd = r.Host("router").Command(context.Background(), self, args...)
	}
	cmd.Env = append(append(os.Environ(), actAsProgram+"=1"), r.env...)
	return cmd
}

// command runs a command of uplinkd on the router to its end.
func (r *router) command(args ...string) string {
	r.Helper()
	out, err := r.program(args...).CombinedOutput()
	if err != nil {
		r.Fatalf("uplinkd %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// launch starts the daemon and waits for nothing.
func (r *router) launch(args ...string) {
	r.Helper()
	if args == nil {
		args = []string{"-c", r.config}
	}
	r.launchCommand(r.program(append([]string{"run", "--log", "debug"}, args...)...))
}

func (r *router) launchCommand(daemon *exec.Cmd) {
	r.Helper()
	r.log = new(bytes.Buffer)
	r.process = daemon
	r.process.Stdout, r.process.Stderr = r.log, r.log
	if err := r.process.Start(); err != nil {
		r.Fatal(err)
	}
}

// start starts the daemon and waits until the kernel is as it wants.
func (r *router) start() {
	r.Helper()
	r.launch()
	r.await("the daemon to converge", r.converged)
}

func (r *router) converged() error {
	s, err := r.client.Status(context.Background())
	if err != nil {
		return err
	}
	if !s.Converged {
		return errors.New("not converged")
	}
	return nil
}

// end sends the daemon a signal and waits until it is gone. Its log is shown when the test has failed.
func (r *router) end(sig syscall.Signal) {
	if r.process == nil {
		return
	}
	_ = r.process.Process.Signal(sig)
	_ = r.process.Process.Signal(syscall.SIGCONT) // one that stands still hears of nothing but SIGKILL, as systemd knows
	_ = r.process.Wait()
	r.process = nil
	if r.Failed() || os.Getenv("UPLINKD_LOGS") != "" {
		r.Logf("the daemon's log:\n%s", r.log)
	}
}

func (r *router) kill() { r.end(syscall.SIGKILL) }
func (r *router) stop() { r.end(syscall.SIGTERM) }

// await waits until check succeeds.
func (r *router) await(what string, check func() error) {
	r.Helper()
	r.awaitFor(patience, what, check)
}

// awaitFor is await with a bound of its own.
func (r *router) awaitFor(bound time.Duration, what string, check func() error) {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	err := lab.Until(ctx, what, func() error {
		err := check()
		if err != nil {
			time.Sleep(r.pace)
		}
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
}

func (r *router) status() status.Status {
	r.Helper()
	s, err := r.client.Status(context.Background())
	if err != nil {
		r.Fatal(err)
	}
	return s
}

// awaitState waits until both families of an uplink are in one of the states.
func (r *router) awaitState(name string, states ...uplink.State) {
	r.Helper()
	r.await(fmt.Sprintf("%s to be %v", name, states), func() error {
		for _, u := range r.status().Uplinks {
			if u.Name != name {
				continue
			}
			for _, f := range []status.FamilyStatus{u.IPv4, u.IPv6} {
				if f.State != uplink.Disabled && !contains(states, f.State) {
					return fmt.Errorf("it is %s (%s)", f.State, f.Reason)
				}
			}
			return nil
		}
		return errors.New("it is not there")
	})
}

func contains[T comparable](list []T, x T) bool {
	for _, y := range list {
		if x == y {
			return true
		}
	}
	return false
}

// sh runs a script on a host.
func (r *router) sh(host, script string) string {
	r.Helper()
	out, err := r.Host(host).Run("sh", "-e", "-c", script)
	if err != nil {
		r.Fatal(err)
	}
	return out
}

// foreign is how many packets the providers dropped because of their source.
func (r *router) foreign() uint64 {
	r.Helper()
	var n uint64
	for _, u := range r.Uplinks() {
		c, err := r.Counters(u.Name)
		if err != nil {
			r.Fatal(err)
		}
		n += c.ForeignV4 + c.ForeignV6
	}
	return n
}

// foreignSources lists, by uplink, what left with a source that belongs elsewhere.
func (r *router) foreignSources() string {
	var b strings.Builder
	for _, u := range r.Uplinks() {
		seen, err := r.Foreign(u.Name)
		fmt.Fprintf(&b, "by %s %q %v; ", u.Name, seen, err)
	}
	return b.String()
}

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// probe opens new flows from the LAN host until the test ends, or the returned function is called.
func (r *router) probe(p *lab.FlowProbe) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.Run(ctx); err != nil {
			r.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	r.Cleanup(stop)
	return stop
}

// awaitFlow waits until new flows take an uplink.
func (r *router) awaitFlow(p *lab.FlowProbe, uplink string) {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := p.WaitFor(ctx, uplink, time.Now()); err != nil {
		r.Fatal(err)
	}
}

// decisions is the decision log as it stands.
func (r *router) decisions() []status.Event {
	r.Helper()
	var events []status.Event
	err := r.client.Events(context.Background(), 0, false, func(e status.Event) error {
		events = append(events, e)
		return nil
	})
	if err != nil {
		r.Fatal(err)
	}
	return events
}
