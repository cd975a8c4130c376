package reconcile

import (
	"slices"
	"testing"

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
		gone    []string
	}{
		"nothing happened":          {looks: []rules.Observed{all, all}},
		"ours alone":                {looks: []rules.Observed{all, {Policies: ours}, all}, changes: put, gone: []string{"uplinkd"}},
		"that of policies":          {looks: []rules.Observed{all, {Table: ours}, all}, changes: []netcfg.Op{netcfg.PutPolicies{Table: ours}}, gone: []string{"uplinkd_policy"}},
		"both":                      {looks: []rules.Observed{all, {}, all}, changes: put, gone: []string{"uplinkd", "uplinkd_policy"}},
		"at the start":              {looks: []rules.Observed{{}, all}, changes: put},
		"we have taken them away":   {looks: []rules.Observed{all, {}}, changes: take},
		"nothing of it is put back": {looks: []rules.Observed{all, {}}, changes: []netcfg.Op{netcfg.SetSysctl{}}},
		"it cannot be seen":         {looks: []rules.Observed{all, {NoTables: "operation not permitted"}}, changes: put},
	} {
		var m tables
		for _, obs := range c.looks {
			m.observe(&obs)
		}
		if got := m.restored(c.changes); !slices.Equal(got, c.gone) {
			t.Errorf("%s: %q", name, got)
		}
		if again := m.restored(c.changes); len(again) > 0 {
			t.Errorf("%s: told twice", name)
		}
	}
}
