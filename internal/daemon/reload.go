package daemon

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/status"
)

// Drain sends new traffic of an uplink elsewhere, or back. It lasts over restarts.
func (d *Daemon) Drain(name string, drained bool) error {
	known := slices.ContainsFunc(d.current().Uplinks, func(u config.Uplink) bool { return u.Name == name })
	if !known {
		return fmt.Errorf("%w: %q", api.ErrUnknownUplink, name)
	}
	d.monitor.SetDrained(name, drained)
	d.engine.Hint()
	word := "drained: new traffic goes elsewhere, flows that it carries go on"
	if !drained {
		word = "carries new traffic again"
	}
	d.event(status.Event{Kind: status.EventDrain, Uplink: name, Message: word})
	return nil
}

// Reload reads the configuration file again. A file with a mistake changes nothing.
func (d *Daemon) Reload() error {
	if d.o.discovers() {
		return errors.New("there is no configuration file to read: uplinks are discovered")
	}
	d.reloading.Lock()
	defer d.reloading.Unlock()
	err := d.reload()
	event := status.Event{Kind: status.EventReload, Message: "configuration read again"}
	d.metrics.ObserveReload(err == nil)
	if err != nil {
		d.mu.Lock()
		d.configFailure = err
		d.mu.Unlock()
		event.Message = "configuration left as it was: " + err.Error()
		d.log.Error("reload failed, nothing was changed", "err", err)
	}
	d.event(event)
	return err
}

func (d *Daemon) reload() error {
	file, err := config.Load(d.o.ConfigFile)
	if err != nil {
		return err
	}
	c, have := file.Config, d.current()
	if !reflect.DeepEqual(c.Daemon, have.Daemon) || c.Kernel != have.Kernel {
		return errors.New("[daemon] and [kernel] change only with a restart, and nothing else of this file was taken over")
	}
	return d.adopt(c, configuration{File: file, taken: time.Now()})
}

// Healthy says why the daemon does not do its work, nil when it does.
func (d *Daemon) Healthy() error {
	if err := d.alive(); err != nil {
		return err
	}
	last := d.engine.Last()
	if last.Err != nil {
		return last.Err
	}
	if !last.Converged {
		return errors.New("the kernel is not in the wanted state yet")
	}
	return nil
}

// readToken reads the token for changes over TCP; without one the listener only reads.
func readToken(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("reading token_file: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if len(token) < 16 {
		return "", fmt.Errorf("token_file %s holds %d characters, at least 16 are needed", file, len(token))
	}
	return token, nil
}
