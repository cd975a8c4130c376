package addressing

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/dhcp6"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/ndisc"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/schedule"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// Names of the documents in the state directory.
const (
	docIdentity    = "identity"     // what this router is known by
	docLeases4     = "leases4"      // DHCPv4 leases, by uplink name
	docLeases6     = "leases6"      // DHCPv6 leases, by uplink name
	docRouters     = "routers6"     // what routers have advertised, by uplink name
	docLANs        = "lans6"        // what the hosts of each LAN were told, by device
	docDownstream  = "downstream6"  // what routers on LANs were given
	docUndelegated = "undelegated6" // uplinks, by name, for which there is no delegation
	docProxied     = "proxied6"     // the hosts of networks on two links, by uplink name
	// docPrefixes begins the name of the document with the live prefixes of a LAN, for other programs.
	docPrefixes = "prefixes-"
)

// expiryInterval is how often lifetimes are looked at without an event.
const expiryInterval = time.Second

// saver keeps a document: what read returns by the time that the disk is free.
type saver func(document string, read func() any)

// Options are what an Engine is made from. One that is only to tell what is in the state directory needs none of them.
type Options struct {
	Log   *slog.Logger // nil: none
	Phase time.Time    // what is done regularly is done at whole intervals after it

	// Save keeps a document of the state directory.
	Save func(document string, read func() any)
	// Changed hears that Learned gives something else now, or may.
	Changed func()
	OnEvent func(status.Event)
	// Verdict returns what probing says of a path, and whether its device has carrier, address and gateway; false when the
	// path is not probed.
	Verdict func(rules.Path) (v uplink.Verdict, whole, ok bool)
	// ProbeNow hears that the router of a path does not answer.
	ProbeNow func(rules.Path)
}

// Engine runs the clients of all uplinks and LANs.
type Engine struct {
	o           Options
	identity    identity // complete before Configure
	pair        Pair     // likewise
	leases      *leases
	routers     *routers
	delegations *delegations
	lans        *lans
	downstream  *downstream
	proxies     *proxies

	mu     sync.Mutex // guards what follows
	config *config.Config
	ids    map[string]int // by uplink name; replaced, never changed in place
	report *rules.Report  // of the latest plan
}

// New makes an Engine that does nothing before Configure and Run.
func New(o Options) *Engine {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	e := &Engine{o: o, config: new(config.Config), report: new(rules.Report)}
	e.leases = newLeases(o.Log, o.Save, e.onLease)
	e.routers = newRouters(o.Log, o.Save, e.onRouters)
	e.delegations = newDelegations(o.Log, o.Save, e.onDelegation)
	e.lans = newLANs(o.Log, o.Save)
	e.downstream = newDownstream(o.Log, o.Save, func() { e.o.Changed() })
	e.proxies = newProxies(o.Log, o.Save, func() { e.o.Changed() })
	return e
}

// Documents returns the documents of the state directory, by name, to be filled before Restore.
func (e *Engine) Documents() map[string]any {
	return map[string]any{docIdentity: &e.identity, docLeases4: &e.leases.held, docLeases6: &e.delegations.held, docUndelegated: &e.delegations.undelegated, docRouters: &e.routers.kept,
		docLANs: &e.lans.advertised, docDownstream: &e.downstream.stored, docProxied: &e.proxies.kept}
}

// Restore takes up what Documents were filled with, as far as it still holds.
func (e *Engine) Restore(now time.Time) {
	e.leases.restore(now)
	e.routers.restore(now)
	e.delegations.restore()
	e.lans.restore(now)
	e.downstream.restore(e.identity.DUID, now)
}

// Identify draws what this router is known by, unless it has been before, and keeps it before any server hears of it.
func (e *Engine) Identify() {
	if e.identity.complete() {
		e.o.Save(docIdentity, func() any { return e.identity })
	}
}

// Configure has a client run for each uplink and LAN that needs one, once Run does. The ids are by uplink name; neither they nor
// the configuration may be changed afterwards.
func (e *Engine) Configure(c *config.Config, ids map[string]int) {
	e.mu.Lock()
	e.config, e.ids = c, ids
	e.mu.Unlock()
	e.leases.configure(c, e.pair.DUID)
	e.routers.configure(c, e.identity.Secret)
	e.delegations.configure(c, ids, e.identity.DUID, e.pair.DUID)
	e.lans.configure(c, e.pair.Router)
	e.downstream.configure(c)
}

func (e *Engine) configuration() (*config.Config, map[string]int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.config, e.ids
}

// Run has the clients work until the context ends. Nothing is given back then, and nobody is told.
func (e *Engine) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for _, run := range []func(context.Context){e.leases.run, e.routers.run, e.delegations.run, e.lans.run, e.downstream.run, e.proxies.run, e.expireLeases} {
		running.Go(func() { run(ctx) })
	}
	running.Wait()
	e.routers.flush(time.Now())
	return nil
}

// expireLeases has lifetimes end, for planning and for the hosts of LANs.
func (e *Engine) expireLeases(ctx context.Context) {
	var clock schedule.Clock
	schedule.Every(ctx, e.o.Phase, expiryInterval, func(now time.Time) {
		if clock.Set(now) {
			e.clockSet(now)
		}
		e.UpdateVerdicts()
		if c, _ := e.configuration(); len(c.LANs) > 0 || slices.ContainsFunc(c.Uplinks, func(u config.Uplink) bool {
			return u.IPv6.Method == config.MethodRA || u.IPv6.Delegation
		}) {
			e.o.Changed()
			e.routers.flush(now)
			e.updateRA()
			e.downstream.expire(now)
		}
	})
}

