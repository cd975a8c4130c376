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

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/ndisc"
	"github.com/uplinkd/uplinkd/rules"
)

// docRouters is the document of what routers have advertised, by uplink name.
const docRouters = "routers6"

// routers runs router discovery on each uplink with method "ra".
type routers struct {
	crew[*ndisc.Discoverer]
	log     *slog.Logger
	save    func(document string, read func() any)
	changed func(uplink string, before, after ndisc.View)

	holding sync.Mutex
	kept    map[string]ndisc.State // by uplink name; of this run or an earlier one
	views   map[string]ndisc.View
	unkept  bool      // kept has changed since it was saved,
	saved   time.Time // which was then
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

// configure starts and stops discovery so that each uplink with method "ra" has one.
func (r *routers) configure(c *config.Config, secret []byte) {
	posts := make(map[string]post[*ndisc.Discoverer])
	for i := range c.Uplinks {
		if u := &c.Uplinks[i]; u.IPv6.Method == config.MethodRA {
			posts[u.Name] = post[*ndisc.Discoverer]{device: u.Device, make: func(current func() bool) *ndisc.Discoverer {
				return r.discoverer(u.Name, u.Device, secret, current)
			}}
		}
	}
	r.holding.Lock()
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

func (r *routers) discoverer(name, device string, secret []byte, current func() bool) *ndisc.Discoverer {
	r.holding.Lock()
	defer r.holding.Unlock()
	return ndisc.NewDiscoverer(ndisc.DiscovererConfig{Device: device, Secret: secret, Last: r.kept[name], Log: r.log.With("uplink", name),
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
	rested := now.Sub(r.saved) >= keepPace
	r.holding.Unlock()
	if rested && !reflect.DeepEqual(routed(before, now), routed(v, now)) {
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

// observe tells the discoverers of their devices, and of addresses that somebody else has.
func (r *routers) observe(obs *rules.Observed) {
	r.crew.observe(obs)
	for _, m := range r.all() {
		for _, a := range obs.Addrs {
			if a.Device == m.device && a.Failed {
				m.worker.AddressFailed(a.Prefix.Addr())
			}
		}
	}
}

// supply adds what the routers give now.
func (r *routers) supply(s Supplies, now time.Time) {
	r.holding.Lock()
	defer r.holding.Unlock()
	for name, v := range r.views {
		if a := routed(v, now); a != nil {
			s.of(name).IPv6 = a
		}
	}
}

// routed turns what routers say into what is to be put on the device; nil when they say nothing of use. Of
// several routers the best is used: addresses of one are no good by another (RFC 8028).
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
	d.resupply()
	if was, is := routersNow(before), routersNow(after); was != is {
		d.log.Info("routers", "uplink", name, "now", is)
		d.event(api.Event{Kind: api.EventLease, Uplink: name, Family: rules.IPv6.String(), From: was, To: is, Message: "router advertisements: " + is})
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
