package offline

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/uplinkd/uplinkd/dhcp6"
	"github.com/uplinkd/uplinkd/internal/addressing"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/doctor"
	"github.com/uplinkd/uplinkd/internal/pair"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/rules"
)

// joinPair has the session plan for what this router of a pair does now.
func (in *session) joinPair() error {
	if key, err := pair.ReadKey(in.config.Pair.KeyFile); err == nil { // else the daemon has a problem, too
		identity := key.Identity()
		in.saved.addressing.SetPair(addressing.Pair{DUID: dhcp6.DUID(identity.DUID), ULA: identity.ULA, Router: in.config.Pair.Router()})
	}
	obs, err := in.kernel.Snapshot(rules.Query{})
	if err != nil || pair.Holds(&in.config.Pair, obs) {
		return err
	}
	in.config = in.config.Standby()
	_, err = planinput.AssignIDs(in.config, in.saved.ids)
	return err
}

// maxForeignFile bounds what is read of another program's configuration, in bytes.
const maxForeignFile = 1 << 20

// pairFiles gathers what a pair rests on; nil without one. Root holds etc.
func pairFiles(c *config.Config, root string) *doctor.Pair {
	if !c.Pair.On() {
		return nil
	}
	p := &doctor.Pair{Virtual: c.Pair.Virtual, Device: c.Pair.Device, YieldFile: filepath.Join(c.Daemon.StateDir, pair.YieldFile),
		Keepalived: foreignFile(root, "etc/keepalived/keepalived.conf", "keepalived", "-f", "--use-file"),
		Conntrackd: foreignFile(root, "etc/conntrackd/conntrackd.conf", "conntrackd", "-C")}
	if _, err := pair.ReadKey(c.Pair.KeyFile); err != nil {
		p.Key = err.Error()
	}
	for _, u := range slices.Concat(c.Uplinks, c.Waiting) {
		if u.Shared {
			p.Shared = append(p.Shared, u.Name)
		}
	}
	return p
}

// foreignFile reads the configuration of another program: what one that runs here was started with, by one of these options, else what stands in its
// usual place.
func foreignFile(root, usual, program string, options ...string) string {
	file := filepath.Join(root, usual)
	for _, arguments := range commandsHere("/proc", program) {
		if named := option(arguments, options); named != "" {
			file = filepath.Join(root, named)
		}
	}
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxForeignFile {
		return ""
	}
	text, _ := os.ReadFile(file) // what cannot be read says nothing
	return string(text)
}

// option returns the value of an option: "-f FILE", "-fFILE", "--use-file FILE" and "--use-file=FILE".
func option(arguments, names []string) string {
	for i, a := range arguments {
		for _, name := range names {
			value, joined := strings.CutPrefix(a, name)
			switch {
			case !joined:
			case value == "" && i+1 < len(arguments):
				return arguments[i+1]
			case strings.HasPrefix(name, "--"):
				return strings.TrimPrefix(value, "=")
			default:
				return value
			}
		}
	}
	return ""
}
