package daemon

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/dhcp4"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
)

// docLeases is the document of DHCPv4 leases, by uplink name.
const docLeases = "leases4"

// leases runs a DHCPv4 client for each uplink with method "dhcp".
type leases struct {
	crew[*dhcp4.Client]
	log     *slog.Logger
	save    func(document string, read func() any)
	changed func(uplink string, l *dhcp4.Lease)

	holding sync.Mutex
	held    map[string]dhcp4.Lease // by uplink name
	refused map[string]refusedLease
	targets []netip.Addr // of all uplinks
}

// refusedLease is why a server's reply was of no use, and when.
type refusedLease struct {
	reason string
	at     time.Time
}

// refusalLasts is how long a refusal is a problem when it is not heard again.
const refusalLasts = 3 * time.Minute

func newLeases(log *slog.Logger, save func(document string, read func() any), changed func(string, *dhcp4.Lease)) *leases {
	return &leases{log: log, save: save, changed: changed, held: make(map[string]dhcp4.Lease), refused: make(map[string]refusedLease)}
}

// forgetExpired drops leases of an earlier run that are over.
func (l *leases) forgetExpired(now time.Time) {
	maps.DeleteFunc(l.held, func(_ string, lease dhcp4.Lease) bool { return !now.Before(lease.Expires) })
}

// configure starts and stops clients so that each uplink with method "dhcp" has one.
func (l *leases) configure(c *config.Config) {
	posts := make(map[string]post[*dhcp4.Client])
	for i := range c.Uplinks {
		if u := &c.Uplinks[i]; u.IPv4.Method == config.MethodDHCP {
			posts[u.Name] = post[*dhcp4.Client]{device: u.Device, make: func(current func() bool) *dhcp4.Client { return l.client(u.Name, u.Device, current) }}
		}
	}
	l.holding.Lock()
	l.targets = l.targets[:0]
	for i := range c.Uplinks {
		for _, text := range c.Uplinks[i].Probe.Targets {
			if t, err := probe.ParseTarget(text); err == nil {
				l.targets = append(l.targets, t.Addr())
			}
		}
	}
	// A lease belongs to the network behind a device.
	for name, m := range l.all() {
		if p, wanted := posts[name]; !wanted || p.device != m.device {
			delete(l.held, name)
		}
	}
	l.holding.Unlock()
	l.staff(posts)
}

func (l *leases) client(name, device string, current func() bool) *dhcp4.Client {
	cfg := dhcp4.Config{Device: device, Log: l.log.With("uplink", name), OnLease: func(lease *dhcp4.Lease) {
		if current() {
			l.update(name, lease)
		}
	}, OnRefused: func(reason string) {
		if current() {
			l.holding.Lock()
			l.refused[name] = refusedLease{reason, time.Now()}
			l.holding.Unlock()
		}
	}}
	l.holding.Lock()
	defer l.holding.Unlock()
	if held, ok := l.held[name]; ok {
		cfg.Last = &held
	}
	return dhcp4.New(cfg)
}

// update takes a new lease, or the loss of one, from a client's goroutine.
func (l *leases) update(name string, lease *dhcp4.Lease) {
	l.holding.Lock()
	if lease == nil {
		delete(l.held, name)
	} else {
		l.held[name] = *lease
		delete(l.refused, name)
	}
	l.holding.Unlock()
	l.save(docLeases, func() any {
		l.holding.Lock()
		defer l.holding.Unlock()
		return maps.Clone(l.held)
	})
	l.changed(name, lease)
}

// supply adds what the leases give.
func (l *leases) supply(s planinput.Learned) {
	l.holding.Lock()
	defer l.holding.Unlock()
	for name, lease := range l.held {
		if slices.Contains(l.targets, lease.Address.Addr()) {
			continue // a host on the Internet would become ours for everybody
		}
		// Whoever gives no router says that this is no way to the Internet (RFC 2131, RFC 3442).
		a := &rules.Assignment{Addresses: []rules.Address{{Prefix: lease.Address}}, Gateway: lease.Gateway, NoDefault: !lease.Gateway.IsValid(), MTU: lease.MTU}
		for _, r := range lease.Routes {
			a.Routes = append(a.Routes, rules.AssignedRoute(r))
		}
		s.Of(name).IPv4 = a
	}
}

// problems names the uplinks whose DHCP server gives what is of no use.
func (l *leases) problems(now time.Time) []rules.Problem {
	l.holding.Lock()
	defer l.holding.Unlock()
	var problems []rules.Problem
	for _, name := range slices.Sorted(maps.Keys(l.held)) {
		if a := l.held[name].Address.Addr(); slices.Contains(l.targets, a) {
			problems = append(problems, rules.Problem{Code: "unusable-address", Severity: "warning",
				Message: fmt.Sprintf("%s is given the address %v, which is that of a target on the Internet: it is not used", name, a), Fix: "look at the modem or the provider's server, or choose another target"})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.refused)) {
		if r := l.refused[name]; now.Sub(r.at) < refusalLasts {
			problems = append(problems, rules.Problem{Code: "lease-refused", Severity: "warning",
				Message: fmt.Sprintf("what the DHCP server of %s offers is not used: %s", name, r.reason), Fix: "look at the modem or the provider's server"})
		}
	}
	return problems
}

// routerless reports whether the lease of an uplink names no router.
func (l *leases) routerless(uplink string) bool {
	l.holding.Lock()
	defer l.holding.Unlock()
	lease, ok := l.held[uplink]
	return ok && !lease.Gateway.IsValid()
}

// onLease hears of a new or lost lease.
func (d *Daemon) onLease(name string, lease *dhcp4.Lease) {
	d.resupply()
	if lease == nil {
		d.log.Warn("lease lost", "uplink", name)
		d.event(status.Event{Kind: status.EventLease, Uplink: name, Family: rules.IPv4.String(), Message: "no lease any more"})
		return
	}
	d.log.Info("lease", "uplink", name, "address", lease.Address, "gateway", lease.Gateway, "expires", lease.Expires)
	d.event(status.Event{Kind: status.EventLease, Uplink: name, Family: rules.IPv4.String(),
		Message: fmt.Sprintf("%v from %v until %s", lease.Address, lease.Server, lease.Expires.Format(time.RFC3339))})
}
