package uplink

import (
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/probe"
)

// Connections that fill a queue lose most in its first seconds, before that is called congestion.
func TestEvaluatorWhatAQueueOfOurOwnLosesDegradesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		load     float64 // bits a second, sent
		rtt      time.Duration
		degraded bool
	}{
		"a queue of our own":     {2e6, 2 * time.Second, false},
		"a queue of somebody":    {10e3, 2 * time.Second, true},
		"a load without a queue": {2e6, 20 * ms, true},
	} {
		now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
		e := NewEvaluator(WatcherConfig{Targets: targets(t, 3)}, now)
		e.SetLink(Link{Carrier: true, HasAddress: true, HasGateway: true}, now)
		e.Begin(now)
		for _, rtt := range []time.Duration{20 * ms, c.rtt} {
			id := e.Sent(0, now)
			now = now.Add(rtt)
			e.Reply(id, now, rtt)
		}
		e.Load(Load{Sent: c.load}, now)
		if e.Congested() {
			t.Fatalf("%s: congested at once", name)
		}
		for i := range 20 {
			e.count(probe.Outcome{Target: i % 3, Voters: 3, Kind: probe.Lost})
			e.count(probe.Outcome{Target: i % 3, Voters: 3, Kind: probe.Answered})
		}
		if got := e.fsm.quality.loss.degraded; got != c.degraded {
			t.Errorf("%s: degraded %v", name, got)
		}
	}
}
