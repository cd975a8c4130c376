package clat

import (
	"context"
	"os/exec"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
)

// How long it is waited before a translator that has ended is started again: twice as long each time, until one has lived.
const (
	firstPause   = 200 * time.Millisecond
	longestPause = 30 * time.Second
	lived        = 10 * time.Second
	// installed is how often it is looked whether the program is there.
	installed = 10 * time.Second
)

// supervised is what is known of the translator of an uplink.
type supervised struct {
	running bool
	missing error // there is no program
	failure error // of the latest that ended by itself, until one has lived
}

// supervise has a translator run for each uplink that wants one.
func (e *Engine) supervise(ctx context.Context) {
	StopLeftovers(e.o.Dir, func(name string) bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.lines[name] != nil
	})
	var running sync.WaitGroup
	defer running.Wait()
	type run struct {
		line   *line
		want   translator
		cancel context.CancelFunc
		done   chan struct{}
	}
	runs := make(map[string]run) // by uplink name
	end := func(name string) {
		runs[name].cancel()
		<-runs[name].done // it has the device
		delete(runs, name)
	}
	for {
		e.mu.Lock()
		wanted := make(map[string]run)
		for name, l := range e.lines {
			if l.want != nil {
				wanted[name] = run{line: l, want: *l.want}
			}
		}
		e.mu.Unlock()
		for name, r := range runs {
			if w, stays := wanted[name]; !stays || w.want != r.want || w.line != r.line {
				end(name)
			}
		}
		for name, w := range wanted {
			if _, runs := runs[name]; runs {
				continue
			}
			its, cancel := context.WithCancel(ctx)
			w.cancel, w.done = cancel, make(chan struct{})
			runs[name] = w
			running.Go(func() {
				defer close(w.done)
				e.keepRunning(its, w.line, &w.want)
			})
		}
		select {
		case <-ctx.Done():
			for name := range runs {
				end(name)
			}
			return
		case <-e.changed:
		}
	}
}

// keepRunning has a translator run until the context ends.
func (e *Engine) keepRunning(ctx context.Context, l *line, want *translator) {
	set := func(change func(*supervised)) {
		e.mu.Lock()
		change(&l.program)
		e.mu.Unlock()
	}
	defer set(func(s *supervised) { *s = supervised{} })
	for pause := firstPause; ctx.Err() == nil; {
		path, err := exec.LookPath(program)
		if err == nil {
			err = Missing()
		}
		set(func(s *supervised) { s.missing = err })
		if err != nil {
			sleep(ctx, installed)
			continue
		}
		p, err := start(path, e.configFile(l.name), want)
		if err == nil {
			set(func(s *supervised) { s.running = true })
			e.o.Log.Info("translator", "uplink", l.name, "pid", p.pid, "device", want.device, "to", want.nat64)
			err = e.await(ctx, p, e.configFile(l.name), func() { set(func(s *supervised) { s.failure = nil }); pause = firstPause })
			set(func(s *supervised) { s.running = false })
		}
		if ctx.Err() != nil {
			return
		}
		set(func(s *supervised) { s.failure = err })
		e.o.Log.Warn("the translator has ended", "uplink", l.name, "err", err, "again in", pause)
		e.o.OnEvent(status.Event{Kind: status.EventRepair, Uplink: l.name, Family: rules.IPv4.String(), Message: "the translator of " + l.name + " has ended and is started again", Reason: err.Error()})
		sleep(ctx, pause)
		pause = min(2*pause, longestPause)
	}
}

// await waits until a translator ends, by itself or because the context does; living hears that it has lived long enough.
func (e *Engine) await(ctx context.Context, p *process, file string, living func()) error {
	timer := time.NewTimer(lived)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			living()
		case <-p.ended:
			p.close()
			return p.lastWords()
		case <-ctx.Done():
			p.stop()
			forget(file)
			return ctx.Err()
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
