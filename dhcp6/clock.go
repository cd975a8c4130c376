package dhcp6

import (
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// never is the moment that does not come, and the span that does not end.
const never = time.Duration(math.MaxInt64)

// stepLimit is by how much a clock may stray from what a told lease is based on before it is told again. NTP slews by at most 0.5 ms a second, which must not cause a change every minute.
const stepLimit = 5 * time.Second

// Never returns the time that stands for "for ever": the last second of the year 9999, so that comparing,
// and storing as RFC 3339, need no special case.
func Never() time.Time { return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) }

// instant is one moment by several clocks.
type instant struct {
	mono time.Duration // since boot: never steps, counts time asleep
	wall time.Time     // with Go's own monotonic reading, which does not count time asleep
}

// strayed reports whether one of the clocks of wall has moved against mono since then.
func (i instant) strayed(then instant) bool {
	passed := i.mono - then.mono
	asleep, stepped := i.wall.Sub(then.wall)-passed, i.wall.Round(0).Sub(then.wall.Round(0))-passed
	return asleep.Abs() > stepLimit || stepped.Abs() > stepLimit
}

// at returns what the wall clock shows at a monotonic moment, by what it shows now. It is cut to whole
// seconds, so that nothing seems to last longer than it does.
func (i instant) at(mono time.Duration) time.Time {
	if mono == never {
		return Never()
	}
	t := i.wall.Add(mono - i.mono)
	return t.Add(-time.Duration(t.Nanosecond())) // Truncate and UTC would strip the monotonic reading
}

// after returns the moment that is d after mono; never stays never.
func after(mono, d time.Duration) time.Duration {
	if d == never || d > 0 && mono > never-d {
		return never
	}
	return mono + d
}

// systemClock reads CLOCK_BOOTTIME: Go's own monotonic clock stands still while the machine sleeps, and the
// server's does not.
func systemClock() (time.Duration, time.Time) {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // fails for no clock that Linux 2.6.39 has
	return time.Duration(ts.Nano()), time.Now()
}
