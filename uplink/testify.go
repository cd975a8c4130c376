package uplink

import "time"

// Testify returns what a [Court] has to know about the path.
func (w *Watcher) Testify() Testimony {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	t := Testimony{
		Name: w.cfg.Uplink, State: w.machine.State(), Unprobed: len(w.cfg.Targets) == 0,
		Whole: w.machine.path.Whole() && w.machine.Reason() != ReasonRoute,
	}
	if burst := w.detector.Report(now); burst.Targets > 0 {
		t.Since = now.Add(-burst.Span)
	}
	return t
}
