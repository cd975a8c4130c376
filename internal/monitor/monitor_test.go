package monitor

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// internet is a prober whose targets answer by some devices.
type internet struct {
	mu     sync.Mutex
	alive  map[string]bool          // by device
	rtt    map[string]time.Duration // likewise; 10 ms where there is none
	probed []probe.Binding          // since the last call of asked
}

func (n *internet) Probe(ctx context.Context, p probe.Binding, _ probe.Target) (time.Duration, error) {
	n.mu.Lock()
	n.probed = append(n.probed, p)
	alive, rtt := n.alive[p.Device], cmp.Or(n.rtt[p.Device], 10*time.Millisecond)
	n.mu.Unlock()
	if alive {
		time.Sleep(rtt)
		return rtt, nil
	}
	<-ctx.Done()
	if ctx.Err() == context.Canceled {
		return 0, ctx.Err()
	}
	return 0, probe.ErrTimeout
}

func (n *internet) set(device string, alive bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.alive[device] = alive
}

func (n *internet) slow(device string, rtt time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rtt[device] = rtt
}

// asked returns by which paths was probed since the last call, each one once.
func (n *internet) asked() map[probe.Binding]bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	set := make(map[probe.Binding]bool)
	for _, p := range n.probed {
		set[p] = true
	}
	n.probed = nil
	return set
}

// rig is a running Monitor with fiber and lte, of which only IPv4 is on.
type rig struct {
	*Monitor
	*internet
	t     *testing.T
	ids   map[string]int
	paths map[rules.Path]rules.PathInfo

	saved sync.Map     // what was saved last, by document
	line  line         // of every path
	woken atomic.Int64 // how often a plan was asked for
}

// saves returns what a call saves of a document, nil for nothing.
func (c *rig) saves(document string, call func()) any {
	c.saved.Delete(document)
	call()
	v, _ := c.saved.Load(document)
	return v
}

func (c *rig) savesHolds() bool { return c.saves(docHolds, c.SaveHolds) != nil }

var fiber4, lte4 = rules.Path{Uplink: 1, Family: rules.IPv4}, rules.Path{Uplink: 2, Family: rules.IPv4}

// twoUplinks is the configuration of the tests, whose targets answer the rig's internet alone.
func targets(texts ...string) []probe.Target {
	list := make([]probe.Target, len(texts))
	for i, text := range texts {
		if err := list[i].UnmarshalText([]byte(text)); err != nil {
			panic(err)
		}
	}
	return list
}

func twoUplinks(change func(c *config.Config)) *config.Config {
	c := config.Default()
	for _, name := range []string{"fiber", "lte"} {
		u := config.DefaultUplink(name, name)
		u.IPv6.Method = config.MethodOff
		u.Probe.Targets = targets("192.0.2.1", "192.0.2.2", "2001:db8:ffff::1")
		c.Uplinks = append(c.Uplinks, u)
	}
	if change != nil {
		change(c)
	}
	return c
}

// complete is a path that has all it needs, with the n-th address.
func complete(index, n int) rules.PathInfo {
	return rules.PathInfo{Present: true, Index: index, Up: true, Carrier: true, HasDefault: true, Gateway: netip.MustParseAddr("198.51.100.1"),
		Addresses: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("198.51.100.%d", n)), 24)}}
}

