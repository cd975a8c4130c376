package schedule

import "time"

// setBy is by how much the time of day has to move against the monotonic clock to have been set: NTP slews by half a millisecond a second.
const setBy = 5 * time.Second

// Clock notices when the time of day is set. Its zero value has seen no time.
type Clock struct{ last time.Time }

// Set takes the present time, with its monotonic reading, and reports whether the time of day was set, or the machine slept, since the
// last one.
func (c *Clock) Set(now time.Time) bool {
	last := c.last
	c.last = now
	if last.IsZero() {
		return false
	}
	return (now.Round(0).Sub(last.Round(0)) - now.Sub(last)).Abs() > setBy
}
