package kernel_test

import (
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// The connection of a transaction is that of the next one too, unless it fails: nothing of it may be left then.
func TestATransactionThatFailsLeavesNothingToTheNext(t *testing.T) {
	policies := func(chains ...nft.Chain) []netcfg.Op {
		return []netcfg.Op{netcfg.PutPolicies{Table: &nft.Table{Chains: chains}}}
	}
	left := nft.Chain{Name: "left", Type: "filter", Hook: "forward"}
	for name, bad := range map[string]nft.Chain{
		"never sent":            {Name: "bad", Type: "filter", Hook: "nowhere"},
		"refused by the kernel": {Name: "bad", Type: "nat", Hook: "forward"},
	} {
		namespace(t)
		k := open(t)
		for range 2 {
			if err := k.Apply(policies(left, bad)); err == nil {
				t.Fatalf("%s: carried out", name)
			}
			if err := k.Apply(policies(nft.Chain{Name: "good", Type: "filter", Hook: "forward"})); err != nil {
				t.Fatalf("%s, and then: %v", name, err)
			}
			if out := sh(t, "nft list table inet "+nft.PolicyTableName); !strings.Contains(out, "chain good") || strings.Contains(out, "chain left") {
				t.Errorf("%s, and then:\n%s", name, out)
			}
		}
	}
}
