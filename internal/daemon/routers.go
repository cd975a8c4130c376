package daemon

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/ndisc"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// docRouters is the document of what routers have advertised, by uplink name.
const docRouters = "routers6"

// routers runs router discovery on each uplink with method "ra", and watches the routers of those with "auto", which the kernel
// or another program follows: neither notices for half an hour that a router has been replaced.
type routers struct {
	crew[*ndisc.Discoverer]
	log     *slog.Logger
	save    func(document string, read func() any)
	changed func(uplink string, before, after ndisc.View)

	holding sync.Mutex
	kept    map[string]ndisc.State // by uplink name; of this run or an earlier one
	views   map[string]ndisc.View
	watched map[string]bool // by uplink name, those that others configure
	unkept  bool            // kept has changed since it was saved,
	saved   time.Time       // which was then
}

// keepPace is the least time between a save and one that does not wait for the next beat. Anybody on the link may send
// a thousand advertisements a second: the disk shall not have to write as many times.
const keepPace = time.Second

func newRouters(log *slog.Logger, save func(document string, read func() any), changed func(string, ndisc.View, ndisc.View)) *routers {
	return &routers{log: log, save: save, changed: changed, kept: make(map[string]ndisc.State), views: make(map[string]ndisc.View)}
}

// restore takes what an earlier run has kept, as far as it still holds: a restart must not take addresses and
// routes away until a router speaks again.
func (r *routers) restore(now time.Time) {
	for name, state := range r.kept {
		r.views[name] = state.View(now)
	}
}

// pathOf says what a verdict means for the routers of an uplink. Whole: the device has carrier, address and gateway.
func pathOf(v uplink.Verdict, whole bool) ndisc.Path {
	switch {
	case len(v.Targets) == 0: // nobody is asked: that it is up says nothing
	case v.State == uplink.Up, v.State == uplink.Degraded:
		return ndisc.PathWorking
	case v.State == uplink.Suspect:
		return ndisc.PathSuspected
	case v.State == uplink.Down && whole:
		return ndisc.PathSilent
	}
	return ndisc.PathUnknown
}

// tellRouters tells the discoverers what probing says.
func (d *Daemon) tellRouters() {
	d.mu.Lock()
	c, ids := d.config, d.ids
	d.mu.Unlock()
	for i := range c.Uplinks {
		path := rules.Path{Uplink: ids[c.Uplinks[i].Name], Family: rules.IPv6}
		if v, ok := d.judge.verdict(path); ok {
			name, p := c.Uplinks[i].Name, pathOf(v, d.judge.isWhole(path))
			delegating := d.delegations.delegating(name)
			d.routers.probed(name, p, delegating)
			if p == ndisc.PathWorking && !delegating.IsValid() {
				d.delegations.setDelegating(name, d.routers.inUse(name))
			}
		}
	}
}

// configure starts and stops discovery so that each uplink with method "ra" has one.
func (r *routers) configure(c *config.Config, secret []byte) {
	posts := make(map[string]post[*ndisc.Discoverer])
	watched := make(map[string]bool)
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		follows := u.IPv6.Method == config.MethodAuto && u.Kind == config.KindISP
		if u.IPv6.Method != config.MethodRA && !follows {
			continue
		}
		watched[u.Name] = follows
		posts[u.Name] = post[*ndisc.Discoverer]{device: u.Device, terms: follows, make: func(current func() bool) *ndisc.Discoverer {
			return r.discoverer(u.Name, u.Device, follows, secret, current)
		}}
	}
	r.holding.Lock()
	r.watched = watched
	members := r.all()
	for name := range r.kept {
		if m, p := members[name], posts[name]; p.make == nil || m != nil && m.device != p.device {
			delete(r.kept, name)
			delete(r.views, name)
		}
	}
	r.holding.Unlock()
	r.staff(posts)
}

func (r *routers) discoverer(name, device string, follows bool, secret []byte, current func() bool) *ndisc.Discoverer {
	r.holding.Lock()
	defer r.holding.Unlock()
	return ndisc.NewDiscoverer(ndisc.DiscovererConfig{Device: device, Secret: secret, Last: r.kept[name], Follows: follows, Log: r.log.With("uplink", name),
		OnChange: func(v ndisc.View) {
			if current() {
				r.update(name, v)
			}
		}})
}

