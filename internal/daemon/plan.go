package daemon

import (
	"reflect"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/planinput"
)

// planFor gives the engine a configuration with what was learned by now. The caller holds d.reloading.
func (d *Daemon) planFor(c *config.Config, ids map[string]int) {
	coming := d.awaited.Load()
	standsIn := coming != nil && !d.pair.Primary()
	if standsIn {
		c, ids = coming.config, coming.ids
	}
	now := time.Now()
	learned := d.addressing.Learned(now)
	d.tunnels.Learn(learned)
	d.dns.Learn(learned)
	d.clat.Learn(learned)
	if standsIn {
		coming.tell(learned)
	}
	in := planinput.Build(c, ids, learned, d.addressing.ULA(c.Daemon.ULA))
	in.LANsElsewhere = standsIn
	d.addressing.AddWithdrawn(&in, now)
	d.addressing.AddDownstream(&in, now)
	d.addressing.AddProxied(&in)
	if d.pair.Expects() || coming != nil {
		for i := range in.Uplinks {
			in.Uplinks[i].Expects = in.Uplinks[i].Shared
		}
	}
	d.sets.AddTo(&in)
	if !reflect.DeepEqual(in, d.planned) {
		d.planned = in
		d.engine.SetConfig(in)
	}
}

// replan has the engine plan for what was learned by now.
func (d *Daemon) replan() {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	d.mu.Lock()
	c, ids := d.config, d.ids // replaced, never changed in place
	d.mu.Unlock()
	d.planFor(c, ids)
}
