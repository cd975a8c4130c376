package reconcile_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/kernel/fakekernel"
	"github.com/uplinkd/uplinkd/internal/reconcile"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

var (
	numbers = rules.Kernel{Protocol: 117, RulePriority: 10000, TableBase: 11700, MarkMask: 0x3f000000, LinkGroup: 117}
	fiber4  = rules.Path{Uplink: 1, Family: rules.IPv4}
	lte4    = rules.Path{Uplink: 2, Family: rules.IPv4}
)

func config() rules.Config {
	v4 := rules.Addressing{Enabled: true, Masquerade: true}
	return rules.Config{Kernel: numbers, Uplinks: []rules.Uplink{
		{ID: 1, Name: "fiber", Device: "wan1", Tier: 1, Weight: 1, IPv4: v4},
		{ID: 2, Name: "lte", Device: "wan2", Tier: 2, Weight: 1, IPv4: v4},
	}}
}

// dualWAN is a box with two providers, as DHCP clients leave it.
func dualWAN() rules.Observed {
	obs := rules.Observed{
		Links: []rules.Link{
			{Index: 1, Name: "lo", Up: true, Carrier: true, Loopback: true},
			{Index: 2, Name: "wan1", Up: true, Carrier: true, Group: 9},
			{Index: 3, Name: "wan2", Up: true, Carrier: true},
			{Index: 4, Name: "lan0", Up: true, Carrier: true},
		},
		Sysctls: map[string]string{"net/ipv4/conf/all/rp_filter": "1", "net/ipv4/conf/all/src_valid_mark": "0",
			"net/ipv4/conf/wan1/src_valid_mark": "0", "net/ipv4/conf/wan2/src_valid_mark": "0"},
	}
	for device, address := range map[string]string{"wan1": "198.51.100.2/26", "wan2": "203.0.113.2/26", "lan0": "203.0.113.129/25"} {
		p := netip.MustParsePrefix(address)
		obs.Addrs = append(obs.Addrs, rules.Addr{Device: device, Prefix: p})
		obs.Routes = append(obs.Routes, fakekernel.Connected(device, p))
	}
	for i, gw := range []string{"198.51.100.1", "203.0.113.1"} {
		obs.Routes = append(obs.Routes, netcfg.Route{Family: rules.IPv4, Table: netcfg.TableMain, Type: netcfg.Unicast,
			Dst: rules.IPv4.Default(), Metric: uint32(100 * (i + 1)), Protocol: 16,
			Nexthops: []netcfg.Nexthop{{Device: []string{"wan1", "wan2"}[i], Gateway: netip.MustParseAddr(gw), Weight: 1}}})
	}
	return obs
}

// fixed is a source of verdicts that a test sets. A path without carrier is dead, as in life.
type fixed struct {
	mu      sync.Mutex
	health  map[rules.Path]rules.Health
	ended   map[rules.Path]uint
	drained map[rules.Path]bool
	unmoved rules.Path
}

func (f *fixed) set(p rules.Path, h rules.Health) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.health[p] = h
}

func (f *fixed) drain(p rules.Path, drained bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.drained == nil {
		f.drained = make(map[rules.Path]bool)
	}
	f.drained[p] = drained
}

func (f *fixed) Verdicts(paths map[rules.Path]rules.PathInfo) map[rules.Path]rules.Verdict {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make(map[rules.Path]rules.Verdict)
	for p, info := range paths {
		h, ok := f.health[p]
		if !ok {
			h = rules.Good
		}
		if !info.Carrier {
			h = rules.Dead
		}
		out[p] = rules.Verdict{Health: h, Drained: f.ended[p] > 0 || f.drained[p], Ended: f.ended[p], Unmoved: p == f.unmoved}
	}
	return out
}

// saver keeps records, and refuses to when it is full.
type saver struct {
	full bool
	kept rules.Recorded
}

func (s *saver) save(r rules.Recorded) error {
	if s.full {
		return unix.ENOSPC
	}
	s.kept = r
	return nil
}

type bench struct {
	*reconcile.Engine
	kernel   *fakekernel.Kernel
	verdicts *fixed
	saver    *saver
}

