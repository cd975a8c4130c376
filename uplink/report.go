package uplink

import "time"

// Report returns what a [Correlator] has to know about the path.
func (w *Watcher) Report() PathReport {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, suppressed := w.eval.fsm.damping.Suppressed(time.Now())
	return PathReport{
		Suppressed: suppressed, Name: w.cfg.Uplink, State: w.eval.fsm.State(), Unprobed: len(w.cfg.Targets) == 0,
		Complete: w.eval.fsm.link.Complete() && w.eval.fsm.Reason().Code != CodeNoRoute,
	}
}

// State returns the verdict.
func (w *Watcher) State() State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.eval.fsm.State()
}

// BytesSpent estimates the bytes that probes have moved in both directions.
func (w *Watcher) BytesSpent() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counters.bytes
}
