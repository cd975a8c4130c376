package monitor

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

func TestTheCalmPaceFollowsWhatAnUplinkIsFor(t *testing.T) {
	wired, metered, fixed := config.DefaultUplink("w", "w"), config.DefaultUplink("m", "m"), config.DefaultUplink("f", "f")
	metered.Metered, metered.Probe.Interval = true, config.MeteredInterval
	fixed.Probe.Fixed, fixed.Probe.Interval = true, 2*time.Second
	for name, c := range map[string]struct {
		u    config.Uplink
		d    probeContext
		want time.Duration
	}{
		"wired that carries traffic":             {wired, probeContext{State: uplink.Up, Active: true}, time.Second},
		"wired on standby":                       {wired, probeContext{State: uplink.Up}, 5 * time.Second},
		"wired on standby that loses much":       {wired, probeContext{State: uplink.Degraded}, 5 * time.Second},
		"wired that is down":                     {wired, probeContext{State: uplink.Down}, time.Second},
		"wired that recovers":                    {wired, probeContext{State: uplink.Recovering}, time.Second},
		"wired on standby in an alert":           {wired, probeContext{State: uplink.Up, Alert: true}, time.Second},
		"wired on standby that is waited for":    {wired, probeContext{State: uplink.Up, Alert: true, Urgent: true}, 100 * time.Millisecond},
		"metered that carries traffic":           {metered, probeContext{State: uplink.Up, Active: true}, 5 * time.Second},
		"metered that carries and receives":      {metered, probeContext{State: uplink.Up, Active: true, Receiving: true}, 15 * time.Second},
		"metered that loses much and receives":   {metered, probeContext{State: uplink.Degraded, Active: true, Receiving: true}, 5 * time.Second},
		"wired that carries and receives":        {wired, probeContext{State: uplink.Up, Active: true, Receiving: true}, time.Second},
		"metered on standby":                     {metered, probeContext{State: uplink.Up}, time.Minute},
		"metered that is down":                   {metered, probeContext{State: uplink.Down}, time.Minute},
		"metered that recovers":                  {metered, probeContext{State: uplink.Recovering}, 5 * time.Second},
		"metered on standby in an alert":         {metered, probeContext{State: uplink.Up, Alert: true}, time.Second},
		"an interval of the file on standby":     {fixed, probeContext{State: uplink.Up}, 2 * time.Second},
		"an interval of the file and traffic":    {fixed, probeContext{State: uplink.Up, Active: true}, 2 * time.Second},
		"an interval of the file when waited on": {fixed, probeContext{State: uplink.Up, Alert: true, Urgent: true}, 100 * time.Millisecond},
	} {
		if got := baseInterval(&c.u, c.d); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestABudgetStretchesThePaceAndNeverEndsIt(t *testing.T) {
	day := 24 * time.Hour
	for name, c := range map[string]struct {
		left  int64
		until time.Duration
		want  time.Duration
	}{
		"plenty":                  {100e6, day, time.Second},
		"half a megabyte a day":   {500e3, day, 17971200 * time.Microsecond},
		"the same by the evening": {500e3, day / 24, time.Second},
		"nearly nothing":          {1000, day, slowestInterval},
		"nothing":                 {0, day, slowestInterval},
		"overdrawn":               {-5e6, day, slowestInterval},
	} {
		if got := (budget{c.left, c.until}).stretch(time.Second, 104, 1); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if got := (budget{-1, day}).stretch(time.Hour, 104, 1); got != time.Hour {
		t.Errorf("a pace that is slower anyway became %v", got)
	}
}

func TestADayEndsAtMidnight(t *testing.T) {
	var l DailyBytes
	noon := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	if left := l.rollover(noon); left != 12*time.Hour {
		t.Errorf("%v are left at noon", left)
	}
	l.Bytes["lte"] = 5
	l.rollover(noon.Add(11 * time.Hour))
	if l.Bytes["lte"] != 5 {
		t.Error("forgotten before the end of the day")
	}
	l.rollover(noon.Add(12 * time.Hour))
	if len(l.Bytes) != 0 {
		t.Errorf("%v on the next day", l.Bytes)
	}
}

// TestAMeteredStandbyIsCheapAndThereWhenNeeded spends a day, with a miss of the active uplink now and then.
func TestAMeteredStandbyIsCheapAndThereWhenNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, nil)
		c.reload(func(c *config.Config) {
			lte := &c.Uplinks[1]
			lte.Metered, lte.Probe.Interval = true, config.MeteredInterval
		})
		c.pass()
		c.SetActive(map[rules.Family]rules.Choice{rules.IPv4: {Members: []rules.Member{{Uplink: 1, Share: 1}}}})
		after(10 * time.Second)
		time.Sleep(time.Until(time.Date(2000, 1, 2, 0, 0, 0, 0, time.Local))) // of the bubble
		for range 100 {                                                       // one probe in 900 lost, in bursts that are over before anybody is suspect
			after(14 * time.Minute)
			c.set("fiber", false)
			after(1200 * time.Millisecond)
			c.set("fiber", true)
		}
		spent := c.ProbeBytesToday()
		t.Logf("%v", spent)
		if lte := spent.Bytes["lte"]; lte < 100e3 || lte > 250e3 { // one family
			t.Errorf("%d bytes for a metered standby", lte)
		}
		if fiber := spent.Bytes["fiber"]; fiber < 8e6 || fiber > 10e6 {
			t.Errorf("%d bytes for the active uplink", fiber)
		}
		c.Verdicts(c.paths)
		c.set("fiber", false)
		begun := time.Now()
		for c.Verdicts(c.paths)[fiber4].Health == rules.Good {
			after(5 * time.Millisecond)
		}
		if took := time.Since(begun); took > 1700*time.Millisecond {
			t.Errorf("leaving the active one took %v", took)
		}
		c.wantsHealth(lte4, rules.Good)
	})
}

func TestAnActiveMeteredUplinkThatReceivesIsAskedLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for receives, want := range map[bool]int64{false: 720, true: 240} { // probes an hour
			c := newRig(t, nil)
			c.reload(func(c *config.Config) {
				lte := &c.Uplinks[1]
				lte.Metered, lte.Probe.Interval = true, config.MeteredInterval
			})
			c.pass()
			c.SetActive(map[rules.Family]rules.Choice{rules.IPv4: {Members: []rules.Member{{Uplink: 2, Share: 1}}}})
			seen := uint64(0)
			for i := range 3600 {
				after(time.Second)
				if v, _ := c.Verdict(lte4); receives || i == 0 || v.Requests != seen { // our own answers are received, too
					c.Monitor.mu.Lock()
					c.Monitor.paths[lte4].noteInbound(time.Now(), false)
					c.Monitor.mu.Unlock()
					seen = v.Requests
				}
			}
			v, _ := c.Verdict(lte4)
			if got := int64(v.Requests); got < want*9/10 || got > want*11/10 {
				t.Errorf("receives %v: %d probes in an hour, want about %d", receives, got, want)
			}
		}
	})
}
