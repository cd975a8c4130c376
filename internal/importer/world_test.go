package importer

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/kernel/fakekernel"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/explain"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// lanDevices are those that hosts are behind, with the router's addresses.
var lanDevices = map[string][2]string{
	"br-lan":   {"192.168.1.1/24", "2001:db8:1::1/64"},
	"br-guest": {"192.168.5.1/24", "2001:db8:5::1/64"},
	"eth9":     {"192.168.9.1/24", "2001:db8:9::1/64"},
}

// world is a router with the uplinks of a configuration, some of which are down, where the plan has been carried out.
type world struct {
	in      rules.Config
	routing *explain.Routing
	state   netcfg.State
}

// port is a family of a device that leads out.
type port struct {
	device string
	family int
}

// newWorld lets a plan converge on a machine that has every device of the configuration, with a default route by each of both families
// except for what is down. Policies cannot move IPv6 hosts from one provider's prefix to another's, which is not asked here,
// so all is masqueraded, also what another program would translate where ours is off.
func newWorld(t *testing.T, c *config.Config, down map[port]bool) *world {
	t.Helper()
	ids := make(map[string]int)
	if _, err := planinput.AssignIDs(c, ids); err != nil {
		t.Fatal(err)
	}
	w := &world{in: planinput.Build(c, ids, nil, netip.Prefix{})}
	obs := rules.Observed{Sysctls: make(map[string]string)}
	link := func(name string, addresses ...string) {
		obs.Links = append(obs.Links, rules.Link{Index: len(obs.Links) + 1, Name: name, Up: true, Carrier: true, Loopback: name == "lo", MTU: 1500, Hardware: [6]byte{2, byte(len(obs.Links))}})
		for _, family := range []string{"ipv4", "ipv6"} {
			obs.Sysctls["net/"+family+"/conf/"+name+"/forwarding"] = "1"
		}
		for _, a := range addresses {
			p := netip.MustParsePrefix(a)
			obs.Addrs = append(obs.Addrs, rules.Addr{Device: name, Prefix: p})
			obs.Routes = append(obs.Routes, fakekernel.Connected(name, p))
		}
	}
	link("lo")
	for _, name := range slices.Sorted(maps.Keys(lanDevices)) {
		link(name, lanDevices[name][0], lanDevices[name][1])
	}
	verdicts := make(map[rules.Path]rules.Verdict)
	for i := range w.in.Uplinks {
		u := &w.in.Uplinks[i]
		u.IPv4.Masquerade, u.IPv6.Masquerade = true, true
		addresses := [2]string{fmt.Sprintf("198.18.%d.2/24", i), fmt.Sprintf("2001:db8:f%02x::2/64", i)}
		link(u.Device, addresses[:]...)
		for f, family := range rules.Families {
			health := rules.Verdict{Health: rules.Good, State: "up"}
			if down[port{u.Device, f}] {
				health = rules.Verdict{Health: rules.Dead, State: "down"}
			} else {
				gateway := netip.MustParsePrefix(addresses[f]).Addr().Prev()
				obs.Routes = append(obs.Routes, netcfg.Route{Family: family, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: family.Default(), Metric: uint32(10 * (i + 1)),
					Protocol: 16, Nexthops: []netcfg.Nexthop{{Device: u.Device, Gateway: gateway, Weight: 1}}})
			}
			verdicts[rules.Path{Uplink: u.ID, Family: family}] = health
		}
	}
	for _, family := range rules.Families {
		for _, r := range []netcfg.Rule{{Priority: 0, Table: 255}, {Priority: 32766, Table: netcfg.TableMain}, {Priority: 32767, Table: 253}} {
			r.Family, r.SuppressPrefixLen, r.SuppressGroup = family, -1, -1
			obs.Rules = append(obs.Rules, r)
		}
	}
	k := fakekernel.New(w.in.Kernel, obs)
	for round := 0; ; round++ {
		snapshot, err := k.Snapshot(rules.Query{})
		if err != nil {
			t.Fatal(err)
		}
		w.state, _ = rules.Plan(w.in, snapshot, verdicts)
		ops := netcfg.Diff(rules.Ours(w.in.Kernel, snapshot), w.state)
		if len(ops) == 0 {
			w.routing = routingOf(snapshot)
			return w
		}
		if round == 5 {
			t.Fatalf("not converged, still to do: %s", ops[0].Command())
		}
		if err := k.Apply(ops); err != nil {
			t.Fatal(err)
		}
	}
}

// routingOf adds the local table, which a snapshot has not.
func routingOf(obs *rules.Observed) *explain.Routing {
	slices.SortStableFunc(obs.Rules, func(a, b netcfg.Rule) int { return a.Priority - b.Priority })
	rt := &explain.Routing{Observed: obs}
	for _, r := range obs.Routes {
		t := explain.TableRoute{Route: r}
		t.Nexthops = nil
		for _, n := range r.Nexthops {
			t.AddNexthop(n, false, false)
		}
		rt.Tables = append(rt.Tables, t)
	}
	for _, a := range obs.Addrs {
		t := explain.TableRoute{Route: netcfg.Route{Family: rules.FamilyOf(a.Prefix.Addr()), Table: 255, Type: netcfg.Local,
			Dst: netip.PrefixFrom(a.Prefix.Addr(), a.Prefix.Addr().BitLen()), Protocol: 2}}
		t.AddNexthop(netcfg.Nexthop{Device: a.Device, Weight: 1}, false, false)
		rt.Tables = append(rt.Tables, t)
	}
	return rt
}

// flow is a new connection, of a host or of the router itself (in "").
type flow struct {
	in           string
	from, to     netip.Addr
	protocol     uint8
	sport, dport uint16
	mac          [6]byte
}

// outcome is where a flow goes: shares by device, or nowhere.
type outcome map[string]int

func (o outcome) String() string {
	if len(o) == 0 {
		return "refused"
	}
	return fmt.Sprint(map[string]int(o))
}

// shares reports whether flows are shared in the same proportion.
func (o outcome) shares(want outcome) bool {
	if len(o) != len(want) {
		return false
	}
	var a, b int
	for device, n := range want {
		if o[device] == 0 {
			return false
		}
		if a == 0 {
			a, b = o[device], n
		}
		if o[device]*b != n*a {
			return false
		}
	}
	return true
}

// leads walks a flow and returns where it goes.
func (w *world) leads(t *testing.T, f flow) (outcome, *explain.Explanation) {
	t.Helper()
	e, err := explain.Explain(w.in, w.routing, &w.state, explain.Packet{From: f.from, To: f.to, In: f.in, Protocol: f.protocol, SPort: f.sport, DPort: f.dport, MAC: f.mac})
	if err != nil {
		t.Fatalf("%+v: %v", f, err)
	}
	out := make(outcome)
	if e.Outcome == explain.Leaves {
		for _, g := range e.Egresses {
			out[g.Device] += max(1, g.Weight)
		}
	}
	return out, e
}
