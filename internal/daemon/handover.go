package daemon

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/hooks"
	"github.com/uplinkd/uplinkd/internal/pair"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/reconcile"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/uplink"
)

const (
	// prepareTimeout is how long the owner's program may take before a handover, and planTimeout how long the kernel.
	prepareTimeout = 4 * time.Second
	planTimeout    = 2 * time.Second
	// arriveTimeout is how long keepalived may take for the rest, when the first address has come.
	arriveTimeout = 2 * time.Second
	// lingerTime is for how long a router that has yielded sends on what still comes: until keepalived has told everybody.
	lingerTime = 1500 * time.Millisecond
	// protocolKeepalived is on routes of keepalived (RTPROT_KEEPALIVED, linux/rtnetlink.h).
	protocolKeepalived = 18
	// connectedMetric6 is that of IPv6 routes that the kernel makes with addresses (IP6_RT_PRIO_ADDRCONF).
	connectedMetric6 = 256
)

// awaited is what keepalived is about to bring to this router of a pair, or has just taken away. All is planned as if it were here: keepalived moves one
// thing after the other, and hosts and providers hear of it one after the other.
type awaited struct {
	phase  phase
	config *config.Config // that the backup plans for
	ids    map[string]int
	addrs  []rules.Addr
	routes []netcfg.Route
	paths  map[rules.Path]bool
	// delegations are those of lines, by name.
	delegations map[string][]rules.Delegation
}

type phase uint8

const (
	comes    phase = iota // this router is the backup, and has what it will need
	arrives               // it has become primary, and the rest follows
	yields                // it is the primary, and yields
	lingered              // it is the backup, and what is still sent here goes on
)

// Yield has the other router of a pair take over.
func (d *Daemon) Yield() error {
	d.tellPair()
	d.usage.Save()
	lines := d.movingLines()
	if d.current().Pair.On() && d.pair.Primary() {
		a, err := d.newAwaited(lines, yields)
		if err != nil {
			return err
		}
		d.awaited.Store(a)                     // in place of what has just arrived
		defer d.awaited.CompareAndSwap(a, nil) // it is another one by now if the role has changed
	}
	return d.pair.Yield(context.Background(), lines)
}

// turnAwaited takes the awaited along when this router has become primary, or backup.
func (d *Daemon) turnAwaited() {
	a := d.awaited.Load()
	if a == nil {
		return
	}
	next, lasts := *a, time.Duration(0)
	switch primary := d.pair.Primary(); {
	case primary && a.phase == comes:
		next.phase, lasts = arrives, arriveTimeout
	case !primary && a.phase == yields:
		next.phase, lasts = lingered, lingerTime
	default:
		d.awaited.CompareAndSwap(a, nil)
		return
	}
	if d.awaited.CompareAndSwap(a, &next) {
		time.AfterFunc(lasts, func() { d.forget(&next) })
	}
}

// forget ends what is awaited, unless that is something else by now.
func (d *Daemon) forget(a *awaited) {
	if d.awaited.CompareAndSwap(a, nil) {
		d.replan()
	}
}

// movingLines lists the lines whose address moves, as far as they are not dead.
func (d *Daemon) movingLines() (list []pair.Line) {
	d.mu.Lock()
	c, ids := d.config, d.ids
	d.mu.Unlock()
	paths, learned := d.engine.Last().Report.Paths, d.addressing.Learned(time.Now())
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		for _, f := range rules.Families {
			path := rules.Path{Uplink: ids[u.Name], Family: f}
			info, judged := paths[path], false
			if v, known := d.monitor.Verdict(path); known {
				judged = v.State.Health() > uplink.HealthDead
			}
			if u.Shared && judged && info.HasDefault && len(info.Addresses) > 0 && !info.Borrows {
				line := pair.Line{Uplink: u.Name, Addresses: info.Addresses, Gateway: info.Gateway}
				if given := learned[u.Name]; given != nil && f == rules.IPv6 {
					line.Delegations = given.Delegations
				}
				list = append(list, line)
			}
		}
	}
	return list
}

// prepare has all in force for lines that come with the role of the primary, before keepalived brings them: conntrackd's connections and our rules. With
// nil, they come no more. It is called again until they come: what has begun meanwhile is prepared for.
func (d *Daemon) prepare(ctx context.Context, lines []pair.Line) error {
	if lines == nil {
		a := d.awaited.Load()
		if a == nil || a.phase != comes || d.pair.Primary() {
			return nil
		}
		d.forget(a)
		err := d.runPrepare(ctx, "abandoned")
		if err != nil {
			d.log.Warn("pair", "err", err)
		}
		return err
	}
	if d.pair.Primary() {
		return nil
	}
	if err := d.runPrepare(ctx, "coming"); err != nil {
		return err
	}
	if a := d.awaited.Load(); a != nil && a.phase == comes {
		return nil // what is planned is there since the first time
	}
	if err := d.await(lines); err != nil {
		return err
	}
	d.engine.Urgent()
	ctx, cancel := context.WithTimeout(ctx, planTimeout)
	defer cancel()
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		if last := d.engine.Last(); last.Config.LANsElsewhere && last.Settled {
			tick.Stop()
			return nil
		}
		select {
		case <-ctx.Done():
			tick.Stop()
			return fmt.Errorf("what the lines need is not in the kernel after %v: %w", planTimeout, ctx.Err())
		case <-tick.C:
		}
	}
}

