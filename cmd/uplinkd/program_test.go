package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/doctor"
	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// scene is a known program beside uplinkd, on the router of a world.
type besideScene struct {
	program string // its name in internal/programs
	setup   string // what it does here, where that has figures of its own: "default by BGP"
	version string // what prints its version, for a shell
	lab.Options
	config string // dualWAN when empty

	prepare string               // files of the program, by a shell on the router, in mounts that are its own
	start   func(h *house)       // the program, until it has done its work; may call h.serve
	stop    func(h *house)       // when nil, what h.serve has started is ended
	reload  string               // for a shell; when empty the program is stopped and started again
	works   func(h *house) error // what the program itself is there for; asked whenever the house must work

	// addresses is true where the program gives the router its addresses, noForwards6 where nobody forwards ports of IPv6.
	addresses, noForwards6 bool
	// gateways is true where a line has its default route from the program.
	gateways bool
	// variant is true where another scene is the one that docs/programs.md shows.
	variant bool
	// unseen is true where the program leaves no sign, and nothing has to be known.
	unseen bool
	// known are codes of errors and warnings that doctor has, and is right to have.
	known []string
}

// house is a world where a scene plays.
type house struct {
	*router
	scene   besideScene
	running []func() // what ends the programs
	argv    []string // of a program that is started again
}

// seen are the figures of a scene, for docs/programs.md.
type seen struct {
	Program string `json:"program"`
	Setup   string `json:"setup,omitempty"`
	Version string `json:"version"`
	Kernel  string `json:"kernel"`
	// How long no new flow of a LAN host succeeded, in ms, the slower family: when the first line dies and when it comes back.
	FailoverMS int64 `json:"failover_ms"`
	ReturnMS   int64 `json:"return_ms"`
	// Packets of 200 a second and family that were lost while uplinkd was killed and started, and while the program was
	// started again or told to reload.
	KilledLost   int `json:"killed_lost"`
	RestartLost  int `json:"restart_lost"`
	RestartSends int `json:"restart_sends"`
}

// mounts gives the router an /etc, /var/lib and /run of its own.
const mounts = `
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/own/eu /run/own/ew /run/own/vu /run/own/vw /run/lock /run/dbus /run/user
mount -t overlay -o lowerdir=/etc,upperdir=/run/own/eu,workdir=/run/own/ew overlay /etc
mount -t overlay -o lowerdir=/var/lib,upperdir=/run/own/vu,workdir=/run/own/vw overlay /var/lib
mount -t tmpfs tmpfs /var/log
mount -o remount,ro,bind /sys
: >/run/own/ready
exec sleep infinity
`

// mounted is a command on the router, in its mounts.
func (r *router) mounted(argv ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"-t", r.mounts, "-m", "-n", "--"}, argv...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// in runs a script on the router, in its mounts.
func (h *house) in(script string) string {
	h.Helper()
	out, err := h.try(script)
	if err != nil {
		h.Fatalf("%v\n%s", err, out)
	}
	return out
}