func newRig(t *testing.T, restored map[string]savedVerdict) *rig {
	t.Helper()
	net := &internet{alive: map[string]bool{"fiber": true, "lte": true}, rtt: make(map[string]time.Duration)}
	c := &rig{internet: net, t: t, ids: map[string]int{"fiber": 1, "lte": 2}, paths: map[rules.Path]rules.PathInfo{fiber4: complete(2, 2), lte4: complete(3, 3)}}
	c.Monitor = New(Options{Prober: net, Phase: time.Now(), Log: slog.New(slog.DiscardHandler), Saved: Saved{verdicts: restored},
		Counters:    c.line.count,
		TCPSegments: c.line.listen, OverQuota: func() map[string]bool { return nil }, Save: func(document string, read func() any) { c.saved.Store(document, read()) },
		OnTransition: func(uplink.Transition) {}, OnRTT: func(string, rules.Family, time.Duration) {}, OnEvent: func(status.Event) {}, Wake: func() { c.woken.Add(1) }})
	c.reload(nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

func (c *rig) reload(change func(*config.Config)) {
	c.Configure(twoUplinks(change), c.ids)
}

// after lets time pass.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// pass is a look at the kernel, which has what was planned in the end.
func (c *rig) pass() {
	c.Verdicts(c.paths)
	c.RouteInstalled(c.paths)
}

func (c *rig) wants(path rules.Path, want uplink.State) {
	c.t.Helper()
	if v, ok := c.Verdict(path); !ok || v.State != want {
		c.t.Errorf("path %v is %s (%s), want %s", path, v.State, v.Reason, want)
	}
}

func (c *rig) wantsAsked(want ...probe.Binding) {
	c.t.Helper()
	got := c.asked()
	for _, p := range want {
		if !got[p] {
			c.t.Errorf("nobody was probed by %+v, only by %v", p, got)
		}
		delete(got, p)
	}
	if len(got) != 0 {
		c.t.Errorf("somebody was probed by %v too", got)
	}
}

func path4(device string, id, n int) probe.Binding {
	return probe.Binding{Device: device, Mark: uint32(id) << 24, Source: netip.MustParseAddr(fmt.Sprintf("198.51.100.%d", n))}
}

func TestAPathIsNotProbedBeforeTheKernelRoutesByItsMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, nil)
		after(10 * time.Second)
		c.wantsAsked()
		verdicts := c.Verdicts(c.paths)
		after(10 * time.Second)
		c.wantsAsked()
		if v := verdicts[fiber4]; v.Health != rules.Good || v.State != "init" {
			t.Errorf("a whole path before the first probe: %+v", v)
		}
		c.RouteInstalled(c.paths)
		after(time.Second)
		c.wantsAsked(path4("fiber", 1, 2), path4("lte", 2, 3))
		c.wants(fiber4, uplink.Up)

		// Another address: nothing is sent from it until its rule is there, and the verdict stays.
		c.paths[fiber4] = complete(2, 20)
		c.Verdicts(c.paths)
		synctest.Wait()
		c.asked()
		after(10 * time.Second)
		c.wantsAsked(path4("lte", 2, 3))
		c.wants(fiber4, uplink.Up)
		c.RouteInstalled(c.paths)
		after(time.Second)
		c.wantsAsked(path4("fiber", 1, 20), path4("lte", 2, 3))

		// A device made anew with the same address is another way, too.
		c.paths[fiber4] = complete(7, 20)
		c.Verdicts(c.paths)
		synctest.Wait()
		c.asked()
		after(5 * time.Second)
		c.wantsAsked(path4("lte", 2, 3))
	})
}

func TestALostCarrierCountsInTheSameLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, nil)
		c.pass()
		after(time.Second)
		c.wants(fiber4, uplink.Up)
		for name, lost := range map[string]func(*rules.PathInfo){
			"carrier": func(f *rules.PathInfo) { f.Carrier = false },
			"device":  func(f *rules.PathInfo) { *f = rules.PathInfo{} },
			"address": func(f *rules.PathInfo) { f.Addresses = nil },
			"gateway": func(f *rules.PathInfo) { f.HasDefault, f.Gateway = false, netip.Addr{} },
		} {
			f := complete(2, 2)
			lost(&f)
			c.paths[fiber4] = f
			if v := c.Verdicts(c.paths)[fiber4]; v.Health != rules.Dead || v.State != "down" {
				t.Errorf("without %s: %+v", name, v)
			}
			c.paths[fiber4] = complete(2, 2)
			c.pass()
			after(uplink.DefaultStable + uplink.DefaultHold + 2*time.Second)
			c.wants(fiber4, uplink.Up)
			after(time.Hour) // failures after the first are held down; an hour later they are forgotten
		}
		c.wants(lte4, uplink.Up)
	})
}