// update takes what was learned, from a discoverer's goroutine. What the kernel is to get is on the disk before:
// after a crash we would take from it what we do not know.
func (r *routers) update(name string, v ndisc.View) {
	now := time.Now()
	r.holding.Lock()
	before := r.views[name]
	r.views[name], r.kept[name], r.unkept = v, v.State, true
	rested, follows := now.Sub(r.saved) >= keepPace, r.watched[name]
	r.holding.Unlock()
	if rested && !follows && !reflect.DeepEqual(routed(before, now), routed(v, now)) {
		r.keep(now)
	}
	r.changed(name, before, v)
}

// keep saves what was learned since the last time.
func (r *routers) keep(now time.Time) {
	r.holding.Lock()
	unkept := r.unkept
	if unkept {
		r.unkept, r.saved = false, now
	}
	r.holding.Unlock()
	if !unkept {
		return
	}
	r.save(docRouters, func() any {
		r.holding.Lock()
		defer r.holding.Unlock()
		return maps.Clone(r.kept)
	})
}

// view returns what an uplink's routers say.
func (r *routers) view(name string) ndisc.View {
	r.holding.Lock()
	defer r.holding.Unlock()
	return r.views[name]
}

// observe tells the discoverers of their devices, of addresses that somebody else has, and of the gateways of others, of
// which used are those in use, by uplink name.
func (r *routers) observe(obs *rules.Observed, used map[string]netip.Addr) {
	if obs.NoIPv6 {
		return
	}
	r.crew.observe(obs)
	for name, m := range r.all() {
		for _, a := range obs.Addrs {
			if a.Device == m.device && a.Failed {
				m.worker.AddressFailed(a.Prefix.Addr())
			}
		}
		if follows, _ := m.terms.(bool); follows {
			m.worker.SetGateways(gatewaysOf(obs, m.device, used[name]))
		}
	}
}

// gatewaysOf lists the routers on the link of a device that IPv6 defaults of others lead to, the one in use first.
func gatewaysOf(obs *rules.Observed, device string, used netip.Addr) []netip.Addr {
	var list []netip.Addr
	for i := range obs.Routes {
		r := &obs.Routes[i]
		if r.Family != rules.IPv6 || r.Table != rules.TableMain || !r.IsDefault() || r.Type != rules.Unicast {
			continue
		}
		for _, hop := range r.Nexthops {
			if hop.Device == device && hop.Gateway.IsLinkLocalUnicast() && !slices.Contains(list, hop.Gateway) {
				list = append(list, hop.Gateway)
			}
		}
	}
	slices.SortFunc(list, func(a, b netip.Addr) int {
		switch used {
		case a:
			return -1
		case b:
			return 1
		}
		return a.Compare(b)
	})
	return list
}

// usedGateways returns the IPv6 gateways of the latest plan, by uplink name.
func (d *Daemon) usedGateways() map[string]netip.Addr {
	d.mu.Lock()
	ids := d.ids
	d.mu.Unlock()
	used := make(map[string]netip.Addr, len(ids))
	facts := d.engine.Last().Report.Facts
	for name, id := range ids {
		used[name] = facts[rules.Path{Uplink: id, Family: rules.IPv6}].Gateway
	}
	return used
}

// probed tells what probing says of an uplink, and by way of which router its prefixes were delegated.
func (r *routers) probed(name string, p ndisc.Path, delegating netip.Addr) {
	if m := r.current(name); m != nil {
		m.worker.SetPath(p)
		m.worker.SetDelegatingRouter(delegating)
	}
}

// inUse returns the router that an uplink uses of those heard; zero: none.
func (r *routers) inUse(name string) netip.Addr {
	r.holding.Lock()
	defer r.holding.Unlock()
	return r.views[name].State.Chosen
}

// carries reports whether the router in use carries what was delegated by way of another.
func (r *routers) carries(name string, given netip.Addr) bool {
	r.holding.Lock()
	defer r.holding.Unlock()
	s := r.views[name].State
	return s.Carries(given)
}

