package monitor

import (
	"context"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

func (c *rig) wantsHealth(path rules.Path, want rules.Health) {
	c.t.Helper()
	if got := c.Verdicts(c.paths)[path].Health; got != want {
		s := c.Statuses()[path]
		c.t.Errorf("planning takes path %v for %v, want %v: %s, %s", path, got, want, s.State, s.Reason)
	}
}

// TestASilentUplinkIsLeftWithoutWaitingForTheOthersInterval falls silent at every phase of the probe interval, with no
// traffic that could tell of it.
func TestASilentUplinkIsLeftWithoutWaitingForTheOthersInterval(t *testing.T) {
	var longest time.Duration
	for phase := time.Duration(0); phase < time.Second; phase += 50 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			c := newRig(t, nil)
			var woken atomic.Int32
			c.o.Wake = func() { woken.Add(1) }
			c.pass()
			c.SetActive(map[rules.Family]rules.Choice{rules.IPv4: {Members: []rules.Member{{Uplink: 1, Share: 1}}}})
			after(time.Minute + phase)
			c.set("fiber", false)
			begun := time.Now()
			for c.Verdicts(c.paths)[fiber4].Health == rules.Good {
				after(5 * time.Millisecond)
			}
			longest = max(longest, time.Since(begun))
			c.wants(fiber4, uplink.Suspect)
			c.wantsHealth(fiber4, rules.Doubtful)
			if woken.Load() == 0 {
				t.Error("nobody was woken by the answer of lte")
			}
			after(2 * time.Second)
			c.wants(fiber4, uplink.Down)
			c.wantsHealth(fiber4, rules.Dead)
			c.wantsHealth(lte4, rules.Good)
		})
	}
	t.Logf("new flows were sent elsewhere after %v at most", longest)
	if longest > 1700*time.Millisecond {
		t.Errorf("it took %v", longest)
	}
}

func TestSilenceEverywhereMovesNothingAndIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, nil)
		var events []status.Event
		c.o.OnEvent = func(e status.Event) { events = append(events, e) }
		var woken atomic.Int32
		c.o.Wake = func() { woken.Add(1) }
		c.pass()
		after(10 * time.Second)
		c.set("fiber", false)
		c.set("lte", false)
		for range 100 {
			after(100 * time.Millisecond)
			c.wantsHealth(fiber4, rules.Good)
			c.wantsHealth(lte4, rules.Good)
		}
		c.wants(fiber4, uplink.Down)
		if woken.Load() == 0 {
			t.Error("nobody was woken when the time for an answer was over")
		}
		if len(events) != 1 || events[0].Kind != status.EventCause || !strings.Contains(events[0].Message, "common cause") {
			t.Errorf("%+v", events)
		}
		if p := c.Problems(); len(p) != 1 || p[0].Code != "common-cause" || !strings.Contains(p[0].Message, "fiber, lte") {
			t.Errorf("%+v", p)
		}
		if reason := c.Statuses()[fiber4].Reason.Text; !strings.Contains(reason, "; no uplink answers (common cause)") {
			t.Error(reason)
		}

		woken.Store(0)
		c.set("fiber", true)
		c.set("lte", true)
		for range 300 {
			after(20 * time.Millisecond)
			if c.Verdicts(c.paths)[fiber4].Health == rules.Dead || c.Verdicts(c.paths)[lte4].Health == rules.Dead {
				t.Fatal("something is dead when everything is back")
			}
		}
		if woken.Load() == 0 {
			t.Error("nobody was woken by the answers")
		}
		if len(events) != 2 || len(c.Problems()) != 0 {
			t.Errorf("%+v, %+v", events, c.Problems())
		}
	})
}

func TestATargetIsCalledDeadOnlyWhenItIsSoByEveryUplink(t *testing.T) {
	silent := uplink.TargetStatus{Target: "192.0.2.1", Dead: true}
	fine := uplink.TargetStatus{Target: "192.0.2.1", Up: true}
	other := uplink.TargetStatus{Target: "192.0.2.2", Up: true}
	by := func(name string, targets ...uplink.TargetStatus) status.PathVerdict {
		return status.PathVerdict{Uplink: name, Family: rules.IPv4, Verdict: uplink.Verdict{Targets: targets}}
	}
	if p := deadTargets([]status.PathVerdict{by("fiber", silent, other), by("lte", fine, other)}); len(p) != 0 {
		t.Errorf("%+v", p)
	}
	p := deadTargets([]status.PathVerdict{by("fiber", silent, other), by("lte", silent, other)})
	if len(p) != 1 || p[0].Code != "dead-target" || !strings.Contains(p[0].Message, "192.0.2.1 does not answer by fiber, lte") {
		t.Errorf("%+v", p)
	}
}

// barred is a prober whose echo requests a rule of this machine drops.
type barred struct{}

func (b *barred) Probe(context.Context, probe.Binding, probe.Target) (time.Duration, error) {
	return 0, &probe.Error{Target: "192.0.2.1", Class: probe.ErrLocal, Err: syscall.EPERM}
}

func TestARuleThatDropsProbesIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, nil)
		c.o.Prober = new(barred)
		c.reload(func(c *config.Config) { c.Uplinks[0].Probe.Rise++ }) // a new watcher for fiber, with that prober
		c.pass()
		after(3 * time.Second)
		p := c.Problems()
		if len(p) != 1 || p[0].Code != "probe-blocked" || !strings.Contains(p[0].Message, "probes of fiber (IPv4)") ||
			!strings.Contains(p[0].Fix, "meta mark and 0x3f000000 == 0x1000000 accept") {
			t.Errorf("%+v", p)
		}
		c.reload(func(c *config.Config) { c.Uplinks = c.Uplinks[1:] })
		if p := c.Problems(); len(p) != 0 {
			t.Errorf("%+v", p)
		}
	})
}

func TestAPortalIsAProblem(t *testing.T) {
	p := portals([]status.PathVerdict{{Uplink: "fiber", Family: rules.IPv4}, {Uplink: "hotel", Family: rules.IPv6, Verdict: uplink.Verdict{Portal: true}}})
	if len(p) != 1 || p[0].Code != "captive-portal" || !strings.Contains(p[0].Message, "hotel (IPv6)") {
		t.Errorf("%+v", p)
	}
}
