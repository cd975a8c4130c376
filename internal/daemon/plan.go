package daemon

import (
	"reflect"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/planinput"
)

// planFor gives the engine a configuration with what was learned by now. The caller holds d.reloading.
func (d *Daemon) planFor(c *config.Config, ids map[string]int) {
	coming := d.successor.Awaits()
	standsIn := coming != nil && !d.pair.Primary()
	if standsIn {
		c, ids = coming.Config, coming.IDs
	}
	now := time.Now()
	learned := d.addressing.Learned(now)
	d.tunnels.Learn(learned)
	d.dns.Learn(learned)
	d.clat.Learn(learned)
	if standsIn {
		coming.Tell(learned)
	}
	in := planinput.Build(c, ids, learned, d.addressing.ULA(c.Daemon.ULA))
	in.LANsElsewhere = standsIn
	d.addressing.AddTo(&in, now)
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
	d.planFor(d.working())
}
