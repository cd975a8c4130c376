package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/pair"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/internal/trace"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/explain"
)

// Drain sends traffic of an uplink elsewhere, or back. It lasts over restarts.
func (d *Daemon) Drain(name string, how status.Drain) error {
	c, _ := d.working()
	named := func(u config.Uplink) bool { return u.Name == name }
	if slices.ContainsFunc(c.Waiting, named) {
		return fmt.Errorf("the other router of the pair has %q: drain it there", name)
	}
	if !slices.ContainsFunc(c.Uplinks, named) {
		return fmt.Errorf("%w: %q", api.ErrUnknownUplink, name)
	}
	d.monitor.SetDrained(name, how)
	d.engine.Hint()
	word := map[status.Drain]string{status.Undrained: "carries new traffic again", status.Drained: "drained: new traffic goes elsewhere, existing flows stay",
		status.DrainedNow: "drained: new traffic goes elsewhere, existing flows are ended"}[how]
	d.events.Append(status.Event{Kind: status.EventDrain, Uplink: name, Message: word})
	return nil
}

// Reload reads the configuration file again, see [commit.Reloader.Reload].
func (d *Daemon) Reload(wait time.Duration) error {
	if d.o.discovers() {
		return errors.New("it was started without a configuration file, and finds uplinks by itself; to take over one: systemctl restart uplinkd, which interrupts no traffic")
	}
	return d.reloader.Reload(wait)
}

// Confirm keeps the configuration that waits for it.
func (d *Daemon) Confirm() error { return d.reloader.Confirm() }

// Yield has the other router of a pair take over.
func (d *Daemon) Yield() error {
	d.tellPair()
	d.usage.Save()
	c, ids := d.working()
	lines := pair.MovingLines(c, ids, d.engine.Last().Report.Paths, d.addressing.Learned(time.Now()), d.monitor.Alive)
	done, err := d.successor.Yielding(lines)
	if err != nil {
		return err
	}
	defer done()
	return d.pair.Yield(context.Background(), lines)
}

// Healthy says why the daemon does not do its work, nil when it does.
func (d *Daemon) Healthy() error { return d.engine.Healthy() }

// Explain says what would become of a packet now. The kernel is read through a handle of its own: the
// engine's belongs to the engine.
func (d *Daemon) Explain(p explain.Packet, without string) (api.Explanation, error) {
	d.explaining.Lock()
	defer d.explaining.Unlock()
	last := d.engine.Last()
	x := trace.Tracer{File: d.o.ConfigFile, Lines: d.reloader.InForce().Lines, Config: last.Config,
		Verdicts: func(map[rules.Path]rules.PathInfo) map[rules.Path]rules.Verdict { return last.Verdicts }}
	return x.Explain(p, without)
}
