package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/dhcp4"
	"github.com/uplinkd/uplinkd/rules"
)

// docLeases is the document of DHCPv4 leases, by uplink name.
const docLeases = "leases4"

// leases runs a DHCPv4 client for each uplink with method "dhcp".
type leases struct {
	log     *slog.Logger
	save    func(document string, read func() any)
	changed func(uplink string, l *dhcp4.Lease)

	mu      sync.Mutex
	ctx     context.Context // of run; nil before
	running sync.WaitGroup
	clients map[string]*leaseClient // by uplink name
	held    map[string]dhcp4.Lease  // by uplink name
}

type leaseClient struct {
	*dhcp4.Client
	device string
	stop   context.CancelFunc
}

func newLeases(log *slog.Logger, save func(document string, read func() any), changed func(string, *dhcp4.Lease)) *leases {
	return &leases{log: log, save: save, changed: changed, clients: make(map[string]*leaseClient), held: make(map[string]dhcp4.Lease)}
}

// forgetExpired drops leases of an earlier run that are over.
func (l *leases) forgetExpired(now time.Time) {
	maps.DeleteFunc(l.held, func(_ string, lease dhcp4.Lease) bool { return !now.Before(lease.Expires) })
}

// configure starts and stops clients so that each uplink with method "dhcp" has one.
func (l *leases) configure(c *config.Config) {
	l.mu.Lock()
	defer l.mu.Unlock()
	wanted := make(map[string]bool)
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		if u.IPv4.Method != config.MethodDHCP {
			continue
		}
		wanted[u.Name] = true
		if have := l.clients[u.Name]; have != nil {
			if have.device == u.Device {
				continue
			}
			l.drop(u.Name)
		}
		l.clients[u.Name] = l.client(u.Name, u.Device)
	}
	for name := range maps.Clone(l.clients) {
		if !wanted[name] {
			l.drop(name)
		}
	}
	for _, client := range l.clients {
		l.start(client)
	}
}

func (l *leases) client(name, device string) *leaseClient {
	c := &leaseClient{device: device}
	cfg := dhcp4.Config{Device: device, Log: l.log.With("uplink", name), OnLease: func(lease *dhcp4.Lease) { l.update(name, c, lease) }}
	if held, ok := l.held[name]; ok {
		cfg.Last = &held
	}
	c.Client = dhcp4.New(cfg)
	return c
}

// drop ends a client and forgets its lease. The lock is held.
func (l *leases) drop(name string) {
	if stop := l.clients[name].stop; stop != nil {
		stop()
	}
	delete(l.clients, name)
	delete(l.held, name)
}

// start runs a client if leases run. The lock is held.
func (l *leases) start(c *leaseClient) {
	if l.ctx == nil || c.stop != nil {
		return
	}
	ctx, stop := context.WithCancel(l.ctx)
	c.stop = stop
	l.running.Go(func() { _ = c.Run(ctx) })
}

// run runs the clients until the context ends.
func (l *leases) run(ctx context.Context) error {
	l.mu.Lock()
	l.ctx = ctx
	for _, c := range l.clients {
		l.start(c)
	}
	l.mu.Unlock()
	<-ctx.Done()
	l.running.Wait()
	return nil
}

// update takes a new lease, or the loss of one, from a client's goroutine. A client that was replaced
// meanwhile has no say any more.
func (l *leases) update(name string, from *leaseClient, lease *dhcp4.Lease) {
	l.mu.Lock()
	if l.clients[name] != from {
		l.mu.Unlock()
		return
	}
	if lease == nil {
		delete(l.held, name)
	} else {
		l.held[name] = *lease
	}
	l.mu.Unlock()
	l.save(docLeases, func() any {
		l.mu.Lock()
		defer l.mu.Unlock()
		return maps.Clone(l.held)
	})
	l.changed(name, lease)
}

// observe tells the clients of their devices.
func (l *leases) observe(obs *rules.Observed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.clients {
		link, _ := obs.Link(c.device)
		c.SetLink(link.Index, link.Up && link.Carrier)
	}
}

// assignments returns what the leases give.
func (l *leases) assignments() Assignments {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(Assignments, len(l.held))
	for name, lease := range l.held {
		if l.clients[name] != nil {
			out[name] = assignment(lease)
		}
	}
	return out
}

// all returns what the kept leases would give, for a look from outside.
func (l *leases) all() Assignments {
	out := make(Assignments, len(l.held))
	for name, lease := range l.held {
		out[name] = assignment(lease)
	}
	return out
}

func assignment(l dhcp4.Lease) *rules.Assignment {
	return &rules.Assignment{Addresses: []rules.Address{{Prefix: l.Address}}, Gateway: l.Gateway, MTU: l.MTU}
}

// onLease hears of a new or lost lease.
func (d *Daemon) onLease(name string, lease *dhcp4.Lease) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	d.mu.Lock()
	c, ids := d.config, maps.Clone(d.ids)
	d.mu.Unlock()
	d.engine.SetConfig(planInput(c, ids, d.leases.assignments()))
	d.reportLease(name, lease)
}

func (d *Daemon) reportLease(name string, lease *dhcp4.Lease) {
	if lease == nil {
		d.log.Warn("lease lost", "uplink", name)
		d.event(api.Event{Kind: api.EventLease, Uplink: name, Family: rules.IPv4.String(), Message: "no lease any more"})
		return
	}
	d.log.Info("lease", "uplink", name, "address", lease.Address, "gateway", lease.Gateway, "expires", lease.Expires)
	d.event(api.Event{Kind: api.EventLease, Uplink: name, Family: rules.IPv4.String(),
		Message: fmt.Sprintf("%v from %v until %s", lease.Address, lease.Server, lease.Expires.Format(time.RFC3339))})
}
