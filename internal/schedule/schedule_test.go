package schedule

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhoeverIsHeldUpFindsThePhaseAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		phase := time.Now()
		time.Sleep(1300 * time.Millisecond)
		ctx, cancel := context.WithCancel(t.Context())
		var ticks, calls []time.Duration
		done := make(chan struct{})
		go func() {
			defer close(done)
			Every(ctx, phase, time.Second, func(at time.Time) {
				ticks, calls = append(ticks, at.Sub(phase)), append(calls, time.Since(phase))
				if len(calls) == 1 {
					time.Sleep(1200 * time.Millisecond)
				}
			})
		}()
		time.Sleep(time.Until(phase.Add(6500 * time.Millisecond)))
		cancel()
		<-done
		if want := []time.Duration{2 * time.Second, 4 * time.Second, 5 * time.Second, 6 * time.Second}; !slices.Equal(calls, want) || !slices.Equal(ticks, want) {
			t.Errorf("called at %v for %v", calls, ticks)
		}
	})
}
