package monitor

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// policy gives fiber a failback policy.
func policy(f config.Failback) func(*config.Config) {
	return func(c *config.Config) { c.Uplinks[0].Failback = f }
}

// diesAndReturns takes fiber down and up again, until it has answered once.
func (c *rig) diesAndReturns() {
	c.t.Helper()
	c.pass()
	after(10 * time.Second)
	c.pass()
	c.set("fiber", false)
	for range 60 {
		after(50 * time.Millisecond)
		c.pass()
	}
	c.wants(fiber4, uplink.Down)
	c.wantsHealth(fiber4, rules.Dead)
	c.set("fiber", true)
	after(1500 * time.Millisecond)
	c.wants(fiber4, uplink.Recovering)
}

func TestAfterStableTrustsWhatHasAnsweredForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, nil)
		c.diesAndReturns()
		c.wantsHealth(fiber4, rules.Doubtful)
		after(15 * time.Second)
		c.wantsHealth(fiber4, rules.Good)
	})
}

func TestImmediateTrustsTheFirstAnswer(t *testing.T) {
	for _, f := range []config.Failback{config.FailbackImmediate, config.FailbackImmediateAll} {
		synctest.Test(t, func(t *testing.T) {
			c := newRig(t, nil)
			c.reload(policy(f))
			c.diesAndReturns()
			c.wantsHealth(fiber4, rules.Good)
		})
	}
}

func TestManualWaitsForTheOperator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, nil)
		var events []status.Event
		c.o.OnEvent = func(e status.Event) { events = append(events, e) }
		c.reload(policy(config.FailbackManual))
		c.diesAndReturns()
		after(time.Hour)
		if v := c.Verdicts(c.paths)[fiber4]; v.Health != rules.Good || !v.Drained {
			t.Errorf("%+v", v)
		}
		if len(events) != 1 || events[0].Uplink != "fiber" || !strings.Contains(events[0].Message, "uplinkd undrain fiber") {
			t.Errorf("%+v", events)
		}
		if !c.savesHolds() || c.savesHolds() || !c.holds.held["fiber/ipv4"] {
			t.Errorf("it is not kept: %v", c.holds.held)
		}
		c.SetDrained("fiber", status.Undrained)
		if v := c.Verdicts(c.paths)[fiber4]; v.Drained || !c.savesHolds() {
			t.Errorf("%+v", v)
		}
		// Another policy has nobody wait.
		c.set("fiber", false)
		for range 60 {
			after(50 * time.Millisecond)
			c.pass()
		}
		if !c.holds.held["fiber/ipv4"] {
			t.Error("it does not wait the second time")
		}
		c.reload(nil)
		if len(c.holds.held) != 0 {
			t.Errorf("%v", c.holds.held)
		}
	})
}

// A plan is made when something happens, and a busy machine is late.
func TestManualWaitsAfterAnOutageBetweenTwoLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, seenUp := range []bool{true, false} {
			c := newRig(t, nil)
			c.reload(policy(config.FailbackManual))
			c.pass()
			after(10 * time.Second)
			if seenUp {
				c.pass()
			}
			c.set("fiber", false)
			after(3 * time.Second)
			c.wants(fiber4, uplink.Down)
			c.set("fiber", true)
			after(time.Minute)
			c.wants(fiber4, uplink.Up)
			if v := c.Verdicts(c.paths)[fiber4]; !v.Drained {
				t.Errorf("seen up %v: %+v", seenUp, v)
			}
			c.SetDrained("fiber", status.Undrained)
			after(time.Minute)
			if v := c.Verdicts(c.paths)[fiber4]; v.Drained {
				t.Errorf("seen up %v: it waits again: %+v", seenUp, v)
			}
		}
	})
}

func TestALineWithoutCarrierAtStartHasNotFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, map[string]savedVerdict{"fiber/ipv4": {State: uplink.Up, Since: time.Now()}})
		c.reload(policy(config.FailbackManual))
		f := complete(2, 2)
		f.Carrier = false
		c.paths[fiber4] = f
		c.pass()
		after(10 * time.Second)
		if v := c.Verdicts(c.paths)[fiber4]; v.Health != rules.Dead || v.Drained {
			t.Errorf("%+v", v)
		}
	})
}

func TestHoldsThatDoNotChangeAreNotSavedAgain(t *testing.T) {
	var h manualHolds
	steps := []struct {
		do      func()
		want    []string
		changed bool
	}{
		{func() { h.set("fiber/ipv4", false) }, nil, false},
		{func() { h.set("fiber/ipv4", true) }, []string{"fiber/ipv4"}, true},
		{func() { h.set("fiber/ipv4", true) }, []string{"fiber/ipv4"}, false},
		{func() { h.set("lte/ipv6", true) }, []string{"fiber/ipv4", "lte/ipv6"}, true},
		{func() { h.retain(map[string]bool{"lte/ipv6": true, "dsl/ipv4": true}) }, []string{"lte/ipv6"}, true},
		{func() { h.retain(map[string]bool{"lte/ipv6": true}) }, []string{"lte/ipv6"}, false},
	}
	for i, s := range steps {
		before := h.held
		had := maps.Clone(before)
		h.changed = false
		s.do()
		if got := slices.Sorted(maps.Keys(h.held)); !slices.Equal(got, s.want) || h.changed != s.changed {
			t.Errorf("step %d: %q, changed %v", i, got, h.changed)
		}
		if !maps.Equal(before, had) {
			t.Errorf("step %d changed what was read before: %v", i, before)
		}
	}
}
