package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// ours is all kernel state of the router that the daemon may touch.
func (r *router) ours() string {
	r.Helper()
	return r.sh("router", `ip rule; ip -6 rule; ip route show table all; ip -6 route show table all proto 117; nft -s list table inet uplinkd
		ip link show group 117; grep . /proc/sys/net/ipv4/conf/*/src_valid_mark`)
}

// hangup sends SIGHUP and waits for the event that tells what came of it.
func (r *router) hangup() status.Event {
	r.Helper()
	before := len(r.events(status.EventReload))
	if err := r.process.Process.Signal(syscall.SIGHUP); err != nil {
		r.Fatal(err)
	}
	var latest status.Event
	r.await("the configuration to be read again", func() error {
		all := r.events(status.EventReload)
		if len(all) == before {
			return errors.New("no event")
		}
		latest = all[len(all)-1]
		return nil
	})
	return latest
}

// fails runs a command of uplinkd that must fail with the exit code and say these words.
func (r *router) fails(code int, words string, args ...string) {
	r.Helper()
	cmd := r.program(args...)
	out, _ := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != code || !strings.Contains(string(out), words) {
		r.Errorf("uplinkd %s: exit code %d, want %d, and these words: %q\n%s", strings.Join(args, " "), got, code, words, out)
	}
}

func (r *router) socket() string { return filepath.Join(r.dir, "s") }