func newBench(cfg rules.Config) *bench {
	b := &bench{kernel: fakekernel.New(numbers, dualWAN()), verdicts: &fixed{health: make(map[rules.Path]rules.Health)}, saver: &saver{}}
	b.Engine = reconcile.New(reconcile.Options{Kernel: b.kernel, Verdicts: b.verdicts, Save: b.saver.save,
		Log: slog.New(slog.DiscardHandler), Config: cfg})
	return b
}

// pass runs a pass and fails the test unless it converges.
func (b *bench) pass(t *testing.T) reconcile.Result {
	t.Helper()
	r := b.Pass()
	if r.Err != nil || !r.Converged {
		t.Fatalf("pass: converged %v, %v", r.Converged, r.Err)
	}
	return r
}

func commands(ops []netcfg.Op) []string {
	var out []string
	for _, op := range ops {
		out = append(out, op.Command())
	}
	return out
}

func TestASecondPassIssuesNoRequest(t *testing.T) {
	b := newBench(config())
	if r := b.pass(t); len(r.Changes) == 0 {
		t.Fatal("the first pass changed nothing")
	}
	b.kernel.Applied()
	if r := b.pass(t); len(r.Changes) != 0 || len(b.kernel.Applied()) != 0 {
		t.Errorf("the second pass changed %q", commands(r.Changes))
	}
}

// Whoever waits for a reload to be carried out shall not be told of what was before it.
func TestNothingIsConvergedThatIsStillToBePlanned(t *testing.T) {
	b := newBench(config())
	want := func(when string, converged bool) {
		t.Helper()
		if last := b.Last(); last.Converged != converged || last.Settled != converged {
			t.Errorf("%s: %+v", when, last)
		}
	}
	want("before the first pass", false)
	b.Pass()
	want("after it", true)
	b.SetConfig(rules.Config{Kernel: numbers})
	want("with another configuration", false)
	if err := b.Healthy(); err != nil {
		t.Errorf("it is not healthy: %v", err)
	}
	b.Pass()
	want("after that is carried out", true)
}

