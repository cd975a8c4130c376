package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/internal/ndisc"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/reconcile"
	"github.com/uplinkd/uplinkd/internal/store"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
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
	want, report := rules.Plan(cfg, obs, kept.judge(cfg, rules.FactsOf(cfg, obs)))
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
	imagined.supply(p.kept.supplies)
	p.cfg = planinput.Build(p.config, p.kept.ids, p.kept.supplies, p.kept.identity.ula(p.config.Daemon.ULA))
	addWithdrawn(&p.cfg, p.kept.ledgers, time.Now())
	return p, nil
}

// keptState is what the state directory holds.
type keptState struct {
	ids      map[string]int
	recorded rules.Recorded
	verdicts map[string]keptVerdict
	drained  map[string]bool
	awaits   map[string]bool
	supplies planinput.Learned
	ledgers  map[string]*ndisc.Ledger // of the LANs, by device
	identity identity                 // as far as it was drawn
}

// readKept reads the state directory without making it.
func readKept(dir string) (*keptState, error) {
	k := &keptState{ids: make(map[string]int), supplies: make(planinput.Learned)}
	state := store.View(dir)
	held, heard, delegated := newLeases(nil, nil, nil), newRouters(nil, nil, nil), newDelegations(nil, nil, nil)
	for name, v := range map[string]any{docIDs: &k.ids, docRecorded: &k.recorded, docVerdicts: &k.verdicts, docDrained: &k.drained,
		docAwaits: &k.awaits, docIdentity: &k.identity, docLeases: &held.held, docRouters: &heard.kept, docLeases6: &delegated.held, docLANs: &k.ledgers} {
		// The daemon would start afresh where a document is damaged.
		if err := state.Load(name, v); err != nil && !errors.Is(err, store.ErrDamaged) {
			return nil, err
		}
	}
	now := time.Now()
	held.forgetExpired(now)
	heard.restore(now)
	held.supply(k.supplies)
	heard.supply(k.supplies, now)
	delegated.supply(k.supplies, now)
	return k, nil
}

// judge gives each path its kept verdict; a path without one, or regained since, counts as new.
func (k *keptState) judge(cfg rules.Config, facts map[rules.Path]rules.Facts) map[rules.Path]rules.Verdict {
	verdicts := make(map[rules.Path]rules.Verdict)
	for i := range cfg.Uplinks {
		u := &cfg.Uplinks[i]
		for _, family := range rules.Families {
			path := rules.Path{Uplink: u.ID, Family: family}
			f := facts[path]
			state := k.verdicts[verdictKey(u.Name, family)].State
			if !state.Valid() {
				state = uplink.Init
			}
			if !f.Carrier || !f.HasAddress() || !f.HasDefault {
				state = uplink.Down
			}
			verdicts[path] = rules.Verdict{Health: health(state.Health(), state), State: string(state), Drained: k.drained[u.Name] || k.awaits[verdictKey(u.Name, family)]}
		}
	}
	return verdicts
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
	farewell := sayGoodbye(k, state, log)
	result := engine.Pass()
	farewell()
	err = errors.Join(result.Err, removeTunnels(k, c.Config))
	if err == nil && !result.Converged {
		err = errors.New("something of ours is still in the kernel: is another program putting it back?")
	}
	return slices.Clip(result.Changes), errors.Join(err, removeTableNames(c.Config))
}

// sayGoodbye tells the hosts of every LAN that was advertised on that this router goes. The function that it
// returns waits until that is done, and forgets those hosts.
func sayGoodbye(k *kernel.Kernel, state *store.Dir, log *slog.Logger) (wait func()) {
	told := newLANs(log, nil)
	if err := state.Load(docLANs, &told.ledgers); err != nil || len(told.ledgers) == 0 {
		return func() {}
	}
	obs, err := k.Snapshot(nil)
	if err != nil {
		log.Warn("hosts are not told", "err", err)
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var saying, running sync.WaitGroup
	for device, ledger := range told.ledgers {
		link, _ := obs.Link(device)
		if !link.Up || !link.Carrier || ledger.Untold {
			continue
		}
		a := ndisc.NewAdvertiser(ndisc.AdvertiserConfig{Device: device, Log: log})
		a.SetLink(link.Index, true)
		running.Go(func() { _ = a.Run(ctx) })
		saying.Go(func() {
			within, cancel := context.WithTimeout(ctx, withdrawPatience)
			defer cancel()
			if err := a.Withdraw(within, ledger.Content().Withdrawn()); err != nil {
				log.Warn("hosts are not told", "lan", device, "err", err)
			}
		})
	}
	return func() {
		saying.Wait()
		cancel()
		running.Wait()
		if err := state.Save(docLANs, struct{}{}); err != nil {
			log.Warn("what hosts were told is not forgotten", "err", err)
		}
	}
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
