package daemon

import (
	"errors"
	"time"

	"github.com/uplinkd/uplinkd/dhcp6"
	"github.com/uplinkd/uplinkd/internal/addressing"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/pair"
	"github.com/uplinkd/uplinkd/internal/reconcile"
	"github.com/uplinkd/uplinkd/rules"
)

// syncTimeout is how long a start waits for what the other router of a pair knows.
const syncTimeout = 1500 * time.Millisecond

// joinPair finds out, before anything is planned, whether this router of a pair works, and what the other one knows.
func (d *Daemon) joinPair(c *config.Config) error {
	if !c.Pair.On() {
		return nil
	}
	_ = d.pair.Configure(c, d.ids) // with the ids of before; adopt tells of others, and logs what is wrong with the key
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
	d.takeOver()
	return nil
}

// takeOver gives the engines of a primary what the other router knew.
func (d *Daemon) takeOver() {
	if !d.pair.Primary() {
		return
	}
	known := d.pair.Records()
	if err := errors.Join(d.addressing.TakeOver(known, time.Now()), d.monitor.TakeOver(known), d.usage.TakeOver(known)); err != nil {
		d.log.Warn("pair: not all that the other router knew can be used", "err", err)
	}
}

// changeRole works as the primary of a pair from now on, or as its backup.
func (d *Daemon) changeRole() {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	d.takeOver()
	d.successor.Turned(d.pair.Records())
	if c := d.reloader.InForce(); d.configure(c.Config, d.tunnels.Configure) != nil {
		d.adoptAnyhow(c)
	}
	d.engine.Urgent()
}

// tellPair has the other router know what this one holds, if it is the primary: not all of it changes soon.
func (d *Daemon) tellPair() {
	if c, _ := d.working(); c.Pair.On() && d.pair.Primary() {
		d.addressing.SaveLeases()
		d.monitor.SaveDrained()
	}
}

// tellLines has the other router know the lines whose address moves, as this one has them.
func (d *Daemon) tellLines(r *rules.Report) {
	c, ids := d.working()
	if !c.Pair.On() || !d.pair.Primary() {
		return
	}
	now := time.Now()
	d.pair.Note(d.successor.Held(pair.MovingLines(c, ids, r.Paths, d.addressing.Learned(now), nil), now))
}

// foreseen shows the kernel as it is with what keepalived is about to bring.
type foreseen struct {
	reconcile.Kernel
	successor *pair.Successor
}

// Snapshot implements reconcile.Kernel.
func (k foreseen) Snapshot(q rules.Query) (*rules.Observed, error) {
	obs, err := k.Kernel.Snapshot(q)
	if err == nil {
		k.successor.Show(obs)
	}
	return obs, err
}

// trusted has the verdicts of this router, and trusts those of the other one.
type trusted struct {
	reconcile.VerdictSource
	successor *pair.Successor
}

// Verdicts implements reconcile.VerdictSource.
func (v trusted) Verdicts(paths map[rules.Path]rules.PathInfo) map[rules.Path]rules.Verdict {
	verdicts := v.VerdictSource.Verdicts(paths)
	v.successor.Trust(verdicts)
	return verdicts
}