func TestWhatOthersDeleteIsPutBackAndNothingElseTouched(t *testing.T) {
	b := newBench(config())
	b.pass(t)
	b.kernel.Applied()
	b.kernel.Change(func(o *rules.Observed) {
		o.Rules = slices.DeleteFunc(o.Rules, func(r netcfg.Rule) bool { return r.Priority == 10900 && r.Family == rules.IPv4 })
		o.Rules = append(o.Rules, netcfg.Rule{Family: rules.IPv4, Priority: 10950, Table: 99, SuppressPrefixLen: -1, SuppressGroup: -1, Protocol: 4})
		o.Table = nil
	})
	b.pass(t)
	var got []string
	for _, c := range commands(b.kernel.Applied()) {
		got = append(got, strings.SplitN(c, "\n", 2)[0])
	}
	want := []string{"nft -f - <<'EOF'", "ip -4 rule add pref 10900 from all lookup 11700 protocol 117"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestASwitchReplacesTheDefaultThenTellsTheFlows(t *testing.T) {
	b := newBench(config())
	b.pass(t)
	b.kernel.Applied()
	before := len(b.kernel.Log())
	b.verdicts.set(fiber4, rules.Doubtful)
	b.pass(t)
	want := []string{
		"ip -4 route replace default via 203.0.113.1 dev wan2 table 11700 proto 117",
		"ip -4 route prepend default via 203.0.113.1 dev wan2 table 254 proto 117 metric 1",
	}
	if diff := cmp.Diff(want, commands(b.kernel.Applied())); diff != "" {
		t.Errorf("suspect:\n%s", diff)
	}
	b.verdicts.set(fiber4, rules.Dead)
	b.pass(t)
	wantLog := []string{"apply", "flush 0x1000000/0x3f000000 ipv4", "destroy [198.51.100.2]"}
	if diff := cmp.Diff(wantLog, b.kernel.Log()[before:]); diff != "" {
		t.Errorf("down:\n%s", diff)
	}
}

func TestWhatAnOperatorEndsIsToldEachTimeThatHeSaysSo(t *testing.T) {
	b := newBench(config())
	told := func(ended uint) int {
		t.Helper()
		before := len(b.kernel.Log())
		b.verdicts.ended = map[rules.Path]uint{fiber4: ended}
		b.pass(t)
		b.pass(t)
		n := 0
		for _, line := range b.kernel.Log()[before:] {
			if line == "flush 0x1000000/0x3f000000 ipv4" || line == "destroy [198.51.100.2]" {
				n++
			}
		}
		return n
	}
	b.pass(t)
	for i, step := range []struct {
		ended uint
		lte   rules.Health
		want  int
	}{{1, rules.Good, 2}, {1, rules.Good, 0}, {2, rules.Good, 2}, {0, rules.Good, 0}, {1, rules.Dead, 0}, {1, rules.Good, 2}, {2, rules.Dead, 0}, {0, rules.Dead, 0}, {0, rules.Good, 0}} {
		b.verdicts.set(lte4, step.lte)
		if got := told(step.ended); got != step.want {
			t.Errorf("step %d: told %d times, want %d", i, got, step.want)
		}
	}
}

func TestNothingIsKilledWhileThereIsNowhereToGo(t *testing.T) {
	b := newBench(config())
	b.verdicts.set(lte4, rules.Dead)
	b.pass(t)
	before := len(b.kernel.Log())
	b.verdicts.set(fiber4, rules.Dead)
	if r := b.pass(t); !r.Stuck[fiber4] {
		t.Error("nobody hears of what waits")
	}
	for _, line := range b.kernel.Log()[before:] {
		if line != "apply" {
			t.Errorf("with every uplink dead: %s", line)
		}
	}
	b.verdicts.set(lte4, rules.Good)
	if r := b.pass(t); len(r.Stuck) > 0 {
		t.Errorf("%v is said to wait still", r.Stuck)
	}
	if log := b.kernel.Log(); !slices.Contains(log, "flush 0x1000000/0x3f000000 ipv4") {
		t.Errorf("when the other uplink came back: %q", log[before:])
	}
}

// blind is a kernel that shows itself so often only.
type blind struct {
	*fakekernel.Kernel
	looks int
}

func (b *blind) Snapshot(q rules.Query) (*rules.Observed, error) {
	if b.looks--; b.looks < 0 {
		return nil, errors.New("no buffer space available")
	}
	return b.Kernel.Snapshot(q)
}

// Routes are read back before anything moves: a pass that cannot do that says nothing of what is stuck.
func TestNothingHasMovedWhereRoutesWereNotReadBack(t *testing.T) {
	b := newBench(config())
	k := &blind{b.kernel, 100}
	e := reconcile.New(reconcile.Options{Kernel: k, Verdicts: b.verdicts, Save: b.saver.save, Log: slog.New(slog.DiscardHandler), Config: config()})
	e.Pass()
	b.verdicts.set(fiber4, rules.Dead)
	k.looks = 1
	if r := e.Pass(); r.Err == nil || r.Stuck != nil {
		t.Errorf("%v, stuck %v", r.Err, r.Stuck)
	}
	k.looks = 100
	if r := e.Pass(); r.Err != nil || r.Stuck == nil || len(r.Stuck) > 0 {
		t.Errorf("%v, stuck %v", r.Err, r.Stuck)
	}
	if log := b.kernel.Log(); !slices.Contains(log, "flush 0x1000000/0x3f000000 ipv4") {
		t.Errorf("%q", log)
	}
}

func TestAnUplinkThatIsDeadAtStartHasNoFlowsToKill(t *testing.T) {
	b := newBench(config())
	b.verdicts.set(fiber4, rules.Dead)
	b.pass(t)
	if log := b.kernel.Log(); slices.ContainsFunc(log, func(l string) bool { return l != "apply" && l != "pin" }) {
		t.Errorf("%q", log)
	}
}

func TestFlowsThatAnEarlierRunHasNotMovedAreFlushed(t *testing.T) {
	b := newBench(config())
	b.verdicts.set(fiber4, rules.Dead)
	b.verdicts.unmoved = fiber4
	b.pass(t)
	b.pass(t)
	flushes := slices.DeleteFunc(b.kernel.Log(), func(l string) bool { return l != "flush 0x1000000/0x3f000000 ipv4" })
	if len(flushes) != 1 {
		t.Errorf("%q, want one", flushes)
	}
}

// What went away while the daemon did not run has flows that began before.
func TestFlowsOfADeviceThatWentAwayBeforeTheStartAreFlushed(t *testing.T) {
	b := newBench(config())
	b.kernel.Change(func(o *rules.Observed) { o.Links[1].Carrier = false })
	b.verdicts.set(fiber4, rules.Dead)
	b.pass(t)
	b.pass(t)
	flushes := slices.DeleteFunc(b.kernel.Log(), func(l string) bool { return l != "flush 0x1000000/0x3f000000 ipv4" })
	if len(flushes) != 1 {
		t.Errorf("%q, want one", flushes)
	}
}

func TestFlowsOfARemovedUplinkAreFlushed(t *testing.T) {
	b := newBench(config())
	b.pass(t)
	cfg := config()
	cfg.Uplinks = cfg.Uplinks[1:]
	b.SetConfig(cfg)
	b.pass(t)
	if log := b.kernel.Log(); !slices.Contains(log, "flush 0x1000000/0x3f000000 ipv4") {
		t.Errorf("%q", log)
	}
}

// An id that has become another uplink's is in the marks of connections that would take that one, with a source that is foreign there.
func TestFlowsOfAReassignedIDEndThoughTheirUplinkWorks(t *testing.T) {
	b := newBench(config())
	b.pass(t)
	cfg := config()
	cfg.Uplinks[0].ID, cfg.Uplinks[1].ID = 2, 1
	b.SetConfig(cfg)
	b.EndReassigned([]int{1, 2})
	b.pass(t)
	for _, want := range []string{"flush 0x1000000/0x3f000000 ipv4", "flush 0x2000000/0x3f000000 ipv4", "flush 0x1000000/0x3f000000 ipv6", "flush 0x2000000/0x3f000000 ipv6"} {
		if log := b.kernel.Log(); !slices.Contains(log, want) {
			t.Errorf("no %s: %q", want, log)
		}
	}
	before := len(b.kernel.Log())
	b.pass(t)
	if log := b.kernel.Log()[before:]; len(log) > 0 {
		t.Errorf("a second time: %q", log)
	}
}

// What another router of a pair goes on with is not ended here: connection tracking would tell that router.
func TestFlowsOfAnUplinkThatIsElsewhereAreLeftAlone(t *testing.T) {
	b := newBench(config())
	b.pass(t)
	cfg := config()
	cfg.Uplinks, cfg.Elsewhere = cfg.Uplinks[1:], []int{1}
	b.SetConfig(cfg)
	b.pass(t)
	if log := b.kernel.Log(); slices.Contains(log, "flush 0x1000000/0x3f000000 ipv4") {
		t.Errorf("%q", log)
	}
}

func TestAnUplinkThatComesBackFromElsewhereHasNotDiedHere(t *testing.T) {
	b := newBench(config())
	b.pass(t)
	away := config()
	away.Elsewhere = []int{1} // its device is planned for all the same
	b.SetConfig(away)
	b.pass(t)
	b.verdicts.set(fiber4, rules.Dead) // the address is not there yet
	b.SetConfig(config())
	b.pass(t)
	if log := b.kernel.Log(); slices.Contains(log, "flush 0x1000000/0x3f000000 ipv4") {
		t.Errorf("%q", log)
	}
	b.verdicts.set(fiber4, rules.Good)
	b.pass(t)
	b.verdicts.set(fiber4, rules.Dead)
	b.pass(t)
	if log := b.kernel.Log(); !slices.Contains(log, "flush 0x1000000/0x3f000000 ipv4") {
		t.Errorf("when it dies here: %q", log)
	}
}

func TestFormerValuesAreRecordedBeforeTheyAreOverwrittenAndGivenBack(t *testing.T) {
	b := newBench(config())
	b.pass(t)
	want := rules.Recorded{
		Sysctls: map[string]string{"net/ipv4/conf/wan1/src_valid_mark": "0", "net/ipv4/conf/wan2/src_valid_mark": "0"},
		Groups:  map[string]uint32{"wan1": 9, "wan2": 0},
	}
	if diff := cmp.Diff(want, b.saver.kept); diff != "" {
		t.Errorf("recorded:\n%s", diff)
	}
	b.SetConfig(rules.Config{Kernel: numbers})
	b.pass(t)
	obs, _ := b.kernel.Snapshot(rules.Query{})
	before := dualWAN()
	if diff := cmp.Diff(before.Links, obs.Links); diff != "" {
		t.Errorf("links after removal:\n%s", diff)
	}
	if diff := cmp.Diff(before.Sysctls, obs.Sysctls); diff != "" {
		t.Errorf("sysctls after removal:\n%s", diff)
	}
	if len(b.saver.kept.Sysctls)+len(b.saver.kept.Groups) != 0 {
		t.Errorf("still recorded: %+v", b.saver.kept)
	}
}

func TestAFullDiskDoesNotKeepTrafficFromBeingRouted(t *testing.T) {
	b := newBench(config())
	b.saver.full = true
	r := b.Pass()
	if !errors.Is(r.Err, unix.ENOSPC) || !r.Converged {
		t.Errorf("converged %v, %v", r.Converged, r.Err)
	}
	b.saver.full = false
	b.pass(t)
	if len(b.saver.kept.Sysctls) != 2 {
		t.Errorf("recorded once there was room: %+v", b.saver.kept)
	}
}

func TestARefusedChangeIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(config())
		b.kernel.Refuse(func(op netcfg.Op) error {
			if r, ok := op.(netcfg.AddRule); ok && r.Priority == 10900 {
				return unix.ENOBUFS
			}
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		time.Sleep(time.Second)
		if r := b.Last(); !errors.Is(r.Err, unix.ENOBUFS) || r.Converged {
			t.Errorf("converged %v, %v", r.Converged, r.Err)
		}
		b.kernel.Refuse(nil)
		time.Sleep(6 * time.Second)
		if r := b.Last(); r.Err != nil || !r.Converged {
			t.Errorf("converged %v, %v", r.Converged, r.Err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A third uplink, that carries nothing, has something that the kernel refuses.
func TestFlowsOfADeadPathMoveWhateverElseTheKernelRefuses(t *testing.T) {
	third := rules.Path{Uplink: 3, Family: rules.IPv4}
	for name, c := range map[string]struct {
		refuse func(netcfg.Op) bool
		moved  bool
	}{
		"a parameter": {func(op netcfg.Op) bool { _, is := op.(netcfg.SetSysctl); return is }, true},
		"a route of another uplink": {func(op netcfg.Op) bool {
			r, is := op.(netcfg.PutRoute)
			return is && r.Table == numbers.Table(3)
		}, true},
		"an address of another uplink": {func(op netcfg.Op) bool { _, is := op.(netcfg.AddAddr); return is }, true},
		"a rule of another uplink": {func(op netcfg.Op) bool {
			r, is := op.(netcfg.AddRule)
			return is && r.Table == numbers.Table(3)
		}, true},
		"the default in main":       {func(op netcfg.Op) bool { r, is := op.(netcfg.PutRoute); return is && r.Table == netcfg.TableMain }, true},
		"the packet filter":         {func(op netcfg.Op) bool { _, is := op.(netcfg.PutTable); return is }, true},
		"the shared default":        {func(op netcfg.Op) bool { r, is := op.(netcfg.PutRoute); return is && r.Table == numbers.TableBase }, false},
		"the rule that leads there": {func(op netcfg.Op) bool { r, is := op.(netcfg.AddRule); return is && r.Table == numbers.TableBase }, false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config()
			cfg.Uplinks = append(cfg.Uplinks, rules.Uplink{ID: 3, Name: "third", Device: "lan0", Tier: 3, Weight: 1, IPv4: rules.Addressing{Enabled: true, Managed: true,
				Assign: &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix("198.51.100.66/26")}}, Gateway: netip.MustParseAddr("198.51.100.65")}}})
			b := newBench(cfg)
			b.verdicts.set(third, rules.Dead)
			if !c.moved { // it stood before: somebody has taken it away when it cannot be put back
				b.pass(t)
			}
			b.kernel.Refuse(func(op netcfg.Op) error {
				if c.refuse(op) {
					return unix.EINVAL
				}
				return nil
			})
			b.Pass()
			b.verdicts.set(fiber4, rules.Dead)
			if !c.moved {
				b.kernel.Change(func(o *rules.Observed) {
					o.Rules = slices.DeleteFunc(o.Rules, func(r netcfg.Rule) bool { return r.Table == numbers.TableBase })
					o.Routes = slices.DeleteFunc(o.Routes, func(r netcfg.Route) bool { return r.Table == numbers.TableBase })
				})
			}
			b.Pass()
			const flush = "flush 0x1000000/0x3f000000 ipv4"
			if moved := slices.Contains(b.kernel.Log(), flush); moved != c.moved {
				t.Errorf("moved: %v, want %v; %q", moved, c.moved, b.kernel.Log())
			}
			b.kernel.Refuse(nil)
			b.pass(t)
			if n := len(slices.DeleteFunc(b.kernel.Log(), func(l string) bool { return l != flush })); n != 1 {
				t.Errorf("moved %d times in the end", n)
			}
		})
	}
}

func TestWhatTheKernelRefusesIsNotTriedAgainInTheSamePass(t *testing.T) {
	b := newBench(config())
	tried := 0
	b.kernel.Refuse(func(op netcfg.Op) error {
		if r, ok := op.(netcfg.AddRule); ok && r.Priority == 10010 {
			tried++
			return unix.EINVAL
		}
		return nil
	})
	r := b.Pass()
	if tried != 1 || r.Converged || !r.Settled || !errors.Is(r.Err, unix.EINVAL) {
		t.Errorf("tried %d times, converged %v, settled %v, %v", tried, r.Converged, r.Settled, r.Err)
	}
}

func TestAParameterThatCannotBeSetIsTriedAgainAfterAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(config())
		b.kernel.Refuse(func(op netcfg.Op) error {
			if _, ok := op.(netcfg.SetSysctl); ok {
				return unix.EROFS
			}
			return nil
		})
		r := b.pass(t)
		if len(r.Report.Problems) != 2 || r.Report.Problems[0].Code != "sysctl-refused" {
			t.Errorf("%v", r.Report.Problems)
		}
		b.kernel.Refuse(nil)
		if r := b.pass(t); len(r.Changes) != 0 {
			t.Errorf("a moment later: %q", commands(r.Changes))
		}
		time.Sleep(2 * time.Minute)
		if r := b.pass(t); len(r.Changes) != 2 || len(r.Report.Problems) != 0 {
			t.Errorf("once it may be set: %q, %v", commands(r.Changes), r.Report.Problems)
		}
	})
}

