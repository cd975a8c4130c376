package rules_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

var nestedRouter = netip.MustParseAddr("fe80::9")

// handOut has a router on each LAN draw one part of each prefix that it may have a part of.
func (w *world) handOut(t *rapid.T, report *rules.Report) {
	for _, from := range report.Delegable {
		bits := 62
		number := uint64(draw(t, "number", 1<<min(bits-from.Delegation.Prefix.Bits(), 8)))
		b := from.Delegation.Prefix.Addr().As16()
		b[7] |= byte(number << (64 - bits))
		part := netip.PrefixFrom(netip.AddrFrom16(b), bits)
		given := slices.ContainsFunc(w.cfg.LANs, func(l rules.LAN) bool {
			return slices.ContainsFunc(l.Downstream, func(d rules.Downstream) bool { return d.Prefix == part })
		})
		if given || slices.ContainsFunc(from.Taken, part.Overlaps) {
			continue
		}
		i := slices.IndexFunc(w.cfg.LANs, func(l rules.LAN) bool { return l.Device == from.Device })
		w.cfg.LANs[i].Downstream = append(w.cfg.LANs[i].Downstream, rules.Downstream{Prefix: part, Router: nestedRouter, Number: int(number) / 2})
	}
}

// What hosts of routers behind us send leaves by the uplink of its source or not at all, and what is for them goes to their router,
// whichever uplink it comes by; so it is when their provider has taken the prefix back.
func TestHostsOfRoutersBehindUsAreLikeThoseOfALAN(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := worlds().Draw(t, "world")
		w.cfg.Site = netip.MustParsePrefix("fd00:77::/48")
		for i := range w.cfg.LANs {
			w.cfg.LANs[i].DelegateLength = 62
		}
		_, report := w.converge(t)
		w.handOut(t, &report)
		gone := flip(t, "taken back")
		var prefixes []netip.Prefix
		if gone {
			for i := range w.cfg.Uplinks {
				for _, d := range w.cfg.Uplinks[i].Delegations {
					prefixes = append(prefixes, d.Prefix)
				}
				w.cfg.Uplinks[i].Delegations = nil
			}
		}
		_, report = w.converge(t)
		for i := range w.cfg.LANs {
			lan := &w.cfg.LANs[i]
			for _, d := range lan.Downstream {
				host := hostIn(d.Prefix)
				private := host.IsPrivate()
				var owner *rules.Uplink
				for j := range w.cfg.Uplinks {
					u := &w.cfg.Uplinks[j]
					if slices.ContainsFunc(u.Delegations, func(o rules.Delegation) bool { return o.Prefix.Contains(host) }) {
						owner = u
					}
				}
				if owner == nil && !private && !slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(host) }) {
					continue
				}
				for _, sent := range w.receive(packet{query: query{src: host, dst: internet[rules.IPv6], iif: lan.Device}, conn: &connection{fresh: true}}, netip.Addr{}) {
					switch {
					case private: // as from a LAN: see TestPrivateSourcesLeaveByPrivateNetworksAlone
					case sent.device == "" || sent.src != host || owner != nil && sent.device == owner.Device:
					case !slices.ContainsFunc(w.cfg.Uplinks, func(u rules.Uplink) bool { return u.Device == sent.device && u.IPv6.Enabled }): // its IPv6 is not ours
					default:
						t.Errorf("from %v behind %s: %v", host, lan.Device, sent)
					}
				}
				if private || owner == nil || !w.isUp(lan.Device) {
					continue
				}
				for _, iif := range []string{"lo", owner.Device} {
					if got := devices(w.lookup(query{src: internet[rules.IPv6], dst: host, iif: iif})); got != lan.Device {
						t.Errorf("to %v by %s: %s, want %s", host, iif, got, lan.Device)
					}
				}
			}
		}
		for _, from := range report.Delegable {
			for _, s := range report.Subnets {
				if s.Prefix.Overlaps(from.Delegation.Prefix) && !slices.ContainsFunc(from.Taken, s.Prefix.Overlaps) {
					t.Errorf("%v of %v is the network of %s", s.Prefix, from.Delegation.Prefix, s.Device)
				}
			}
		}
	})
}