func TestAFamilyThatIsOffIsNotJudged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, nil)
		c.paths[rules.Path{Uplink: 1, Family: rules.IPv6}] = complete(2, 2)
		if verdicts := c.Verdicts(c.paths); len(verdicts) != 2 {
			t.Errorf("%+v", verdicts)
		}
		if _, ok := c.Verdict(rules.Path{Uplink: 1, Family: rules.IPv6}); ok {
			t.Error("IPv6 is watched")
		}
	})
}

func TestAReloadKeepsWatchersAndVerdicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, nil)
		c.pass()
		after(time.Second)
		c.set("lte", false)
		after(5 * time.Second)
		c.wants(lte4, uplink.Down)
		fiber, lte := c.Monitor.paths[fiber4], c.Monitor.paths[lte4]

		c.reload(func(c *config.Config) { c.Uplinks[0].Weight, c.Uplinks[0].Tier = 7, 3 })
		if c.Monitor.paths[fiber4] != fiber || c.Monitor.paths[lte4] != lte {
			t.Error("weights and tiers concern no watcher")
		}
		c.reload(func(c *config.Config) { c.Uplinks[0], c.Uplinks[1] = c.Uplinks[1], c.Uplinks[0] })
		if c.Monitor.paths[fiber4] != fiber || c.Monitor.paths[lte4] != lte {
			t.Error("the order in the file concerns no watcher")
		}

		c.reload(func(c *config.Config) {
			for i := range c.Uplinks {
				c.Uplinks[i].Probe.Interval = 2 * time.Second
			}
		})
		if c.Monitor.paths[fiber4] == fiber || c.Monitor.paths[lte4] == lte {
			t.Error("another interval needs another watcher")
		}
		c.wants(fiber4, uplink.Up)
		c.wants(lte4, uplink.Down)
		synctest.Wait()
		c.asked()
		after(10 * time.Second)
		c.wantsAsked() // by neither the old nor the new ones before the next look
		c.pass()
		after(3 * time.Second)
		c.wantsAsked(path4("fiber", 1, 2), path4("lte", 2, 3))
		c.wants(fiber4, uplink.Up)
		c.wants(lte4, uplink.Down)

		c.reload(func(c *config.Config) { c.Uplinks = c.Uplinks[:1] })
		synctest.Wait()
		c.pass()
		c.asked()
		after(3 * time.Second)
		c.wantsAsked(path4("fiber", 1, 2))
		if kept := c.saves(docVerdicts, c.saveVerdicts).(map[string]savedVerdict); len(kept) != 1 || kept["fiber/ipv4"].State != uplink.Up {
			t.Errorf("kept: %+v", kept)
		}

		// Who comes back is new: what was known of it is of another time.
		c.set("lte", true)
		c.reload(nil)
		c.wants(lte4, uplink.Init)
		c.pass()
		after(time.Second)
		c.wants(lte4, uplink.Up)
	})
}

func TestVerdictsLastOverARestart(t *testing.T) {
	for _, c := range []struct{ before, want uplink.State }{
		{uplink.Up, uplink.Up}, {uplink.Degraded, uplink.Degraded}, {uplink.Suspect, uplink.Suspect}, {uplink.Down, uplink.Down},
		{uplink.Recovering, uplink.Recovering}, {uplink.Init, uplink.Init}, {"nonsense", uplink.Init}, {"", uplink.Init},
	} {
		t.Run(string(c.before), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				since := time.Now().Add(-time.Hour)
				r := newRig(t, map[string]savedVerdict{"fiber/ipv4": {State: c.before, Since: since}, "fiber/ipv6": {State: uplink.Down, Since: since}, "gone/ipv4": {State: uplink.Down, Since: since}})
				r.set("fiber", false)
				r.Verdicts(r.paths)
				r.wants(fiber4, c.want)
				r.wants(lte4, uplink.Init)
				if v, _ := r.Verdict(fiber4); c.want != uplink.Init && !v.Since.Equal(since) {
					t.Errorf("since %v, not %v", v.Since, since)
				}
			})
		})
	}
}

