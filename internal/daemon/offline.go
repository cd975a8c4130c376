package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/internal/addressing"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/internal/monitor"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/reconcile"
	"github.com/uplinkd/uplinkd/internal/store"
	"github.com/uplinkd/uplinkd/internal/tunnel"
	"github.com/uplinkd/uplinkd/rules"
)

// Preview is what a plan would change, and why.
type Preview struct {
	Changes []rules.Op
	Report  rules.Report
	Names   map[int]string // uplink names by id
}

// Plan computes what Run would change now. It changes nothing, neither in the kernel nor in the state
// directory, and judges paths as the running daemon, or the last one, did.
func Plan(configFile string) (*Preview, error) {
	in, err := prepare(configFile)
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
			Fix: "the daemon does not take this configuration before that is right"})
	}
	p := &Preview{Changes: rules.Diff(rules.Ours(in.cfg.Kernel, obs), want), Report: report, Names: make(map[int]string)}
	for i := range in.cfg.Uplinks {
		p.Names[in.cfg.Uplinks[i].ID] = in.cfg.Uplinks[i].Name
	}
	return p, nil
}

// plan plans for what the kernel holds, and for what it will hold when the tunnel devices are there.
func (p *prepared) plan() (*rules.Observed, rules.State, rules.Report, error) {
	obs, err := p.kernel.Snapshot(rules.QueryOf(p.cfg, p.kept.recorded))
	if err != nil {
		return nil, rules.State{}, rules.Report{}, err
	}
	obs.Recorded = p.kept.recorded
	obs = obs.Foresee(p.cfg)
	want, report := rules.Plan(p.cfg, obs, p.kept.monitor.Replay(p.cfg, rules.FactsOf(p.cfg, obs)))
	return obs, want, report, nil
}

// prepared is what a look from outside starts from.
type prepared struct {
	kernel *kernel.Kernel // to be closed
	config *config.Config
	lines  config.Lines
	cfg    rules.Config
	kept   *keptState
	keys   error // why keys of WireGuard could not be read
}

// prepare reads the configuration, or discovers one, and the state directory.
func prepare(configFile string) (_ *prepared, err error) {
	o := Options{ConfigFile: configFile}
	read, err := o.read()
	if err != nil {
		return nil, err
	}
	p := &prepared{config: read.Config, lines: read.lines}
	if p.kept, err = readKept(p.config.Daemon.StateDir); err != nil {
		return nil, err
	}
	if p.kernel, err = kernel.Open(planinput.KernelNumbers(p.config.Kernel), slog.New(slog.DiscardHandler)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.kernel.Close()
		}
	}()
	if configFile == "" {
		obs, err := p.kernel.Snapshot(rules.Query{})
		if err != nil {
			return nil, err
		}
		p.config, _ = newDiscovery(p.config).look(obs)
	}
	if _, err := planinput.AssignIDs(p.config, p.kept.ids); err != nil {
		return nil, err
	}
	devices := new(kernel.WireGuard)
	defer devices.Close()
	tunnels := tunnel.New(tunnel.Options{WireGuard: devices})
	p.keys = tunnels.DryRun(p.config, p.kept.ids)
	learned := p.kept.addressing.Learned(time.Now())
	tunnels.Learn(learned)
	p.cfg = planinput.Build(p.config, p.kept.ids, learned, p.kept.addressing.ULA(p.config.Daemon.ULA))
	p.kept.addressing.AddWithdrawn(&p.cfg, time.Now())
	return p, nil
}

// keptState is what the state directory holds.
type keptState struct {
	ids        map[string]int
	recorded   rules.Recorded
	monitor    monitor.Saved
	addressing *addressing.Engine // which runs nothing
}

// readKept reads the state directory without making it.
func readKept(dir string) (*keptState, error) {
	k := &keptState{ids: make(map[string]int), addressing: addressing.New(addressing.Options{})}
	state := store.View(dir)
	documents := k.addressing.Documents()
	maps.Copy(documents, k.monitor.Documents())
	maps.Copy(documents, map[string]any{docIDs: &k.ids, docRecorded: &k.recorded})
	for name, v := range documents {
		// The daemon would start afresh where a document is damaged.
		if err := state.Load(name, v); err != nil && !errors.Is(err, store.ErrDamaged) {
			return nil, err
		}
	}
	k.addressing.Restore(time.Now())
	return k, nil
}

// ErrRunning means that a daemon is at work, which would undo what was asked for.
var ErrRunning = errors.New("uplinkd is running; stop it first")

// Clean removes all that is ours from the kernel and gives back what stood there before. It returns the
// changes that it made.
func Clean(configFile string, log *slog.Logger) ([]rules.Op, error) {
	o := Options{ConfigFile: configFile}
	c, err := o.read()
	if err != nil {
		return nil, err
	}
	state, err := store.Open(c.Daemon.StateDir)
	if err != nil {
		return nil, err
	}
	var recorded rules.Recorded
	if err := state.Load(docRecorded, &recorded); errors.Is(err, store.ErrDamaged) {
		log.Warn("former values are not given back", "err", err)
	} else if err != nil {
		return nil, err
	}
	k, err := kernel.Open(planinput.KernelNumbers(c.Kernel), log)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	engine := reconcile.New(reconcile.Options{
		Kernel: k, Verdicts: noVerdicts{}, Keeper: keeper{state}, Log: log, Recorded: recorded,
		Config: rules.Config{Kernel: planinput.KernelNumbers(c.Kernel), WireGuard: planinput.WithoutMarks(c.Config)},
	})
	withdrawn := addressing.WithdrawRA(state, func() (*rules.Observed, error) { return k.Snapshot(rules.Query{}) }, log)
	result := engine.Pass()
	withdrawn()
	err = result.Err
	if err == nil && !result.Converged {
		err = errors.New("something of ours is still in the kernel: is another program putting it back?")
	}
	return slices.Clip(result.Changes), errors.Join(err, removeTableNames(c.Config))
}

func removeTableNames(c *config.Config) error {
	if c.Kernel.TableNames == "" {
		return nil
	}
	if err := os.Remove(c.Kernel.TableNames); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing table names: %w", err)
	}
	return nil
}

// noVerdicts judges nothing, for there are no uplinks.
type noVerdicts struct{}

func (noVerdicts) Verdicts(map[rules.Path]rules.Facts) map[rules.Path]rules.Verdict { return nil }

// keeper keeps records in a state directory.
type keeper struct{ *store.Dir }

func (k keeper) SaveRecorded(r rules.Recorded) error { return k.Save(docRecorded, r) }
