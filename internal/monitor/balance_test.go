package monitor

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/counters"
	"github.com/uplinkd/uplinkd/rules"
)

// TestTheFasterOfATierHasNewFlows slows one of two lines down, and has it die.
func TestTheFasterOfATierHasNewFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, nil)
		c.slow("lte", 30*time.Millisecond)
		began := time.Now()
		c.reload(func(c *config.Config) { c.Tiers = []config.Tier{{Tier: 1, Balance: config.BalanceLatency}} })
		c.pass()
		slower := func(want ...rules.Path) {
			t.Helper()
			c.Verdicts(c.paths) // the correlator asks the other one before it believes
			after(time.Second)
			verdicts := c.Verdicts(c.paths)
			for _, path := range []rules.Path{fiber4, lte4} {
				is := false
				for _, w := range want {
					is = is || w == path
				}
				if v := verdicts[path]; v.Slower != is {
					t.Errorf("after %v, %v: %+v", time.Since(began), path, v)
				}
				if s := c.Statuses()[path]; s.Slower != is {
					t.Errorf("after %v, %v: the status has %v", time.Since(began), path, s.Slower)
				}
			}
		}
		after(20 * time.Second)
		slower(lte4)
		c.slow("fiber", 80*time.Millisecond)
		c.woken.Store(0)
		after(30 * time.Second)
		slower(lte4)
		after(4 * time.Minute)
		if c.woken.Load() == 0 {
			t.Error("nobody has asked for a plan")
		}
		slower(fiber4)
		c.set("lte", false)
		after(10 * time.Second)
		slower() // there is nothing to choose
		c.reload(func(*config.Config) {})
		c.set("lte", true)
		after(time.Minute)
		slower()
	})
}

// TestALineThatIsFullIsTold lets a device receive nine tenths of its bandwidth and more.
func TestALineThatIsFullIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, nil)
		var received, rate uint64 // bytes
		last := time.Now()
		c.line.counts(func(out map[int]counters.Device, now time.Time) {
			received += uint64(float64(rate) * now.Sub(last).Seconds())
			last = now
			out[2] = counters.Device{Received: received / 1000, ReceivedBytes: received} // fiber's
		})
		c.reload(func(c *config.Config) {
			c.Uplinks[0].Bandwidth = config.Bandwidth{Down: 80e6}
			c.Tiers = []config.Tier{{Tier: 1, Balance: config.BalanceWeight, Overflow: 0.9}}
		})
		c.pass()
		moves := func(share float64) {
			c.line.mu.Lock()
			defer c.line.mu.Unlock()
			rate = uint64(share * 10e6)
		}
		check := func(want bool) {
			t.Helper()
			verdicts := c.Verdicts(c.paths)
			if verdicts[fiber4].Full != want || verdicts[lte4].Full || c.LineLoads()["fiber"].Full != want {
				t.Errorf("%+v, %+v", verdicts, c.LineLoads())
			}
		}
		moves(0.5)
		after(time.Minute)
		check(false)
		moves(0.97)
		c.woken.Store(0)
		after(20 * time.Second)
		check(true)
		if c.woken.Load() == 0 {
			t.Error("nobody has asked for a plan")
		}
		if share := c.LineLoads()["fiber"].Share; share < 0.9 || share > 1 {
			t.Errorf("the load is %v", share)
		}
		if _, known := c.LineLoads()["lte"]; known {
			t.Error("a line without a bandwidth has a load")
		}
		moves(0.1)
		after(50 * time.Second)
		check(false)
		moves(0.97)
		after(20 * time.Second)
		c.reload(func(c *config.Config) { c.Uplinks[0].Bandwidth = config.Bandwidth{Down: 80e6} }) // without overflow
		after(2 * time.Second)
		check(false)
	})
}
