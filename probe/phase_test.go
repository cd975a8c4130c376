package probe

import (
	"slices"
	"testing"
	"time"
)

// TestDetectorKeepsThePhase has one answer of a target stay away, so that a burst and its followers leave the phase.
func TestDetectorKeepsThePhase(t *testing.T) {
	for name, c := range map[string]struct {
		phase time.Duration // before the beginning
		pace  time.Duration // set after 10 s; 0 for none
		idle  time.Duration // the longest silence between two probes, after 12 s
		least int           // probes from 12 s to 60 s
	}{
		"a phase of its own":                     {0, 0, time.Second, 48},
		"another one":                            {300 * time.Millisecond, 0, time.Second, 48},
		"the pace of a standby":                  {300 * time.Millisecond, 5 * time.Second, 5 * time.Second, 9},
		"a pace that is no multiple, kept below": {300 * time.Millisecond, 4700 * time.Millisecond, 4 * time.Second, 11},
	} {
		t.Run(name, func(t *testing.T) {
			var sent []time.Duration
			missed := false
			s := newSim(DetectorConfig{Targets: make([]Target, 3), Phase: epoch0.Add(-c.phase)}, func(_ int, at time.Duration) (time.Duration, error) {
				if !missed && at > 6*time.Second {
					missed = true
					return -1, nil
				}
				return 15 * time.Millisecond, nil
			})
			s.trace = func(_ int, at time.Duration) { sent = append(sent, at) }
			s.run(10 * time.Second)
			if c.pace > 0 {
				s.d.SetInterval(c.pace)
			}
			s.run(60 * time.Second)
			left := slices.IndexFunc(sent, func(at time.Duration) bool { return at > 6*time.Second && (at+c.phase)%time.Second != 0 })
			if left < 0 {
				t.Fatalf("the burst is not seen: %v", sent)
			}
			for i := 1; i < len(sent); i++ {
				at := sent[i]
				if at-sent[i-1] > max(c.pace, time.Second) {
					t.Errorf("none between %v and %v", sent[i-1], at)
				}
				if at > 12*time.Second && ((at+c.phase)%time.Second != 0 || at-sent[i-1] > c.idle) {
					t.Errorf("%v, after %v, is out of step", at, sent[i-1])
				}
			}
			late := sent[slices.IndexFunc(sent, func(at time.Duration) bool { return at > 12*time.Second }):]
			if len(late) < c.least || len(late) > c.least+1 {
				t.Errorf("%d probes: %v", len(late), late)
			}
		})
	}
}
