package daemon

import (
	"maps"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/trace"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/explain"
)

// Explain says what would become of a packet now. The kernel is read through a handle of its own: the
// engine's belongs to the engine.
func (d *Daemon) Explain(p explain.Packet, without string) (api.Explanation, error) {
	d.explaining.Lock()
	defer d.explaining.Unlock()
	last := d.engine.Last()
	d.mu.Lock()
	x := trace.Tracer{File: d.o.ConfigFile, Lines: maps.Clone(d.inForce.Lines), Config: last.Config}
	d.mu.Unlock()
	x.Verdicts = func(map[rules.Path]rules.PathInfo) map[rules.Path]rules.Verdict { return last.Verdicts }
	return x.Explain(p, without)
}