func TestAReloadOfAFileWithAMistakeChangesNothing(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	before, generation := r.ours(), r.status().Generation
	r.configure(strings.Replace(dualWAN, "tier = 2", "tear = 2", 1))
	text, err := os.ReadFile(r.config)
	if err != nil {
		t.Fatal(err)
	}
	above, _, _ := strings.Cut(string(text), "tear")
	where := fmt.Sprintf("%s:%d:1: ", r.config, 1+strings.Count(above, "\n"))
	if e := r.hangup(); !strings.HasPrefix(e.Message, "reload failed, configuration unchanged: "+where) {
		t.Errorf("%+v", e)
	}
	r.fails(exitUsage, where, "reload", "--socket", r.socket())
	r.fails(exitUsage, where, "check", "-c", r.config)
	if s := r.status(); s.Generation != generation || len(s.Uplinks) != 2 || s.Uplinks[1].Tier != 2 {
		t.Errorf("%+v", s)
	}
	if after := r.ours(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	r.stop()
	if log := r.log.String(); !strings.Contains(log, where) {
		t.Errorf("the log does not say where the mistake is:\n%s", log)
	}
}

func TestSectionsThatNeedARestartAreRefusedByAReload(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.start()
	before := r.ours()
	file, err := os.ReadFile(r.config)
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string][2]string{
		"[kernel]": {"[kernel]\n", "[kernel]\nrule_priority = 20000\n"},
		"[daemon]": {"listen = \"\"\n", "listen = \"127.0.0.1:9275\"\n"},
	} {
		text := strings.Replace(string(file), change[0], change[1], 1)
		if err := os.WriteFile(r.config, []byte(strings.Replace(text, "tier = 2", "tier = 3", 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if e := r.hangup(); !strings.Contains(e.Message, "[daemon], [kernel] and [pair] need a restart") {
			t.Errorf("%s: %+v", what, e)
		}
		r.fails(exitUsage, "need a restart", "reload", "--socket", r.socket())
		if s := r.status(); s.Uplinks[1].Tier != 2 {
			t.Errorf("%s: refused, and yet tier %d was taken over", what, s.Uplinks[1].Tier)
		}
	}
	if after := r.ours(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// section is one uplink of a configuration that reloads change.
func section(name, device string, tier, weight int) string {
	return fmt.Sprintf("\n[[uplink]]\nname = %q\ndevice = %q\ntier = %d\nweight = %d\n%s", name, device, tier, weight, families)
}

func (r *router) marks() map[string]string {
	marks := make(map[string]string)
	for _, u := range r.status().Uplinks {
		marks[u.Name] = u.Mark.String()
	}
	return marks
}

func TestAReloadAddsRemovesAndWeighsUplinksWithoutLosingAPacket(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{Uplinks: 3}, section("fiber", "wan1", 1, 1)+section("lte", "wan2", 2, 1))
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	s4, stop4 := r.streamFrom("lan", "192.0.2.1:7")
	s6, stop6 := r.streamFrom("lan", "[2001:db8:ffff::1]:7")
	since := r.status().Uplinks[0].IPv4.Since
	marks := r.marks()
	reload := func(config string) {
		t.Helper()
		r.configure(config)
		if e := r.hangup(); e.Message != "configuration reloaded" {
			t.Fatalf("%+v", e)
		}
		r.await("the daemon to converge", r.converged)
		r.awaitMore(s4)
		r.awaitMore(s6)
		for name, mark := range r.marks() {
			if before, known := marks[name]; known && before != mark {
				t.Errorf("the mark of %s was %s and is %s", name, before, mark)
			}
			marks[name] = mark
		}
	}
	share := func(name string, want float64) {
		t.Helper()
		r.await(fmt.Sprintf("%s to have a share of %v", name, want), func() error {
			if u, err := r.uplinkStatus(name); err != nil || u.IPv4.Share != want || u.IPv6.Share != want {
				return fmt.Errorf("%v, %v, %v", u.IPv4.Share, u.IPv6.Share, err)
			}
			return nil
		})
	}

	// A new one before the others in the file, another tier, another weight.
	reload(section("third", "wan3", 1, 1) + section("fiber", "wan1", 1, 3) + section("lte", "wan2", 2, 1))
	r.awaitState("third", uplink.Up)
	share("fiber", 0.75)
	share("third", 0.25)
	share("lte", 0)
	r.wellKept("third")

	lte, err := r.uplinkStatus("lte")
	if err != nil {
		t.Fatal(err)
	}
	reload(section("fiber", "wan1", 2, 1) + section("third", "wan3", 1, 1))
	share("fiber", 0)
	share("third", 1)
	left := r.ours()
	for _, word := range []string{"table " + fmt.Sprint(lte.Table), "lookup " + fmt.Sprint(lte.Table), lte.Mark.String(), "oif wan2",
		"from 203.0.113.2 ", "2001:db8:b::2 lookup", "wan2@", "wan2/src_valid_mark:1"} {
		if strings.Contains(left, word) {
			t.Errorf("%q is left of the removed uplink:\n%s", word, left)
		}
	}

	reload(section("fiber", "wan1", 1, 1) + section("lte", "wan2", 1, 1))
	r.awaitState("lte", uplink.Up)
	share("lte", 0.5)
	if now := r.status().Uplinks[0].IPv4.Since; now != since {
		t.Errorf("the verdict on an uplink that stayed began anew: at %v, now %v", since, now)
	}
	for _, st := range []lab.StreamStats{stop4(), stop6()} {
		if st.Answered != st.Sent || len(st.Moves) != 1 {
			t.Errorf("reloads disturbed a flow: %v, moves %v", st, st.Moves)
		}
	}
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source", n)
	}
}

func TestADrainedUplinkKeepsItsFlowsAndTakesNoneOverARestart(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	stream, stop := r.streamFrom("lan", "192.0.2.1:7")
	v4, v6 := r.lanProbes()
	drained := func(want bool) {
		t.Helper()
		if u, err := r.uplinkStatus("fiber"); err != nil || u.Drained != want {
			t.Errorf("drained: %v, want %v, %v", u.Drained, want, err)
		}
	}
	r.fails(exitFailed, `unknown uplink: "nonsense"`, "drain", "--socket", r.socket(), "nonsense")
	r.command("drain", "--socket", r.socket(), "fiber")
	r.awaitFlow(v4, "lte")
	r.awaitFlow(v6, "lte")
	r.awaitMore(stream)
	drained(true)
	for _, end := range []func(){r.stop, r.kill} {
		end()
		r.start()
		drained(true)
		began := time.Now()
		r.awaitFlow(v4, "lte")
		r.awaitMore(stream)
		used := make(map[uint16]bool) // a port that a former flow had is that flow to connection tracking
		for _, f := range v4.Flows() {
			if f.Start.Before(began) {
				used[f.Source.Port()] = true
			}
		}
		for _, f := range v4.Flows() {
			if f.Start.After(began) && f.Err == nil && r.UplinkOf(f.Source.Addr()) != "lte" && !used[f.Source.Port()] {
				t.Errorf("after a restart a new flow took the drained uplink: %+v", f)
			}
		}
	}
	// With nothing else alive, a drained uplink is better than none.
	if err := r.Break(lab.Carrier, "lte"); err != nil {
		t.Fatal(err)
	}
	r.awaitFlow(v4, "fiber")
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	r.awaitState("lte", uplink.Up)
	r.awaitFlow(v4, "lte")
	r.command("undrain", "--socket", r.socket(), "fiber")
	r.awaitFlow(v4, "fiber")
	r.awaitFlow(v6, "fiber")
	drained(false)
	if st := stop(); st.Answered != st.Sent || len(st.Moves) != 1 || !slices.Equal(stream.Over(), []string{"fiber"}) {
		t.Errorf("%v over %v", st, stream.Over())
	}
	r.kill()
	r.start()
	drained(false)
}

// smallState puts the state directory on a file system of its own.
func (r *router) smallState() string {
	r.Helper()
	dir := filepath.Join(r.dir, "state")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		r.Fatal(err)
	}
	if err := unix.Mount("uplinkd-test", dir, "tmpfs", 0, "size=64k"); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			r.Error(err)
		}
	})
	return dir
}

