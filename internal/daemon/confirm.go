package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/uplinkd/uplinkd/internal/commit"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
)

// Confirm keeps the configuration that waits for it.
func (d *Daemon) Confirm() error {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if err := d.kept.Confirm(); err != nil {
		return err
	}
	d.saveConfig()
	d.event(status.Event{Kind: status.EventReload, Message: "the configuration is confirmed"})
	return nil
}

// takeBack takes back what is not confirmed in time, until the context ends.
func (d *Daemon) takeBack(ctx context.Context) error {
	for {
		left, waits := d.kept.Remaining()
		var over <-chan time.Time
		if waits {
			over = time.After(left)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.waits:
		case <-over:
			d.reloading.Lock()
			if c, due := d.kept.Due(); due {
				d.takeOver(c)
			}
			d.reloading.Unlock()
		}
	}
}

// takeOver takes over a configuration that has been in force before.
func (d *Daemon) takeOver(c commit.Config) {
	message := fmt.Sprintf("the configuration was not confirmed in time: reverted to that of %s", c.Taken.Format(time.DateTime))
	d.log.Warn(message)
	if err := d.adopt(c.Config, c); err != nil {
		d.adoptAnyhow(c)
	}
	d.metrics.ObserveReload(false)
	d.event(status.Event{Kind: status.EventReload, Message: message})
}

// saveConfig keeps which configuration is in force, for a start that finds a file with mistakes.
func (d *Daemon) saveConfig() { d.write("config", d.kept.Save) }

// configStatus says which configuration is in force, until when, and what is wrong with the file.
func (d *Daemon) configStatus(now time.Time) (s status.Config, problems []rules.Problem) {
	d.mu.Lock()
	taken, failure := d.inForce.Taken, d.configFailure
	d.mu.Unlock()
	s = status.Config{File: d.o.ConfigFile, Loaded: status.At(taken)}
	if left, waits := d.kept.Remaining(); waits {
		s.ConfirmUntil = status.At(now.Add(left).Round(time.Second))
		problems = append(problems, rules.Problem{Code: "config-unconfirmed", Severity: "warning",
			Message: fmt.Sprintf("the configuration is not confirmed yet: it is reverted at %s", s.ConfirmUntil.Local().Format(time.TimeOnly)),
			Fix:     "uplinkd confirm"})
	}
	if failure == nil {
		return s, problems
	}
	s.Error = failure.Error()
	fix := fmt.Sprintf("correct it (uplinkd check -c %s), then: uplinkd reload", d.o.ConfigFile)
	if errors.Is(failure, commit.ErrTakenBack) {
		fix = "correct it, or uplinkd reload --confirm 60s and then uplinkd confirm"
	}
	return s, append(problems, rules.Problem{Code: "config", Severity: "error", Fix: fix,
		Message: fmt.Sprintf("the configuration file has an error, so the configuration of %s stays in force: %s", taken.Format(time.DateTime), s.Error)})
}
