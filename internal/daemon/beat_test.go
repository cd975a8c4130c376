package daemon

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhoeverIsHeldUpFindsTheBeatAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		beat := time.Now()
		time.Sleep(1300 * time.Millisecond)
		ctx, cancel := context.WithCancel(t.Context())
		var moments, calls []time.Duration
		done := make(chan struct{})
		go func() {
			defer close(done)
			eachBeat(ctx, beat, time.Second, func(at time.Time) {
				moments, calls = append(moments, at.Sub(beat)), append(calls, time.Since(beat))
				if len(calls) == 1 {
					time.Sleep(1200 * time.Millisecond)
				}
			})
		}()
		time.Sleep(time.Until(beat.Add(6500 * time.Millisecond)))
		cancel()
		<-done
		if want := []time.Duration{2 * time.Second, 4 * time.Second, 5 * time.Second, 6 * time.Second}; !slices.Equal(calls, want) || !slices.Equal(moments, want) {
			t.Errorf("called at %v for %v", calls, moments)
		}
	})
}
