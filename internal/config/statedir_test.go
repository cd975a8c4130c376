package config

import "testing"

func TestTheStateDirectoryIsFoundInAFileWithMistakes(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no text":                    {"", "/var/lib/uplinkd"},
		"it is not named":            {"[[uplink]]\nname = \"fiber\"\n", "/var/lib/uplinkd"},
		"a mistake elsewhere":        {"[daemon]\nstate_dir = \"/srv/x\"\n[[uplink]]\ndevcie = \"eth1\"\n", "/srv/x"},
		"a mistake in its section":   {"[daemon]\nstate_dir = \"/srv/x\"\nscoket = 7\n", "/srv/x"},
		"it is a mistake itself":     {"[daemon]\nstate_dir = \"x\"\n", "/var/lib/uplinkd"},
		"broken behind a literal":    {"[daemon]\nstate_dir = '/srv/y'\n[[uplink]]\nname = ", "/srv/y"},
		"broken, an escape":          {"[daemon]\nstate_dir = \"/srv/\\u0079\"\n[[uplink]]\nname = ", "/var/lib/uplinkd"},
		"broken, in another section": {"[[uplink]]\nstate_dir = \"/srv/y\"\nname = ", "/var/lib/uplinkd"},
		"broken, in a later section": {"[daemon]\nsocket = \"/run/s\"\n\n[kernel]\nstate_dir = \"/srv/y\"\nname = ", "/var/lib/uplinkd"},
		"broken, behind a later one": {"[kernel]\ntable_base = 7\n\n  [daemon]\n\n  # here\n  state_dir = '/srv/y'\n[[uplink]]\nname = ", "/srv/y"},
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
