package rules_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// drawForwards has a host of each LAN serve ports, one of them under another number, and of some uplinks alone.
func (w *world) drawForwards(t *rapid.T) {
	for n, device := range w.lans {
		if !flip(t, "forwards") {
			continue
		}
		id := lanHost(n+1, rules.IPv6, 9).As16()
		f := rules.Forward{Name: "to-" + device, Protocols: []uint8{6, 17}, Ports: netcfg.Ports{First: uint16(100 * (n + 1)), Last: uint16(100*(n+1) + 9)}, Device: device,
			To4: lanHost(n+1, rules.IPv4, 9), ID6: binary.BigEndian.Uint64(id[8:])}
		if flip(t, "another port") {
			f.Ports.Last, f.ToPort = f.Ports.First, 8443
		}
		if seldom(t, "some uplinks") {
			f.Uplinks = []int{}
			for i := range w.cfg.Uplinks {
				if flip(t, "this one") {
					f.Uplinks = append(f.Uplinks, w.cfg.Uplinks[i].ID)
				}
			}
		}
		w.cfg.Forwards = append(w.cfg.Forwards, f)
	}
}

// call sends the first packet of a connection to a port, and returns it as it is once it has been translated, and what became of it.
func (w *world) call(from, to netip.Addr, in string, port uint16) (packet, []departure) {
	p := packet{query: query{src: from, dst: to, iif: in, protocol: 6, sport: 40000, dport: port}, conn: &connection{fresh: true}}
	arrived := p
	conn := *p.conn
	arrived.conn = &conn
	w.hook("prerouting", &arrived, 0)
	return arrived, w.receive(p, netip.Addr{})
}

// hostOf reports whether an address is that of a forward's host: the configured one, or its identifier in a network of its device.
func (w *world) hostOf(f *rules.Forward, a netip.Addr) bool {
	if a.Is4() {
		return a == f.To4
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[8:]) == f.ID6 && devices(w.lookup(query{dst: a, iif: "lo"})) == f.Device
}

func TestForwardedPortsLeadToTheirHostAndItsAnswersBack(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		for i := range w.cfg.Forwards {
			f := &w.cfg.Forwards[i]
			for _, p := range w.paths(&report) {
				for _, a := range p.Addresses {
					if len(w.localLookup(query{dst: a.Addr()})) == 0 {
						continue
					}
					for _, peer := range p.peers() {
						w.callIsAnswered(t, f, &p, peer, a.Addr())
					}
				}
			}
		}
	})
}

// callIsAnswered follows a call of a forwarded port at an uplink's address, and its answer.
func (w *world) callIsAnswered(t fataler, f *rules.Forward, p *path, peer, at netip.Addr) {
	t.Helper()
	what := fmt.Sprintf("%s: %v calls %v by %s", f.Name, peer, at, p.Name)
	got, went := w.call(peer, at, p.Device, f.Ports.First)
	// An uplink whose address another one has too, or that has none now, is no matter of forwards.
	if f.Uplinks != nil && !slices.Contains(f.Uplinks, p.ID) {
		shared := false
		for _, id := range f.Uplinks {
			for _, o := range w.cfg.Uplinks {
				shared = shared || o.ID == id && slices.ContainsFunc(w.obs.Addrs, func(a rules.Addr) bool { return a.Prefix.Addr() == at && a.Device != p.Device })
			}
		}
		if got.dst != at && !shared {
			t.Errorf("%s: led to %v, and the uplink is not among %v", what, got.dst, f.Uplinks)
		}
		return
	}
	port := f.Ports.First
	if f.ToPort != 0 {
		port = f.ToPort
	}
	if !w.hostOf(f, got.dst) || got.dport != port {
		t.Errorf("%s: led to %v port %d", what, got.dst, got.dport)
		return
	}
	for _, d := range went {
		if d.device == f.Device && d.src != peer {
			t.Errorf("%s: the host sees %v", what, d.src)
		}
	}
	answer := packet{query: query{src: got.dst, dst: peer, iif: f.Device, protocol: 6, sport: port, dport: 40000}, conn: got.conn}
	answer.conn.fresh, answer.conn.reply, answer.conn.source = false, true, at
	back := w.receive(answer, netip.Addr{})
	onlyBy(t, p, "answer of "+what, back)
	for _, d := range back {
		if d.device != "" && d.src != at {
			t.Errorf("answer of %s: from %v", what, d.src)
		}
	}
}

