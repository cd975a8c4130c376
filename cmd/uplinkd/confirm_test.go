package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
)

// confirmsEnv is how often a reload cuts the LAN off.
const (
	confirmsEnv = "UPLINKD_CONFIRMS"
	fewConfirms = 3
)

// cutOff is a mistake that no check finds: all that the LAN sends is to leave by a line that is not there.
const cutOff = `
[[uplink]]
name = "spare"
device = "nodev9"
tier = 3
` + families + `
[[policy]]
name = "all-by-spare"
iif = ["lan0"]
uplinks = ["spare"]
fallback = "unreachable"
`

// TestAReloadThatCutsTheAdminOffIsTakenBack has a configuration shut the LAN out, with everything that may come in between: the
// daemon is killed at any instant, the file is changed, programs ask for reloads. In time the LAN is online again, and stays so.
func TestAReloadThatCutsTheAdminOffIsTakenBack(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.serve()
	r.start()
	r.awaitBy("lan", other4, "fiber")
	good := r.configured()
	cut, other := good+cutOff, good+"# changed again\n"+cutOff
	draw := rand.New(rand.NewPCG(uint64(envNumber(t, seedEnv, 1)), 0))
	hangup := func() { // it would end what is not yet the daemon
		if _, err := r.client.Status(t.Context()); err == nil {
			_ = r.process.Process.Signal(syscall.SIGHUP)
		}
	}
	var took []time.Duration
	tries := envNumber(t, confirmsEnv, fewConfirms)
	for n := range tries {
		wait := time.Duration(2+draw.IntN(3)) * time.Second
		r.write(r.config, cut)
		began := time.Now()
		r.command("reload", "--socket", r.socket(), "--confirm", wait.String())
		r.awaitRefused("lan", other4)
		if time.Since(began) < wait/2 {
			s := r.status()
			waits := slices.ContainsFunc(s.Problems, func(p rules.Problem) bool { return p.Code == "config-unconfirmed" })
			if until := s.Config.ConfirmUntil.Sub(began); !waits || until < wait-2*time.Second || until > wait+2*time.Second {
				t.Errorf("config: %+v, problems: %+v", s.Config, s.Problems)
			}
		}
		var did []string
		for range 1 + draw.IntN(3) {
			time.Sleep(time.Duration(draw.Int64N(int64(wait / 3))))
			what := draw.IntN(6)
			did = append(did, fmt.Sprint(what))
			switch what {
			case 0, 1, 2:
				r.kill()
				time.Sleep(time.Duration(draw.Int64N(int64(wait / 2))))
				r.launch()
			case 3:
				// When the time is over, somebody who changes the file and reloads wants that.
				if s, err := r.client.Status(t.Context()); err == nil && time.Until(s.Config.ConfirmUntil.Time) > time.Second {
					r.write(r.config, other)
					_ = r.program("reload", "--socket", r.socket()).Run()
				}
			case 4:
				r.write(r.config, cut[:len(cut)-10])
				hangup()
			case 5:
				hangup()
			}
		}
		r.awaitBy("lan", other4, "fiber")
		r.awaitBy("lan", other6, "fiber")
		took = append(took, time.Since(began)-wait)
		r.await("the daemon to converge", r.converged)
		taken := r.status()
		if len(taken.Uplinks) != 2 || taken.Config.Error == "" || !taken.Config.ConfirmUntil.IsZero() {
			t.Errorf("try %d (%v): %+v, %d uplinks", n, did, taken.Config, len(taken.Uplinks))
		}
		r.awaitProblem("config", "stays in force")
		// Nothing brings it back by itself: neither a program that reloads, nor a start.
		if n%2 == 0 {
			r.hangup()
			r.kill()
			r.start()
		}
		r.awaitBy("lan", other4, "fiber")
		if s := r.status(); len(s.Uplinks) != 2 || s.Config.Error == "" {
			t.Errorf("try %d (%v), later: %+v, %d uplinks", n, did, s.Config, len(s.Uplinks))
		}
		r.write(r.config, good)
		r.command("reload", "--socket", r.socket())
		if s := r.status(); s.Config.Error != "" {
			t.Errorf("try %d (%v): %+v", n, did, s.Config)
		}
		if t.Failed() {
			t.Fatalf("seed %d, try %d: %v", envNumber(t, seedEnv, 1), n, did)
		}
	}
	slices.Sort(took)
	t.Logf("taken back in %d of %d tries; from the end of the wait until the LAN was online: median %v, most %v", len(took), tries, took[len(took)/2], took[len(took)-1])
}

func TestAConfirmedConfigurationStays(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.start()
	r.fails(exitFailed, "no configuration is waiting to be confirmed", "confirm", "--socket", r.socket())
	r.fails(exitUsage, "not a time to wait", "reload", "--socket", r.socket(), "--confirm", "0s")
	r.fails(exitUsage, "24h0m0s", "reload", "--socket", r.socket(), "--confirm", "25h")
	r.configure(strings.Replace(dualWAN, "tier = 2", "tier = 7", 1))
	if out := r.command("reload", "--socket", r.socket(), "--confirm", "2s"); !strings.Contains(out, "uplinkd confirm") {
		t.Errorf("it prints %q", out)
	}
	r.kill() // it waits on, for the rest of its time
	r.start()
	r.command("confirm", "--socket", r.socket())
	r.fails(exitFailed, "no configuration is waiting to be confirmed", "confirm", "--socket", r.socket())
	tier := func() {
		t.Helper()
		if u, err := r.uplinkStatus("lte"); err != nil || u.Tier != 7 {
			t.Errorf("tier %d, %v", u.Tier, err)
		}
	}
	time.Sleep(3 * time.Second)
	tier()
	r.kill()
	r.start()
	tier()
	if s := r.status(); s.Config.Error != "" || !s.Config.ConfirmUntil.IsZero() {
		t.Errorf("%+v", s.Config)
	}
	if all := r.events(status.EventReload); !slices.ContainsFunc(all, func(e status.Event) bool { return strings.Contains(e.Message, "is confirmed") }) {
		t.Errorf("%+v", all)
	}
}

// A promise that a power cut would break is not given.
func TestNothingWaitsWhereTheStateCannotBeKept(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.start()
	state := r.dir + "/state"
	r.sh("router", fmt.Sprintf("touch %s.file", state))
	// At once: the daemon makes a directory again that is missing when it saves something.
	if err := unix.Renameat2(unix.AT_FDCWD, state, unix.AT_FDCWD, state+".file", unix.RENAME_EXCHANGE); err != nil {
		t.Fatal(err)
	}
	r.configure(dualWAN + cutOff)
	r.fails(exitUsage, "nothing was changed", "reload", "--socket", r.socket(), "--confirm", "60s")
	if s := r.status(); len(s.Uplinks) != 2 {
		t.Errorf("%d uplinks", len(s.Uplinks))
	}
	r.awaitProblem("state-not-saved", "not a directory")
	r.sh("router", "rm "+state)
	r.await("the state to be kept again", func() error {
		if slices.ContainsFunc(r.status().Problems, func(p rules.Problem) bool { return p.Code == "state-not-saved" }) {
			return errors.New("it is a problem")
		}
		return exec.Command("test", "-s", state+"/ids.json", "-a", "-s", state+"/config.json").Run()
	})
	r.command("reload", "--socket", r.socket(), "--confirm", "60s")
}
