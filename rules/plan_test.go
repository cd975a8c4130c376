package rules_test

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// planned checks a property of worlds in which the plan stands.
func planned(t *testing.T, property func(t *rapid.T, w *world, report rules.Report)) {
	t.Helper()
	rapid.Check(t, func(t *rapid.T) {
		w := worlds().Draw(t, "world")
		ops, report := w.converge(t)
		defer func() {
			if t.Failed() {
				t.Logf("after:\n%s\nby:\n%s", w.machine, commands(ops))
			}
		}()
		property(t, w, report)
	})
}

// onlyBy fails unless every departure is by the device, or none at all when the path is no way out.
func onlyBy(t fataler, p *path, what string, got []departure) {
	t.Helper()
	for _, d := range got {
		if d.device == p.Device || d.device == "" && !p.usable() {
			continue
		}
		t.Errorf("%s over %s (%v): %v", what, p.Name, p.family, d)
	}
}

func TestRepliesOfLocalSocketsLeaveByTheirArrivalUplink(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		for _, p := range w.paths(&report) {
			for _, a := range p.Addresses {
				for _, peer := range p.peers() {
					conn := w.arrive(&p, peer, a.Addr())
					if numbers.ID(conn.mark) != p.ID {
						t.Errorf("a connection to %v by %s is pinned to %#x", a, p.Name, conn.mark)
					}
					reply := packet{query: query{src: a.Addr(), dst: peer}, conn: conn}
					onlyBy(t, &p, fmt.Sprintf("reply from %v to %v", a.Addr(), peer), w.send(reply))
				}
			}
		}
	})
}

// Connection tracking may be off for a flow, or hold its packets for invalid: then the source decides,
// which tells uplinks apart unless they share it.
func TestRepliesWithoutConnectionTrackingFollowTheirSource(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		paths := w.paths(&report)
		for _, p := range paths {
			for _, a := range p.Addresses {
				shared := slices.ContainsFunc(paths, func(o path) bool {
					return o.ID != p.ID && slices.ContainsFunc(o.Addresses, func(b netip.Prefix) bool { return a.Addr() == b.Addr() })
				})
				if !shared {
					onlyBy(t, &p, "untracked reply from "+a.String(), w.send(packet{query: query{src: a.Addr(), dst: internet[p.family]}}))
				}
			}
		}
	})
}

func TestRepliesOfPortForwardsLeaveByTheirArrivalUplink(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		for _, p := range w.paths(&report) {
			for _, a := range p.Addresses {
				w.eachLANHost(p.family, func(lan string, host netip.Addr) {
					for _, peer := range p.peers() {
						conn := w.arrive(&p, peer, a.Addr())
						conn.source = a.Addr()
						reply := packet{query: query{src: host, dst: peer, iif: lan}, conn: conn}
						got := w.receive(reply, netip.Addr{})
						onlyBy(t, &p, fmt.Sprintf("reply of the port forward %v -> %v", a, host), got)
						for _, d := range got {
							if d.device != "" && d.src != a.Addr() {
								t.Errorf("the port forward %v -> %v answers from %v", a, host, d.src)
							}
						}
					}
				})
			}
		}
	})
}

// Sockets bound to a device are probes and "ping -I".
func TestSocketsBoundToADeviceUseIt(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		for _, p := range w.paths(&report) {
			if p.Family(p.family).Masquerade && len(p.Addresses) == 0 {
				continue // nothing to masquerade with
			}
			if w.hasUnreachableDefault(p.family) {
				continue
			}
			probe := packet{query: query{dst: internet[p.family], src: p.Source(), oif: p.Device}, conn: &connection{fresh: true}}
			onlyBy(t, &p, "bound to the device", w.send(probe))
			probe = packet{query: query{dst: internet[p.family], src: p.Source(), mark: numbers.Mark(p.ID)}, conn: &connection{fresh: true}}
			onlyBy(t, &p, "marked", w.send(probe))
		}
	})
}

