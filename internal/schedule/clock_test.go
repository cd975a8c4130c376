package schedule_test

import (
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/schedule"
	"github.com/uplinkd/uplinkd/internal/schedule/clocktest"
)

func TestAClockThatIsSetIsNoticed(t *testing.T) {
	start := time.Now()
	for name, c := range map[string]struct {
		passed, by time.Duration
		want       bool
	}{
		"time passes":            {time.Second, 0, false},
		"much time passes":       {5 * time.Hour, 0, false},
		"it is slewed":           {time.Minute, 2 * time.Second, false},
		"it is set forward":      {time.Second, 3 * time.Hour, true},
		"it is set back":         {time.Second, -3 * time.Hour, true},
		"by half a minute":       {time.Second, 30 * time.Second, true},
		"back by half a century": {time.Second, -50 * 365 * 24 * time.Hour, true},
	} {
		var clock schedule.Clock
		if clock.Set(start) {
			t.Errorf("%s: at the first look", name)
		}
		now := clocktest.Shift(start.Add(c.passed), c.by)
		if passed := now.Sub(start); passed != c.passed {
			t.Fatalf("%s: the monotonic clock shows %v", name, passed)
		}
		if got := clock.Set(now); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if clock.Set(now.Add(time.Second)) {
			t.Errorf("%s: a second time", name)
		}
	}
}
