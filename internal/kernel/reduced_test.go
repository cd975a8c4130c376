package kernel_test

import (
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// A share of nothing is what no kernel hashes to, so it stands for an expression that this kernel does not have.
func TestRulesWithAnExpressionThatTheKernelLacksAreLeftOutAndTheRestStands(t *testing.T) {
	namespace(t)
	k := open(t)
	table := &nft.Table{Chains: []nft.Chain{
		{Name: "srcnat", Type: "nat", Hook: "postrouting", Priority: 110, Rules: []nft.Rule{
			{Exprs: []nft.Expr{nft.SourceShare{Family: rules.IPv4}, nft.Return{}}, Comment: "a share [1]"},
			{Exprs: []nft.Expr{nft.Device{Out: true, Name: "wan1"}, nft.Masquerade{}}, Comment: "masqueraded [2]"},
		}},
	}}
	var before string
	for range 2 {
		err := k.Apply([]netcfg.Op{netcfg.PutTable{Table: table}})
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
	if err := k.Apply([]netcfg.Op{netcfg.PutTable{Table: &nft.Table{Chains: []nft.Chain{chain}}}}); err != nil {
		t.Errorf("without it: %v", err)
	}
}
