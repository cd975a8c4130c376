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
	cfg, kept := in.cfg, in.kept
	names := rules.SysctlNames(cfg)
	for name := range kept.recorded.Sysctls {
		names = append(names, name)
	}
	obs, err := in.kernel.Snapshot(names)
	if err != nil {
		return nil, err
	}
	obs.Recorded = kept.recorded
	want, report := rules.Plan(cfg, obs, kept.monitor.Replay(cfg, rules.FactsOf(cfg, obs)))
	report.Problems = append(report.Problems, report.Absent...)
	p := &Preview{Changes: rules.Diff(rules.Ours(cfg.Kernel, obs), want), Report: report, Names: make(map[int]string)}
	for i := range cfg.Uplinks {
		p.Names[cfg.Uplinks[i].ID] = cfg.Uplinks[i].Name
	}
	return p, nil
}

// prepared is what a look from outside starts from.
type prepared struct {
	kernel *kernel.Kernel // to be closed
	config *config.Config
	lines  config.Lines
	cfg    rules.Config
	kept   *keptState
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
		obs, err := p.kernel.Snapshot(nil)
		if err != nil {
			return nil, err
		}
		p.config, _ = newDiscovery(p.config).look(obs)
	}
	if _, err := planinput.AssignIDs(p.config, p.kept.ids); err != nil {
		return nil, err
	}
	imagined := newTunnels(slog.New(slog.DiscardHandler))
	imagined.imagine(p.config, p.kept.ids)
	learned := p.kept.addressing.Learned(time.Now())
	imagined.supply(learned)
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
		Config: rules.Config{Kernel: planinput.KernelNumbers(c.Kernel)},
	})
	withdrawn := addressing.WithdrawRA(state, func() (*rules.Observed, error) { return k.Snapshot(nil) }, log)
	result := engine.Pass()
	withdrawn()
	err = errors.Join(result.Err, removeTunnels(k, c.Config))
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
