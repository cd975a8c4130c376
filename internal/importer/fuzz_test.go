package importer

import (
	"errors"
	"testing"

	"github.com/uplinkd/uplinkd/internal/config"
)

// always checks what holds whatever the files are: the result is a configuration, or nothing in the files is usable.
func always(t *testing.T, system string, data []byte, network *File) {
	t.Helper()
	if len(data) > 1<<14 {
		return // larger ones only make fuzzing slow
	}
	result, err := Convert(system, []File{{"a", data}}, network)
	switch {
	case errors.Is(err, ErrUnusable):
		return
	case err != nil:
		t.Fatalf("%s: %v\n%s", system, err, result.TOML)
	}
	if _, err := config.Parse("", []byte(result.TOML)); err != nil {
		t.Fatalf("%s: %v\n%s", system, err, result.TOML)
	}
	for _, r := range result.Remarks {
		if r.Text == "" || len(r.Text) > 2000 {
			t.Errorf("a remark of %d bytes: %.200q", len(r.Text), r.Text)
		}
	}
}

// FuzzUCI looks for files of OpenWrt that make the importer panic, or print what is no configuration.
func FuzzUCI(f *testing.F) {
	for _, system := range []string{"mwan3", "pbr"} {
		for _, x := range examples(f, system) {
			var network []byte
			if n := x.file("network"); n != nil {
				network = n.Data
			}
			f.Add(x.file(system).Data, network)
		}
	}
	f.Add([]byte("config interface 'a\\\nb' ; option enabled \"1\\\"\"'x'\nconfig rule\n\toption use_policy default\n\toption dest_ip '!1.2.3.4'"), []byte("config interface 'a'\n\toption device '@a'"))
	f.Fuzz(func(t *testing.T, data, network []byte) {
		for _, system := range []string{"mwan3", "pbr"} {
			always(t, system, data, nil)
			if len(network) > 0 && len(network) < 1<<12 {
				always(t, system, data, &File{"network", network})
			}
		}
	})
}

// FuzzVyOS looks for configurations of VyOS that do.
func FuzzVyOS(f *testing.F) {
	for _, x := range examples(f, "vyos") {
		f.Add(x.file("vyos").Data)
	}
	f.Add([]byte("wan { interface-health a { } /* { */ rule 1 { interface a } }\nset x 'y z' \"\\\"\"\ndelete x\n}"))
	f.Fuzz(func(t *testing.T, data []byte) { always(t, "vyos", data, nil) })
}
