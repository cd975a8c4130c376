package rules_test

import (
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// fataler is what helpers need of a test or of a rapid.T.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

func (w *world) plan() (netcfg.State, rules.Report) {
	return rules.Plan(w.cfg, w.foreseen(), w.verdicts)
}

// foreseen is the snapshot as it will be when the tunnels are there.
func (w *world) foreseen() *rules.Observed { return w.snapshot().Foresee(w.cfg) }

// round plans once and applies the difference, and returns what was changed.
func (w *world) round(t fataler) ([]netcfg.Op, rules.Report) {
	t.Helper()
	want, report := w.plan()
	ops := netcfg.Diff(rules.Ours(numbers, w.foreseen()), want)
	w.obs.Recorded.Record(ops)
	if after := w.obs.Recorded.Usable(); len(after.Sysctls) != len(w.obs.Recorded.Sysctls) {
		t.Errorf("a restart would give back %v alone of %v", after.Sysctls, w.obs.Recorded.Sysctls)
	}
	for _, op := range ops {
		if err := w.apply(op); err != nil {
			t.Fatalf("%v\nof\n%son%s", err, commands(ops), w.machine)
		}
	}
	for _, op := range ops {
		if a, ok := op.(netcfg.AddAddr); ok && !w.isLocal(a.Prefix.Addr()) {
			t.Errorf("%v was assigned and is lost by the end of\n%s", a.Prefix, commands(ops))
		}
	}
	return ops, report
}

// rounds is how many rounds may be needed. The connected route and the secondaries of an address vanish
// only when the address does, so the copies in the uplink's table follow in the next round. A route may prefer an IPv6
// address that is there alone, and the networks of a device are local ones once its link group is given back.
func rounds(ops []netcfg.Op) int {
	if slices.ContainsFunc(ops, func(op netcfg.Op) bool {
		a, added := op.(netcfg.AddAddr)
		_, removed := op.(netcfg.DelAddr)
		group, changed := op.(netcfg.SetGroup)
		return removed || changed && group.Restore || added && a.Prefix.Addr().Is6()
	}) {
		return 2
	}
	return 1
}

// converge plans and applies until nothing is left to do, and fails when that takes more rounds than it
// should. It returns all that was changed, and the last report.
func (w *world) converge(t fataler) ([]netcfg.Op, rules.Report) {
	t.Helper()
	ops, _ := w.round(t)
	all := ops
	for n := rounds(ops); ; n-- {
		more, report := w.round(t)
		if len(more) == 0 {
			want, _ := w.plan()
			w.obs.Recorded.Prune(&want)
			return all, report
		}
		if n <= 1 {
			t.Fatalf("not converged, still to do:\n%s", commands(more))
		}
		all = append(all, more...)
	}
}

func commands(ops []netcfg.Op) string {
	s := ""
	for _, op := range ops {
		s += op.Command() + "\n"
	}
	return s
}

// defaultRoute finds the default by which a table leads out.
func defaultRoute(routes []netcfg.Route, family rules.Family, table uint32) (netcfg.Route, bool) {
	i := slices.IndexFunc(routes, func(r netcfg.Route) bool {
		return r.Family == family && r.Table == table && r.IsDefault() && r.Type == netcfg.Unicast
	})
	if i < 0 {
		return netcfg.Route{}, false
	}
	return routes[i], true
}

// path is an enabled family of an uplink with what is known of it.
type path struct {
	*rules.Uplink
	rules.PathInfo
	family rules.Family
}

// usable reports whether packets can leave by the path.
func (p *path) usable() bool { return p.Up && p.HasDefault && p.sends() }

// sends reports whether packets can leave with a source that belongs to the path: an IPv6 device may have none.
func (p *path) sends() bool {
	a := p.Family(p.family).Assign
	return p.family == rules.IPv4 || p.HasAddress() || a != nil && len(a.Addresses) > 0
}

func (w *world) paths(report *rules.Report) []path {
	var list []path
	for i := range w.cfg.Uplinks {
		u := &w.cfg.Uplinks[i]
		for _, f := range rules.Families {
			if u.Family(f).Enabled {
				list = append(list, path{u, report.Paths[rules.Path{Uplink: u.ID, Family: f}], f})
			}
		}
	}
	return list
}

// peers are hosts that may talk to an address of the path: far away, or neighbours of the gateway.
func (p *path) peers() []netip.Addr {
	peers := []netip.Addr{internet[p.family]}
	if p.family == rules.IPv4 {
		peers = append(peers, netip.MustParseAddr("192.0.2.200")) // a static route may lead there
	}
	for _, a := range p.Addresses {
		if !a.IsSingleIP() {
			last := a.Masked().Addr().AsSlice()
			last[len(last)-1] += 40
			neighbour, _ := netip.AddrFromSlice(last)
			peers = append(peers, neighbour)
		}
	}
	return peers
}

// arrive lets a packet from a peer to one of the path's addresses in, and returns its connection as
// connection tracking has it then.
func (w *world) arrive(p *path, peer, address netip.Addr) *connection {
	conn := &connection{fresh: true}
	in := packet{query: query{src: peer, dst: address, iif: p.Device}, conn: conn}
	w.hook("prerouting", &in, 0)
	conn.fresh = false
	return conn
}

// eachLANHost calls fn with a host in each LAN and family, and its network's device.
func (w *world) eachLANHost(f rules.Family, fn func(device string, host netip.Addr)) {
	for i, device := range w.lans {
		fn(device, lanHost(i+1, f, 9))
	}
}

// displaced reports whether the plan had to give way to a route that is not ours.
func displaced(report *rules.Report) bool {
	return slices.ContainsFunc(report.Problems, func(p rules.Problem) bool { return p.Code == "foreign-route" })
}