func TestEveryLostHintIsMadeGoodByTheNextLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(config())
		ctx, cancel := context.WithCancel(t.Context())
		go b.Run(ctx)
		synctest.Wait()
		b.kernel.Change(func(o *rules.Observed) { o.Links[1].Carrier = false })
		time.Sleep(reconcile.Resync + time.Millisecond)
		synctest.Wait()
		last := b.Last()
		if choice := last.Report.Defaults[rules.IPv4]; !choice.Has(2) || choice.Has(1) {
			t.Errorf("without carrier and without a hint: %+v", choice)
		}
		cancel()
		synctest.Wait()
	})
}

func TestLooksWithoutAHintKeepThePhase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		phase := time.Now().Add(-2 * time.Second)
		e := reconcile.New(reconcile.Options{Kernel: fakekernel.New(numbers, dualWAN()), Verdicts: &fixed{health: make(map[rules.Path]rules.Health)}, Save: new(saver).save,
			Log: slog.New(slog.DiscardHandler), Config: config(), Phase: phase})
		ctx, cancel := context.WithCancel(t.Context())
		go e.Run(ctx)
		time.Sleep(time.Second)
		e.Hint()
		for _, want := range []time.Duration{3 * time.Second, 5 * time.Second, 10 * time.Second} {
			time.Sleep(time.Until(phase.Add(want)))
			synctest.Wait()
			if got := e.Last().At.Sub(phase); got != want {
				t.Errorf("%v after the phase the last look was at %v", want, got)
			}
		}
		cancel()
		synctest.Wait()
	})
}

