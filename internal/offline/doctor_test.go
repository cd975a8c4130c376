package offline

import (
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/config"
)

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
