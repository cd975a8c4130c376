package dns

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
)

// output is somebody who is told of servers. It is used by its worker alone.
type output interface {
	// tell has it use the servers, the first first; there is one at least. Others are those that are not to be used now. It does
	// nothing where nothing is to be done.
	tell(ctx context.Context, servers, others []server) error
	// giveBack has it use what it did before.
	giveBack(ctx context.Context) error
}

const (
	// lookAgain is how often an output is looked at that others may have changed.
	lookAgain = 10 * time.Second
	// retryMin and retryMax bound the pause before an output that has failed is told again.
	retryMin, retryMax = time.Second, 10 * time.Second
	// tellTimeout is how long an output may take.
	tellTimeout = 5 * time.Second
)

// worker keeps one output told.
type worker struct {
	e    *Engine
	name string
	// setting is what the configuration says of the output, "" for nothing, and build makes one of that.
	setting func(config.Resolution) string
	build   func(setting string) output
	woken   chan struct{}
	out     output // of the goroutine of run, as what follows
	madeOf  string

	mu   sync.Mutex // guards what follows
	on   bool
	told time.Time // of when it has all that was so then
	err  error     // why it could not be
}

func newWorker(e *Engine, name string, setting func(config.Resolution) string, build func(string) output) *worker {
	return &worker{e: e, name: name, setting: setting, build: build, woken: make(chan struct{}, 1)}
}

// ifOn is the setting of an output that is on or off.
func ifOn(on bool) string {
	if on {
		return "on"
	}
	return ""
}

// wake has all outputs told.
func (e *Engine) wake() {
	for _, w := range e.workers {
		select {
		case w.woken <- struct{}{}:
		default:
		}
	}
}

// run keeps the output told until the context ends, and gives it back then.
func (w *worker) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	pause := retryMin
	for {
		select {
		case <-ctx.Done():
			w.end()
			return
		case <-w.woken:
		case <-timer.C:
		}
		err := w.once(ctx)
		switch {
		case w.out == nil:
			timer.Stop()
		case err != nil:
			timer.Reset(pause)
			pause = min(2*pause, retryMax)
		default:
			pause = retryMin
			timer.Reset(lookAgain)
		}
	}
}

// once tells the output what is so now.
func (w *worker) once(ctx context.Context) error {
	began := time.Now()
	w.e.mu.Lock()
	of, servers, others := w.setting(w.e.config.DNS), slices.Clone(w.e.chosen), slices.Clone(w.e.planned)
	w.e.mu.Unlock()
	others = slices.DeleteFunc(others, func(o server) bool {
		return slices.ContainsFunc(servers, func(s server) bool { return s.key() == o.key() })
	})
	if of != w.madeOf {
		w.end()
		if w.madeOf = of; of != "" {
			w.out = w.build(of)
		}
	}
	var err error
	if w.out != nil && len(servers) > 0 {
		ctx, cancel := context.WithTimeout(ctx, tellTimeout)
		defer cancel()
		if err = w.out.tell(ctx, servers, others); ctx.Err() != nil && err == nil {
			err = ctx.Err()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && (w.err == nil || w.err.Error() != err.Error()) {
		w.e.o.Log.Warn("cannot pass DNS servers on", "output", w.name, "err", err)
	}
	w.on, w.err = w.out != nil, err
	if err == nil && len(servers) > 0 {
		w.told = began
	}
	return err
}

// end gives the output back, if there is one.
func (w *worker) end() {
	if w.out == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), tellTimeout)
	defer cancel()
	if err := w.out.giveBack(ctx); err != nil {
		w.e.o.Log.Warn("cannot restore an output of DNS servers", "output", w.name, "err", err)
	}
	w.out = nil
}
