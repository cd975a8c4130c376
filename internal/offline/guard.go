package offline

import (
	"errors"

	"github.com/uplinkd/uplinkd/internal/commit"
	"github.com/uplinkd/uplinkd/internal/store"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Guard closes the kill switches of a configuration before the daemon runs, and before there is any network. It
// returns the changes that it made. The daemon finds them and opens what may be open. As the daemon does, it stands by the last
// good configuration when the file has a mistake.
func Guard(configFile string) ([]netcfg.Op, error) {
	_, c, _, err := commit.Start(configFile, commit.SystemClock())
	if err != nil {
		return nil, err
	}
	in, err := openWith(c.File, configFile == "")
	if err != nil {
		return nil, err
	}
	defer in.kernel.Close()
	// The daemon must give the groups the same tables. Where that cannot be kept, it will most probably do so all the same.
	saved := store.Open(in.config.Daemon.StateDir).Save(store.IDs, in.saved.ids)
	obs, want, _, err := in.plan()
	if err != nil {
		return nil, err
	}
	changes := rules.BootKillSwitchOps(in.cfg, netcfg.Diff(rules.Ours(in.cfg.Kernel, obs), want))
	return changes, errors.Join(in.kernel.Apply(changes), saved)
}