// runPrepare runs the owner's program, which is told whether a handover is coming, or abandoned.
func (d *Daemon) runPrepare(ctx context.Context, handover string) error {
	run := d.current().Pair.Prepare
	if len(run) == 0 {
		return nil
	}
	if err := (hooks.Command{Program: run[0], Args: run[1:], Timeout: prepareTimeout, Vars: map[string]string{"HANDOVER": handover}}).Run(ctx); err != nil {
		return fmt.Errorf("[pair] prepare: %w", err)
	}
	return nil
}

// await plans for lines that are not here yet.
func (d *Daemon) await(lines []pair.Line) error {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if d.pair.Primary() {
		return nil
	}
	a, err := d.newAwaited(lines, comes)
	if err != nil {
		return err
	}
	d.awaited.Store(a)
	d.planFor(d.current(), a.ids)
	return nil
}

// newAwaited says what the kernel will hold.
func (d *Daemon) newAwaited(lines []pair.Line, now phase) (*awaited, error) {
	d.mu.Lock()
	whole, ids := d.inForce.Config, maps.Clone(d.ids)
	d.mu.Unlock()
	c := whole.Prepared()
	if _, err := planinput.AssignIDs(c, ids); err != nil {
		return nil, err
	}
	return awaitedOf(c, ids, lines, now), nil
}

func awaitedOf(c *config.Config, ids map[string]int, lines []pair.Line, now phase) *awaited {
	a := &awaited{phase: now, config: c, ids: ids, paths: make(map[rules.Path]bool), delegations: make(map[string][]rules.Delegation)}
	for _, line := range lines {
		at := slices.IndexFunc(c.Uplinks, func(u config.Uplink) bool { return u.Name == line.Uplink && u.Shared })
		if at < 0 || len(line.Addresses) == 0 {
			continue
		}
		device, family, everywhere := c.Uplinks[at].Device, rules.IPv4, netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		scope, metric := netcfg.ScopeLink, uint32(0)
		if line.Addresses[0].Addr().Is6() {
			family, everywhere, scope, metric = rules.IPv6, netip.PrefixFrom(netip.IPv6Unspecified(), 0), 0, connectedMetric6
		}
		if len(line.Delegations) > 0 {
			a.delegations[line.Uplink] = line.Delegations
		}
		a.paths[rules.Path{Uplink: ids[line.Uplink], Family: family}] = true
		for _, p := range line.Addresses {
			a.addrs = append(a.addrs, rules.Addr{Device: device, Prefix: p})
			if !p.IsSingleIP() {
				a.routes = append(a.routes, netcfg.Route{Family: family, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: p.Masked(), Metric: metric, Protocol: protocolKeepalived,
					Scope: scope, Nexthops: []netcfg.Nexthop{{Device: device, Weight: 1}}})
			}
		}
		a.routes = append(a.routes, netcfg.Route{Family: family, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: everywhere, Metric: 1, Protocol: protocolKeepalived,
			Nexthops: []netcfg.Nexthop{{Device: device, Gateway: line.Gateway, Weight: 1}}})
	}
	return a
}

// tell adds what leases give to what this router has learned.
func (a *awaited) tell(learned planinput.Learned) {
	for name, list := range a.delegations {
		given := new(planinput.LearnedUplink)
		if learned[name] != nil {
			*given = *learned[name]
		}
		given.Delegations = list
		learned[name] = given
	}
}

// foreseen shows the kernel as it is with what is awaited.
type foreseen struct {
	reconcile.Kernel
	awaited *atomic.Pointer[awaited]
}

// Snapshot implements reconcile.Kernel.
func (k foreseen) Snapshot(q rules.Query) (*rules.Observed, error) {
	obs, err := k.Kernel.Snapshot(q)
	a := k.awaited.Load()
	if err != nil || a == nil {
		return obs, err
	}
	if whole := a.show(obs); whole && a.phase == arrives {
		k.awaited.CompareAndSwap(a, nil)
	}
	return obs, nil
}

// show adds what is awaited to a snapshot, as far as it is not there, and reports whether all was there.
func (a *awaited) show(obs *rules.Observed) (whole bool) {
	addrs, routes := len(obs.Addrs), len(obs.Routes)
	for _, add := range a.addrs {
		if !slices.ContainsFunc(obs.Addrs, func(have rules.Addr) bool { return have.Device == add.Device && have.Prefix == add.Prefix }) {
			obs.Addrs = append(obs.Addrs, add)
		}
	}
	for _, add := range a.routes {
		device := add.Nexthops[0].Device
		if !slices.ContainsFunc(obs.Routes, func(have netcfg.Route) bool {
			return have.Table == add.Table && have.Family == add.Family && have.Dst == add.Dst && len(have.Nexthops) == 1 && have.Nexthops[0].Device == device
		}) {
			obs.Routes = append(obs.Routes, add)
		}
	}
	return len(obs.Addrs) == addrs && len(obs.Routes) == routes
}

// trusted has the verdicts, and trusts the lines that are awaited: the other router has judged them.
type trusted struct {
	reconcile.VerdictSource
	awaited *atomic.Pointer[awaited]
}

// Verdicts implements reconcile.VerdictSource.
func (v trusted) Verdicts(paths map[rules.Path]rules.PathInfo) map[rules.Path]rules.Verdict {
	verdicts := v.VerdictSource.Verdicts(paths)
	a := v.awaited.Load()
	if a == nil {
		return verdicts
	}
	for path := range a.paths {
		if _, judged := verdicts[path]; !judged {
			verdicts[path] = rules.Verdict{Health: rules.Good, State: "up"}
		}
	}
	return verdicts
}
