package rules_test

import (
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/rules"
)

func TestAFlowtableHasTheDevicesThatAreThere(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*world)
		want    []string
		problem string
	}{
		"all":                     {func(*world) {}, []string{"lan0", "wan1", "wan2"}, ""},
		"off":                     {func(w *world) { w.cfg.Offload = false }, nil, ""},
		"an uplink's device gone": {func(w *world) { w.unplug("wan2") }, []string{"lan0", "wan1"}, ""},
		"no flowtables":           {func(w *world) { w.obs.NoOffload = "this kernel has no flowtables (no such file or directory)" }, nil, "no-offload"},
	} {
		w := dual()
		w.cfg.Offload = true
		c.change(w)
		state, report := w.plan()
		if diff := gocmp.Diff(c.want, state.Table.Flowtable); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		rule := "ct mark & 0x3f000000 != 0x00000000 ct state established meta l4proto { 6, 17 } flow add @fast"
		if chain := state.Table.Chain("offload"); (chain != nil) != (c.want != nil) || chain != nil && (chain.Priority <= 0 || !strings.HasPrefix(chain.Rules[0].String(), rule)) {
			t.Errorf("%s: chain %+v", name, chain)
		}
		if c.problem != "" && !slices.ContainsFunc(report.Problems, func(p rules.Problem) bool { return p.Code == c.problem }) {
			t.Errorf("%s: problems %v", name, report.Problems)
		}
	}
}
