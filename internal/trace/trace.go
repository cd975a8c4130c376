package trace

import (
	"fmt"
	"log/slog"
	"slices"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/explain"
)

// Tracer answers questions about packets. Each reads every routing table: they are asked one after the other.
type Tracer struct {
	File     string       // of the configuration
	Lines    config.Lines // of that file
	Config   rules.Config
	Recorded rules.Recorded
	Verdicts func(map[rules.Path]rules.PathInfo) map[rules.Path]rules.Verdict
}

// Explain says what would become of a packet now; without an uplink: if that had no carrier. Errors are [explain.ErrPacket],
// [api.ErrUnknownUplink] and the kernel's.
func (x *Tracer) Explain(p explain.Packet, without string) (api.Explanation, error) {
	k, err := kernel.Open(x.Config.Kernel, slog.New(slog.DiscardHandler))
	if err != nil {
		return api.Explanation{}, err
	}
	defer k.Close()
	rt, err := k.Routing()
	if err != nil {
		return api.Explanation{}, err
	}
	rt.Recorded = x.Recorded
	verdicts := x.Verdicts(rules.ReadPaths(x.Config, rt.Observed))
	if without != "" {
		return x.withLinkDown(rt, verdicts, p, without)
	}
	state, report := rules.Plan(x.Config, rt.Observed, verdicts)
	inForce := state.Table.Matches(rt.Table) && state.Policies.Matches(rt.Policies)
	if !inForce {
		state.Table, state.Policies = nil, nil // what the kernel has reads back as comments only
	}
	e, err := explain.Explain(x.Config, rt, &state, p)
	if err != nil {
		return api.Explanation{}, err
	}
	if !inForce && e.Uncertain == "" {
		e.Uncertain = "the packet filter of uplinkd is not in force as planned, and was left out"
	}
	var answer *explain.Answer
	if e.Lookup != nil {
		a, err := k.Lookup(e.Lookup.Packet)
		if err != nil {
			return api.Explanation{}, fmt.Errorf("comparing with the kernel: %w", err)
		}
		answer = &a
	}
	out := api.NewExplanation(e, answer, x.File, x.line)
	if len(e.Egresses) > 0 {
		out.Choice = report.Why(x.Config.Kernel, e.Egresses[0].Table, rules.FamilyOf(e.Packet.To))
	}
	return out, nil
}

func (x *Tracer) line(o rules.Origin) int { return x.Lines.Of(o.Uplink, o.ConfigKey()) }

// withLinkDown explains a packet as if the cable of an uplink were pulled. Nobody can ask the kernel about that.
func (x *Tracer) withLinkDown(rt *explain.Routing, verdicts map[rules.Path]rules.Verdict, p explain.Packet, without string) (api.Explanation, error) {
	i := slices.IndexFunc(x.Config.Uplinks, func(u rules.Uplink) bool { return u.Name == without })
	if i < 0 {
		return api.Explanation{}, fmt.Errorf("%w %q", api.ErrUnknownUplink, without)
	}
	after, state := rt.WithLinkDown(x.Config, verdicts, &x.Config.Uplinks[i])
	e, err := explain.Explain(x.Config, after, &state, p)
	if err != nil {
		return api.Explanation{}, err
	}
	out := api.NewExplanation(e, nil, x.File, x.line)
	out.Without = without
	return out, nil
}
