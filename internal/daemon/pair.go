package daemon

import (
	"errors"
	"path/filepath"
	"time"

	"github.com/uplinkd/uplinkd/dhcp6"
	"github.com/uplinkd/uplinkd/internal/addressing"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/pair"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/rules"
)

// syncTimeout is how long a start waits for what the other router of a pair knows.
const syncTimeout = 1500 * time.Millisecond

// newPair makes what knows of the other router.
func (d *Daemon) newPair(stateDir string) *pair.Engine {
	return pair.New(pair.Options{Log: d.log, Version: d.o.Version, Save: d.save, OnEvent: d.event, Settled: func() {
		d.replan()
		d.engine.Inherited()
		d.tellPair()
	}, Prepare: d.prepare, YieldFile: filepath.Join(stateDir, pair.YieldFile)})
}

// keep saves a document of an engine, and has the other router of a pair told.
func (d *Daemon) keep(document string, read func() any) {
	d.save(document, func() any {
		v := read()
		d.pair.Note(document, v)
		return v
	})
}

// joinPair finds out, before anything is planned, whether this router of a pair works, and what the other one knows.
func (d *Daemon) joinPair(c *config.Config) error {
	if !c.Pair.On() {
		return nil
	}
	d.configurePair(c, d.ids) // with the ids of before; adopt tells of others
	obs, err := d.kernel.Snapshot(rules.Query{})
	if err != nil {
		return err
	}
	d.pair.Observe(obs)
	d.pair.Sync(syncTimeout)
	known := addressing.Pair{Router: c.Pair.Router()}
	if identity, ok := d.pair.Identity(); ok {
		known.DUID, known.ULA = dhcp6.DUID(identity.DUID), identity.ULA
	}
	d.addressing.SetPair(known)
	if d.pair.Primary() {
		d.takeOverPair()
	}
	return nil
}

func (d *Daemon) configurePair(c *config.Config, ids map[string]int) {
	if err := d.pair.Configure(c, ids); err != nil {
		d.log.Error("the other router of the pair is not told anything", "err", err)
	}
}

// working returns what this router has to do of a configuration: all, unless it is the backup of a pair.
func (d *Daemon) working(c *config.Config, ids map[string]int) (_ *config.Config, changed bool, err error) {
	changed, err = planinput.AssignIDs(c, ids)
	if err != nil {
		return nil, changed, err
	}
	if !c.Pair.On() {
		return c, changed, nil
	}
	d.configurePair(c, ids)
	standby := c.Standby()
	more, err := planinput.AssignIDs(standby, ids) // its policies share other groups; a takeover shall wait for no disk
	if err == nil {
		var further bool
		further, err = planinput.AssignIDs(c.Prepared(), ids)
		more = more || further
	}
	if d.pair.Primary() {
		return c, changed || more, err
	}
	return standby, changed || more, err
}

// changeRole works as the primary of a pair from now on, or as its backup.
func (d *Daemon) changeRole() {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if d.pair.Primary() {
		d.takeOverPair()
	}
	d.turnAwaited()
	d.mu.Lock()
	read := d.inForce
	read.Failure = d.configFailure
	d.mu.Unlock()
	if _, err := d.configure(read.Config, read, d.tunnels.Configure); err != nil {
		d.adoptAnyhow(read)
	}
	d.engine.Urgent()
}

// tellPair has the other router know what this one holds, if it is the primary: not all of it changes soon.
func (d *Daemon) tellPair() {
	if d.current().Pair.On() && d.pair.Primary() {
		d.addressing.SaveLeases()
		d.monitor.SaveDrained()
	}
}

// takeOverPair gives the engines what the other router knew.
func (d *Daemon) takeOverPair() {
	known := d.pair.Records()
	if err := errors.Join(d.addressing.TakeOver(known, time.Now()), d.monitor.TakeOver(known), d.usage.TakeOver(known)); err != nil {
		d.log.Warn("pair: not all that the other router knew can be used", "err", err)
	}
}
