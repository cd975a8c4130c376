package daemon

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/explain"
)

// explanations answers one question after the other: each reads every routing table.
type explanations struct {
	file     string
	lines    config.Lines
	cfg      rules.Config
	recorded rules.Recorded
	verdicts func(map[rules.Path]rules.Facts) map[rules.Path]rules.Verdict
}

// Explain says what would become of a packet now. The kernel is read through a handle of its own: the
// engine's belongs to the engine.
func (d *Daemon) Explain(p explain.Packet, without string) (api.Explanation, error) {
	d.explaining.Lock()
	defer d.explaining.Unlock()
	last := d.engine.Last()
	d.mu.Lock()
	x := explanations{file: d.o.ConfigFile, lines: maps.Clone(d.lines), cfg: last.Config}
	d.mu.Unlock()
	x.verdicts = func(map[rules.Path]rules.Facts) map[rules.Path]rules.Verdict { return last.Verdicts }
	return x.explain(p, without)
}

// Explain says what would become of a packet without a running daemon: by what the kernel holds, and by the
// verdicts that the last daemon kept.
func Explain(configFile string, p explain.Packet, without string) (api.Explanation, error) {
	prepared, err := prepare(configFile)
	if err != nil {
		return api.Explanation{}, err
	}
	defer prepared.kernel.Close()
	x := explanations{file: configFile, lines: prepared.lines, cfg: prepared.cfg, recorded: prepared.kept.recorded}
	x.verdicts = func(facts map[rules.Path]rules.Facts) map[rules.Path]rules.Verdict {
		return prepared.kept.monitor.Replay(prepared.cfg, facts)
	}
	return x.explain(p, without)
}

func (x *explanations) explain(p explain.Packet, without string) (api.Explanation, error) {
	k, err := kernel.Open(x.cfg.Kernel, slog.New(slog.DiscardHandler))
	if err != nil {
		return api.Explanation{}, err
	}
	defer k.Close()
	rt, err := k.Routing()
	if err != nil {
		return api.Explanation{}, err
	}
	rt.Recorded = x.recorded
	verdicts := x.verdicts(rules.FactsOf(x.cfg, rt.Observed))
	if without != "" {
		return x.pulled(rt, verdicts, p, without)
	}
	state, _ := rules.Plan(x.cfg, rt.Observed, verdicts)
	inForce := state.Table.Matches(rt.Table) && state.Policies.Matches(rt.Policies)
	if !inForce {
		state.Table, state.Policies = nil, nil // what the kernel has reads back as comments only
	}
	e, err := explain.Explain(x.cfg, rt, &state, p)
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
	return api.NewExplanation(e, answer, x.file, x.line), nil
}

func (x *explanations) line(o rules.Origin) int { return x.lines.Of(o.Uplink, o.ConfigKey()) }

// pulled explains a packet as if the cable of an uplink were pulled. Nobody can ask the kernel about that.
func (x *explanations) pulled(rt *explain.Routing, verdicts map[rules.Path]rules.Verdict, p explain.Packet, without string) (api.Explanation, error) {
	i := slices.IndexFunc(x.cfg.Uplinks, func(u rules.Uplink) bool { return u.Name == without })
	if i < 0 {
		return api.Explanation{}, fmt.Errorf("%w %q", api.ErrUnknownUplink, without)
	}
	after, state := rt.WithoutCarrier(x.cfg, verdicts, &x.cfg.Uplinks[i])
	e, err := explain.Explain(x.cfg, after, &state, p)
	if err != nil {
		return api.Explanation{}, err
	}
	out := api.NewExplanation(e, nil, x.file, x.line)
	out.Without = without
	return out, nil
}
