package commit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
)

// Reloader takes configurations over, and back. Its fields are set before the first call of a method; methods may be called by any goroutine.
type Reloader struct {
	*Keeper
	Log *slog.Logger
	// Lock is held while one configuration takes the place of another.
	Lock sync.Locker
	// Adopt has a configuration be in force, and calls Took. It changes nothing when it fails; AdoptAnyhow leaves out what of it cannot work.
	Adopt       func(Config) error
	AdoptAnyhow func(Config)
	// Store writes a document, now and again until it succeeds.
	Store    func(document string, write func() error)
	OnEvent  func(status.Event)
	OnReload func(ok bool)

	mu      sync.Mutex // guards what follows
	inForce Config
	failure error // what is wrong with the file as it is now; nil: nothing
}

// InForce returns what was taken over last. Its Failure is what is wrong with the file as it is now.
func (r *Reloader) InForce() Config {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.inForce
	c.Failure = r.failure
	return c
}

// Took hears what is in force now, and keeps it for a start that finds a file with mistakes.
func (r *Reloader) Took(c Config) {
	r.mu.Lock()
	r.inForce, r.failure = c, c.Failure
	r.mu.Unlock()
	r.Keeper.Took(c)
	r.save()
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

func (r *Reloader) save() { r.Store("config", r.Save) }

// Reload reads the file again. One with a mistake changes nothing. With a time to wait, it is taken back after that unless it is confirmed; while
// one waits already, the next one waits in its place.
func (r *Reloader) Reload(wait time.Duration) error {
	r.Lock.Lock()
	defer r.Lock.Unlock()
	err := r.reload(wait)
	event := status.Event{Kind: status.EventReload, Message: "configuration reloaded"}
	r.OnReload(err == nil)
	if err != nil {
		r.mu.Lock()
		r.failure = err
		r.mu.Unlock()
		event.Message = "reload failed, configuration unchanged: " + err.Error()
		r.Log.Error("reload failed, configuration unchanged", "err", err)
	} else if left, waits := r.Remaining(); waits {
		event.Message += fmt.Sprintf("; it is reverted in %v unless confirmed", left.Round(time.Second))
	}
	r.OnEvent(event)
	return err
}

func (r *Reloader) reload(wait time.Duration) error {
	file, err := r.Read()
	if err != nil {
		return err
	}
	if needsRestart(file.Config, r.InForce().Config) {
		return errors.New("[daemon], [kernel] and [pair] need a restart, so nothing of this file was applied")
	}
	next := Config{File: file, Taken: r.clock.Now()}
	if wait == 0 {
		if err := r.Refuses(file.Text); err != nil {
			return err
		}
		return r.Adopt(next)
	}
	if wait < minWait || wait > maxWait {
		return fmt.Errorf("--confirm takes %v to %v, not %v", minWait, maxWait, wait)
	}
	abort, err := r.Begin(file, wait)
	if err != nil {
		return err
	}
	if err := r.Adopt(next); err != nil {
		abort()
		r.save()
		return err
	}
	return nil
}

// Confirm keeps the configuration that waits for it.
func (r *Reloader) Confirm() error {
	r.Lock.Lock()
	defer r.Lock.Unlock()
	if err := r.Keeper.Confirm(); err != nil {
		return err
	}
	r.save()
	r.OnEvent(status.Event{Kind: status.EventReload, Message: "the configuration is confirmed"})
	return nil
}

// Run takes back what is not confirmed in time, until the context ends.
func (r *Reloader) Run(ctx context.Context) error {
	for {
		left, waits := r.Remaining()
		var over <-chan time.Time
		if waits {
			over = time.After(left)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.changed:
		case <-over:
			r.Lock.Lock()
			if c, due := r.Due(); due {
				r.takeBack(c)
			}
			r.Lock.Unlock()
		}
	}
}

// takeBack takes over what has been in force before.
func (r *Reloader) takeBack(c Config) {
	message := fmt.Sprintf("the configuration was not confirmed in time: reverted to that of %s", c.Taken.Format(time.DateTime))
	r.Log.Warn(message)
	if err := r.Adopt(c); err != nil {
		r.AdoptAnyhow(c)
	}
	r.OnReload(false)
	r.OnEvent(status.Event{Kind: status.EventReload, Message: message})
}

// Status says which configuration is in force, until when, and what is wrong with the file.
func (r *Reloader) Status(now time.Time) (s status.Config, problems []rules.Problem) {
	c := r.InForce()
	s = status.Config{File: r.file, Loaded: status.At(c.Taken)}
	if left, waits := r.Remaining(); waits {
		s.ConfirmUntil = status.At(now.Add(left).Round(time.Second))
		problems = append(problems, rules.Problem{Code: "config-unconfirmed", Severity: "warning",
			Message: fmt.Sprintf("the configuration is not confirmed yet: it is reverted at %s", s.ConfirmUntil.Local().Format(time.TimeOnly)),
			Fix:     "uplinkd confirm"})
	}
	if c.Failure == nil {
		return s, problems
	}
	s.Error = c.Failure.Error()
	fix := fmt.Sprintf("correct it (uplinkd check -c %s), then: uplinkd reload", r.file)
	if errors.Is(c.Failure, ErrTakenBack) {
		fix = "correct it, or uplinkd reload --confirm 60s and then uplinkd confirm"
	}
	return s, append(problems, rules.Problem{Code: "config", Severity: "error", Fix: fix,
		Message: fmt.Sprintf("the configuration file has an error, so the configuration of %s stays in force: %s", c.Taken.Format(time.DateTime), s.Error)})
}
