package kernel_test

import (
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
)

// A share of nothing is what no kernel hashes to, so it stands for an expression that this kernel does not have.
func TestRulesWithAnExpressionThatTheKernelLacksAreLeftOutAndTheRestStands(t *testing.T) {
	namespace(t)
	k := open(t)
	table := &rules.Table{Chains: []rules.Chain{
		{Name: "srcnat", Type: "nat", Hook: "postrouting", Priority: 110, Rules: []rules.NftRule{
			{Exprs: []rules.NftExpr{rules.NftSourceShare{Family: rules.IPv4}, rules.NftReturn{}}, Comment: "a share [1]"},
			{Exprs: []rules.NftExpr{rules.NftDevice{Out: true, Name: "wan1"}, rules.NftMasquerade{}}, Comment: "masqueraded [2]"},
		}},
	}}
	var before string
	for range 2 {
		err := k.Apply([]rules.Op{rules.PutTable{Table: table}})
		if err == nil || !strings.Contains(err.Error(), "SourceShare") {
			t.Fatalf("%v", err)
		}
		obs := snapshot(t, k, config())
		if obs.Table == nil || len(obs.Table.Chains) != 1 || len(obs.Table.Chains[0].Rules) != 1 || obs.Table.Chains[0].Rules[0].Comment != "masqueraded [2]" {
			t.Fatalf("%+v", obs.Table)
		}
		handles := sh(t, "nft -a list table inet uplinkd")
		if before != "" && handles != before {
			t.Errorf("what stands already was put again:\n%s", handles)
		}
		before = handles
	}
	if out := sh(t, "nft list tables"); strings.Contains(out, "trial") {
		t.Errorf("a trial is left:\n%s", out)
	}
	chain := table.Chains[0]
	chain.Rules = chain.Rules[1:]
	if err := k.Apply([]rules.Op{rules.PutTable{Table: &rules.Table{Chains: []rules.Chain{chain}}}}); err != nil {
		t.Errorf("without it: %v", err)
	}
}
