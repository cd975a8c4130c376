package daemon

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/store"
)

func TestTheLastGoodConfigurationIsKeptForAStartWithAMistake(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "uplinkd.toml")
	text := func(device string) string {
		return fmt.Sprintf("[daemon]\nstate_dir = %q\n[[uplink]]\nname = \"fiber\"\n%s\n", dir, device)
	}
	o := Options{ConfigFile: file}
	state, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	disk := newSaver(state, time.Now(), slog.New(slog.DiscardHandler))
	for _, step := range []struct {
		name, text string
		device     string // of the configuration in force; "": none can be had
		wrong      bool
	}{
		{"a mistake before anything was good", text(`devcie = "wan1"`), "", true},
		{"a good one", text(`device = "wan1"`), "wan1", false},
		{"another one", text(`device = "wan2"`), "wan2", false},
		{"a mistake", text(`devcie = "wan3"`), "wan2", true},
		{"the same after another power cut", text(`device = "wa`), "wan2", true},
		{"and after one that has emptied the file", "", "", true},
	} {
		if err := os.WriteFile(file, []byte(step.text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := o.readOrKept()
		if (err == nil) != (step.device != "") {
			t.Fatalf("%s: %v", step.name, err)
		}
		if err != nil {
			continue
		}
		if got := c.Uplinks[0].Device; got != step.device || (c.failure != nil) != step.wrong {
			t.Errorf("%s: on %s, %v", step.name, got, c.failure)
		}
		disk.saveConfig(file, c)
	}
}
