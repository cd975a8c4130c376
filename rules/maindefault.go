package rules

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/internal/programs"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// MainDefault says whether a default of ours stands in table main, for programs that read nothing else.
type MainDefault uint8

// The values of MainDefault. By default main is left to a routing daemon that has a default there.
const (
	MainDefaultAuto MainDefault = iota
	MainDefaultAlways
	MainDefaultNever
)

// lastMetric is that of our default in main where nobody else has one. A routing daemon that has not learned its default yet must
// prefer it to ours then: FRR takes the highest byte for the administrative distance of a route of the kernel (zebra/rt_netlink.c,
// netlink_route_change_read_unicast), which is 0, before its own, where the metric is small. 255 is a route that it never uses.
const lastMetric = 254<<24 | 1

// mainDefault adds a default of ours to table main unless the one that others installed and that the
// kernel would use already leads through a chosen uplink. Theirs are left as they are: ours stands in
// front of them, and goes when they are right again.
func (p *planner) mainDefault(family Family, mtu int, hops []netcfg.Nexthop) {
	if p.cfg.MainDefault == MainDefaultNever {
		return
	}
	theirs := p.foreignMainDefault(family)
	strays := func(n netcfg.Nexthop) bool {
		return !slices.ContainsFunc(hops, func(h netcfg.Nexthop) bool { return h.Device == n.Device && h.Gateway == n.Gateway })
	}
	metric := uint32(1)
	if p.cfg.MainDefault == MainDefaultAuto && len(theirs) == 0 {
		metric = lastMetric
	}
	if len(theirs) > 0 {
		if !slices.ContainsFunc(theirs, func(r *netcfg.Route) bool { return slices.ContainsFunc(r.Nexthops, strays) }) {
			return
		}
		if theirs[0].Metric <= 1 && family == IPv4 {
			// An IPv4 default of metric 0 can only be preceded by another one of metric 0.
			metric = 0
		}
	}
	if p.mainLeft(family) {
		return
	}
	one := hops[0]
	one.Weight = 1
	r := p.defaultRoute(family, netcfg.TableMain, mtu, one)
	r.Metric, r.Src = metric, p.routeSource(family, one.Device)
	p.state.Routes = append(p.state.Routes, r)
}

// mainLeft reports whether main's default is left to others, and says so.
func (p *planner) mainLeft(family Family) bool {
	if owner, owned := p.obs.Recorded.MainOwners[family.String()]; owned && p.cfg.MainDefault == MainDefaultAuto {
		p.problem("main-default-left", "notice",
			fmt.Sprintf("%s has the %v default route in table main and would withdraw it if ours were added: programs that read only main do not follow a failover", programs.RoutingDaemon(owner), family),
			"nothing; [kernel] main_default = true adds ours all the same")
		return true
	}
	if p.obs.MainContested[family.Index()] {
		p.problem("main-default-contested", "warning",
			fmt.Sprintf("another program withdraws its %v default route from table main whenever ours is there: ours stays out for a while", family),
			"[kernel] main_default = false, to leave the default route in main to that program")
		return true
	}
	return false
}

// foreignMainDefault lists the defaults in main that others installed and that the kernel may use: those
// of lowest metric, of which IPv4 takes the first and IPv6 any (two router advertisements, one metric).
func (p *planner) foreignMainDefault(family Family) []*netcfg.Route {
	var best []*netcfg.Route
	for i := range p.obs.Routes {
		r := &p.obs.Routes[i]
		if r.Family != family || !p.k.foreignDefault(r) {
			continue
		}
		switch {
		case len(best) == 0 || r.Metric < best[0].Metric:
			best = append(best[:0], r)
		case r.Metric == best[0].Metric && family == IPv6:
			best = append(best, r)
		}
	}
	return best
}

// foreignDefault reports whether a route is a default in main that somebody else installed.
func (k Kernel) foreignDefault(r *netcfg.Route) bool {
	return r.Table == netcfg.TableMain && r.Protocol != k.Protocol && r.Type == netcfg.Unicast && r.IsDefault()
}

// RecordMainOwners records which routing daemons have a default in main, and reports whether that is anything new. It is
// for ever, until everything of ours is removed: a daemon that starts after us would not install a default beside ours.
func (r *Recorded) RecordMainOwners(k Kernel, obs *Observed) bool {
	changed := false
	for i := range obs.Routes {
		route := &obs.Routes[i]
		if k.foreignDefault(route) && programs.RoutingDaemon(route.Protocol) != "" {
			changed = record(&r.MainOwners, route.Family.String(), route.Protocol) || changed
		}
	}
	return changed
}

// Bounds of a dispute.
const (
	contestSpan    = time.Minute // in which so many losses are no accident
	contestCount   = 2
	contestHold    = 10 * time.Minute // how long ours stays away then; it doubles each time
	contestHoldMax = 24 * time.Hour
)

// MainContest notices a program that withdraws its default from main when ours appears there, and installs it again when
// ours has gone: both would change places for ever, and uplinks that follow that default with them. The zero value has
// noticed nothing. It is not safe for concurrent use.
type MainContest struct {
	families [2]contest // by index
}

type contest struct {
	dispute
	theirs map[string]string // the addresses of each device that one of their defaults leads through
	ours   bool              // one of ours was there
}

// dispute is what we and another program undo each other's changes of: whoever loses it twice in a while stays away for a while.
type dispute struct {
	lost  []time.Time
	until time.Time
	hold  time.Duration
}

// lose notes that ours was undone.
func (d *dispute) lose(now time.Time) { d.lost = append(d.lost, now) }

// holds reports whether ours has to stay away.
func (d *dispute) holds(now time.Time) bool {
	d.lost = slices.DeleteFunc(d.lost, func(at time.Time) bool { return now.Sub(at) > contestSpan })
	if len(d.lost) >= contestCount {
		d.hold = min(max(2*d.hold, contestHold), contestHoldMax)
		d.until, d.lost = now.Add(d.hold), nil
	}
	return now.Before(d.until)
}

// Observe takes the next snapshot and reports, by family, whether ours has to stay out of main.
func (c *MainContest) Observe(k Kernel, obs *Observed, now time.Time) (contested [2]bool) {
	for i, family := range Families {
		contested[i] = c.families[i].observe(k, obs, family, now)
	}
	return contested
}

func (c *contest) observe(k Kernel, obs *Observed, family Family, now time.Time) bool {
	theirs, ours := make(map[string]string), false
	for i := range obs.Routes {
		r := &obs.Routes[i]
		switch {
		case r.Family != family:
		case k.foreignDefault(r):
			for _, hop := range r.Nexthops {
				theirs[hop.Device] = addressesText(obs, hop.Device, family)
			}
		case r.Table == netcfg.TableMain && r.Protocol == k.Protocol && r.IsDefault():
			ours = true
		}
	}
	for device, addresses := range c.theirs {
		link, _ := obs.Link(device)
		_, stays := theirs[device]
		// A default that went with its cable, or with its address, has gone for another reason.
		if !stays && (ours || c.ours) && link.Up && link.Carrier && addresses == addressesText(obs, device, family) {
			c.lose(now)
		}
	}
	c.theirs, c.ours = theirs, ours
	return c.holds(now)
}

// addressesText tells one set of addresses of a device from another.
func addressesText(obs *Observed, device string, family Family) string {
	var b strings.Builder
	for i := range obs.Addrs {
		if a := &obs.Addrs[i]; a.Device == device && FamilyOf(a.Prefix.Addr()) == family {
			fmt.Fprintln(&b, a.Prefix)
		}
	}
	return b.String()
}
