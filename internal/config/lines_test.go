package config

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLinesSayWhereThingsStand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "uplinkd.toml")
	text := `# a comment
[kernel]
rule_priority = 20000
[[uplink]]
name = "fiber"
device = "wan1"
  [uplink.ipv6]
  method = "off"

[[uplink]]
device = "wan2"
name = "lte"
tier = 2
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := c.Lines
	for _, c := range []struct {
		uplink, key string
		want        int
	}{
		{"", "kernel.rule_priority", 3}, {"", "kernel.mark_mask", 0}, {"", "kernel", 2},
		{"fiber", "device", 6}, {"fiber", "ipv6", 7}, {"fiber", "tier", 4}, {"lte", "tier", 13}, {"lte", "name", 12}, {"lte", "ipv4", 10},
		{"dsl", "device", 0},
	} {
		if got := lines.Of(c.uplink, c.key); got != c.want {
			t.Errorf("%q %s stands on line %d, want %d", c.uplink, c.key, got, c.want)
		}
	}
	if got := Lines(nil).Of("fiber", "tier"); got != 0 {
		t.Errorf("without a file, the line is %d", got)
	}
}