// Whatever crosses whichever device, a pin stays, and so do the bits of both marks that belong to others.
func TestAPinIsForLifeAndBitsOfOthersAreKept(t *testing.T) {
	const others = 0x00c0ffee
	planned(t, func(t *rapid.T, w *world, _ rules.Report) {
		for i := range w.cfg.Uplinks {
			pin := numbers.Mark(w.cfg.Uplinks[i].ID)
			for _, l := range w.obs.Links {
				for _, hook := range []string{"prerouting", "output", "postrouting"} {
					for _, fresh := range []bool{true, false} {
						p := packet{query: query{src: internet[rules.IPv4], dst: internet[rules.IPv4], iif: l.Name, oif: l.Name, mark: others},
							conn: &connection{mark: pin | others, fresh: fresh}}
						w.hook(hook, &p, 0)
						if p.conn.mark != pin|others {
							t.Errorf("%s at %s turns the connection mark %#x into %#x", hook, l.Name, pin|others, p.conn.mark)
						}
						if p.mark != others && p.mark != pin|others {
							t.Errorf("%s at %s turns the mark %#x of a connection pinned %#x into %#x", hook, l.Name, others, pin, p.mark)
						}
					}
				}
			}
		}
	})
}

// The mark of its carrier is still on what a tunnel has brought, and says nothing about the way on.
func TestAMarkWithoutAPinIsForgotten(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, _ rules.Report) {
		for _, l := range w.obs.Links {
			for i := range w.cfg.Uplinks {
				carried := query{src: internet[rules.IPv4], dst: internet[rules.IPv4], iif: l.Name, mark: numbers.Mark(w.cfg.Uplinks[i].ID)}
				fresh := carried
				fresh.mark = 0
				a, b := packet{query: carried, conn: &connection{fresh: true}}, packet{query: fresh, conn: &connection{fresh: true}}
				if w.hook("prerouting", &a, 0) != w.hook("prerouting", &b, 0) || a.mark != b.mark || a.conn.mark != b.conn.mark {
					t.Errorf("at %s the mark of %s becomes %#x, no mark %#x", l.Name, w.cfg.Uplinks[i].Name, a.mark, b.mark)
				}
			}
		}
	})
}

// hasUnreachableDefault reports whether the owner has put an unreachable default behind all others in
// table main. A lookup bound to a device that has no default in main meets it at our first rule and ends
// there, for suppression looks at routes and not at errors.
func (w *world) hasUnreachableDefault(f rules.Family) bool {
	return slices.ContainsFunc(w.obs.Routes, func(r netcfg.Route) bool {
		return r.Family == f && r.Table == netcfg.TableMain && r.IsDefault() && r.Type == netcfg.Unreachable
	})
}

func TestInboundPacketsPassReversePathFiltering(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		for _, p := range w.paths(&report) {
			if p.family != rules.IPv4 || !p.usable() {
				continue
			}
			for _, a := range p.Addresses {
				for _, peer := range p.peers() {
					in := func(conn *connection) packet {
						return packet{query: query{src: peer, dst: a.Addr(), iif: p.Device}, conn: conn}
					}
					local := w.receive(in(&connection{fresh: true}), netip.Addr{})
					if devices := fmt.Sprint(local); devices != "[local]" {
						t.Errorf("from %v to the service at %v by %s: %s", peer, a, p.Name, devices)
					}
					w.eachLANHost(p.family, func(lan string, host netip.Addr) {
						for what, conn := range map[string]*connection{
							"new port forward":            {fresh: true},
							"reply to a masqueraded flow": {mark: numbers.Mark(p.ID)},
						} {
							for _, d := range w.receive(in(conn), host) {
								if d.device != lan || d.src != peer {
									t.Errorf("%s from %v by %s to %v: %v", what, peer, p.Name, host, d)
								}
							}
						}
					})
				}
			}
		}
	})
}

// A request for our hardware address carries no mark, and a strict filter looks at its sender all the
// same (net/ipv4/arp.c arp_process).
func TestGatewaysMayAskForOurAddresses(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		for _, p := range w.paths(&report) {
			if p.family != rules.IPv4 || !p.usable() || !p.Gateway.IsValid() || p.Onlink {
				continue
			}
			for _, a := range p.Addresses {
				if a.Contains(p.Gateway) && !w.arrives(p.Gateway, a.Addr(), p.Device, "lo", 0) {
					t.Errorf("%s drops its gateway's question for %v", p.Name, a)
				}
			}
		}
	})
}

