package daemon

import (
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/config"
)

// named is a configuration with uplinks of these names, each on a device that is called alike.
func named(names ...string) *config.Config {
	c := config.Default()
	for _, n := range names {
		c.Uplinks = append(c.Uplinks, config.DefaultUplink(n, n))
	}
	return c
}

// each gives names the ids 1, 2, ...
func each(names ...string) map[string]int {
	ids := make(map[string]int)
	for i, n := range names {
		ids[n] = i + 1
	}
	return ids
}

func TestTheDoctorExaminesTheDaemonsConfigurationOnly(t *testing.T) {
	c := named("fiber", "lte")
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
