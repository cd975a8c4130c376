package daemon

import (
	"strings"

	"github.com/uplinkd/uplinkd/internal/reconcile"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// repairs tells the log when somebody has taken away the packet filter. It belongs to the engine's goroutine.
type repairs struct {
	table, policies bool     // they were there at the last look
	lost            []string // since the last pass
}

// observe compares a look with the one before it.
func (m *repairs) observe(obs *rules.Observed) {
	check := func(seen *bool, there bool, name string) {
		if *seen && !there && obs.NoTables == "" {
			m.lost = append(m.lost, "inet "+name)
		}
		*seen = there
	}
	check(&m.table, obs.Table != nil, nft.TableName)
	check(&m.policies, obs.Policies != nil, nft.PolicyTableName)
}

// report returns the event of a pass that has put back what was gone, false when there was nothing to put back: our own changes take tables
// away too.
func (m *repairs) report(r *reconcile.Result) (e status.Event, ok bool) {
	lost := m.lost
	m.lost = nil
	back := false
	for _, op := range r.Changes {
		switch op := op.(type) {
		case netcfg.PutTable:
			back = back || op.Table != nil
		case netcfg.PutPolicies:
			back = back || op.Table != nil
		}
	}
	if len(lost) == 0 || !back {
		return status.Event{}, false
	}
	return status.Event{Kind: status.EventRepair, Reason: "ruleset flushed",
		Message: "the nftables ruleset was flushed or our tables in it were deleted: " + strings.Join(lost, ", ") + " restored. What would have left untranslated meanwhile was dropped"}, true
}
