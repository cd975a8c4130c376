package kernel_test

import (
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// The connection of a transaction is that of the next one too, unless it fails: nothing of it may be left then.
func TestATransactionThatFailsLeavesNothingToTheNext(t *testing.T) {
	table := func(c nft.Chain) []netcfg.Op {
		return []netcfg.Op{netcfg.PutTable{Table: &nft.Table{Chains: []nft.Chain{c}}}}
	}
	for name, bad := range map[string]nft.Chain{
		"never sent":            {Name: "bad", Type: "filter", Hook: "nowhere"},
		"refused by the kernel": {Name: "bad", Type: "nat", Hook: "forward"},
	} {
		namespace(t)
		k := open(t)
		for _, good := range []string{"first", "second"} {
			if err := k.Apply(table(bad)); err == nil {
				t.Fatalf("%s: carried out", name)
			}
			if err := k.Apply(table(nft.Chain{Name: good, Type: "filter", Hook: "forward"})); err != nil {
				t.Fatalf("%s, and then: %v", name, err)
			}
			if out := sh(t, "nft list table inet "+nft.TableName); !strings.Contains(out, "chain "+good) || strings.Count(out, "chain ") != 1 {
				t.Errorf("%s, and then:\n%s", name, out)
			}
		}
	}
}
