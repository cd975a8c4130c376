package daemon

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/commit"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/status"
)

// Drain sends traffic of an uplink elsewhere, or back. It lasts over restarts.
func (d *Daemon) Drain(name string, how status.Drain) error {
	named := func(u config.Uplink) bool { return u.Name == name }
	if slices.ContainsFunc(d.current().Waiting, named) {
		return fmt.Errorf("the other router of the pair has %q: drain it there", name)
	}
	if !slices.ContainsFunc(d.current().Uplinks, named) {
		return fmt.Errorf("%w: %q", api.ErrUnknownUplink, name)
	}
	d.monitor.SetDrained(name, how)
	d.engine.Hint()
	word := map[status.Drain]string{status.Undrained: "carries new traffic again", status.Drained: "drained: new traffic goes elsewhere, existing flows stay",
		status.DrainedNow: "drained: new traffic goes elsewhere, existing flows are ended"}[how]
	d.event(status.Event{Kind: status.EventDrain, Uplink: name, Message: word})
	return nil
}

// Reload reads the configuration file again. A file with a mistake changes nothing. With a time to wait, it is taken back after
// that unless it is confirmed; while one waits already, the next one waits in its place.
func (d *Daemon) Reload(wait time.Duration) error {
	if d.o.discovers() {
		return errors.New("it was started without a configuration file, and finds uplinks by itself; to take over one: systemctl restart uplinkd, which interrupts no traffic")
	}
	d.reloading.Lock()
	defer d.reloading.Unlock()
	err := d.reload(wait)
	event := status.Event{Kind: status.EventReload, Message: "configuration reloaded"}
	d.metrics.ObserveReload(err == nil)
	if err != nil {
		d.mu.Lock()
		d.configFailure = err
		d.mu.Unlock()
		event.Message = "reload failed, configuration unchanged: " + err.Error()
		d.log.Error("reload failed, configuration unchanged", "err", err)
	} else if left, waits := d.kept.Remaining(); waits {
		event.Message += fmt.Sprintf("; it is reverted in %v unless confirmed", left.Round(time.Second))
	}
	d.event(event)
	return err
}

func (d *Daemon) reload(wait time.Duration) error {
	file, err := d.kept.Read()
	if err != nil {
		return err
	}
	if have := d.current(); commit.NeedsRestart(file.Config, have) {
		return errors.New("[daemon], [kernel] and [pair] need a restart, so nothing of this file was applied")
	}
	next := commit.Config{File: file, Taken: time.Now()}
	if wait == 0 {
		if err := d.kept.Refuses(file.Text); err != nil {
			return err
		}
		return d.adopt(file.Config, next)
	}
	if wait < commit.MinWait || wait > commit.MaxWait {
		return fmt.Errorf("--confirm takes %v to %v, not %v", commit.MinWait, commit.MaxWait, wait)
	}
	abort, err := d.kept.Begin(file, wait)
	if err != nil {
		return err
	}
	if err := d.adopt(file.Config, next); err != nil {
		abort()
		d.saveConfig()
		return err
	}
	return nil
}

// Healthy says why the daemon does not do its work, nil when it does.
func (d *Daemon) Healthy() error {
	if err := d.alive(); err != nil {
		return err
	}
	last := d.engine.Last()
	if last.Err != nil {
		return last.Err
	}
	if !last.Converged {
		return errors.New("the kernel does not match the plan yet")
	}
	return nil
}
