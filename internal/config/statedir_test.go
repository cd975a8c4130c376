package config

import "testing"

func TestTheStateDirectoryIsFoundInAFileWithMistakes(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no text":                    {"", "/var/lib/uplinkd"},
		"it is not named":            {"[[uplink]]\nname = \"fiber\"\n", "/var/lib/uplinkd"},
		"a mistake elsewhere":        {"[daemon]\nstate_dir = \"/srv/x\"\n[[uplink]]\ndevcie = \"eth1\"\n", "/srv/x"},
		"a mistake in its section":   {"[daemon]\nstate_dir = \"/srv/x\"\nscoket = 7\n", "/srv/x"},
		"it is a mistake itself":     {"[daemon]\nstate_dir = \"x\"\n", "/var/lib/uplinkd"},
		"a literal string":           {"[daemon]\nstate_dir = '/srv/x'\nscoket = 7\n", "/srv/x"},
		"a dotted key":               {"daemon.state_dir = \"/srv/x\"\ndaemon.scoket = 7\n", "/srv/x"},
		"an inline table":            {"daemon = { state_dir = \"/srv/x\", scoket = 7 }\n", "/srv/x"},
		"a byte order mark":          {"\ufeff[daemon]\nstate_dir = \"/srv/x\"\n", "/srv/x"},
		"lines of another system":    {"[daemon]\r\nstate_dir = \"/srv/x\"\r\n[[uplink\r\n", "/srv/x"},
		"a comment behind it":        {"[daemon\n  state_dir=\"/srv/a b\" # here\n", "/srv/a b"},
		"it is a comment":            {"[daemon\n# state_dir = \"/srv/x\"\n", "/var/lib/uplinkd"},
		"it breaks off within it":    {"[daemon]\nstate_dir = \"/srv/x", "/var/lib/uplinkd"},
		"zeros after a power cut":    {"[daemon]\nstate_dir = \"/srv/x\"\n\x00\x00\x00", "/srv/x"},
		"no TOML at all":             {"[daemon\nstate_dir = \"/srv/x\"\n", "/srv/x"},
		"no TOML, and no directory":  {"[daemon\nstate_dir = \"x\"\n", "/var/lib/uplinkd"},
		"TOML that breaks off later": {"[daemon]\nstate_dir = \"/srv/x\"\n[[uplink]]\nname = ", "/srv/x"},
	} {
		if got := StateDir([]byte(c.text)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
