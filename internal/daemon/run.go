package daemon

import (
	"cmp"
	"context"
	"errors"
	"os/user"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/hooks"
	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/internal/schedule"
	"github.com/uplinkd/uplinkd/internal/status"
)

// Run runs the daemon until the context ends. Kernel state stays as it is then, so that a restart does
// not interrupt traffic; Clean removes it.
func (d *Daemon) Run(ctx context.Context) error {
	defer d.Close()
	c, _ := d.working()
	token, err := api.ReadToken(c.Daemon.TokenFile)
	d.problems.report("token-file", err, "correct it and restart; until then nothing can be changed over TCP")
	o := api.Options{Source: d, Meter: d.usage, Events: d.events.EventLog, Metrics: d.metrics, Log: d.log, Token: token, Hosts: c.Daemon.Hosts}
	if d.o.Examine != nil {
		o.Examine = func(ctx context.Context) (status.Examination, error) { s := d.Status(); return d.o.Examine(ctx, &s) }
	}
	server := api.NewServer(o)
	// Whoever answers on the control socket has the state directory; the claim below is for the kernel state.
	bindSocket := func(ctx context.Context) (*api.Listeners, error) {
		l, err := api.Listen(ctx, c.Daemon.Socket, "")
		if err == nil {
			d.problems.report("socket-group", shareSocket(&c.Daemon), "make the group (groupadd --system NAME), or correct [daemon] socket_group, and restart; until then the socket is root's alone")
		}
		return l, err
	}
	bindTCP := func(ctx context.Context) (*api.Listeners, error) { return api.Listen(ctx, "", c.Daemon.Listen) }
	socket, err := bindSocket(ctx)
	if errors.Is(err, api.ErrRunning) {
		return err
	}
	release, claimErr := kernel.Claim()
	switch {
	case errors.Is(claimErr, kernel.ErrClaimed):
		if socket != nil {
			claimErr = errors.Join(claimErr, socket.Close())
		}
		return claimErr
	case claimErr != nil:
		d.log.Warn("a second uplinkd would not be noticed", "err", claimErr)
	default:
		defer release()
	}
	before := d.events.Last() // hooks hear of the start too
	toNotify := d.notify.Seen(before)
	d.events.Append(status.Event{Kind: status.EventStart, Message: "uplinkd " + d.o.Version})
	d.log.Info("starting", "version", d.o.Version, "uplinks", len(c.Uplinks), "config", d.o.ConfigFile)

	parts := []func(context.Context) error{
		d.monitor.Run, d.addressing.Run, d.engine.Run, d.usage.Run, d.reloader.Run, d.disk.Run, d.events.Run, d.tunnels.Run,
		d.dns.Run, d.notify.Run, d.recovery.Run, d.clat.Run, d.sets.Run, d.pair.Run,
		func(ctx context.Context) error {
			server.Answer(ctx, socket, bindSocket, func(err error) {
				d.problems.report("socket", err, "remove what is in the way, or set another [daemon] socket and restart; it is retried")
			})
			return nil
		},
		func(ctx context.Context) error {
			d.hints.Urgent = d.engine.Urgent
			return d.hints.Run(ctx, d.engine.Hint)
		},
		func(ctx context.Context) error {
			for e := range d.events.Subscribe(ctx, toNotify) {
				d.notify.Event(e)
			}
			return nil
		},
	}
	if c.Daemon.Listen != "" {
		parts = append(parts, func(ctx context.Context) error {
			server.Answer(ctx, nil, bindTCP, func(err error) {
				d.problems.report("listen", err, "free the address, or set another [daemon] listen and restart; it is retried")
			})
			return nil
		})
	}
	if c.Daemon.Hooks != "" {
		programs := hooks.Programs{Dir: c.Daemon.Hooks, Log: d.log}
		parts = append(parts, func(ctx context.Context) error {
			return programs.Run(ctx, hooks.Events(d.events.Subscribe(ctx, before)))
		})
	}
	if c.Daemon.Webhook != "" {
		webhook := hooks.Webhook{URL: c.Daemon.Webhook, Log: d.log}
		parts = append(parts, func(ctx context.Context) error {
			return webhook.Run(ctx, hooks.Events(d.events.Subscribe(ctx, before)))
		})
	}
	if d.o.Watchdog > 0 {
		parts = append(parts, func(ctx context.Context) error {
			schedule.Every(ctx, d.started, d.o.Watchdog/2, func(time.Time) {
				if d.engine.Alive() == nil {
					d.o.Notify("WATCHDOG=1")
				}
			})
			return nil
		})
	}
	err = together(ctx, parts)
	d.events.Save()
	d.o.Notify("STOPPING=1")
	d.log.Info("stopped; kernel state is left as it is", "err", err)
	return err
}

// shareSocket lets the members of a group use the control socket. The group that packages make need not exist.
func shareSocket(d *config.Daemon) error {
	name := cmp.Or(d.SocketGroup, config.DefaultSocketGroup)
	err := api.ShareSocket(d.Socket, name)
	if unknown := user.UnknownGroupError(name); d.SocketGroup == "" && errors.Is(err, unknown) {
		return nil
	}
	return err
}

// together runs the parts until the context ends or one of them fails, and returns when all are gone.
func together(ctx context.Context, parts []func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make([]error, len(parts))
	var group sync.WaitGroup
	for i, part := range parts {
		group.Go(func() {
			defer cancel()
			failed[i] = part(ctx)
		})
	}
	group.Wait()
	return errors.Join(failed...)
}
