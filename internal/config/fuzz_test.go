package config

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

// FuzzParse looks for text that makes Parse panic, return malformed errors, return values outside of their ranges, or
// accept what the TOML library's own decoder holds for no TOML.
func FuzzParse(f *testing.F) {
	for _, archive := range mistakes(f) {
		for _, file := range archive.Files {
			f.Add(file.Data)
		}
	}
	examples, err := filepath.Glob("../../examples/*.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range examples {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(everyKey))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := Parse("x.toml", data)
		if err != nil {
			checkErrors(t, "x.toml", err)
			return
		}
		checkPromises(t, cfg)
		var tree map[string]any
		if err := toml.Unmarshal(data, &tree); err != nil && string(data[:min(3, len(data))]) != "\ufeff" {
			t.Errorf("accepted what is no TOML: %v", err)
		}
	})
}
