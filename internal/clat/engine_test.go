package clat

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
)

const mobile = "[[uplink]]\nname = \"lte\"\ndevice = \"wwan0\"\n[uplink.ipv4]\nmethod = \"clat\"\n"

// engineFor makes an engine that runs the given script in tayga's place.
func engineFor(t *testing.T, script string) (*Engine, chan status.Event) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, program), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	events := make(chan status.Event, 100)
	e := New(Options{Dir: filepath.Join(dir, "state"), Phase: time.Now(), Changed: func() {}, OnEvent: func(e status.Event) { events <- e }, Save: func(string, func() any) {}})
	c, err := config.Parse("test", []byte(mobile))
	if err != nil {
		t.Fatal(err)
	}
	e.Configure(c)
	return e, events
}

// plan plans for lte with a NAT64, which is none where it is zero.
func (e *Engine) plan(nat64 netip.Prefix) {
	u := rules.Uplink{ID: 1, Name: "lte", Device: "wwan0"}
	line, tun := u.Translate(rules.CLAT{Device: "clat-lte", Addr4: netip.MustParseAddr("192.0.0.1"), Addr6: netip.MustParseAddr("fd75:706c:696e:6b::1"), NAT64: nat64})
	e.Planned(&rules.Config{Uplinks: []rules.Uplink{line, tun}}, &rules.Report{})
}

func (e *Engine) codes() (codes []string) {
	for _, p := range e.Problems() {
		codes = append(codes, p.Code)
	}
	return codes
}

// start runs the engine until the test ends, or the returned function is called.
func (e *Engine) start(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = e.Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !check(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

func TestWhatATranslatorIsTold(t *testing.T) {
	e, _ := engineFor(t, "cp \"$3\" \"$3.told\"; exec sleep 1000\n")
	stop := e.start(t)
	e.plan(netip.MustParsePrefix("64:ff9b::/96"))
	file := e.configFile("lte")
	read := func() string { text, _ := os.ReadFile(file + ".told"); return string(text) }
	eventually(t, "no translator", func() bool { return e.Running("lte") && read() != "" })
	want := "# By uplinkd, which overwrites it.\ntun-device clat-lte\nipv4-addr 192.0.0.8\nipv6-addr fd75:706c:696e:6b::100:1\nprefix 64:ff9b::/96\nmap 192.0.0.1 fd75:706c:696e:6b::1\n"
	if diff := cmp.Diff(want, read()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	e.plan(netip.MustParsePrefix("2001:db8:64::/96"))
	eventually(t, "not told of a new prefix", func() bool { return e.Running("lte") && strings.Contains(read(), "2001:db8:64::/96") })
	e.plan(netip.Prefix{})
	eventually(t, "it runs without a prefix", func() bool { return !e.Running("lte") })
	e.plan(netip.MustParsePrefix("64:ff9b::/96"))
	eventually(t, "it does not run again", func() bool { return e.Running("lte") })
	if codes := e.codes(); len(codes) != 0 {
		t.Errorf("problems: %v", codes)
	}
	stop()
	if files, _ := filepath.Glob(file + "*"); e.Running("lte") || slices.Contains(files, file) {
		t.Errorf("it runs on, or leaves %q", files)
	}
}

func TestATranslatorThatEndsIsStartedAgain(t *testing.T) {
	e, events := engineFor(t, "echo 'Unable to open /dev/net/tun' >&2; exit 1\n")
	e.start(t)
	e.plan(netip.MustParsePrefix("64:ff9b::/96"))
	for range 2 {
		if got := <-events; got.Kind != status.EventRepair || got.Uplink != "lte" || got.Reason != "Unable to open /dev/net/tun" {
			t.Errorf("%+v", got)
		}
	}
	if codes := e.codes(); !slices.Equal(codes, []string{"clat-failed"}) {
		t.Errorf("problems: %v", codes)
	}
}

func TestAMachineWithoutTheProgramIsTold(t *testing.T) {
	dir := t.TempDir()
	e, _ := engineFor(t, "exit 1\n")
	t.Setenv("PATH", dir)
	e.start(t)
	e.plan(netip.MustParsePrefix("64:ff9b::/96"))
	eventually(t, "no problem", func() bool { return slices.Equal(e.codes(), []string{"clat-program"}) })
}

func TestWhatNobodyCanHaveNamedIsNotRestored(t *testing.T) {
	for _, p := range []string{"0.0.0.0/0", "::/0", "fe80::/96", "64:ff9b::1/96", "2001:db8::/65"} {
		e, _ := engineFor(t, "exit 1\n")
		e.kept["lte"] = netip.MustParsePrefix(p)
		c, err := config.Parse("test", []byte(mobile))
		if err != nil {
			t.Fatal(err)
		}
		e.Configure(c)
		if len(e.kept) != 0 {
			t.Errorf("%s is", p)
		}
	}
}

// What a daemon that was killed has left of uplinks that are translated no more; that processes end too is seen in cmd/uplinkd.
func TestLeftoversAreEnded(t *testing.T) {
	e, _ := engineFor(t, "exec sleep 1000\n")
	for _, name := range []string{"lte", "old"} {
		p, err := start(filepath.Join(filepath.Dir(e.o.Dir), program), e.configFile(name), &translator{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.stop)
	}
	StopLeftovers(e.o.Dir, func(name string) bool { return name == "lte" })
	files, _ := os.ReadDir(e.o.Dir)
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	if diff := cmp.Diff([]string{"clat-lte.conf", "clat-lte.conf.log"}, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Routers know better than DNS servers, and the owner knows best.
func TestWhichPrefixIsUsed(t *testing.T) {
	e, _ := engineFor(t, "exit 1\n")
	byDNS, byRouter := netip.MustParsePrefix("2001:db8:64::/96"), netip.MustParsePrefix("64:ff9b::/96")
	e.kept["lte"] = byDNS
	learned := make(planinput.Learned)
	e.Learn(learned)
	if got := learned.Of("lte").NAT64; got != byDNS {
		t.Errorf("%v by DNS", got)
	}
	learned = planinput.Learned{"lte": {NAT64: byRouter}}
	e.Learn(learned)
	if got := learned.Of("lte").NAT64; got != byRouter {
		t.Errorf("%v by a router", got)
	}
}
