package daemon

import (
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/reconcile"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

func TestAFlushedRulesetIsTold(t *testing.T) {
	ours := &nft.Table{}
	all := rules.Observed{Table: ours, Policies: ours}
	put, take := []netcfg.Op{netcfg.PutTable{Table: ours}}, []netcfg.Op{netcfg.PutTable{}, netcfg.PutPolicies{}}
	for name, c := range map[string]struct {
		looks   []rules.Observed
		changes []netcfg.Op
		gone    string // "": nothing is told
	}{
		"nothing happened":          {looks: []rules.Observed{all, all}},
		"ours alone":                {looks: []rules.Observed{all, {Policies: ours}, all}, changes: put, gone: "inet uplinkd restored"},
		"that of policies":          {looks: []rules.Observed{all, {Table: ours}, all}, changes: []netcfg.Op{netcfg.PutPolicies{Table: ours}}, gone: "inet uplinkd_policy restored"},
		"both":                      {looks: []rules.Observed{all, {}, all}, changes: put, gone: "inet uplinkd, inet uplinkd_policy restored"},
		"at the start":              {looks: []rules.Observed{{}, all}, changes: put},
		"we have taken them away":   {looks: []rules.Observed{all, {}}, changes: take},
		"nothing of it is put back": {looks: []rules.Observed{all, {}}, changes: []netcfg.Op{netcfg.SetSysctl{}}},
		"it cannot be seen":         {looks: []rules.Observed{all, {NoTables: "operation not permitted"}}, changes: put},
	} {
		var m repairs
		for _, obs := range c.looks {
			m.observe(&obs)
		}
		e, ok := m.report(&reconcile.Result{Changes: c.changes})
		if ok != (c.gone != "") || !strings.Contains(e.Message, c.gone) {
			t.Errorf("%s: %v, %q", name, ok, e.Message)
		}
		if _, again := m.report(&reconcile.Result{Changes: c.changes}); again {
			t.Errorf("%s: told twice", name)
		}
	}
}