func TestLocalNetworksAreNeverReachedByAnUplink(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		marks := []uint32{0}
		for i := range w.cfg.Uplinks {
			marks = append(marks, numbers.Mark(w.cfg.Uplinks[i].ID))
		}
		for _, f := range rules.Families {
			w.eachLANHost(f, func(lan string, host netip.Addr) {
				targets := lanTargets(w, f)
				for target, want := range targets {
					for _, mark := range marks {
						conn := func() *connection { return &connection{mark: mark} }
						got := w.receive(packet{query: query{src: host, dst: target, iif: lan}, conn: conn()}, netip.Addr{})
						expect(t, fmt.Sprintf("from %v to %v pinned %#x", host, target, mark), want, got)
						if want != "" {
							got = w.send(packet{query: query{src: localAddress(w, f), dst: target}, conn: conn()})
							expect(t, fmt.Sprintf("from the router to %v pinned %#x", target, mark), want, got)
						}
					}
				}
			})
		}
	})
}

// lanTargets are hosts in and behind each LAN with the device that leads there, and the machine's own
// addresses, also those of uplinks (hairpin), with none.
func lanTargets(w *world, f rules.Family) map[netip.Addr]string {
	targets := make(map[netip.Addr]string)
	for i, lan := range w.lans {
		targets[lanHost(i+1, f, 10)] = lan
		behind := behindLAN(i+1, f)
		if slices.ContainsFunc(w.obs.Routes, func(r netcfg.Route) bool { return r.Dst.Bits() > 3 && r.Dst.Contains(behind) }) {
			targets[behind] = lan
		}
	}
	for _, a := range w.obs.Addrs {
		if rules.FamilyOf(a.Prefix.Addr()) == f && !a.LinkScope && !a.Tentative {
			targets[a.Prefix.Addr()] = ""
		}
	}
	return targets
}

func localAddress(w *world, f rules.Family) netip.Addr {
	for _, a := range w.obs.Addrs {
		if rules.FamilyOf(a.Prefix.Addr()) == f && !a.LinkScope && !a.Tentative {
			return a.Prefix.Addr()
		}
	}
	return netip.Addr{}
}

func expect(t fataler, what, device string, got []departure) {
	t.Helper()
	for _, d := range got {
		if d.device != device || device == "" && d.why != "local" {
			t.Errorf("%s: %v, want %q", what, d, device)
		}
	}
}

// A LAN host that talks to a port forward by an outside address of the router meets it inside.
func TestHairpinStaysInside(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		for _, p := range w.paths(&report) {
			for _, a := range p.Addresses {
				w.eachLANHost(p.family, func(lan string, host netip.Addr) {
					reply := packet{query: query{src: a.Addr(), dst: host}, conn: &connection{}}
					expect(t, fmt.Sprintf("reply from %v", a), lan, w.send(reply))
					w.eachLANHost(p.family, func(other string, server netip.Addr) {
						request := packet{query: query{src: host, dst: a.Addr(), iif: lan}, conn: &connection{fresh: true}}
						expect(t, fmt.Sprintf("from %v by %v to %v", host, a, server), other, w.receive(request, server.Next()))
					})
				})
			}
		}
	})
}

// Whatever the pin says and wherever routing led: what leaves an uplink carries no address of another
// one, and none of a local network that the uplink hides.
func TestNothingLeavesAnUplinkWithAForeignSource(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		paths := w.paths(&report)
		w.othersFail = flip(t, "others fail")
		for _, p := range paths {
			if !p.Up {
				continue
			}
			for _, src := range sources(w, p.family) {
				for name, conn := range connections(w) {
					out := packet{query: query{src: src, dst: internet[p.family]}, conn: conn}
					for _, d := range w.leave(out, []way{{device: p.Device}}) {
						if d.device != "" && foreignTo(w, &p, paths, d.src) {
							t.Errorf("%s packet from %v: %v", name, src, d)
						}
					}
				}
			}
		}
	})
}

// sources are the addresses that packets may carry: those of the machine and of LAN hosts.
func sources(w *world, f rules.Family) []netip.Addr {
	var list []netip.Addr
	for _, a := range w.obs.Addrs {
		if rules.FamilyOf(a.Prefix.Addr()) == f && !a.LinkScope && !a.Tentative {
			list = append(list, a.Prefix.Addr())
		}
	}
	w.eachLANHost(f, func(_ string, host netip.Addr) { list = append(list, host) })
	for i := range w.cfg.Uplinks {
		for _, d := range w.cfg.Uplinks[i].Delegations {
			if f == rules.IPv6 {
				list = append(list, d.Prefix.Addr().Next().Next())
			}
		}
	}
	return list
}