// mayHaveDelegated reports whether the router in use may be the one by way of which a server answers: nothing speaks for the one
// that the prefixes were given by before, or that one is gone.
func (r *routers) mayHaveDelegated(name string, before netip.Addr) bool {
	r.holding.Lock()
	defer r.holding.Unlock()
	v := r.views[name]
	there := slices.ContainsFunc(v.Routers, func(o ndisc.Router) bool { return o.Addr == before && !o.Unreachable })
	return v.State.Carries(before) || !there
}

// supply adds what the routers give now.
func (r *routers) supply(s planinput.Learned, now time.Time) {
	r.holding.Lock()
	defer r.holding.Unlock()
	for name, v := range r.views {
		if r.watched[name] {
			s.Of(name).Watched = watchedRouters(v)
		} else if a := routed(v, now); a != nil {
			s.Of(name).IPv6 = a
		}
	}
}

// watchedRouters is what planning takes of routers that others follow; nil when that is nothing.
func watchedRouters(v ndisc.View) *rules.WatchedRouters {
	if len(v.Unreachable) == 0 && len(v.Routers) < 2 {
		return nil
	}
	w := &rules.WatchedRouters{Silent: v.Unreachable, Foreign: v.Foreign}
	if len(v.Routers) > 0 {
		w.Use = v.Routers[0].Addr
	}
	return w
}

// routed turns what routers say into what is to be put on the device; nil when they say nothing of use. Of
// several routers one is used, with the addresses that are its own: those of another are no good by it (RFC 8028).
func routed(v ndisc.View, now time.Time) *rules.Assignment {
	a := &rules.Assignment{NoDefault: len(v.Routers) == 0, MTU: v.MTU}
	if !a.NoDefault {
		a.Gateway = v.Routers[0].Addr
	}
	for _, own := range v.Addresses {
		if lasts(own.Valid, now) {
			a.Addresses = append(a.Addresses, rules.Address{Prefix: onLink(own.Address, v.Prefixes), Deprecated: !lasts(own.Preferred, now)})
		}
	}
	for _, route := range v.Routes {
		if lasts(route.Expires, now) && !slices.ContainsFunc(a.Routes, func(o rules.AssignedRoute) bool { return o.Dst == route.Prefix }) {
			a.Routes = append(a.Routes, rules.AssignedRoute{Dst: route.Prefix, Gateway: route.Router})
		}
	}
	if a.NoDefault && len(a.Addresses) == 0 && len(a.Routes) == 0 {
		return nil
	}
	return a
}

// lasts reports whether an end is still to come; the zero time never comes.
func lasts(end, now time.Time) bool { return end.IsZero() || now.Before(end) }

// onLink gives an address the length of its prefix where its neighbours are said to be on the link, else 128:
// they are reached by the router then (RFC 5942).
func onLink(address netip.Prefix, prefixes []ndisc.Prefix) netip.Prefix {
	for _, p := range prefixes {
		if p.OnLink && p.Prefix == address.Masked() {
			return address
		}
	}
	return netip.PrefixFrom(address.Addr(), 128)
}

// onRouters hears of what routers say.
func (d *Daemon) onRouters(name string, before, after ndisc.View) {
	if was, is := before.State.Chosen, after.State.Chosen; was.IsValid() && is.IsValid() && was != is {
		d.delegations.verify(name) // another provider's router knows nothing of it
	}
	if after.Unanswered > before.Unanswered {
		d.mu.Lock()
		id := d.ids[name]
		d.mu.Unlock()
		d.judge.hint([]rules.Path{{Uplink: id, Family: rules.IPv6}})
	}
	d.resupply()
	if was, is := routersNow(before), routersNow(after); was != is {
		d.log.Info("routers", "uplink", name, "now", is)
		d.event(status.Event{Kind: status.EventLease, Uplink: name, Family: rules.IPv6.String(), From: was, To: is, Message: "router advertisements: " + is})
	}
}

// routersNow names the router in use and the addresses formed.
func routersNow(v ndisc.View) string {
	s := "no router"
	if len(v.Routers) > 0 {
		s = fmt.Sprintf("router %v", v.Routers[0].Addr)
	}
	addresses := make([]string, len(v.Addresses))
	for i, a := range v.Addresses {
		addresses[i] = a.Address.Addr().String()
	}
	if len(addresses) > 0 {
		s += ", " + strings.Join(addresses, " ")
	}
	return s
}