func (w *world) isUp(device string) bool {
	link, ok := w.obs.Link(device)
	return ok && link.Up
}

func TestWhatRoutersBehindALANMayHave(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world)
		want   []string
	}{
		"a part of each": {func(*world) {}, []string{
			"1 2001:db8:a00::/56 true but [2001:db8:a00::/64 2001:db8:a00:1::/64]",
			"2 2001:db8:b00::/56 true but [2001:db8:b00::/64 2001:db8:b00:1::/64]",
			"0 fd00:77::/48 true but [fd00:77::/64 fd00:77:0:1::/64]"}},
		"while an uplink is down": {func(w *world) {
			w.verdicts[rules.Path{Uplink: 1, Family: rules.IPv6}] = rules.Verdict{Health: rules.Dead}
			w.cfg.Site = netip.Prefix{}
		}, []string{
			"1 2001:db8:a00::/56 false but [2001:db8:a00::/64 2001:db8:a00:1::/64]",
			"2 2001:db8:b00::/56 true but [2001:db8:b00::/64 2001:db8:b00:1::/64]"}},
		"not of what hosts never see, nor of what is too long": {func(w *world) {
			w.cfg.Uplinks[0].IPv6.PrefixNAT, w.cfg.Site = true, netip.Prefix{}
			w.cfg.Uplinks[1].Delegations[0].Prefix = netip.MustParsePrefix("2001:db8:b00::/62")
		}, nil},
		"not what others have": {func(w *world) {
			w.cfg.Uplinks[0].Delegations[0].Exclude = netip.MustParsePrefix("2001:db8:a00:20::/60")
			w.hold("lan0", "2001:db8:b00:40::5/64")
			for _, to := range []string{"2001:db8:b00:80::/60", "2001:db8::/40"} {
				w.obs.Routes = append(w.obs.Routes, netcfg.Route{Family: rules.IPv6, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: netip.MustParsePrefix(to), Metric: 1024,
					Protocol: protoStatic, Nexthops: []netcfg.Nexthop{{Device: "lan0", Gateway: nestedRouter, Weight: 1}}})
			}
			led := netcfg.Route{Family: rules.IPv6, Dst: netip.MustParsePrefix("2001:db8:a00:40::/60"), Nexthops: []netcfg.Nexthop{{Device: "lan0", Gateway: nestedRouter}}}
			w.obs.Routed[rules.IPv6.Index()] = rules.NewRoutedNetworks(slices.Values([]*netcfg.Route{&led}), 1)
			w.cfg.Site = netip.Prefix{}
		}, []string{
			"1 2001:db8:a00::/56 true but [2001:db8:a00:20::/60 2001:db8:a00::/64 2001:db8:a00:1::/64 2001:db8:a00:40::/60]",
			"2 2001:db8:b00::/56 true but [2001:db8:b00::/64 2001:db8:b00:1::/64 2001:db8:b00:40::/64 2001:db8:b00:80::/60]"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := delegating()
			w.cfg.LANs[0].DelegateLength, w.cfg.Site = 62, netip.MustParsePrefix("fd00:77::/48")
			c.change(w)
			_, report := w.plan()
			var got []string
			for _, d := range report.Delegable {
				got = append(got, fmt.Sprint(d.Uplink, " ", d.Delegation.Prefix, " ", d.Usable, " but ", d.Taken))
			}
			if diff := gocmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if told := slices.Contains(codes(report), "delegate-length"); told != (c.want == nil) {
				t.Errorf("problems: %q", codes(report))
			}
		})
	}
}

