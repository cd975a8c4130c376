package reconcile

import (
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// tables knows when somebody has taken away the packet filter.
type tables struct {
	ours, policies bool     // they were there at the last look
	lost           []string // since the last pass
}

// observe compares a look with the one before it.
func (t *tables) observe(obs *rules.Observed) {
	check := func(seen *bool, there bool, name string) {
		if *seen && !there && obs.NoTables == "" {
			t.lost = append(t.lost, name)
		}
		*seen = there
	}
	check(&t.ours, obs.Table != nil, nft.TableName)
	check(&t.policies, obs.Policies != nil, nft.PolicyTableName)
}

// restored returns the names of those that were gone and that a pass has put back: our own changes take tables away too.
func (t *tables) restored(changes []netcfg.Op) []string {
	lost := t.lost
	t.lost = nil
	for _, op := range changes {
		switch op := op.(type) {
		case netcfg.PutTable:
			if op.Table != nil {
				return lost
			}
		case netcfg.PutPolicies:
			if op.Table != nil {
				return lost
			}
		}
	}
	return nil
}