func TestAManagedDeviceIsBroughtUpOnce(t *testing.T) {
	cfg := config()
	cfg.Uplinks[0].IPv4.Managed = true
	cfg.Uplinks[0].IPv4.Assign = &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix("198.51.100.2/26")}}, Gateway: netip.MustParseAddr("198.51.100.1")}
	b := newBench(cfg)
	down := func(o *rules.Observed) { o.Links[1].Up, o.Links[1].Carrier = false, false }
	ups := 0
	pass := func() {
		t.Helper()
		b.pass(t)
		ups += len(slices.DeleteFunc(b.kernel.Applied(), func(op netcfg.Op) bool { _, is := op.(netcfg.SetUp); return !is }))
	}
	b.kernel.Change(down)
	pass()
	pass()
	b.kernel.Change(down)
	pass()
	if n := ups; n != 1 {
		t.Errorf("brought up %d times", n)
	}
	b.kernel.Change(func(o *rules.Observed) { o.Links[1].Index = 12 })
	pass()
	if n := ups; n != 2 {
		t.Errorf("brought up %d times after the device was plugged in again", n)
	}
}

func TestAPassThatTookLongKeepsTheNextOneWaitingForHalfASecondOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(config())
		slow := true
		b.kernel.Refuse(func(netcfg.Op) error {
			if slow {
				time.Sleep(time.Second) // each change of the first pass: a busy machine
			}
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		go b.Run(ctx)
		for b.Last().At.IsZero() {
			time.Sleep(time.Millisecond)
		}
		slow = false
		b.kernel.Change(func(o *rules.Observed) { o.Links[1].Carrier = false })
		b.Hint()
		time.Sleep(600 * time.Millisecond)
		synctest.Wait()
		last := b.Last()
		if choice := last.Report.Defaults[rules.IPv4]; !choice.Has(2) {
			t.Errorf("a carrier was lost after a slow pass: %+v", choice)
		}
		cancel()
		synctest.Wait()
	})
}

