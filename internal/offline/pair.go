package offline

import (
	"os"
	"path/filepath"
	"slices"

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

// maxKeepalived bounds what is read of keepalived's configuration, in bytes.
const maxKeepalived = 1 << 20

// pairFiles gathers what a pair rests on; nil without one.
func pairFiles(c *config.Config, root string) *doctor.Pair {
	if !c.Pair.On() {
		return nil
	}
	p := &doctor.Pair{Virtual: c.Pair.Virtual}
	if _, err := pair.ReadKey(c.Pair.KeyFile); err != nil {
		p.Key = err.Error()
	}
	for _, u := range slices.Concat(c.Uplinks, c.Waiting) {
		if u.Shared {
			p.Shared = append(p.Shared, u.Name)
		}
	}
	file := filepath.Join(root, "etc/keepalived/keepalived.conf")
	if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Size() <= maxKeepalived {
		text, _ := os.ReadFile(file) // what cannot be read says nothing
		p.Keepalived = string(text)
	}
	return p
}
