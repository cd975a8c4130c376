package pair

import (
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/planinput"
)

// Share takes a whole configuration, and returns what this router has to do of it: all, unless it is the backup. It completes the ids, also by
// those that either router has after a takeover, which shall wait for no disk, and reports whether some are new.
func (e *Engine) Share(c *config.Config, ids map[string]int) (mine *config.Config, changed bool, err error) {
	if changed, err = planinput.AssignIDs(c, ids); err != nil || !c.Pair.On() {
		return c, changed, err
	}
	if err := e.Configure(c, ids); err != nil {
		e.o.Log.Error("the other router of the pair is not told anything", "err", err)
	}
	standby := c.Standby()
	for _, later := range []*config.Config{standby, c.Prepared()} { // the policies of each share other groups
		more, err := planinput.AssignIDs(later, ids)
		if err != nil {
			return nil, changed, err
		}
		changed = changed || more
	}
	if e.Primary() {
		return c, changed, nil
	}
	return standby, changed, nil
}
