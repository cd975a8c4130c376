package daemon

import (
	"context"
	"time"
)

// untilBeat returns how long it is until a whole number of periods will have passed since the beat. What has no hurry
// waits for it, so that all such work, and the probes, wake the processor together. Of the daemons of this world each
// has a beat of its own, the time of its start: their probes go to the same targets.
func untilBeat(beat, now time.Time, period time.Duration) time.Duration {
	return period - now.Sub(beat)%period
}

// eachBeat calls do whenever a whole number of periods has passed since the beat, until the context ends. The time that
// it gives is that moment, however late it is: who counts by seconds meets none of them twice. While do is held up, beats
// are left out.
func eachBeat(ctx context.Context, beat time.Time, period time.Duration, do func(moment time.Time)) {
	timer := time.NewTimer(untilBeat(beat, time.Now(), period))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-timer.C:
			do(now.Add(-(now.Sub(beat) % period)))
			timer.Reset(untilBeat(beat, time.Now(), period))
		}
	}
}
