package recovery

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// rig is an Engine whose lines are as the test says, and a program that notes how it was run.
type rig struct {
	*Engine
	t       *testing.T
	program string
	now     time.Time

	mu       sync.Mutex
	verdicts map[string]uplink.State // by "fiber/ipv4"
	since    time.Time
	common   bool
	drained  map[string]bool
	events   []status.Event
	kept     []byte
}

func newRig(t *testing.T, script string) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t: t, program: filepath.Join(dir, "reset"), now: noon, since: noon, verdicts: make(map[string]uplink.State), drained: make(map[string]bool)}
	if err := os.WriteFile(r.program, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	r.begin()
	return r
}

// begin makes the engine, with what an earlier one has kept.
func (r *rig) begin() {
	r.Engine = New(Options{Log: slog.New(slog.DiscardHandler), Verdicts: r.list, Drained: func() map[string]bool { return r.drained },
		OnEvent: func(e status.Event) { r.mu.Lock(); defer r.mu.Unlock(); r.events = append(r.events, e) },
		Save:    func(_ string, read func() any) { r.kept, _ = json.Marshal(read()) }})
	for _, v := range r.Documents() {
		if r.kept != nil {
			if err := json.Unmarshal(r.kept, v); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	c := config.Default()
	for _, name := range []string{"fiber", "lte", "vpn"} {
		u := config.DefaultUplink(name, name+"0")
		if name == "lte" {
			u.Recover.Run = []string{r.program, "wwan0", "an argument"}
			u.Recover.MaxPerDay = 3
		}
		if name == "vpn" {
			u.Kind = config.KindWireGuard
		}
		c.Uplinks = append(c.Uplinks, u)
	}
	r.Configure(c)
}

func (r *rig) list() (list []status.PathVerdict) {
	for _, path := range slices.Sorted(func(yield func(string) bool) {
		for path := range r.verdicts {
			if !yield(path) {
				return
			}
		}
	}) {
		name, family, _ := strings.Cut(path, "/")
		v := status.PathVerdict{Uplink: name, Common: r.common, Verdict: uplink.Verdict{State: r.verdicts[path], Since: r.since, Reason: uplink.Reason{Code: uplink.CodeSilence}}}
		if v.Family = rules.IPv4; family == "ipv6" {
			v.Family = rules.IPv6
		}
		list = append(list, v)
	}
	return list
}

// pass looks once after a time, and waits for what is run.
func (r *rig) pass(d time.Duration) {
	r.now = r.now.Add(d)
	r.look(context.Background(), r.now)
	r.running.Wait()
}

func (r *rig) codes() (list []string) {
	for _, e := range r.events {
		list = append(list, e.Code)
	}
	r.events = nil
	return list
}

func (r *rig) wants(codes ...string) {
	r.t.Helper()
	if got := r.codes(); !slices.Equal(got, codes) {
		r.t.Errorf("after %v: events %q, want %q", r.now.Sub(noon), got, codes)
	}
}

func TestADeadLineIsHelped(t *testing.T) {
	r := newRig(t, `echo "$@ $UPLINKD_UPLINK $UPLINKD_DEVICE" >> "${0%/*}/ran"; echo more words`)
	r.verdicts["fiber/ipv4"], r.verdicts["lte/ipv4"] = uplink.Up, uplink.Down
	r.pass(4 * time.Minute)
	r.wants()
	r.pass(time.Minute)
	r.wants("started", "done")
	ran, err := os.ReadFile(filepath.Join(filepath.Dir(r.program), "ran"))
	if err != nil || string(ran) != "wwan0 an argument lte lte0\n" {
		t.Errorf("it was run with %q, %v", ran, err)
	}
	r.pass(9 * time.Minute)
	r.wants()
	r.pass(time.Minute)
	r.wants("started", "done")
	r.begin() // a restart forgets no run
	r.pass(19 * time.Minute)
	r.wants()
	r.pass(time.Minute)
	r.wants("started", "done")
	s := r.Status()["lte"]
	if s.RunsToday != 3 || s.MaxPerDay != 3 || s.Running || s.Error != "" || !s.Last.Equal(r.now) {
		t.Errorf("%+v", s)
	}
	r.pass(time.Hour)
	r.pass(time.Hour)
	r.wants("daily-bound") // told once
	if s := r.Status()["lte"]; s.Held != "daily-bound" || s.Next.Sub(noon) != 24*time.Hour+5*time.Minute {
		t.Errorf("%+v", s)
	}
	r.verdicts["lte/ipv4"] = uplink.Up
	r.pass(time.Minute)
	if s := r.Status()["lte"]; s.Held != "" || !s.Next.IsZero() {
		t.Errorf("of a line that works: %+v", s)
	}
	if len(r.Status()) != 1 || len(r.Problems()) != 0 {
		t.Errorf("%+v, %+v", r.Status(), r.Problems())
	}
}

func TestALineIsLeftAloneWhereHelpWouldHarm(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(*rig)
		want []string
	}{
		"every line is silent": {func(r *rig) {
			r.common = true
			r.verdicts["fiber/ipv4"], r.verdicts["lte/ipv4"] = uplink.Down, uplink.Down
		}, []string{"common-cause"}},
		"IPv6 alone is dead, and nothing else has IPv4": {func(r *rig) {
			r.verdicts["lte/ipv4"], r.verdicts["lte/ipv6"], r.verdicts["fiber/ipv4"] = uplink.Up, uplink.Down, uplink.Down
		}, []string{"cuts-the-rest"}},
		"a tunnel is nothing else": {func(r *rig) {
			r.verdicts["lte/ipv4"], r.verdicts["lte/ipv6"], r.verdicts["vpn/ipv4"] = uplink.Up, uplink.Down, uplink.Up
		}, []string{"cuts-the-rest"}},
		"IPv6 alone is dead, and fiber works": {func(r *rig) {
			r.verdicts["lte/ipv4"], r.verdicts["lte/ipv6"], r.verdicts["fiber/ipv4"] = uplink.Up, uplink.Down, uplink.Up
		}, []string{"started", "done"}},
		"IPv6 has never worked": {func(r *rig) {
			r.verdicts["lte/ipv4"], r.verdicts["lte/ipv6"], r.verdicts["fiber/ipv4"] = uplink.Up, uplink.Down, uplink.Up
		}, nil},
		"a line that has never worked": {func(r *rig) { r.verdicts["lte/ipv4"], r.verdicts["lte/ipv6"] = uplink.Down, uplink.Down }, []string{"started", "done"}},
		"nothing works":                {func(r *rig) { r.verdicts["lte/ipv4"] = uplink.Down }, []string{"started", "done"}},
		"somebody works on it":         {func(r *rig) { r.verdicts["lte/ipv4"] = uplink.Down; r.drained["lte"] = true }, []string{"operator"}},
		"it is suspect":                {func(r *rig) { r.verdicts["lte/ipv4"] = uplink.Suspect }, nil},
		"another one is dead":          {func(r *rig) { r.verdicts["fiber/ipv4"], r.verdicts["lte/ipv4"] = uplink.Down, uplink.Up }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "true")
			if !strings.Contains(name, "never") {
				r.verdicts["lte/ipv6"] = uplink.Up
				r.pass(0)
				delete(r.verdicts, "lte/ipv6")
			}
			c.set(r)
			r.pass(10 * time.Minute)
			r.pass(time.Second)
			r.wants(c.want...)
		})
	}
}