// A device that goes takes its parameters along; the one that comes back in its place is not waited for.
func TestAParameterThatWasNotThereIsSetAsSoonAsItIs(t *testing.T) {
	b := newBench(config())
	b.kernel.Refuse(func(op netcfg.Op) error {
		if _, is := op.(netcfg.SetSysctl); is {
			return unix.ENOENT
		}
		return nil
	})
	b.Pass()
	b.kernel.Refuse(nil)
	b.pass(t)
	obs, _ := b.kernel.Snapshot(rules.Query{})
	if got := obs.Sysctls["net/ipv4/conf/wan1/src_valid_mark"]; got != "1" {
		t.Errorf("src_valid_mark of wan1 is %s", got)
	}
}

// A driver that changes the address of no device that is up has it set down for that, in the same pass; whoever asks gives it back likewise.
func TestAHardwareAddressIsSetAsTheDriverWantsIt(t *testing.T) {
	own, wanted := netcfg.Hardware{2, 5: 1}, netcfg.Hardware{2, 5: 9}
	for _, busy := range []bool{false, true} {
		cfg := config()
		cfg.Uplinks[0].Hardware = wanted
		cfg.Uplinks[0].IPv4.Managed = true
		b := newBench(cfg)
		b.kernel.Change(func(o *rules.Observed) {
			o.Links[1].Hardware = own
			if busy { // else others' default route would be lost
				o.Routes = slices.DeleteFunc(o.Routes, func(r netcfg.Route) bool {
					return len(r.Nexthops) > 0 && r.Nexthops[0].Device == "wan1" && r.Protocol != 2
				})
			}
		})
		b.kernel.Refuse(func(op netcfg.Op) error {
			if op, is := op.(netcfg.SetHardware); is && busy && !op.Down {
				return unix.EBUSY
			}
			return nil
		})
		about := func(want netcfg.Hardware) {
			t.Helper()
			r := b.pass(t)
			obs, _ := b.kernel.Snapshot(rules.Query{})
			set := slices.IndexFunc(b.kernel.Applied(), func(op netcfg.Op) bool { s, is := op.(netcfg.SetHardware); return is && s.Down == busy })
			if link, _ := obs.Link("wan1"); link.Hardware != want || set < 0 {
				t.Errorf("busy %v: %v, changes %q, problems %+v", busy, link.Hardware, commands(r.Changes), r.Report.Problems)
			}
		}
		about(wanted)
		if got := b.saver.kept.Hardware["wan1"]; got != (rules.FormerHardware{Former: own, Ours: wanted}) {
			t.Errorf("recorded: %+v", got)
		}
		if r := b.pass(t); len(r.Changes) > 0 {
			t.Errorf("a second pass changes %q", commands(r.Changes))
		}
		b.SetConfig(rules.Config{Kernel: numbers})
		about(own)
	}
}

