package offline

import (
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Preview is what a plan would change, and why.
type Preview struct {
	Changes []netcfg.Op
	Report  rules.Report
	Names   map[int]string // uplink names by id
}

// Plan computes what Run would change now. It changes nothing, neither in the kernel nor in the state
// directory, and judges paths as the running daemon, or the last one, did.
func Plan(configFile string) (*Preview, error) {
	in, err := open(configFile)
	if err != nil {
		return nil, err
	}
	defer in.kernel.Close()
	obs, want, report, err := in.plan()
	if err != nil {
		return nil, err
	}
	report.Problems = append(report.Problems, report.Absent...)
	if in.keys != nil {
		report.Problems = append(report.Problems, rules.Problem{Code: "wireguard", Severity: "error", Message: in.keys.Error(),
			Fix: "the daemon rejects this configuration until that is corrected"})
	}
	p := &Preview{Changes: netcfg.Diff(rules.Ours(in.cfg.Kernel, obs), want), Report: report, Names: make(map[int]string)}
	for i := range in.cfg.Uplinks {
		p.Names[in.cfg.Uplinks[i].ID] = in.cfg.Uplinks[i].Name
	}
	return p, nil
}

// plan plans for what the kernel holds, and for what it will hold when the tunnel devices are there.
func (in *session) plan() (*rules.Observed, netcfg.State, rules.Report, error) {
	obs, err := in.kernel.Snapshot(rules.QueryOf(in.cfg, in.saved.recorded))
	if err != nil {
		return nil, netcfg.State{}, rules.Report{}, err
	}
	obs.Recorded = in.saved.recorded
	obs = obs.Foresee(in.cfg)
	want, report := rules.Plan(in.cfg, obs, in.saved.monitor.Replay(in.cfg, rules.ReadPaths(in.cfg, obs)))
	return obs, want, report, nil
}
