package dns

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
)

// fakeProber answers what the test says, and keeps who was asked when.
type fakeProber struct {
	mu     sync.Mutex
	answer func(device, target string) error
	asked  []time.Time // of each first query of a check
	by     map[string]bool
}

func (p *fakeProber) Probe(ctx context.Context, b probe.Binding, t probe.Target) (time.Duration, error) {
	p.mu.Lock()
	answer := p.answer
	if strings.Contains(t.String(), existing) {
		p.asked = append(p.asked, time.Now())
	}
	p.by[b.Device] = true
	p.mu.Unlock()
	err := answer(b.Device, t.String())
	if errors.Is(err, probe.ErrTimeout) {
		<-ctx.Done()
	}
	return time.Millisecond, err
}

func (p *fakeProber) set(answer func(device, target string) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}

func (p *fakeProber) since() (list []time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list, p.asked = p.asked, nil
	return list
}

func well(string, string) error { return nil }

// engineTest is an engine for two uplinks whose servers are 10.53.1.1 and 10.53.2.1, with a resolv.conf.
type engineTest struct {
	*Engine
	*fakeProber
	t      *testing.T
	path   string
	config *config.Config
	report rules.Report
	mu     sync.Mutex
	events []status.Event
}

func newEngineTest(t *testing.T) *engineTest {
	t.Helper()
	b := &engineTest{t: t, path: t.TempDir() + "/resolv.conf", fakeProber: &fakeProber{answer: well, by: make(map[string]bool)}}
	b.Engine = New(Options{Phase: time.Now(), Prober: b.fakeProber, Changed: func() {}, Root: t.TempDir(), Save: func(string, func() any) {},
		OnEvent: func(e status.Event) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.events = append(b.events, e)
		}})
	b.config = config.Default()
	b.config.Uplinks = []config.Uplink{config.DefaultUplink("fiber", "wan1"), config.DefaultUplink("lte", "wan2")}
	b.config.DNS.ResolvConf = b.path
	b.report.Paths = make(map[rules.Path]rules.PathInfo)
	for id := 1; id <= 2; id++ {
		b.report.Paths[rules.Path{Uplink: id, Family: rules.IPv4}] = rules.PathInfo{Index: id, Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(id)}), 24)}}
	}
	b.judge(rules.ChoiceGood, rules.ChoiceGood)
	return b
}

// judge says how well the uplinks work.
func (b *engineTest) judge(fiber, lte rules.ChoiceCode) {
	b.report.Resolvers = []rules.Resolver{
		{Uplink: 1, Device: "wan1", Addr: netip.MustParseAddr("10.53.1.1"), Code: fiber},
		{Uplink: 2, Device: "wan2", Addr: netip.MustParseAddr("10.53.2.1"), Code: lte},
	}
}

func (b *engineTest) plan() {
	cfg := rules.Config{Kernel: rules.Kernel{MarkMask: 0x3f000000}, Uplinks: []rules.Uplink{{ID: 1, Name: "fiber"}, {ID: 2, Name: "lte"}}}
	b.Planned(&cfg, &b.report)
	synctest.Wait()
}

// start runs the engine until the test ends.
func (b *engineTest) start() {
	b.Configure(b.config)
	b.Learn(planinput.Learned{"fiber": {Resolvers: []planinput.Resolver{{Addr: netip.MustParseAddr("10.53.1.1"), From: planinput.FromDHCP}}}})
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = b.Run(ctx) }()
	b.t.Cleanup(func() { cancel(); <-done })
	b.plan()
}

func (b *engineTest) used() string {
	var words []string
	for _, r := range b.Status().Resolvers {
		if r.Used {
			words = append(words, r.Uplink+"/"+r.State)
		}
	}
	return strings.Join(words, " ")
}

func (b *engineTest) codes() string {
	var words []string
	for _, p := range b.Problems() {
		words = append(words, p.Code)
	}
	return strings.Join(words, " ")
}

func (b *engineTest) want(what, used, codes string) {
	b.t.Helper()
	if got := b.used(); got != used {
		b.t.Errorf("%s: used are %q, want %q", what, got, used)
	}
	if got := b.codes(); got != codes {
		b.t.Errorf("%s: problems are %q, want %q", what, got, codes)
	}
}

func TestServersAreAskedCalmlyByTheirOwnUplinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEngineTest(t)
		b.config.Uplinks[1].Metered = true
		b.start()
		time.Sleep(time.Hour)
		// 120 checks of fiber's and 12 of metered LTE's, give or take the first.
		if n := len(b.since()); n < 130 || n > 134 {
			t.Errorf("%d checks in an hour", n)
		}
		if !b.by["wan1"] || !b.by["wan2"] {
			t.Errorf("asked by %v", b.by)
		}
		b.want("well", "fiber/ok lte/ok", "")
		if s := b.Status(); s.Resolvers[0].Source != "dhcp" || len(s.Outputs) != 1 || s.Outputs[0].Error != "" {
			t.Errorf("%+v", s)
		}
	})
}

func TestNobodyIsAskedWhileNobodyIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEngineTest(t)
		b.config.DNS = config.Resolution{}
		b.start()
		time.Sleep(time.Hour)
		if n := len(b.since()); n != 0 {
			t.Errorf("%d checks", n)
		}
	})
}

