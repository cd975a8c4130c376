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
	"github.com/uplinkd/uplinkd/internal/reconcile"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// readyPatience is how long the service manager is kept waiting for the first plan to converge.
const readyPatience = 20 * time.Second

// onSnapshot looks for uplinks that have appeared, where they are discovered.
func (d *Daemon) onSnapshot(obs *rules.Observed) {
	if d.o.discovers() {
		d.reloading.Lock()
		defer d.reloading.Unlock()
		if c, changed := d.discovery.Scan(obs); changed {
			if err := d.adopt(c, configuration{taken: d.started}); err != nil {
				d.log.Warn("a discovered uplink cannot be used", "err", err)
			}
		}
	}
	if d.tunnels.Observe(obs) && !d.o.discovers() {
		d.replan()
	}
	d.addressing.Observe(obs)
	d.repairs.observe(obs)
}

// onPass hears the outcome of each look at the kernel, from the engine's goroutine.
func (d *Daemon) onPass(r reconcile.Result) {
	d.metrics.ObserveReconcile(r.Duration)
	d.monitor.RouteInstalled(r.Report.Paths)
	d.monitor.SetActive(r.Report.Defaults)
	if r.Settled {
		d.tunnels.Settled(&r.Report)
	}
	d.addressing.UpdateRA(&r.Report)
	d.monitor.SaveHolds() // only now: the disk may be slow, and traffic has moved already
	if len(r.Changes) > 0 {
		d.reportSwitches(r)
	}
	if e, ok := d.repairs.report(&r); ok {
		d.event(e)
		d.log.Warn("somebody flushed the nftables ruleset", "back", e.Message)
	}
	// A service manager that waits in vain would kill and restart us for ever, which helps nobody: the
	// problem is in the status.
	if !d.ready && (r.Settled || time.Since(d.started) > readyPatience) {
		d.ready = true
		d.o.Notify("READY=1")
	}
}

// reportSwitches tells the log which uplinks carry new traffic now, where that has changed, and measures how
// long after their verdicts the dead ones were left.
func (d *Daemon) reportSwitches(r reconcile.Result) {
	for _, family := range rules.Families {
		choice, before := r.Report.Defaults[family], d.carried[family]
		d.carried[family] = choice
		if before.Code == choice.Code && slices.EqualFunc(before.Members, choice.Members, func(a, b rules.Member) bool { return a.Uplink == b.Uplink }) {
			continue
		}
		d.event(status.Event{Kind: status.EventSwitch, Family: family.String(), Code: string(choice.Code), Reason: choice.Reason,
			From: memberNames(&r.Config, before), To: memberNames(&r.Config, choice)})
		d.log.Info("new traffic", "family", family.String(), "now", choice.Reason)
		for _, m := range before.Members {
			v, _ := d.monitor.Verdict(rules.Path{Uplink: m.Uplink, Family: family})
			if r.Converged && !choice.Has(m.Uplink) && v.State.Health() < uplink.HealthGood {
				d.metrics.ObserveFailover(time.Since(v.Since))
			}
		}
	}
}

// memberNames lists the uplinks of a choice, separated by commas; one that has left the configuration since is not among them.
func memberNames(c *rules.Config, choice rules.Choice) string {
	var names []string
	for _, m := range choice.Members {
		if i := slices.IndexFunc(c.Uplinks, func(u rules.Uplink) bool { return u.ID == m.Uplink }); i >= 0 {
			names = append(names, c.Uplinks[i].Name)
		}
	}
	return strings.Join(names, ",")
}

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
