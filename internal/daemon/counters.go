package daemon

import (
	"maps"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/kernel"
)

// counterAge is how old the devices' counters may be for whoever looks at them: those who keep the beat wake
// together, and one reading is enough for them. It is well below busyPace.
const counterAge = 10 * time.Millisecond

// counters are the devices' counters for all who look at them.
type counters struct {
	read func(map[int]kernel.Counters) error

	mu     sync.Mutex
	latest map[int]kernel.Counters // by interface index
	at     time.Time               // of latest; zero when it could not be read
}

func newCounters(read func(map[int]kernel.Counters) error) *counters {
	return &counters{read: read, latest: make(map[int]kernel.Counters)}
}

// look puts the counters of every device into out, by interface index, and returns when they were these.
func (c *counters) look(out map[int]kernel.Counters) (time.Time, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.at) > counterAge {
		c.at = time.Time{}
		if err := c.read(c.latest); err != nil {
			return time.Time{}, err
		}
		c.at = now
	}
	clear(out)
	maps.Copy(out, c.latest)
	return c.at, nil
}