func (h *house) try(script string) (string, error) {
	cmd := h.mounted("sh", "-ec", script)
	cmd.Env = append(os.Environ(), h.env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// serve starts a program on the router, which stays until the scene ends it.
func (h *house) serve(argv ...string) (log *safeBuffer) {
	h.Helper()
	server := h.mounted(argv...)
	server.Env = append(os.Environ(), h.env...)
	cmd, log, kill := h.runBeside(server)
	h.running = append(h.running, func() {
		// It gives back what it has on the signal that its unit would send.
		_ = cmd.Process.Signal(syscall.SIGTERM)
		ended := time.AfterFunc(patience, kill)
		_ = cmd.Wait()
		ended.Stop()
	})
	return log
}

func (h *house) startProgram() {
	h.Helper()
	h.scene.start(h)
}

func (h *house) stopProgram() {
	h.Helper()
	if h.scene.stop != nil {
		h.scene.stop(h)
	}
	for _, end := range slices.Backward(h.running) {
		end()
	}
	h.running = nil
}

// newHouse builds the world of a scene.
func newHouse(t testing.TB, s besideScene) *house {
	t.Helper()
	if s.config == "" {
		s.config = dualWAN
	}
	r := newRouter(t, s.Options, s.config)
	if err := os.Chmod(r.dir, 0o755); err != nil { // programs may give up being root
		t.Fatal(err)
	}
	holder, _, _ := r.background("router", "unshare", "-m", "sh", "-ec", mounts)
	r.mounts = strconv.Itoa(holder.Process.Pid)
	h := &house{router: r, scene: s}
	r.await("mounts of the router's own", func() error {
		_, err := os.Stat("/proc/" + r.mounts + "/root/run/own/ready")
		return err
	})
	for _, target := range []string{selected4, selected6} {
		if err := r.Host("inet").ServeUDPEcho(context.Background(), addrPort(target)); err != nil {
			t.Fatal(err)
		}
	}
	r.serve()
	h.in("ip link set lo up\n" + s.prepare)
	if s.addresses {
		h.leases()
	}
	return h
}

// daemon starts uplinkd and waits until both lines are up.
func (h *house) daemon() {
	h.Helper()
	h.router.start()
	h.awaitState("fiber", uplink.Up)
	h.awaitState("lte", uplink.Up)
}

// works checks, until it is so or patience ends, that the LAN and the router use a line, that both lines are answered at which
// are alive, and that ports are forwarded.
func (h *house) house(when, by string, alive ...string) {
	h.Helper()
	var last error
	h.await("the house to work "+when, func() error {
		errs := make([]error, 0, 8)
		for _, from := range []string{"lan", "router"} {
			for _, target := range []string{other4, other6} {
				got, err := h.by(from, target)
				if err == nil && got != by {
					err = fmt.Errorf("by %q", got)
				}
				if err != nil {
					errs = append(errs, fmt.Errorf("from %s to %s: %w", from, target, err))
				}
			}
		}
		for _, line := range alive {
			for _, at := range h.addresses(line) {
				for _, s := range services {
					if at.Is6() && h.scene.noForwards6 && s.port >= lab.ForwardedTCP {
						continue
					}
					errs = append(errs, h.ask("inet", s, at, 2*time.Second))
				}
			}
		}
		if h.scene.works != nil {
			errs = append(errs, h.scene.works(h))
		}
		last = errors.Join(errs...)
		return last
	})
}

// streams sends packets from the LAN host until the returned function is called, which says how many were lost of how many.
func (h *house) streams() (stop func() (lost, sent int)) {
	h.Helper()
	var stops []func() lab.StreamStats
	for _, target := range []string{other4, other6} {
		_, stop := h.streamFrom("lan", target)
		stops = append(stops, stop)
	}
	return func() (lost, sent int) {
		for _, stop := range stops {
			st := stop()
			lost, sent = lost+st.Sent-st.Answered, sent+st.Sent
		}
		return lost, sent
	}
}

// diagnosed checks that doctor recognises the program and finds nothing wrong but what is known.
func (h *house) diagnosed() {
	h.Helper()
	h.await("doctor to find what is known of "+h.scene.program, func() error {
		findings, _ := h.doctor()
		var codes []string
		for _, f := range findings {
			if f.Severity != doctor.Notice && !slices.Contains(codes, f.Check) {
				codes = append(codes, f.Check)
			}
		}
		if slices.Sort(codes); !slices.Equal(codes, h.scene.known) {
			return fmt.Errorf("%+v", findings)
		}
		return nil
	})
	if h.scene.unseen {
		return
	}
	if here := h.alsoHere(); !slices.Contains(strings.Split(here, ", "), h.scene.program) {
		h.Errorf("doctor does not recognise %s: %q", h.scene.program, here)
	}
	if text := h.in("exec " + h.uplinkd("init")); !strings.Contains(text, "## * "+h.scene.program+", by ") {
		h.Errorf("init does not name %s:\n%s", h.scene.program, text)
	}
}

// uplinkd is a command line of this program, for a shell.
func (h *house) uplinkd(args ...string) string {
	self, err := os.Executable()
	if err != nil {
		h.Fatal(err)
	}
	return "env " + actAsProgram + "=1 " + self + " " + strings.Join(args, " ")
}

// breaks lets the first line die and come back, under flows of a LAN host, and returns how long no new one succeeded.
func (h *house) breaks() (failover, back time.Duration) {
	h.Helper()
	probes := make([]*lab.FlowProbe, 2)
	for i, target := range []string{other4, other6} {
		probes[i] = &lab.FlowProbe{From: h.Host("lan"), Network: "udp", Target: addrPort(target)}
		defer h.probe(probes[i])()
		h.awaitFlow(probes[i], "fiber")
	}
	stall := func(change func() error, by string) (longest time.Duration) {
		since := time.Now()
		if err := change(); err != nil {
			h.Fatal(err)
		}
		for _, p := range probes {
			h.awaitFlow(p, by)
			longest = max(longest, p.Stall(since))
		}
		return longest
	}
	failover = stall(func() error { return h.Break(lab.Blackhole, "fiber") }, "lte")
	h.awaitState("fiber", uplink.Down)
	h.house("by the second line", "lte", "lte")
	back = stall(h.Heal, "fiber")
	h.awaitState("fiber", uplink.Up)
	h.house("by the first line again", "fiber", "fiber", "lte")
	return failover, back
}

// sentProperly checks that no provider got a source that is not its customer's.
func (h *house) sentProperly() {
	h.Helper()
	if n := h.foreign(); n != 0 {
		h.Errorf("%d packets left with a foreign source: %s", n, h.foreignSources())
	}
}

// playBeside plays a scene in both orders of starting, and records what was seen.
func playBeside(t *testing.T, s besideScene) {
	t.Parallel()
	t.Run("uplinkd last", func(t *testing.T) {
		t.Parallel()
		h := newHouse(t, s)
		h.startProgram()
		h.daemon()
		h.house("at first", "fiber", "fiber", "lte")
		h.diagnosed()
		saw := seen{Program: s.program, Setup: s.setup, Version: strings.TrimSpace(h.in(s.version)), Kernel: strings.TrimSpace(h.in("uname -r | cut -d- -f1"))}
		failover, back := h.breaks()
		saw.FailoverMS, saw.ReturnMS = failover.Milliseconds(), back.Milliseconds()

		stop := h.streams()
		h.kill()
		h.daemon()
		saw.KilledLost, _ = stop()
		if saw.KilledLost != 0 {
			t.Errorf("%d packets were lost while uplinkd was killed and started", saw.KilledLost)
		}
		h.house("after uplinkd was killed", "fiber", "fiber", "lte")

		stop = h.streams()
		if s.reload != "" {
			h.in(s.reload)
		} else {
			h.stopProgram()
			h.startProgram()
		}
		h.house("after the program was started again", "fiber", "fiber", "lte")
		h.awaitNoChange()
		saw.RestartLost, saw.RestartSends = stop()
		h.sentProperly()
		h.diagnosed()
		t.Logf("%+v", saw)
		if !s.variant {
			saw.record(t)
		}
	})
	t.Run("uplinkd first", func(t *testing.T) {
		t.Parallel()
		h := newHouse(t, s)
		if s.addresses || s.gateways {
			h.launch()
		} else {
			h.daemon()
		}
		h.startProgram()
		h.awaitState("fiber", uplink.Up)
		h.awaitState("lte", uplink.Up)
		h.house("at first", "fiber", "fiber", "lte")
		h.breaks()
		h.sentProperly()
		if !s.addresses {
			h.stopProgram()
			h.await("uplinkd to have nothing to change", h.converged)
		}
	})
}

// recorded is where a scene's figures are kept, from which docs/programs.md is made.
const recorded = "testdata/programs"

// name is that of the row in docs/programs.md.
func (s *seen) name() string {
	if s.Setup == "" {
		return s.Program
	}
	return s.Program + ", " + s.Setup
}

// record keeps the figures where UPLINKD_RECORD is set.
func (s *seen) record(t *testing.T) {
	t.Helper()
	if os.Getenv("UPLINKD_RECORD") == "" || t.Failed() {
		return
	}
	text, err := json.MarshalIndent(s, "", "  ")
	t.Logf("%s", text) // what is written in a virtual machine is gone with it
	if err == nil {
		err = errors.Join(os.MkdirAll(recorded, 0o755), os.WriteFile(filepath.Join(recorded, strings.NewReplacer(", ", "-", " ", "-").Replace(strings.ToLower(s.name()))+".json"), append(text, '\n'), 0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
	pageMu.Lock()
	defer pageMu.Unlock()
	writeProgramsPage(t, recordedScenes(t))
}