// clockSet saves anew what says when it ends. Until the next start the monotonic clock decides that; what is on the disk has the time of
// day, and would end hours too soon or too late. DHCPv6 sees to that itself.
func (e *Engine) clockSet(now time.Time) {
	e.o.Log.Info("the clock was set: leases are saved anew")
	e.leases.keep()
	e.routers.clockSet(now)
	e.lans.clockSet(now)
	e.downstream.keep(now)
}

// Observe tells the clients of their devices.
func (e *Engine) Observe(obs *rules.Observed) {
	e.leases.observe(obs)
	e.routers.observe(obs, e.usedGateways())
	e.delegations.observe(obs)
	e.lans.observe(obs)
	e.downstream.observe(obs)
	e.proxies.observe(obs)
}

// usedGateways returns the IPv6 gateways of the latest plan, by uplink name.
func (e *Engine) usedGateways() map[string]netip.Addr {
	e.mu.Lock()
	defer e.mu.Unlock()
	used := make(map[string]netip.Addr, len(e.ids))
	for name, id := range e.ids {
		used[name] = e.report.Paths[rules.Path{Uplink: id, Family: rules.IPv6}].Gateway
	}
	return used
}

// AddTo tells planning what hosts and routers of LANs hold.
func (e *Engine) AddTo(out *rules.Config, now time.Time) {
	e.addWithdrawn(out, now)
	e.addDownstream(out, now)
	e.addProxied(out)
}

// Learned returns what leases and routers give now.
func (e *Engine) Learned(now time.Time) planinput.Learned {
	learned := make(planinput.Learned)
	e.leases.learned(learned)
	e.routers.learned(learned, now)
	e.delegations.learned(learned, now)
	for name, given := range learned {
		for i := range given.Delegations {
			given.Delegations[i].Elsewhere = !e.routers.carries(name, e.delegations.delegating(name))
		}
	}
	e.routers.share(learned, now)
	for name, given := range learned {
		given.Undelegated = e.delegations.without(name, now)
	}
	return learned
}

// UpdateRA has the hosts of the LANs told what a new plan gives them.
func (e *Engine) UpdateRA(report *rules.Report) {
	e.mu.Lock()
	e.report = report
	e.mu.Unlock()
	e.updateRA()
}

// updateRA has the hosts of the LANs told what the latest plan gives them.
func (e *Engine) updateRA() {
	e.mu.Lock()
	c, ids, report := e.config, e.ids, e.report
	e.mu.Unlock()
	names := make(map[int]string, len(ids))
	for name, id := range ids {
		names[id] = name
	}
	e.proxies.update(c, report, names)
	if len(c.LANs) == 0 {
		return
	}
	sources := make(map[string]lanSource, len(c.Uplinks))
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		info := report.Paths[rules.Path{Uplink: ids[u.Name], Family: rules.IPv6}]
		sources[u.Name] = e.lanSource(u, info.PathMTU())
	}
	e.lans.update(c, report, names, e.ULA(c.Daemon.ULA), sources, time.Now())
	e.downstream.update(c, report, names, sources, e.lans.resolvers())
}

// lanSource gathers what hosts may be told of an uplink.
func (e *Engine) lanSource(u *config.Uplink, mtu int) lanSource {
	lease, _ := e.delegations.lease(u.Name)
	var shared []ndisc.Address
	if u.IPv6.Shares(true) {
		shared = sharedNetworks(e.routers.view(u.Name))
	}
	sixRD := e.delegated6RD(u)
	s := lanSource{mtu: mtu, dns: slices.Clone(lease.DNS), lifetimes: func(prefix netip.Prefix) (preferred, valid time.Time, brief, ok bool) {
		if prefix == u.IPv6.Prefix || prefix == sixRD {
			return time.Time{}, time.Time{}, false, true // it never ends
		}
		for _, own := range shared {
			if own.Address.Masked() == prefix {
				return own.Preferred, own.Valid, ndisc.IsBrief(own.Preferred.Sub(own.Heard)), true
			}
		}
		for _, p := range lease.Prefixes {
			if p.Prefix == prefix {
				return finite(p.Preferred), finite(p.Valid), ndisc.IsBrief(p.Preferred.Sub(lease.Heard)), true
			}
		}
		return time.Time{}, time.Time{}, false, false
	}}
	for _, server := range e.routers.view(u.Name).DNS {
		if !server.Addr.IsLinkLocalUnicast() { // of the uplink's link, where hosts are not
			s.dns = append(s.dns, server.Addr)
		}
	}
	return s
}

// finite turns what DHCPv6 calls for ever into what router advertisements do.
func finite(end time.Time) time.Time {
	if end.Equal(dhcp6.Never()) {
		return time.Time{}
	}
	return end
}

// Problems lists what is wrong with what servers and routers give, and with other routers on the LANs.
func (e *Engine) Problems(now time.Time) []rules.Problem {
	return slices.Concat(e.lans.problems(), e.downstream.problems(now), e.proxies.problems(now), e.delegations.problems(now, e.sharedInstead), e.leases.problems(now), e.problems6RD())
}

// sharedInstead returns the network of an uplink's own line that a LAN may have while there is no delegation; zero for none.
func (e *Engine) sharedInstead(name string) netip.Prefix {
	c, _ := e.configuration()
	at := slices.IndexFunc(c.Uplinks, func(u config.Uplink) bool { return u.Name == name })
	if at < 0 || !c.Uplinks[at].IPv6.Shares(true) {
		return netip.Prefix{}
	}
	if shared := sharedNetworks(e.routers.view(name)); len(shared) > 0 {
		return shared[0].Address.Masked()
	}
	return netip.Prefix{}
}

// Routerless reports whether the DHCPv4 lease of an uplink names no router.
func (e *Engine) Routerless(uplink string) bool { return e.leases.routerless(uplink) }
