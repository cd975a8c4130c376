package addressing

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/dhcp6"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/dhcp4"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
)

// leases runs a DHCPv4 client for each uplink with method "dhcp".
type leases struct {
	supervisor[*dhcp4.Client]
	log     *slog.Logger
	save    saver
	changed func(uplink string, l *dhcp4.Lease)

	mu      sync.Mutex
	held    map[string]dhcp4.Lease // by uplink name
	refused map[string]refusal     // likewise
}

// refusal is why a server's reply was of no use, and when.
type refusal struct {
	reason string
	at     time.Time
}

// refusalAge is how long a refusal is a problem when it is not heard again.
const refusalAge = 3 * time.Minute

func newLeases(log *slog.Logger, save saver, changed func(string, *dhcp4.Lease)) *leases {
	return &leases{log: log, save: save, changed: changed, held: make(map[string]dhcp4.Lease), refused: make(map[string]refusal)}
}

// restore drops leases of an earlier run that are over, or that no server can have given.
func (l *leases) restore(now time.Time) {
	for name, lease := range l.held {
		var ok bool
		if l.held[name], ok = lease.Usable(now); !ok {
			delete(l.held, name)
		}
	}
}

// configure starts and stops clients so that each uplink with method "dhcp" has one. The DUID is that of a pair, nil: there is none.
func (l *leases) configure(c *config.Config, pair dhcp6.DUID) {
	specs := make(map[string]spec[*dhcp4.Client])
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		if u.IPv4.Method == config.MethodDHCP {
			var clientID []byte
			if u.PrimaryOnly && pair != nil {
				clientID = clientIDOf(u.ID, pair)
			}
			sixRD := slices.ContainsFunc(c.Uplinks, func(o config.Uplink) bool {
				return o.Over == u.Name && o.IPv6.SixRD != nil && !o.IPv6.SixRD.Prefix.IsValid()
			})
			specs[u.Name] = spec[*dhcp4.Client]{device: u.Device, hardware: u.HardwareAddress, key: sixRD,
				make: func(current func() bool) *dhcp4.Client { return l.client(u.Name, u.Device, clientID, sixRD, current) }}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.held, func(name string, _ dhcp4.Lease) bool { return !l.sameLink(name, specs) })
	l.apply(specs)
}

// client makes the client of an uplink. The lock is held.
func (l *leases) client(name, device string, clientID []byte, sixRD bool, current func() bool) *dhcp4.Client {
	cfg := dhcp4.Config{Device: device, ClientID: clientID, SixRD: sixRD, Log: l.log.With("uplink", name),
		OnLease: func(lease *dhcp4.Lease) { l.update(name, lease, current) },
		OnRefused: func(reason string) {
			l.mu.Lock()
			defer l.mu.Unlock()
			if current() {
				l.refused[name] = refusal{reason, time.Now()}
			}
		}}
	if held, ok := l.held[name]; ok {
		cfg.Last = &held
	}
	return dhcp4.New(cfg)
}

// update takes a new lease, or the loss of one, from a client's goroutine.
func (l *leases) update(name string, lease *dhcp4.Lease, current func() bool) {
	l.mu.Lock()
	if !current() {
		l.mu.Unlock()
		return
	}
	if lease == nil {
		delete(l.held, name)
	} else {
		l.held[name] = *lease
		delete(l.refused, name)
	}
	l.mu.Unlock()
	l.keep()
	l.changed(name, lease)
}

// keep saves the leases, with their ends by the time of day as it is now.
func (l *leases) keep() {
	l.save(docLeases4, func() any {
		l.mu.Lock()
		defer l.mu.Unlock()
		now, kept := time.Now(), make(map[string]dhcp4.Lease, len(l.held))
		for name, lease := range l.held {
			if lease, ok := lease.Usable(now); ok {
				kept[name] = lease
			}
		}
		return kept
	})
}

// learned adds what the leases give.
func (l *leases) learned(out planinput.Learned) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, lease := range l.held {
		// Whoever gives no router says that this is no way to the Internet (RFC 2131, RFC 3442).
		a := &rules.Assignment{Addresses: []rules.Address{{Prefix: lease.Address}}, Gateway: lease.Gateway, NoDefault: !lease.Gateway.IsValid(), MTU: lease.MTU}
		for _, r := range lease.Routes {
			a.Routes = append(a.Routes, rules.AssignedRoute(r))
		}
		given := out.Of(name)
		given.IPv4 = a
		if s := lease.SixRD; s != nil {
			given.Offers6RD = &config.SixRD{Prefix: s.Prefix, MaskLength: s.MaskLength, Relay: s.Relay}
		}
		for _, server := range lease.DNS {
			given.Resolvers = append(given.Resolvers, planinput.Resolver{Addr: server, From: planinput.FromDHCP})
		}
	}
}

// problems names the uplinks whose DHCP server gives what is of no use.
func (l *leases) problems(now time.Time) []rules.Problem {
	l.mu.Lock()
	defer l.mu.Unlock()
	var problems []rules.Problem
	for _, name := range slices.Sorted(maps.Keys(l.refused)) {
		if r := l.refused[name]; now.Sub(r.at) < refusalAge {
			problems = append(problems, rules.Problem{Code: "lease-refused", Severity: "warning",
				Message: fmt.Sprintf("the DHCP server of %s offers nothing usable: %s", name, r.reason), Fix: "check the modem or the provider's server"})
		}
	}
	return problems
}

// routerless reports whether the lease of an uplink names no router.
func (l *leases) routerless(uplink string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	lease, ok := l.held[uplink]
	return ok && !lease.Gateway.IsValid()
}

// onLease hears of a new or lost lease.
func (e *Engine) onLease(name string, lease *dhcp4.Lease) {
	e.o.Changed()
	if lease == nil {
		e.o.Log.Warn("lease lost", "uplink", name)
		e.o.OnEvent(status.Event{Kind: status.EventLease, Uplink: name, Family: rules.IPv4.String(), Message: "no lease any more"})
		return
	}
	e.o.Log.Info("lease", "uplink", name, "address", lease.Address, "gateway", lease.Gateway, "expires", lease.Expires)
	e.o.OnEvent(status.Event{Kind: status.EventLease, Uplink: name, Family: rules.IPv4.String(),
		Message: fmt.Sprintf("%v from %v until %s", lease.Address, lease.Server, lease.Expires.Format(time.RFC3339))})
}