func TestWhatGoesWrongWithAProgramIsTold(t *testing.T) {
	r := newRig(t, "echo the modem is on fire; exit 3")
	r.verdicts["lte/ipv4"] = uplink.Down
	r.pass(10 * time.Minute)
	if len(r.events) != 2 || r.events[1].Code != "failed" || !strings.Contains(r.events[1].Reason, "exit status 3: the modem is on fire") {
		t.Errorf("%+v", r.events)
	}
	if p := r.Problems(); len(p) != 1 || p[0].Code != "recover-failed" || !strings.Contains(p[0].Message, "on fire") || r.Status()["lte"].Error == "" {
		t.Errorf("%+v", p)
	}
	for what, spoil := range map[string]func() error{
		"may be written to by others": func() error { return os.Chmod(r.program, 0o722) },
		"is no program":               func() error { return os.Chmod(r.program, 0o600) },
		"no such file":                func() error { return os.Remove(r.program) },
	} {
		_ = os.WriteFile(r.program, []byte("#!/bin/sh\n"), 0o700)
		_ = os.Chmod(r.program, 0o700)
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if p := r.Problems(); len(p) != 1 || p[0].Code != "recover-program" || !strings.Contains(p[0].Message, what) {
			t.Errorf("%s: %+v", what, p)
		}
	}
	_ = os.Remove(r.program)
	r.events = nil
	r.pass(time.Hour)
	if len(r.events) != 2 || r.events[1].Code != "failed" {
		t.Errorf("%+v", r.events)
	}
}

// The end of the daemon ends the program, with its children.
func TestProgramsEndWithTheDaemon(t *testing.T) {
	r := newRig(t, `sleep 1000 & echo $! > "${0%/*}/child"; wait`)
	r.verdicts["lte/ipv4"] = uplink.Down
	ctx, cancel := context.WithCancel(t.Context())
	r.look(ctx, noon.Add(time.Hour))
	child := filepath.Join(filepath.Dir(r.program), "child")
	for range 1000 {
		if text, _ := os.ReadFile(child); len(text) > 1 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.look(ctx, noon.Add(9*time.Hour)) // it still runs
	if s := r.Status()["lte"]; !s.Running || s.RunsToday != 1 {
		t.Errorf("%+v", s)
	}
	cancel()
	r.running.Wait()
	text, err := os.ReadFile(child)
	if err != nil {
		t.Fatal(err)
	}
	for tries := 0; ; tries++ { // a signal takes its time
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%s/stat", strings.TrimSpace(string(text))))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			break
		}
		if tries > 1000 {
			t.Fatalf("its child lives: %s", stat)
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.wants("started")
}