// A LAN that is not there has no routes, and what somebody else has now has none of ours.
func TestRoutesToRoutersBehindALAN(t *testing.T) {
	part, gone := netip.MustParsePrefix("2001:db8:a00:fc::/62"), netip.MustParsePrefix("2001:db8:c00:fc::/62")
	for name, c := range map[string]struct {
		change func(*world)
		want   []netip.Prefix
	}{
		"both": {func(*world) {}, []netip.Prefix{part, gone}},
		"the link is down": {func(w *world) {
			w.obs.Links[slices.IndexFunc(w.obs.Links, func(l rules.Link) bool { return l.Name == "lan0" })].Up = false
		}, nil},
		"somebody has them": {func(w *world) { w.hold("lan0", "2001:db8:c00:fd::5/64") }, []netip.Prefix{part}},
	} {
		t.Run(name, func(t *testing.T) {
			w := delegating()
			w.cfg.LANs[0].Downstream = []rules.Downstream{{Prefix: part, Router: nestedRouter}, {Prefix: gone, Router: nestedRouter}}
			c.change(w)
			want, _ := w.plan()
			var got []netip.Prefix
			for _, r := range want.Routes {
				if r.Table == netcfg.TableMain && len(r.Nexthops) == 1 && r.Nexthops[0].Gateway == nestedRouter {
					got = append(got, r.Dst)
				}
			}
			if diff := gocmp.Diff(c.want, got, gocmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Behind an uplink that translates, a router's hosts appear by a part of the delegation, whichever prefix they use.
func TestHostsOfRoutersAppearByTheDelegation(t *testing.T) {
	w := delegating()
	w.cfg.Site, w.cfg.Uplinks[1].IPv6.PrefixNAT = netip.MustParsePrefix("fd00:77::/48"), true
	w.verdicts[rules.Path{Uplink: 1, Family: rules.IPv6}] = rules.Verdict{Health: rules.Dead}
	lan := &w.cfg.LANs[0]
	lan.ULA, lan.DelegateLength = netip.MustParsePrefix("fd00:77:0:1::/64"), 62
	lan.Downstream = []rules.Downstream{
		{Prefix: netip.MustParsePrefix("2001:db8:a00:f0::/62"), Router: nestedRouter, Number: 1},
		{Prefix: netip.MustParsePrefix("fd00:77:0:fff8::/62"), Router: nestedRouter, Number: 1},
		{Prefix: netip.MustParsePrefix("fd00:77:0:100::/62"), Router: nestedRouter, Number: 63}, // that part is the LAN's
		{Prefix: netip.MustParsePrefix("fd00:77:0:200::/60"), Router: nestedRouter, Number: 2},  // of another length
	}
	_, report := w.converge(t)
	for source, want := range map[string]string{"2001:db8:a00:f1::9": "2001:db8:b00:f9::9", "fd00:77:0:fffa::9": "2001:db8:b00:fa::9", "fd00:77:0:100::9": "", "fd00:77:0:200::9": ""} {
		got := w.receive(packet{query: query{src: netip.MustParseAddr(source), dst: internet[rules.IPv6], iif: "lan0"}, conn: &connection{fresh: true}}, netip.Addr{})
		if len(got) != 1 || (got[0].device == "wan2") != (want != "") || want != "" && got[0].src != netip.MustParseAddr(want) {
			t.Errorf("from %s: %v, want %q", source, got, want)
		}
	}
	if i := slices.IndexFunc(report.Delegable, func(d rules.Delegable) bool { return d.Uplink == 1 && d.Usable }); i < 0 {
		t.Errorf("what is rewritten may be used: %+v", report.Delegable)
	}
	want, _ := w.plan()
	if text := chainText(want.Table, "dstnat"); !strings.Contains(text, "ip6 daddr 2001:db8:b00:f8::/62 dnat ip6 prefix to fd00:77:0:fff8::/62") {
		t.Errorf("calls from outside:\n%s", text)
	}
}
