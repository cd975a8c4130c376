package offline

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"

	"github.com/uplinkd/uplinkd/internal/addressing"
	"github.com/uplinkd/uplinkd/internal/clat"
	"github.com/uplinkd/uplinkd/internal/commit"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/reconcile"
	"github.com/uplinkd/uplinkd/internal/store"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// ErrRunning means that a daemon is at work, which would undo what was asked for.
var ErrRunning = errors.New("uplinkd is running: stop it first (systemctl stop uplinkd)")

// Clean removes all that is ours from the kernel and gives back what stood there before. It returns the
// changes that it made.
func Clean(c *config.Config, log *slog.Logger) ([]netcfg.Op, error) {
	clat.StopLeftovers(c.Daemon.StateDir, func(string) bool { return false })
	state := store.Open(c.Daemon.StateDir)
	var recorded rules.Recorded
	if err := state.Load(store.Recorded, &recorded); err != nil {
		log.Warn("cannot restore former values", "err", err)
	}
	k, err := kernel.Open(planinput.KernelNumbers(c.Kernel), log)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	engine := reconcile.New(reconcile.Options{
		Kernel: k, Verdicts: noVerdicts{}, Save: func(r rules.Recorded) error { return state.Save(store.Recorded, r) }, Log: log, Recorded: recorded.Usable(),
		Config: rules.Config{Kernel: planinput.KernelNumbers(c.Kernel), WireGuard: planinput.WithoutMarks(c)},
	})
	withdrawn := addressing.WithdrawRA(state, func() (*rules.Observed, error) { return k.Snapshot(rules.Query{}) }, log)
	result := engine.Pass()
	withdrawn()
	err = result.Err
	if err == nil && !result.Converged {
		err = errors.New("some of our state is still in the kernel: does another program restore it?")
	}
	return slices.Clip(result.Changes), errors.Join(err, removeTableNames(c))
}

// InForce returns the configuration that a daemon would start with: where the file has a mistake, the last good one. Where
// there is none either, it is the defaults, and the error is what is wrong with the file.
func InForce(configFile string) (*config.Config, error) {
	_, c, _, err := commit.Start(configFile, commit.SystemClock())
	if err != nil {
		return config.Default(), err
	}
	return c.Config, nil
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
