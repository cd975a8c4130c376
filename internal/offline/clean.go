package offline

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"

	"github.com/uplinkd/uplinkd/internal/addressing"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/reconcile"
	"github.com/uplinkd/uplinkd/internal/store"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// ErrRunning means that a daemon is at work, which would undo what was asked for.
var ErrRunning = errors.New("uplinkd is running; stop it first")

// Clean removes all that is ours from the kernel and gives back what stood there before. It returns the
// changes that it made.
func Clean(configFile string, log *slog.Logger) ([]netcfg.Op, error) {
	c, err := config.Load(configFile)
	if err != nil {
		return nil, err
	}
	state := store.Open(c.Daemon.StateDir)
	var recorded rules.Recorded
	if err := state.Load(store.Recorded, &recorded); err != nil {
		log.Warn("former values are not given back", "err", err)
	}
	k, err := kernel.Open(planinput.KernelNumbers(c.Kernel), log)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	engine := reconcile.New(reconcile.Options{
		Kernel: k, Verdicts: noVerdicts{}, StateSaver: stateSaver{state}, Log: log, Recorded: recorded.Usable(),
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

func (noVerdicts) Verdicts(map[rules.Path]rules.PathInfo) map[rules.Path]rules.Verdict { return nil }

// stateSaver saves records in a state directory.
type stateSaver struct{ *store.Dir }

func (k stateSaver) SaveRecorded(r rules.Recorded) error { return k.Save(store.Recorded, r) }
