package kernel_test

import (
	"os/exec"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
)

// What a snapshot says of flowtables is what nft finds out.
func TestFlowtablesAreFoundWhereThereAreSome(t *testing.T) {
	namespace(t)
	k := open(t)
	obs, err := k.Snapshot(rules.Query{Offload: true})
	if err != nil {
		t.Fatal(err)
	}
	byHand := exec.Command("nft", "table inet t { flowtable f { hook ingress priority 0; devices = { lo }; }; chain c { flow add @f; }; }").Run()
	if (obs.NoOffload == "") != (byHand == nil) {
		t.Errorf("%q, and nft: %v", obs.NoOffload, byHand)
	}
	if out := sh(t, "nft list tables"); byHand != nil && out != "" {
		t.Errorf("the trial has left %s", out)
	}
	if obs, err = k.Snapshot(rules.Query{}); err != nil || obs.NoOffload != "" {
		t.Errorf("nobody has asked, and it says %q, %v", obs.NoOffload, err)
	}
}