func TestAServerThatIsNoGoodIsFoundPassedOverAndTakenUpAgain(t *testing.T) {
	failing := func(err error) func(device, target string) error {
		return func(device, _ string) error {
			if device == "wan1" {
				return &probe.Error{Class: err}
			}
			return nil
		}
	}
	for name, c := range map[string]struct {
		answer func(device, target string) error
		code   string
	}{
		"silence":   {failing(probe.ErrTimeout), "resolver-silent"},
		"no port":   {failing(probe.ErrUnreachable), "resolver-silent"},
		"a refusal": {failing(probe.ErrAnswer), "resolver-refuses"},
		"a lie": {func(device, target string) error {
			if device == "wan1" && strings.Contains(target, "answer=none") && strings.HasSuffix(target, ".invalid") {
				return &probe.Error{Class: probe.ErrPortal}
			}
			return nil
		}, "resolver-lies"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEngineTest(t)
				b.start()
				time.Sleep(45 * time.Second)
				b.want("well", "fiber/ok lte/ok", "")
				b.set(c.answer)
				time.Sleep(checkInterval + misses*(checkTimeout+confirmInterval) + 2*time.Second)
				b.want("no good", "lte/ok", c.code)
				b.since()
				time.Sleep(10 * time.Minute)
				if n := len(b.since()); n < 60 || n > 90 { // 20 of LTE's among them
					t.Errorf("%d checks in ten minutes of which one server is no good", n)
				}
				b.set(well)
				time.Sleep(badInterval + checkTimeout + time.Second)
				b.want("well again", "fiber/ok lte/ok", "")
				var told []string
				b.mu.Lock()
				for _, e := range b.events {
					if e.Kind == status.EventDNS && e.Uplink == "fiber" {
						told = append(told, e.From+">"+e.To)
					}
				}
				b.mu.Unlock()
				state := strings.TrimPrefix(c.code, "resolver-")
				if got, want := strings.Join(told, " "), "ok>"+state+" "+state+">ok"; got != want {
					t.Errorf("events %q, want %q", got, want)
				}
			})
		})
	}
}

func TestOneLostAnswerIsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEngineTest(t)
		b.start()
		n := 0
		b.set(func(string, string) error {
			b.fakeProber.mu.Lock()
			defer b.fakeProber.mu.Unlock()
			if n++; n%3 != 0 { // two of three are lost, never three in a row
				return &probe.Error{Class: probe.ErrTimeout}
			}
			return nil
		})
		b.judge(rules.ChoiceGood, rules.ChoiceDead) // one server alone is asked
		b.plan()
		for range 60 {
			time.Sleep(10 * time.Second)
			b.want("with losses", "fiber/ok", "")
		}
	})
}

// While its uplink fails, a server's silence is not its own; and what is known of it stays.
func TestSilenceOfAnUplinkIsNotThatOfItsServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEngineTest(t)
		b.start()
		time.Sleep(45 * time.Second)
		b.set(func(device, _ string) error {
			if device == "wan1" {
				return &probe.Error{Class: probe.ErrTimeout}
			}
			return nil
		})
		time.Sleep(checkInterval / 2) // a check is under way or missed
		b.judge(rules.ChoiceDead, rules.ChoiceGood)
		b.plan()
		time.Sleep(10 * time.Minute)
		b.want("dead", "lte/ok", "")
		b.since()
		b.set(well)
		b.judge(rules.ChoiceGood, rules.ChoiceGood)
		b.plan()
		b.want("back", "fiber/ok lte/ok", "")
		time.Sleep(2 * time.Second)
		if len(b.since()) == 0 {
			t.Error("the server of an uplink that is back is not asked")
		}
	})
}

func TestWhileAllAreBadAllStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEngineTest(t)
		b.set(func(string, string) error { return &probe.Error{Class: probe.ErrAnswer, Err: errors.New("REFUSED")} })
		b.start()
		time.Sleep(5 * time.Minute)
		b.want("all refuse", "fiber/refuses lte/refuses", "resolver-refuses resolver-refuses")
		b.set(func(string, string) error { return &probe.Error{Class: probe.ErrLocal} })
		time.Sleep(5 * time.Minute)
		b.want("and then this machine cannot ask", "fiber/refuses lte/refuses", "resolver-refuses resolver-refuses")
	})
}

// An output that a reload takes out gets back what it held; what checks have said counts for nobody then.
func TestAnOutputThatIsTakenOutIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEngineTest(t)
		if err := os.WriteFile(b.path, []byte("nameserver 192.0.2.1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		b.set(func(device, _ string) error {
			if device == "wan1" {
				return &probe.Error{Class: probe.ErrAnswer}
			}
			return nil
		})
		b.start()
		time.Sleep(time.Minute)
		content := func() string {
			text, err := os.ReadFile(b.path)
			if err != nil {
				t.Error(err)
			}
			return string(text)
		}
		if got := content(); !strings.HasSuffix(got, ".\nnameserver 10.53.2.1\n") {
			t.Errorf("told: %s", got)
		}
		off := *b.config
		off.DNS = config.Resolution{}
		b.Configure(&off)
		synctest.Wait()
		if got := content(); got != "nameserver 192.0.2.1\n" {
			t.Errorf("given back: %s", got)
		}
		if s := b.Status(); len(s.Outputs) != 0 || b.codes() != "" {
			t.Errorf("%+v, problems %s", s.Outputs, b.codes())
		}
		b.Configure(b.config)
		synctest.Wait()
		if got := content(); !strings.HasSuffix(got, ".\nnameserver 10.53.2.1\n") {
			t.Errorf("told again: %s", got)
		}
		// Somebody writes over it.
		if err := os.WriteFile(b.path, []byte("nameserver 192.0.2.2\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookAgain + time.Second)
		if got := content(); !strings.HasSuffix(got, ".\nnameserver 10.53.2.1\n") {
			t.Errorf("after somebody wrote over it: %s", got)
		}
	})
}

func TestWithoutAServerNothingIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEngineTest(t)
		b.report.Resolvers = nil
		b.start()
		time.Sleep(time.Minute)
		if _, err := os.Stat(b.path); err == nil {
			t.Error("there is a file")
		}
		b.want("none known", "", "no-resolver")
	})
}
