package rules

import (
	"slices"

	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// BootKillSwitchOps picks those of the changes towards a plan that close kill switches and open nothing: what refuses in
// the tables of their groups, their exceptions, the rules that lead there, and the policies' packet filter.
// They need no uplink and can be carried out before there is a network.
func BootKillSwitchOps(cfg Config, ops []netcfg.Op) []netcfg.Op {
	closed := make(map[uint32]bool)
	for i := range cfg.Groups {
		if g := &cfg.Groups[i]; g.KillSwitch {
			closed[cfg.Kernel.Table(g.ID)] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(ops), func(op netcfg.Op) bool {
		switch op := op.(type) {
		case netcfg.PutRoute:
			return !closed[op.Table] || op.Type == netcfg.Unicast
		case netcfg.AddRule: // and local networks stay what they are
			return !closed[op.Rule.Table] && op.Rule.Table != netcfg.TableMain || len(closed) == 0
		case netcfg.PutPolicies:
			return op.Table == nil || len(closed) == 0
		}
		return true
	})
}