// connections are the states of a flow: new, invalid, and pinned to each uplink, with and without the
// address that a source NAT gave it.
func connections(w *world) map[string]*connection {
	list := map[string]*connection{"new": {fresh: true}, "untracked": nil, "unpinned": {}}
	for i := range w.cfg.Uplinks {
		u := &w.cfg.Uplinks[i]
		list["pinned "+u.Name] = &connection{mark: numbers.Mark(u.ID)}
	}
	return list
}

// foreignTo reports whether a source does not belong behind the path: it is an address of another
// uplink, or of a local network where sources shall be rewritten.
func foreignTo(w *world, p *path, paths []path, src netip.Addr) bool {
	has := func(o *path) bool {
		return o.family == p.family && (slices.ContainsFunc(o.Addresses, func(a netip.Prefix) bool { return a.Addr() == src }) ||
			slices.ContainsFunc(o.Delegations, func(d rules.Delegation) bool { return d.Prefix.Contains(src) }))
	}
	if has(p) {
		return false
	}
	if slices.ContainsFunc(paths, func(o path) bool { return has(&o) }) {
		return true
	}
	inside := false
	for _, lan := range w.lans {
		for _, a := range w.obs.Addrs {
			inside = inside || a.Device == lan && !a.LinkScope && a.Prefix.Masked().Contains(src)
		}
	}
	return inside && p.Family(p.family).Masquerade
}

func TestNewTrafficUsesTheChosenUplinks(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		for _, f := range rules.Families {
			choice := report.Defaults[f]
			if len(choice.Members) == 0 {
				continue
			}
			want := devices(memberWays(w, f, choice))
			w.eachLANHost(f, func(lan string, host netip.Addr) {
				if got := devices(w.lookup(query{src: host, dst: internet[f], iif: lan})); got != want {
					t.Errorf("%v from %v: %q, want %q", f, lan, got, want)
				}
			})
			if got := devices(w.lookup(query{dst: internet[f], iif: "lo"})); got != want {
				t.Errorf("%v from the router: %q, want %q", f, got, want)
			}
		}
	})
}

func memberWays(w *world, f rules.Family, choice rules.Choice) []way {
	var ways []way
	for _, m := range choice.Members {
		i := slices.IndexFunc(w.cfg.Uplinks, func(u rules.Uplink) bool { return u.ID == m.Uplink && u.Family(f).Enabled })
		ways = append(ways, way{device: w.cfg.Uplinks[i].Device})
	}
	return ways
}

// Programs that read table main and nothing else follow the choice too.
func TestMainsDefaultFollowsTheChoice(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		w.dropRoutes(func(r netcfg.Route) bool { return !r.IsDefault() && r.Dst.Bits() <= 3 }) // a VPN's halves of the Internet
		// A connected network that others put on a device is theirs to take away.
		w.dropRoutes(func(r netcfg.Route) bool {
			return r.Table == netcfg.TableMain && !r.IsDefault() && r.Protocol == protoKernel && r.Dst.Contains(internet[r.Family])
		})
		for _, f := range rules.Families {
			choice := report.Defaults[f]
			if len(choice.Members) == 0 || displaced(&report) {
				continue
			}
			allowed := memberWays(w, f, choice)
			for _, way := range w.tableLookup(netcfg.TableMain, query{dst: internet[f]}) {
				if !w.usesDevice(allowed, way.device) {
					t.Errorf("%v by table main: %v, chosen are %q", f, way, devices(allowed))
				}
			}
		}
	})
}

