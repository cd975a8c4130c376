package rules

import "slices"

// BootKillSwitchOps picks those of the changes towards a plan that close kill switches and open nothing: what refuses in
// the tables of their groups, their exceptions, the rules that lead there, and the policies' packet filter.
// They need no uplink and can be carried out before there is a network.
func BootKillSwitchOps(cfg Config, ops []Op) []Op {
	closed := make(map[uint32]bool)
	for i := range cfg.Groups {
		if g := &cfg.Groups[i]; g.KillSwitch {
			closed[cfg.Kernel.Table(g.ID)] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(ops), func(op Op) bool {
		switch op := op.(type) {
		case PutRoute:
			return !closed[op.Table] || op.Type == Unicast
		case AddRule: // and local networks stay what they are
			return !closed[op.Rule.Table] && op.Rule.Table != TableMain || len(closed) == 0
		case PutPolicies:
			return op.Table == nil || len(closed) == 0
		}
		return true
	})
}
