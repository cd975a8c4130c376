package addressing

import (
	"fmt"
	"log/slog"
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
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/uplink"
)

// routers runs router discovery on each uplink with method "ra", and watches the routers of those with "auto", which the kernel
// or another program follows: neither notices for half an hour that a router has been replaced.
type routers struct {
	supervisor[*ndisc.Discoverer]
	log     *slog.Logger
	save    saver
	changed func(uplink string, before, after ndisc.View)

	mu       sync.Mutex
	kept     map[string]ndisc.State // by uplink name; of this run or an earlier one
	views    map[string]ndisc.View
	followed map[string]bool // by uplink name, those that others configure
	dirty    bool            // kept has changed since it was saved,
	saved    time.Time       // which was then
}

// minSaveInterval is the least time between a save and one that does not wait for the next tick. Anybody on the link may send
// a thousand advertisements a second: the disk shall not have to write as many times.
const minSaveInterval = time.Second

func newRouters(log *slog.Logger, save saver, changed func(string, ndisc.View, ndisc.View)) *routers {
	return &routers{log: log, save: save, changed: changed, kept: make(map[string]ndisc.State), views: make(map[string]ndisc.View)}
}

// restore takes what an earlier run has kept, as far as it still holds: a restart must not take addresses and
// routes away until a router speaks again.
func (r *routers) restore(now time.Time) {
	for name, state := range r.kept {
		r.kept[name] = state.Usable(now)
		r.views[name] = r.kept[name].View(now)
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

// UpdateVerdicts tells router discovery what probing says now. It is for changed verdicts, which have to count at once;
// Run calls it each second.
func (e *Engine) UpdateVerdicts() {
	c, ids := e.configuration()
	for i := range c.Uplinks {
		v, whole, ok := e.o.Verdict(rules.Path{Uplink: ids[c.Uplinks[i].Name], Family: rules.IPv6})
		if !ok {
			continue
		}
		name, p := c.Uplinks[i].Name, pathOf(v, whole)
		delegating := e.delegations.delegating(name)
		e.routers.probed(name, p, delegating)
		if p == ndisc.PathWorking && !delegating.IsValid() {
			e.delegations.setDelegating(name, e.routers.inUse(name))
		}
	}
}

// configure starts and stops discovery so that each uplink with method "ra" has one.
func (r *routers) configure(c *config.Config, secret []byte) {
	specs := make(map[string]spec[*ndisc.Discoverer])
	followed := make(map[string]bool)
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		follows := u.IPv6.Method == config.MethodAuto && u.Kind == config.KindISP
		if u.IPv6.Method != config.MethodRA && !follows {
			continue
		}
		followed[u.Name] = follows
		specs[u.Name] = spec[*ndisc.Discoverer]{device: u.Device, hardware: u.HardwareAddress, key: follows, make: func(current func() bool) *ndisc.Discoverer {
			return ndisc.NewDiscoverer(ndisc.DiscovererConfig{Device: u.Device, Secret: secret, Last: r.kept[u.Name], Follows: follows, Log: r.log.With("uplink", u.Name),
				OnChange: func(v ndisc.View) { r.update(u.Name, v, current) }})
		}}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.followed = followed
	for name := range r.kept {
		if !r.sameLink(name, specs) {
			delete(r.kept, name)
			delete(r.views, name)
		}
	}
	r.apply(specs)
}

// update takes what was learned, from a discoverer's goroutine. What the kernel is to get is on the disk before:
// after a crash we would take from it what we do not know.
func (r *routers) update(name string, v ndisc.View, current func() bool) {
	now := time.Now()
	r.mu.Lock()
	if !current() {
		r.mu.Unlock()
		return
	}
	before := r.views[name]
	r.views[name], r.kept[name], r.dirty = v, v.State, true
	rested, follows := now.Sub(r.saved) >= minSaveInterval, r.followed[name]
	r.mu.Unlock()
	if rested && !follows && !reflect.DeepEqual(toAssignment(before, now), toAssignment(v, now)) {
		r.flush(now)
	}
	r.changed(name, before, v)
}

// flush saves what was learned since the last time.
func (r *routers) flush(now time.Time) {
	r.mu.Lock()
	dirty := r.dirty
	if dirty {
		r.dirty, r.saved = false, now
	}
	r.mu.Unlock()
	if !dirty {
		return
	}
	r.save(docRouters, func() any {
		r.mu.Lock()
		defer r.mu.Unlock()
		now, kept := time.Now(), make(map[string]ndisc.State, len(r.kept))
		for name, state := range r.kept {
			kept[name] = state.Usable(now) // its ends by the time of day as it is now
		}
		return kept
	})
}

// clockSet saves what was learned, which says when it ends.
func (r *routers) clockSet(now time.Time) {
	r.mu.Lock()
	r.dirty = len(r.kept) > 0
	r.mu.Unlock()
	r.flush(now)
}

// view returns what an uplink's routers say.
func (r *routers) view(name string) ndisc.View {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.views[name]
}

// observe tells the discoverers of their devices, of addresses that somebody else has, and of the gateways of others, of
// which used are those in use, by uplink name.
func (r *routers) observe(obs *rules.Observed, used map[string]netip.Addr) {
	if obs.NoIPv6 {
		return
	}
	r.supervisor.observe(obs)
	for name, i := range r.all() {
		for _, a := range obs.Addrs {
			if a.Device == i.device && a.Failed {
				i.client.AddressFailed(a.Prefix.Addr())
			}
		}
		if follows, _ := i.key.(bool); follows {
			i.client.SetGateways(gatewaysOf(obs, i.device, used[name]))
		}
	}
}

// gatewaysOf lists the routers on the link of a device that IPv6 defaults of others lead to, the one in use first.
func gatewaysOf(obs *rules.Observed, device string, used netip.Addr) []netip.Addr {
	var list []netip.Addr
	for i := range obs.Routes {
		r := &obs.Routes[i]
		if r.Family != rules.IPv6 || r.Table != netcfg.TableMain || !r.IsDefault() || r.Type != netcfg.Unicast {
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

// probed tells what probing says of an uplink, and by way of which router its prefixes were delegated.
func (r *routers) probed(name string, p ndisc.Path, delegating netip.Addr) {
	if i := r.get(name); i != nil {
		i.client.SetPath(p)
		i.client.SetDelegatingRouter(delegating)
	}
}

// inUse returns the router that an uplink uses of those heard; zero: none.
func (r *routers) inUse(name string) netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.views[name].State.Chosen
}

// carries reports whether the router in use carries what was delegated by way of another.
func (r *routers) carries(name string, given netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.views[name].State
	return s.Carries(given)
}

// mayHaveDelegated reports whether the router in use may be the one by way of which a server answers: nothing speaks for the one
// that the prefixes were given by before, or that one is gone.
func (r *routers) mayHaveDelegated(name string, before netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.views[name]
	there := slices.ContainsFunc(v.Routers, func(o ndisc.Router) bool { return o.Addr == before && !o.Unreachable })
	return v.State.Carries(before) || !there
}

// learned adds what the routers give now.
func (r *routers) learned(out planinput.Learned, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, v := range r.views {
		for _, server := range v.DNS {
			if unexpired(server.Expires, now) {
				given := out.Of(name)
				given.Resolvers = append(given.Resolvers, planinput.Resolver{Addr: server.Addr, From: planinput.FromRouter})
			}
		}
		for _, t := range v.NAT64 {
			if unexpired(t.Expires, now) {
				out.Of(name).NAT64 = t.Prefix
				break
			}
		}
		if r.followed[name] {
			out.Of(name).Watched = watchedRouters(v)
		} else if a := toAssignment(v, now); a != nil {
			out.Of(name).IPv6 = a
		}
	}
}

// share adds the networks of uplinks' own lines, which some give to a LAN.
func (r *routers) share(out planinput.Learned, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, v := range r.views {
		if r.followed[name] {
			continue
		}
		shared, given := sharedNetworks(v), out.Of(name)
		for _, own := range v.Addresses {
			if !slices.ContainsFunc(shared, func(o ndisc.Address) bool { return o.Address == own.Address }) {
				given.Stale = append(given.Stale, own.Address.Addr())
			}
		}
		for _, own := range shared {
			if unexpired(own.Valid, now) {
				given.Delegations = append(given.Delegations, rules.Delegation{Prefix: own.Address.Masked(), Deprecated: !unexpired(own.Preferred, now), Shared: true})
			}
		}
	}
}

// sharedNetworks lists the addresses whose networks the line has. Mobile networks announce them for ever (3GPP TS 29.061 section 11.2.1.3.2), and
// another one after the line was dialed again: those that the latest advertisement does not have are gone.
func sharedNetworks(v ndisc.View) []ndisc.Address {
	var latest time.Time
	for _, own := range v.Addresses {
		if own.Heard.After(latest) {
			latest = own.Heard
		}
	}
	return slices.DeleteFunc(slices.Clone(v.Addresses), func(own ndisc.Address) bool { return own.Heard.Before(latest) })
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

// toAssignment turns what routers say into what is to be put on the device; nil when they say nothing of use. Of
// several routers one is used, with the addresses that are its own: those of another are no good by it (RFC 8028).
func toAssignment(v ndisc.View, now time.Time) *rules.Assignment {
	a := &rules.Assignment{NoDefault: len(v.Routers) == 0, MTU: v.MTU}
	if !a.NoDefault {
		a.Gateway = v.Routers[0].Addr
	}
	for _, own := range v.Addresses {
		if unexpired(own.Valid, now) {
			a.Addresses = append(a.Addresses, rules.Address{Prefix: onLink(own.Address, v.Prefixes), Deprecated: !unexpired(own.Preferred, now)})
		}
	}
	for _, route := range v.Routes {
		if unexpired(route.Expires, now) && !slices.ContainsFunc(a.Routes, func(o rules.AssignedRoute) bool { return o.Dst == route.Prefix }) {
			a.Routes = append(a.Routes, rules.AssignedRoute{Dst: route.Prefix, Gateway: route.Router})
		}
	}
	if a.NoDefault && len(a.Addresses) == 0 && len(a.Routes) == 0 {
		return nil
	}
	return a
}

// unexpired reports whether an end is still to come; the zero time never comes.
func unexpired(end, now time.Time) bool { return end.IsZero() || now.Before(end) }

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
func (e *Engine) onRouters(name string, before, after ndisc.View) {
	if was, is := before.State.Chosen, after.State.Chosen; was.IsValid() && is.IsValid() && was != is {
		e.delegations.verify(name) // another provider's router knows nothing of it
	}
	if after.Unanswered > before.Unanswered {
		_, ids := e.configuration()
		e.o.ProbeNow(rules.Path{Uplink: ids[name], Family: rules.IPv6})
	}
	e.o.Changed()
	if was, is := routersNow(before), routersNow(after); was != is {
		e.o.Log.Info("routers", "uplink", name, "now", is)
		e.o.OnEvent(status.Event{Kind: status.EventLease, Uplink: name, Family: rules.IPv6.String(), From: was, To: is, Message: "router advertisements: " + is})
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