func TestTheChoiceIsSound(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		for _, f := range rules.Families {
			choice := report.Defaults[f]
			var chosen, left []path
			for _, p := range w.paths(&report) {
				switch {
				case p.family != f || !p.usable():
				case choice.Has(p.ID):
					chosen = append(chosen, p)
				default:
					left = append(left, p)
				}
			}
			if len(chosen) != len(choice.Members) {
				t.Errorf("%v: some of %+v are no way out", f, choice.Members)
			}
			checkShares(t, chosen, choice)
			for _, p := range left {
				if len(chosen) == 0 {
					t.Errorf("%v: nothing is chosen though %s has a default", f, p.Name)
				}
				for _, c := range chosen {
					if why := w.better(&p, &c); why != "" {
						t.Errorf("%v: %s carries new traffic and %s does not, which is %s", f, c.Name, p.Name, why)
					}
				}
			}
		}
	})
}

// checkShares compares the shares with the weights, of which they are the part that falls to each.
func checkShares(t fataler, chosen []path, choice rules.Choice) {
	t.Helper()
	total, sum := 0, 0.0
	for _, c := range chosen {
		total += c.Weight
	}
	for i, m := range choice.Members {
		sum += m.Share
		if want := float64(chosen[i].Weight) / float64(total); m.Uplink != chosen[i].ID || math.Abs(m.Share-want) > 1e-9 {
			t.Errorf("%s has the share %v of new traffic, want %v", chosen[i].Name, m.Share, want)
		}
	}
	if len(chosen) > 0 && math.Abs(sum-1) > 1e-9 {
		t.Errorf("shares sum to %v", sum)
	}
}

// better says why p should have been chosen rather than c, or "".
func (w *world) better(p, c *path) string {
	vp, vc := w.verdicts[rules.Path{Uplink: p.ID, Family: p.family}], w.verdicts[rules.Path{Uplink: c.ID, Family: c.family}]
	alive := func(v rules.Verdict) bool { return v.Health >= rules.Doubtful }
	switch {
	case alive(vp) && !alive(vc):
		return "alive"
	case alive(vp) && !vp.Drained && vc.Drained:
		return "not drained"
	case vp == vc && !vp.Slower && p.Carrier == c.Carrier && p.Tier < c.Tier:
		return "of a better tier"
	}
	return ""
}

func TestWhatOthersTranslateIsNotTranslatedAgainAndNeverLeavesAsItIs(t *testing.T) {
	w := dual()
	w.obs.Translations = []rules.Translation{{Family: rules.IPv4, Only: []string{"wan1"}, By: "inet fw4"}}
	w.obs.Routes = append(w.obs.Routes, static("10.9.0.0/24", "lan0", netip.MustParseAddr("192.168.1.9"), 0))
	want, report := w.plan()
	text := want.Table.String()
	for line, there := range map[string]bool{
		`meta nfproto ipv4 oifname "wan1" masquerade`:           false,
		`meta nfproto ipv4 oifname "wan2" masquerade`:           true,
		`ip saddr { 10.9.0.0/24, 192.168.1.0/24 } counter drop`: true, // in egress_fiber
		`comment "fiber hides local networks`:                   true,
		`comment "lte hides local networks`:                     false,
	} {
		if strings.Contains(text, line) != there {
			t.Errorf("%s: want %t in\n%s", line, there, text)
		}
	}
	if len(report.Problems) != 1 || report.Problems[0].Code != "foreign-masquerade" {
		t.Errorf("problems: %+v", report.Problems)
	}
}

// A device whose addresses are our business is set up with all that it needs, and left alone once its owner has set it down.
func TestADeviceIsSetUpUnlessItsOwnerHasSetItDown(t *testing.T) {
	w := staticAddresses()
	for i := range w.cfg.Uplinks {
		w.cfg.Uplinks[i].IPv4.Managed, w.cfg.Uplinks[i].IPv6.Managed = true, true
	}
	w.setDown("wan1")
	link, _ := w.obs.Link("wan1")
	for _, seen := range []bool{false, true} {
		obs := w.snapshot()
		obs.SeenUp = map[int]bool{link.Index: seen}
		obs = obs.Foresee(w.cfg)
		want, _ := rules.Plan(w.cfg, obs, w.verdicts)
		printed := commands(netcfg.Diff(rules.Ours(numbers, obs), want))
		for _, line := range []string{"ip link set dev wan1 up\n", "ip -4 route replace default via 198.51.100.1 dev wan1 table 11701 "} {
			if strings.Contains(printed, line) == seen {
				t.Errorf("seen up before %v: %q in\n%s", seen, line, printed)
			}
		}
	}
}
