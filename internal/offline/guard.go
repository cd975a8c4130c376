package offline

import (
	"github.com/uplinkd/uplinkd/internal/store"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Guard closes the kill switches of a configuration before the daemon runs, and before there is any network. It
// returns the changes that it made. The daemon finds them and opens what may be open.
func Guard(configFile string) ([]netcfg.Op, error) {
	in, err := open(configFile)
	if err != nil {
		return nil, err
	}
	defer in.kernel.Close()
	state, err := store.Open(in.config.Daemon.StateDir)
	if err != nil {
		return nil, err
	}
	// The daemon must give the groups the same tables.
	if err := state.Save(store.IDs, in.saved.ids); err != nil {
		return nil, err
	}
	obs, want, _, err := in.plan()
	if err != nil {
		return nil, err
	}
	changes := rules.BootKillSwitchOps(in.cfg, netcfg.Diff(rules.Ours(in.cfg.Kernel, obs), want))
	return changes, in.kernel.Apply(changes)
}
