package offline

import (
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/config"
)

func TestKindsOfTunnelsThatAreThereNeedNothingOfTheKernel(t *testing.T) {
	c := config.Default()
	c.Uplinks = []config.Uplink{config.DefaultUplink("fiber", "wan1"), config.DefaultUplink("vps", "wg0")}
	c.Uplinks[1].Kind = config.KindWireGuard
	for present, want := range map[string]int{"wan1": 1, "wan1 wg0": 0} {
		if kinds := kindsToMake(c, strings.Fields(present)); len(kinds) != want {
			t.Errorf("with %s: %v", present, kinds)
		}
	}
}

func TestTheDoctorExaminesTheDaemonsConfigurationOnly(t *testing.T) {
	c := config.Default()
	c.Uplinks = []config.Uplink{config.DefaultUplink("fiber", "wan1"), config.DefaultUplink("lte", "wan2")}
	for _, running := range [][]string{nil, {"fiber", "lte"}} {
		if err := sameUplinks(c, running); err != nil {
			t.Errorf("%q: %v", running, err)
		}
	}
	for _, running := range [][]string{{}, {"fiber"}, {"lte", "fiber"}, {"wan1", "wan2"}} {
		if err := sameUplinks(c, running); err == nil || !strings.Contains(err.Error(), "-c") {
			t.Errorf("%q: %v", running, err)
		}
	}
}