// A program that gives the device its own address whenever it has ours has it, and is named.
func TestAContestedHardwareAddressIsLeftAlone(t *testing.T) {
	theirs, wanted := netcfg.Hardware{2, 5: 1}, netcfg.Hardware{2, 5: 9}
	cfg := config()
	cfg.Uplinks[0].Hardware = wanted
	b := newBench(cfg)
	sets := 0
	for range 10 {
		b.kernel.Change(func(o *rules.Observed) { o.Links[1].Hardware = theirs })
		r := b.pass(t)
		if slices.ContainsFunc(r.Changes, func(op netcfg.Op) bool { _, is := op.(netcfg.SetHardware); return is }) {
			sets++
		}
	}
	obs, _ := b.kernel.Snapshot(rules.Query{})
	if link, _ := obs.Link("wan1"); sets != 2 || link.Hardware != theirs {
		t.Errorf("set %d times, %v", sets, link.Hardware)
	}
	if !slices.ContainsFunc(b.Last().Report.Problems, func(p rules.Problem) bool { return p.Code == "hardware-address-contested" }) {
		t.Errorf("%+v", b.Last().Report.Problems)
	}
	b.SetConfig(rules.Config{Kernel: numbers})
	b.pass(t)
	obs, _ = b.kernel.Snapshot(rules.Query{})
	if link, _ := obs.Link("wan1"); link.Hardware != theirs {
		t.Errorf("what is theirs is taken back: %v", link.Hardware)
	}
}