// Who ends before the flows of a dead path have moved leaves that to the next run.
func TestWhatHasNotMovedIsSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, nil)
		saved := func() savedVerdict {
			v, _ := c.saved.Load(docVerdicts)
			return v.(map[string]savedVerdict)["fiber/ipv4"]
		}
		wants := func(state uplink.State, unmoved bool, when string) {
			t.Helper()
			synctest.Wait()
			if s := saved(); s.State != state || s.Unmoved != unmoved {
				t.Errorf("%s: saved as %s, unmoved %v", when, s.State, s.Unmoved)
			}
		}
		moved := func(stuck ...rules.Path) {
			v := c.Verdicts(c.paths)
			m := make(map[rules.Path]bool)
			for _, path := range stuck {
				m[path] = true
			}
			c.FlowsMoved(v, m)
		}
		c.pass()
		after(10 * time.Second)
		before := c.Verdicts(c.paths)
		c.set("fiber", false)
		after(5 * time.Second)
		c.wants(fiber4, uplink.Down)
		wants(uplink.Down, true, "before anybody knows")
		c.FlowsMoved(before, nil)
		wants(uplink.Down, true, "after a pass that did not know it")
		c.set("lte", false)
		after(5 * time.Second)
		moved()
		wants(uplink.Down, true, "while both have failed")
		c.set("lte", true)
		after(20 * time.Second)
		moved(fiber4)
		wants(uplink.Down, true, "while there is nowhere to go")
		if !c.Verdicts(c.paths)[fiber4].Unmoved {
			t.Error("planning does not hear of it")
		}
		moved()
		wants(uplink.Down, false, "when all is moved")
		c.set("fiber", true)
		after(20 * time.Second)
		c.set("fiber", false)
		after(5 * time.Second)
		wants(uplink.Down, true, "when it is down again")

		next := newRig(t, map[string]savedVerdict{"fiber/ipv4": {State: uplink.Down, Since: time.Now(), Unmoved: true}, "lte/ipv4": {State: uplink.Up, Since: time.Now()}})
		if v := next.Verdicts(next.paths); !v[fiber4].Unmoved || v[lte4].Unmoved {
			t.Errorf("in the next run: %v", v)
		}
		info := next.paths[lte4]
		info.Carrier = false
		next.paths[lte4] = info
		next.Verdicts(next.paths)
		synctest.Wait()
		if v := next.Verdicts(next.paths)[lte4]; v.State != string(uplink.Down) || !v.Unmoved {
			t.Errorf("the cable is pulled then: %v", v)
		}
	})
}

func TestAVerdictOfAnEarlierRunIsNotRestoredTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, map[string]savedVerdict{"lte/ipv4": {State: uplink.Down, Since: time.Now()}})
		c.wants(lte4, uplink.Down)
		c.pass()
		after(20 * time.Second)
		c.wants(lte4, uplink.Up)
		c.reload(func(c *config.Config) { c.Uplinks = c.Uplinks[:1] })
		c.reload(nil)
		c.wants(lte4, uplink.Init)
	})
}

func TestADrainedUplinkIsMarkedInItsVerdicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, nil)
		c.SetDrained("fiber", status.Drained)
		before := c.Drained()
		if v := c.Verdicts(c.paths); !v[fiber4].Drained || v[lte4].Drained {
			t.Errorf("%+v", v)
		}
		c.SetDrained("fiber", status.Undrained)
		if v := c.Verdicts(c.paths); v[fiber4].Drained {
			t.Errorf("%+v", v)
		}
		if !before["fiber"] || len(c.Drained()) != 0 {
			t.Errorf("what was read before changed: %v, now %v", before, c.Drained())
		}
	})
}

func TestAnUplinkThatIsAboveItsQuotaCarriesNoNewTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, nil)
		over := map[string]bool{"lte": true}
		c.o.OverQuota = func() map[string]bool { return over }
		for range 2 {
			if v := c.Verdicts(c.paths); v[lte4].Drained != over["lte"] || v[fiber4].Drained {
				t.Errorf("over quota %v: %+v", over, v)
			}
			over = nil
		}
	})
}

func TestFamiliesAreAskedInTurn(t *testing.T) {
	phase := time.Now()
	if got := phaseOf(phase, rules.IPv6, time.Second).Sub(phaseOf(phase, rules.IPv4, time.Second)); got != time.Second/2 {
		t.Errorf("IPv6 follows IPv4 after %v", got)
	}
}
