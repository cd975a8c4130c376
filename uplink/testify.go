package uplink

import "time"

// Testify returns what a [Court] has to know about the path.
func (w *Watcher) Testify() Testimony {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, suppressed := w.judge.machine.Damping().Suppressed(time.Now())
	return Testimony{
		Suppressed: suppressed, Name: w.cfg.Uplink, State: w.judge.machine.State(), Unprobed: len(w.cfg.Targets) == 0,
		Whole: w.judge.machine.path.Whole() && w.judge.machine.Reason() != ReasonRoute,
	}
}

// State returns the verdict.
func (w *Watcher) State() State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.judge.machine.State()
}

// Spent returns the bytes that probes have moved in both directions, estimated.
func (w *Watcher) Spent() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counters.bytes
}