func TestForwardedPortsAreThereForHostsBehindTheMachineToo(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		for i := range w.cfg.Forwards {
			f := &w.cfg.Forwards[i]
			for _, p := range w.paths(&report) {
				for _, a := range p.Addresses {
					if len(w.localLookup(query{dst: a.Addr()})) == 0 || f.Uplinks != nil && !slices.Contains(f.Uplinks, p.ID) {
						continue
					}
					w.eachLANHost(p.family, func(lan string, host netip.Addr) {
						what := fmt.Sprintf("%s: %v calls %v", f.Name, host, a.Addr())
						got, went := w.call(host, a.Addr(), lan, f.Ports.First)
						if !w.hostOf(f, got.dst) {
							t.Errorf("%s: led to %v", what, got.dst)
							return
						}
						expect(t, what, f.Device, went)
						for _, d := range went {
							if (d.src == host) == (lan == f.Device) {
								t.Errorf("%s: the host sees %v", what, d.src)
							}
						}
					})
				}
			}
			for _, a := range w.obs.Addrs { // the machine's own addresses there stay its own
				if slices.Contains(w.lans, a.Device) && !a.LinkScope && !(a.Prefix.IsSingleIP() && w.isShared(a.Prefix)) && !report.HasAddress(rules.FamilyOf(a.Prefix.Addr()), a.Prefix.Addr()) {
					if got, _ := w.call(lanHost(1, rules.FamilyOf(a.Prefix.Addr()), 8), a.Prefix.Addr(), a.Device, f.Ports.First); got.dst != a.Prefix.Addr() {
						t.Errorf("%s: what is for %v of %s is led to %v", f.Name, a.Prefix.Addr(), a.Device, got.dst)
					}
				}
			}
		}
	})
}

// TestForwardsNeedNothingOfALease has the addresses of an uplink change under rules that stay.
func TestForwardsNeedNothingOfALease(t *testing.T) {
	w := dual()
	w.cfg.Forwards = forwarding().cfg.Forwards[:2]
	w.converge(t)
	before := w.obs.Table.String()
	for _, a := range []string{"198.51.100.2/26", "2001:db8:a::2/64"} {
		_ = w.delAddr("wan1", netip.MustParsePrefix(a))
	}
	w.hold("wan1", "198.51.100.9/26", "2001:db8:a::9/64")
	for _, at := range []string{"198.51.100.9", "2001:db8:a::9"} {
		got, _ := w.call(internet[rules.FamilyOf(netip.MustParseAddr(at))], netip.MustParseAddr(at), "wan1", 443)
		if !w.hostOf(&w.cfg.Forwards[0], got.dst) || got.dport != 8443 {
			t.Errorf("%s is led to %v port %d", at, got.dst, got.dport)
		}
	}
	w.converge(t)
	chain := func(table, name string) string {
		_, rest, _ := strings.Cut(table, "chain "+name+" {")
		text, _, _ := strings.Cut(rest, "}")
		return text
	}
	if diff := cmp.Diff(chain(before, "forwards"), chain(w.obs.Table.String(), "forwards")); diff != "" || chain(before, "forwards") == "" {
		t.Errorf("the new lease changed them:\n%s", diff)
	}
}

func TestAForwardLeadsToThePrefixThatTheHostHas(t *testing.T) {
	for name, c := range map[string]struct {
		change func(w *world)
		to6    string
	}{
		"one that lasts":                 {func(*world) {}, "fd00:77:0:1::10"},
		"without it that of new traffic": {func(w *world) { w.cfg.LANs[0].ULA = netip.Prefix{} }, "2001:db8:b00::10"},
		"of two the one that is not ending": {func(w *world) {
			w.cfg.LANs[0].ULA = netip.Prefix{}
			w.cfg.Uplinks[1].Delegations = []rules.Delegation{{Prefix: netip.MustParsePrefix("2001:db8:b00::/64"), Deprecated: true}, {Prefix: netip.MustParsePrefix("2001:db8:b01::/64")}}
		}, "2001:db8:b01::10"},
		"the only one, of a provider that is down": {func(w *world) { w.cfg.LANs[0].ULA, w.cfg.LANs[0].From = netip.Prefix{}, []int{1} }, "2001:db8:a00:1::10"},
		"not one that another router has":          {func(w *world) { w.cfg.LANs[0].ULA, w.cfg.Uplinks[1].Delegations[0].Elsewhere = netip.Prefix{}, true }, "2001:db8:a00:1::10"},
		"of a network that others number":          {func(w *world) { w.cfg.LANs = nil }, "2001:db8:1::10"},
		"of none":                                  {func(w *world) { w.cfg.LANs = nil; _ = w.delAddr("lan0", netip.MustParsePrefix("2001:db8:1::1/64")) }, "invalid IP"},
	} {
		t.Run(name, func(t *testing.T) {
			w := forwarding()
			c.change(w)
			_, report := w.plan()
			r := report.Forwards[0]
			if r.To[rules.IPv6].String() != c.to6 || r.To[rules.IPv4].String() != "192.168.1.10" {
				t.Errorf("%v", r.To)
			}
			told := slices.ContainsFunc(report.Problems, func(p rules.Problem) bool { return p.Code == "forward-prefix" })
			if told != (c.to6 == "invalid IP") {
				t.Errorf("problems: %v", report.Problems)
			}
		})
	}
}

func TestAForwardToNoNetworkOfItsDeviceIsNamed(t *testing.T) {
	w := forwarding()
	w.cfg.Forwards[1].To4 = netip.MustParseAddr("192.168.9.11")
	_, report := w.plan()
	if len(report.Problems) != 1 || report.Problems[0].Code != "forward-target" || !strings.Contains(report.Problems[0].Message, "forward game leads to 192.168.9.11, which is in no network of lan0") {
		t.Errorf("problems: %v", report.Problems)
	}
	w.addForeignRoute(static("192.168.9.0/24", "lan0", netip.MustParseAddr("192.168.1.2"), 0))
	if _, report = w.plan(); len(report.Problems) > 0 {
		t.Errorf("with a route there: %v", report.Problems)
	}
}
