package rules_test

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/rules"
)

// translatorsOf calls fn for each translator whose device is there and up, with its line.
func (w *world) translatorsOf(report *rules.Report, fn func(tun *rules.Uplink, line *path, paths []path)) {
	paths := w.paths(report)
	for i := range w.cfg.Uplinks {
		u := &w.cfg.Uplinks[i]
		if link, _ := w.obs.Link(u.Device); !u.IsCLAT() || !link.Up {
			continue
		}
		at := slices.IndexFunc(paths, func(p path) bool { return p.ID == u.ID && p.family == rules.IPv6 })
		if at >= 0 {
			fn(u, &paths[at], paths)
		}
	}
}

// Whatever policies say, and whoever carries the default: what a translator sends leaves by its line, with an address of the line, or not at
// all. That goes for its own ICMPv6 errors, and for what it makes of IPv4 sources that nobody has masqueraded.
func TestWhatATranslatorSendsLeavesByItsLineAlone(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		w.translatorsOf(&report, func(tun *rules.Uplink, line *path, paths []path) {
			for name, conn := range connections(w) {
				if conn != nil && conn.mark != 0 && conn.mark != numbers.Mark(tun.ID) {
					continue // it is pinned here, or not at all
				}
				for _, src := range []netip.Addr{tun.CLAT.Addr6, netip.MustParseAddr("fd75:706c::100:1"), netip.MustParseAddr("64:ff9b::192.168.1.7")} {
					if !tun.CLAT.NAT64.IsValid() && !src.IsPrivate() {
						continue // it knows no prefix
					}
					one := conn
					if conn != nil {
						c := *conn
						one = &c
					}
					for _, d := range w.receive(packet{query: query{src: src, dst: internet[rules.IPv6], iif: tun.Device}, conn: one}, netip.Addr{}) {
						if d.device != "" && (d.device != line.Device || d.src == src || foreignTo(w, line, paths, d.src)) {
							t.Errorf("a %s packet of %s from %v %v", name, tun.Device, src, d)
						}
					}
				}
			}
		})
	})
}

// The answers find the translator, wherever main or policies would lead them.
func TestAnswersFindTheTranslator(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		w.translatorsOf(&report, func(tun *rules.Uplink, line *path, _ []path) {
			if !line.Up || !line.Carrier || !line.Source().IsValid() {
				return
			}
			answer := packet{query: query{src: internet[rules.IPv6], dst: line.Source(), iif: line.Device}, conn: &connection{mark: numbers.Mark(tun.ID), reply: true}}
			for _, d := range w.receive(answer, tun.CLAT.Addr6) {
				if d.device != tun.Device {
					t.Errorf("an answer for %s %v", tun.Device, d)
				}
			}
		})
	})
}

// It lacks what its line lacks, and as much fits as fits the line.
func TestATranslatedPathIsAsGoodAsItsLine(t *testing.T) {
	build := func(change func(w *world)) rules.PathInfo {
		w := clat()
		change(w)
		_, report := w.plan()
		return report.Paths[rules.Path{Uplink: 1, Family: rules.IPv4}]
	}
	if got := build(func(*world) {}); !got.HasDefault || !got.Carrier || got.NoNAT64 || got.PathMTU() != 1480 {
		t.Errorf("it is %+v", got)
	}
	if got := build(func(w *world) { _ = w.changeLink("wan1", func(l *rules.Link) { l.Carrier = false }) }); got.Carrier {
		t.Error("it has carrier while the line has none")
	}
	if got := build(func(w *world) { _ = w.changeLink("wan1", func(l *rules.Link) { l.MTU = 1400 }) }); got.PathMTU() != 1380 {
		t.Errorf("packets of %d bytes fit a line of 1400", got.PathMTU())
	}
	if got := build(func(w *world) { _ = w.delAddr("wan1", netip.MustParsePrefix("2001:db8:a::2/64")) }); got.HasDefault {
		t.Error("it has a default while the line has no address")
	}
	if got := build(func(w *world) {
		for i := range w.cfg.Uplinks {
			if c := w.cfg.Uplinks[i].CLAT; c != nil {
				c.NAT64 = netip.Prefix{}
			}
		}
	}); !got.NoNAT64 {
		t.Error("nobody says that the prefix is not known")
	}
	inside := func(prefix string) func(w *world) {
		return func(w *world) {
			for i := range w.cfg.Uplinks {
				if c := w.cfg.Uplinks[i].CLAT; c != nil {
					c.NAT64 = netip.MustParsePrefix(prefix)
				}
			}
			w.cfg.Uplinks[1].Delegations = []rules.Delegation{{Prefix: netip.MustParsePrefix("2001:db8:b00::/56")}}
		}
	}
	for _, prefix := range []string{"2001:db8:1::/96", "2001:db8::/32", "2001:db8:b00:7::/96"} {
		if got := build(inside(prefix)); !got.NoNAT64 || got.HasDefault {
			t.Errorf("it translates to the hosts of this machine, by %s", prefix)
		}
	}
	if got := build(inside("2001:db8:64::/96")); got.NoNAT64 || !got.HasDefault {
		t.Error("it does not translate to another network")
	}
	if got := build(func(w *world) { w.unplug("clat-fiber") }); got.Present {
		t.Error("it is there without a translator")
	}
}