// asked is a kernel that notes which looks were urgent, and takes its time for each.
type asked struct {
	*fakekernel.Kernel
	mu     sync.Mutex
	urgent []bool
	takes  time.Duration
}

func (a *asked) Snapshot(q rules.Query) (*rules.Observed, error) {
	a.mu.Lock()
	a.urgent = append(a.urgent, q.Urgent)
	takes := a.takes
	a.mu.Unlock()
	time.Sleep(takes)
	return a.Kernel.Snapshot(q)
}

// take returns what was noted since the last time.
func (a *asked) take() []bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	taken := a.urgent
	a.urgent = nil
	return taken
}

// What is urgent relies on what is known, once, and what it has changed is read back.
func TestOnlyTheFirstLookOfAnUrgentPassIsUrgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(config())
		k := &asked{Kernel: b.kernel}
		e := reconcile.New(reconcile.Options{Kernel: k, Verdicts: b.verdicts, Save: b.saver.save, Log: slog.New(slog.DiscardHandler), Config: config()})
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() { _ = e.Run(ctx) })
		for _, c := range []struct {
			name   string
			health rules.Health
			ask    func()
			want   []bool
		}{
			{"at the start", rules.Good, func() {}, []bool{false, false}},
			{"a hint", rules.Dead, e.Hint, []bool{false, false}},
			{"urgent", rules.Good, e.Urgent, []bool{true, false}},
			{"urgent, with nothing to do", rules.Good, e.Urgent, []bool{true}},
			{"both", rules.Dead, func() { e.Hint(); e.Urgent() }, []bool{true, false}},
		} {
			b.verdicts.set(fiber4, c.health)
			c.ask()
			synctest.Wait()
			if got := k.take(); len(got) < len(c.want) || !slices.Equal(got[:len(c.want)], c.want) || slices.Contains(got[len(c.want):], true) {
				t.Errorf("%s: %v, want %v", c.name, got, c.want)
			}
		}
		k.mu.Lock()
		k.takes = 300 * time.Millisecond // more than may be spent at once
		k.mu.Unlock()
		e.Hint()
		time.Sleep(400 * time.Millisecond)
		k.take()
		e.Urgent()
		synctest.Wait()
		if got := k.take(); !slices.Equal(got, []bool{true}) {
			t.Errorf("while the engine rests: %v", got)
		}
		cancel()
		group.Wait()
	})
}
