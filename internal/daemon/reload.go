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

// Drain sends new traffic of an uplink elsewhere, or back. It lasts over restarts.
func (d *Daemon) Drain(name string, drained bool) error {
	known := slices.ContainsFunc(d.current().Uplinks, func(u config.Uplink) bool { return u.Name == name })
	if !known {
		return fmt.Errorf("%w: %q", api.ErrUnknownUplink, name)
	}
	d.monitor.SetDrained(name, drained)
	d.engine.Hint()
	word := "drained: new traffic goes elsewhere, flows that it carries go on"
	if !drained {
		word = "carries new traffic again"
	}
	d.event(status.Event{Kind: status.EventDrain, Uplink: name, Message: word})
	return nil
}

// Reload reads the configuration file again. A file with a mistake changes nothing. With a time to wait, it is taken back after
// that unless it is confirmed; while one waits already, the next one waits in its place.
func (d *Daemon) Reload(wait time.Duration) error {
	if d.o.discovers() {
		return errors.New("there is no configuration file to read: uplinks are discovered")
	}
	d.reloading.Lock()
	defer d.reloading.Unlock()
	err := d.reload(wait)
	event := status.Event{Kind: status.EventReload, Message: "configuration read again"}
	d.metrics.ObserveReload(err == nil)
	if err != nil {
		d.mu.Lock()
		d.configFailure = err
		d.mu.Unlock()
		event.Message = "configuration left as it was: " + err.Error()
		d.log.Error("reload failed, nothing was changed", "err", err)
	} else if left, waits := d.kept.Remaining(); waits {
		event.Message += fmt.Sprintf("; it is taken back in %v unless it is confirmed", left.Round(time.Second))
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
		return errors.New("[daemon] and [kernel] change only with a restart, and nothing else of this file was taken over")
	}
	next := commit.Config{File: file, Taken: time.Now()}
	if wait == 0 {
		if err := d.kept.Refuses(file.Text); err != nil {
			return err
		}
		return d.adopt(file.Config, next)
	}
	if wait < commit.MinWait || wait > commit.MaxWait {
		return fmt.Errorf("a configuration can wait for %v to %v to be confirmed, not for %v", commit.MinWait, commit.MaxWait, wait)
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
		return errors.New("the kernel is not in the wanted state yet")
	}
	return nil
}
