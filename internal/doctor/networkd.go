package doctor

import (
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// Networkd is what systemd-networkd is told about things that it did not make.
type Networkd struct {
	ManagesForeignRules  bool
	ManagesForeignRoutes bool
}

// ReadNetworkd reads networkd.conf and its drop-ins below a root directory, as networkd.conf(5) says: a
// drop-in counts after the main file, later names after earlier ones, and a file of /etc translatesSource those of the
// same name in /run and /usr. It returns nil when networkd is not in use there.
func ReadNetworkd(root fs.FS) (*Networkd, error) {
	// networkd keeps the state of the whole there while it runs.
	if _, err := fs.Stat(root, "run/systemd/netif/state"); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	n := &Networkd{true, true} // the defaults
	var main string
	dropins := make(map[string]string)
	for _, dir := range []string{"usr/lib/systemd", "usr/local/lib/systemd", "run/systemd", "etc/systemd"} { // the last translatesSource the others
		if _, err := fs.Stat(root, dir+"/networkd.conf"); err == nil {
			main = dir + "/networkd.conf"
		}
		found, err := fs.Glob(root, dir+"/networkd.conf.d/*.conf")
		if err != nil {
			return nil, err
		}
		for _, file := range found {
			dropins[path.Base(file)] = file
		}
	}
	files := []string{}
	if main != "" {
		files = append(files, main)
	}
	for _, name := range slices.Sorted(maps.Keys(dropins)) {
		files = append(files, dropins[name])
	}
	for _, file := range files {
		text, err := fs.ReadFile(root, file)
		if err != nil {
			return nil, err
		}
		n.apply(string(text))
	}
	return n, nil
}

// apply takes over the settings of one file.
func (n *Networkd) apply(text string) {
	section := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = line
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || section != "[Network]" {
			continue
		}
		on, valid := boolean(strings.TrimSpace(value))
		if !valid {
			continue // networkd ignores it too, and says so
		}
		switch strings.TrimSpace(key) {
		case "ManageForeignRoutingPolicyRules":
			n.ManagesForeignRules = on
		case "ManageForeignRoutes":
			n.ManagesForeignRoutes = on
		}
	}
}

// boolean reads what systemd.syntax(7) takes for one.
func boolean(text string) (value, valid bool) {
	switch strings.ToLower(text) {
	case "1", "yes", "y", "true", "t", "on":
		return true, true
	case "0", "no", "n", "false", "f", "off":
		return false, true
	}
	return false, false
}