// hasProblem reports whether the status shows a problem with this code.
func (r *router) hasProblem(code string) error {
	s, err := r.client.Status(context.Background())
	if err != nil {
		return err
	}
	for _, p := range s.Problems {
		if p.Code == code {
			return nil
		}
	}
	return fmt.Errorf("only %+v", s.Problems)
}

func TestAFullStateDirectoryIsReportedAndRoutingGoesOn(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	dir := r.smallState()
	ballast := filepath.Join(dir, "ballast")
	fill := func() {
		f, err := os.Create(ballast)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	fill()
	r.start() // with no room from the beginning
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	r.await("the problem to be shown", func() error { return r.hasProblem("state-not-saved") })
	v4, _ := r.lanProbes()
	if err := r.Break(lab.Carrier, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitFlow(v4, "lte")
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	r.awaitFlow(v4, "fiber")
	r.await("the problems to be gone", func() error {
		if s := r.status(); len(s.Problems) != 0 {
			return fmt.Errorf("%+v", s.Problems)
		}
		return nil
	})
	ids, err := os.ReadFile(filepath.Join(dir, "ids.json"))
	if err != nil || !strings.Contains(string(ids), "fiber") {
		t.Errorf("ids were not kept once there was room: %q, %v", ids, err)
	}
	// What was changed before there was room is given back all the same.
	r.stop()
	r.command("clean", "-c", r.config)
	if v, err := r.Host("router").Sysctl("net/ipv4/conf/wan1/src_valid_mark"); err != nil || v != "0" {
		t.Errorf("after clean, src_valid_mark: %q, %v", v, err)
	}
}

func TestAReadOnlyStateDirectoryIsReportedAndRoutingGoesOn(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	dir := r.smallState()
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.stop()
	// The file system went bad: it is read-only, and one of our documents is damaged.
	if err := os.WriteFile(filepath.Join(dir, "verdicts.json"), []byte("\x00\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	v4, v6 := r.lanProbes()
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitFlow(v4, "lte")
	r.awaitFlow(v6, "lte")
	r.await("the problem to be shown", func() error { return r.hasProblem("state-not-saved") })
	if err := r.hasProblem("state-damaged"); err != nil {
		t.Error(err)
	}
}

func TestADamagedStateFileIsKeptAsideAndReported(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"cut short": `{"fiber": 1, "lt`, "empty": "", "of another kind": `["fiber", "lte"]`, "null": "null",
		"with impossible ids": `{"fiber": 0, "lte": 99, "other": -1}`, "with one id twice": `{"fiber": 1, "lte": 1}`,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRouter(t, lab.Options{}, dualWAN)
			state := filepath.Join(r.dir, "state")
			if err := os.MkdirAll(state, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, doc := range []string{"ids", "verdicts", "drained", "leases4", "recorded"} {
				if err := os.WriteFile(filepath.Join(state, doc+".json"), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			plan := r.command("plan", "-c", r.config)
			if !strings.Contains(plan, "table 11701") || !strings.Contains(plan, "table 11702") {
				t.Errorf("plan:\n%s", plan)
			}
			if kept, err := os.ReadFile(filepath.Join(state, "ids.json")); err != nil || string(kept) != content {
				t.Errorf("plan changed the state directory: %q, %v", kept, err)
			}
			r.start()
			r.awaitState("fiber", uplink.Up)
			r.awaitState("lte", uplink.Up)
			aside, err := filepath.Glob(filepath.Join(state, "*.damaged"))
			if reported := r.hasProblem("state-damaged") == nil; err != nil || reported != (len(aside) > 0) || reported != (name != "null") {
				t.Errorf("reported: %v, kept aside: %q, %v", reported, aside, err)
			}
			s := r.status()
			if s.Uplinks[0].Mark == s.Uplinks[1].Mark {
				t.Errorf("both uplinks have the mark %v", s.Uplinks[0].Mark)
			}
			v4, _ := r.lanProbes()
			r.awaitFlow(v4, "fiber")
			r.command("drain", "--socket", r.socket(), "fiber")
			r.awaitFlow(v4, "lte")
		})
	}
}

// TestATakenAddressDoesNotKeepTheBoxFromBeingRouted has somebody else listen where the daemon would.
func TestATakenAddressDoesNotKeepTheBoxFromBeingRouted(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	taken, err := r.Host("router").Listen("tcp", "127.0.0.1:9275")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	text, err := os.ReadFile(r.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.config, []byte(strings.Replace(string(text), `listen = ""`, `listen = "127.0.0.1:9275"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	for _, p := range r.status().Problems {
		if p.Code == "listen" {
			return
		}
	}
	t.Errorf("the status does not tell: %+v", r.status().Problems)
}
