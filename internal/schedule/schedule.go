// Package schedule has periodic work wake the processor together:
//
//	phase ──┬── period ──┬── period ──┬──>   Until: how long to the next tick; Every: work at each
//
// Each daemon has a phase of its own, the time of its start, because many of them probe the same targets.
package schedule

import (
	"context"
	"time"
)

// Until returns how long it is until a whole number of periods will have passed since the phase.
func Until(phase, now time.Time, period time.Duration) time.Duration {
	return period - now.Sub(phase)%period
}

// Every calls do whenever a whole number of periods has passed since the phase, until the context ends. The time that
// it passes is that of the tick, however late the call is: whoever counts by seconds meets none of them twice. Ticks
// are left out while do is held up.
func Every(ctx context.Context, phase time.Time, period time.Duration, do func(tick time.Time)) {
	timer := time.NewTimer(Until(phase, time.Now(), period))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-timer.C:
			do(now.Add(-(now.Sub(phase) % period)))
			timer.Reset(Until(phase, time.Now(), period))
		}
	}
}
