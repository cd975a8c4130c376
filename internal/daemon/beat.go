package daemon

import (
	"context"
	"time"
)

// untilBeat returns how long it is until the next multiple of a period on the clock. What has no hurry waits for
// it, so that all such work wakes the processor together.
func untilBeat(now time.Time, period time.Duration) time.Duration {
	return now.Truncate(period).Add(period).Sub(now)
}

// eachBeat calls do at every multiple of a period until the context ends.
func eachBeat(ctx context.Context, period time.Duration, do func(now time.Time)) {
	first := time.NewTimer(untilBeat(time.Now(), period))
	defer first.Stop()
	select {
	case <-ctx.Done():
		return
	case now := <-first.C:
		do(now)
	}
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			do(now)
		}
	}
}
