package daemon

import (
	"fmt"
	"time"

	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// evidence is what the kernel has seen of an uplink that falls silent: when a tunnel's other ends were last heard,
// whether its gateway is there, which says on whose side the fault is, and how many of its connections are unanswered.
// It is for people to read; probes decide.
func (d *Daemon) evidence(t uplink.Transition) []string {
	if t.To != uplink.Suspect && t.To != uplink.Down {
		return nil
	}
	d.mu.Lock()
	id := d.ids[t.Uplink]
	numbers := planinput.KernelNumbers(d.config.Kernel)
	d.mu.Unlock()
	last := d.engine.Last()
	facts := last.Report.Facts[rules.Path{Uplink: id, Family: t.Family}]
	if !facts.Carrier {
		return nil
	}
	lines := d.tunnels.Evidence(t.Uplink, time.Now())
	if facts.Gateway.IsValid() {
		if state, err := kernel.Neighbour(facts.Index, facts.Gateway); err == nil {
			lines = append(lines, fmt.Sprintf("gateway %v: neighbour %s", facts.Gateway, state))
		}
	}
	if unanswered, all, err := kernel.Connections(t.Family, numbers.Mark(id), numbers.MarkMask); err == nil && all > 0 {
		lines = append(lines, fmt.Sprintf("connections by it: %d of %d unanswered", unanswered, all))
	}
	return lines
}
