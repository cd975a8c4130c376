package rules_test

import (
	"net/netip"
	"slices"

	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// events are what may happen to a running router. Each leaves a machine that the next plan must cope
// with; n names the uplink that is struck, counted from 0.
var events = map[string]func(t *rapid.T, w *world, n int){
	"verdict": func(t *rapid.T, w *world, n int) {
		family := rapid.SampledFrom(rules.Families[:]).Draw(t, "family")
		w.verdicts[rules.Path{Uplink: w.cfg.Uplinks[n].ID, Family: family}] = drawVerdict(t)
	},
	"renumbering": func(t *rapid.T, w *world, n int) { w.renumber(t, &w.cfg.Uplinks[n]) },
	"delegation": func(t *rapid.T, w *world, n int) {
		shared := func(d rules.Delegation) bool { return d.Shared } // of a line that is asked for no other
		if u := &w.cfg.Uplinks[n]; u.IPv6.Enabled && !slices.ContainsFunc(u.Delegations, shared) {
			if u.Delegations = nil; often(t, "delegates") {
				u.Delegations = drawDelegations(t, n)
			}
		}
	},
	"lease lost": func(t *rapid.T, w *world, n int) {
		if a := &w.cfg.Uplinks[n].IPv4; a.Managed {
			a.Assign = nil
		}
	},
	"carrier": func(_ *rapid.T, w *world, n int) {
		_ = w.changeLink(w.cfg.Uplinks[n].Device, func(l *rules.Link) { l.Carrier = l.Up && !l.Carrier })
	},
	"down": func(_ *rapid.T, w *world, n int) { w.setDown(w.cfg.Uplinks[n].Device) },
	"up": func(_ *rapid.T, w *world, n int) {
		device := w.cfg.Uplinks[n].Device
		w.setUp(device)
		w.provision(device)
	},
	"unplugged": func(_ *rapid.T, w *world, n int) { w.unplug(w.cfg.Uplinks[n].Device) },
	"plugged in": func(_ *rapid.T, w *world, n int) {
		device := w.cfg.Uplinks[n].Device
		if _, present := w.obs.Link(device); !present && !tunnelName(device) {
			w.plug(rules.Link{Name: device, Up: true, Carrier: true})
			w.provision(device)
		}
	},
	"reload": func(t *rapid.T, w *world, n int) {
		u := &w.cfg.Uplinks[n]
		u.Tier, u.Weight = 1+draw(t, "tier", 3), 1+draw(t, "weight", 4)
		u.IPv4.Masquerade, u.IPv6.Masquerade = flip(t, "masquerade"), flip(t, "masquerade6")
	},
	"removed": func(_ *rapid.T, w *world, n int) {
		id, device := w.cfg.Uplinks[n].ID, w.cfg.Uplinks[n].Device
		w.cfg.Uplinks = slices.DeleteFunc(slices.Clone(w.cfg.Uplinks), func(u rules.Uplink) bool { return u.ID == id }) // and its translator
		w.cfg.Tunnels = slices.DeleteFunc(slices.Clone(w.cfg.Tunnels), func(t rules.Tunnel) bool { return t.Device == device })
		w.cfg.WireGuard = slices.DeleteFunc(slices.Clone(w.cfg.WireGuard), func(d netcfg.WireGuard) bool { return d.Device == device })
		w.cfg.Underlays = slices.DeleteFunc(slices.Clone(w.cfg.Underlays), func(u rules.Underlay) bool { return u.Uplink == id })
	},
	"routes of others": func(_ *rapid.T, w *world, n int) {
		device := w.cfg.Uplinks[n].Device
		route := static("192.0.2.64/26", device, w.providers[device][rules.IPv4].gateway, 5)
		before := len(w.obs.Routes)
		if w.dropRoutes(func(r netcfg.Route) bool { return r.Table == netcfg.TableMain && r.Dst == route.Dst }); len(w.obs.Routes) == before {
			w.addForeignRoute(route)
		}
	},
	"ours deleted": func(t *rapid.T, w *world, _ int) {
		ours := func(r netcfg.Route) bool { return r.Protocol == numbers.Protocol && flip(t, "delete "+r.String()) }
		w.dropRoutes(ours)
		w.obs.Rules = slices.DeleteFunc(w.obs.Rules, func(r netcfg.Rule) bool {
			return r.Protocol == numbers.Protocol && flip(t, "delete "+r.String())
		})
		if flip(t, "delete table") {
			w.obs.Table = nil
		}
	},
}

// eventNames are the events that strike one uplink, for the generator: in an order that does not change.
var eventNames = []string{"verdict", "renumbering", "delegation", "lease lost", "carrier", "down", "up", "unplugged", "plugged in", "reload", "removed", "routes of others", "ours deleted"}

// happen lets one of the named events happen, to any uplink. With no uplink left, all that can happen is
// nothing. It returns the event's name.
func (w *world) happen(t *rapid.T, names ...string) string {
	name := rapid.SampledFrom(names).Draw(t, "event")
	if len(w.cfg.Uplinks) == 0 {
		return name
	}
	w.cfg.Uplinks = slices.Clone(w.cfg.Uplinks)
	events[name](t, w, draw(t, "uplink", len(w.cfg.Uplinks)))
	return name
}

// renumber gives an uplink another IPv4 address of the same subnet, or another network.
func (w *world) renumber(t *rapid.T, u *rules.Uplink) {
	old := w.providers[u.Device][rules.IPv4]
	next := old
	if flip(t, "same subnet") {
		host := old.address.Masked().Addr().Next()
		for range 5 + draw(t, "host", 3) {
			host = host.Next()
		}
		next.address = netip.PrefixFrom(host, old.address.Bits())
	} else {
		next = drawIPv4(t, !old.gateway.IsValid())
		next.metric = old.metric
	}
	if u.IPv4.Assign != nil {
		w.providers[u.Device][rules.IPv4] = next
		u.IPv4.Assign = next.assignment()
		return
	}
	w.withdraw(u.Device, rules.IPv4)
	w.providers[u.Device][rules.IPv4] = next
	w.provision(u.Device)
}
