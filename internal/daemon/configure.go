package daemon

import (
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/uplinkd/uplinkd/internal/commit"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/store"
)

// adopt makes a configuration the one in force. It changes nothing when it fails. The caller holds d.reloading.
func (d *Daemon) adopt(c commit.Config) error { return d.adoptWith(c, d.tunnels.Configure) }

// adoptAnyhow makes a configuration the one in force where there is none to stay with: what of it cannot work is left out.
func (d *Daemon) adoptAnyhow(c commit.Config) {
	err := d.adoptWith(c, func(c *config.Config, ids map[string]int) error { d.tunnels.ConfigureAnyhow(c, ids); return nil })
	d.problems.report("config-refused", err, "have fewer uplinks and policies")
}

func (d *Daemon) adoptWith(c commit.Config, tunnels func(*config.Config, map[string]int) error) error {
	if err := d.configure(c.Config, tunnels); err != nil {
		return err
	}
	if err := writeTableNames(d.working()); err != nil { // they are a convenience
		d.log.Warn("cannot write table names", "err", err)
	}
	d.reloader.Took(c)
	return nil
}

// writeTableNames tells iproute2 our names for our tables.
func writeTableNames(c *config.Config, ids map[string]int) error {
	file := c.Kernel.TableNames
	if file == "" {
		return nil
	}
	names := planinput.TableNames(c, ids)
	if have, err := os.ReadFile(file); err == nil && string(have) == names {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return store.WriteFile(file, []byte(names), 0o644)
}

// configure has the engines work by a configuration, as far as this router of a pair has to. Nothing waits for the disk but ids that are new.
func (d *Daemon) configure(whole *config.Config, tunnels func(*config.Config, map[string]int) error) error {
	former, before := d.working()
	ids := maps.Clone(before)
	c, changed, err := d.pair.Share(whole, ids)
	if err != nil {
		return err
	}
	if err := tunnels(c, ids); err != nil {
		return err
	}
	d.monitor.Configure(c, ids)
	d.mu.Lock()
	d.config, d.ids = c, ids
	d.mu.Unlock()
	if former != nil {
		for i := range former.Uplinks {
			if name := former.Uplinks[i].Name; !slices.ContainsFunc(c.Uplinks, func(u config.Uplink) bool { return u.Name == name }) {
				d.metrics.RemoveUplink(name)
			}
		}
	}
	if changed { // before the kernel hears of them
		d.disk.Keep(store.IDs, func() any { _, ids := d.working(); return ids })
	}
	d.usage.Configure(c)
	d.addressing.Configure(c, ids)
	d.dns.Configure(c)
	d.notify.Configure(c)
	d.recovery.Configure(c)
	d.clat.Configure(c)
	d.sets.Configure(c)
	d.planFor(c, ids)
	d.engine.EndReassigned(planinput.Reassigned(before, ids))
	d.pair.Acting()
	return nil
}

// working returns what this router has to do of the configuration in force, and the ids of its uplinks and groups.
func (d *Daemon) working() (*config.Config, map[string]int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.config, d.ids
}
