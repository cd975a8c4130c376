package rules_test

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

func TestWhatMovesToAnUplinkThatIsBack(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	w := dual()
	w.cfg.Uplinks[0].TakesBack, w.cfg.Uplinks[1].Tier = true, 2
	w.cfg.Uplinks[1].Resolvers = []netip.Addr{addr("192.0.2.53")}
	from := func(p string) rules.Condition { return rules.SelectAddresses{Prefixes: []netip.Prefix{prefix(p)}} }
	w.cfg.Groups = []rules.Group{{ID: 3, Tiers: [][]int{{2}}}, {ID: 4, Tiers: [][]int{{1}, {2}}}, {ID: 5, LeftTo: rules.LeftToDefault}}
	w.cfg.Policies = []rules.Policy{
		{Name: "left", Group: 5, Select: rules.Selector{from("192.168.1.21/32")}},
		{Name: "camera", Group: 3, Select: rules.Selector{from("192.168.1.20/31")}},
		{Name: "calls", Group: 4, Select: rules.Selector{from("192.168.1.30/32")}},
		{Name: "marked", Group: 3, Select: rules.Selector{from("192.168.1.40/32"), rules.SelectMark{Value: 1, Mask: 1}}},
		{Name: "backup", Group: 3, Select: rules.Selector{rules.SelectPorts{Dest: true, List: []netcfg.Ports{{First: 22, Last: 22}}}, rules.SelectUIDs{{First: 7, Last: 7}}}},
	}
	w.obs.Routes = append(w.obs.Routes, netcfg.Route{Family: rules.IPv4, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: prefix("10.64.0.0/16"),
		Protocol: protoStatic, Nexthops: []netcfg.Nexthop{{Device: "wan2", Gateway: addr("203.0.113.1"), Weight: 1}}})
	_, report := w.plan()
	lan, spare, remote := addr("192.168.1.9"), addr("203.0.113.2"), addr("192.0.2.1")
	for name, c := range map[string]struct {
		source, dest netip.Addr
		port         uint16
		uplink       int
		moves        bool
	}{
		"of a LAN host":                       {lan, remote, 443, 2, true},
		"of this machine":                     {spare, remote, 443, 2, true},
		"where it belongs":                    {lan, remote, 443, 1, false},
		"not pinned":                          {lan, remote, 443, 0, false},
		"by an uplink that is none any more":  {lan, remote, 443, 9, false},
		"that began outside":                  {remote, spare, 22, 2, false},
		"to the LAN":                          {spare, lan, 22, 2, false},
		"to the spare's own network":          {lan, addr("203.0.113.1"), 80, 2, false},
		"to a network behind the spare":       {lan, addr("10.64.3.4"), 80, 2, false},
		"to the spare's DNS server":           {spare, addr("192.0.2.53"), 53, 2, false},
		"to many":                             {lan, addr("224.0.0.251"), 5353, 2, false},
		"that a policy wants there":           {addr("192.168.1.20"), remote, 443, 2, false},
		"that a policy leaves to the default": {addr("192.168.1.21"), remote, 443, 2, true},
		"that a policy wants here":            {addr("192.168.1.30"), remote, 443, 2, true},
		"that a policy may want there":        {addr("192.168.1.40"), remote, 443, 2, false},
		"of somebody on this machine":         {spare, remote, 22, 2, false},
		"of a LAN host, who is nobody here":   {lan, remote, 22, 2, true},
	} {
		mark := uint32(0)
		if c.uplink > 0 {
			mark = numbers.Mark(c.uplink)
		}
		conn := rules.Connection{Family: rules.IPv4, Source: c.source, Dest: c.dest, ReplyDest: spare, Protocol: 6, SPort: 40000, DPort: c.port, Mark: mark}
		if got := report.Old.MovesTo(1, &conn); got != c.moves {
			t.Errorf("%s: %v", name, got)
		}
	}
	w.cfg.Uplinks[1].PoliciesOnly = true
	_, report = w.plan()
	conn := rules.Connection{Family: rules.IPv4, Source: lan, Dest: remote, ReplyDest: spare, Protocol: 6, DPort: 443, Mark: numbers.Mark(2)}
	if report.Old.MovesTo(1, &conn) {
		t.Error("what an uplink for policies alone carries was never the default's")
	}
}

// A connection that this machine begins again may get another source: what a policy says of the present one decides nothing.
func TestASourceThatIsChosenAnewMovesNothing(t *testing.T) {
	w := dual()
	w.cfg.Uplinks[0].TakesBack = true
	spare := netip.MustParseAddr("203.0.113.2")
	conn := rules.Connection{Family: rules.IPv4, Source: spare, Dest: netip.MustParseAddr("192.0.2.1"), ReplyDest: spare, Protocol: 6, DPort: 443, Mark: numbers.Mark(2)}
	w.cfg.Groups = []rules.Group{{ID: 3, Tiers: [][]int{{1}}}}
	for _, selects := range []rules.SelectAddresses{{Prefixes: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}, {Dest: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}} {
		w.cfg.Policies = []rules.Policy{{Name: "first", Group: 3, Select: rules.Selector{selects}}}
		_, report := w.plan()
		if got := report.Old.MovesTo(1, &conn); got != selects.Dest { // the default has both
			t.Errorf("by %s: %v", selects.Key(), got)
		}
	}
}

// Hosts keep their addresses for as long as a connection lasts: what has one of the spare's own leaves by the spare.
func TestWhatHasASparesOwnPrefixStaysThere(t *testing.T) {
	w := delegating()
	for i := range w.cfg.Uplinks {
		w.cfg.Uplinks[i].TakesBack = true
	}
	w.verdicts[rules.Path{Uplink: 1, Family: rules.IPv6}] = rules.Verdict{Health: rules.Good, Drained: true}
	_, report := w.plan()
	host := w.cfg.Uplinks[0].Delegations[0].Prefix.Addr().Next()
	for source, moves := range map[netip.Addr]bool{host: false, netip.MustParseAddr("2001:db8:a::2"): true} {
		conn := rules.Connection{Family: rules.IPv6, Source: source, Dest: netip.MustParseAddr("2001:db8:ffff::1"), ReplyDest: source, Protocol: 6, DPort: 443, Mark: numbers.Mark(1)}
		if got := report.Old.MovesTo(2, &conn); got != moves {
			t.Errorf("%v: %v", source, got)
		}
	}
}

// What moves would not begin where it is: whatever policies, networks and delegations there are, nothing ends that would come back to
// the same uplink.
func TestNothingMovesThatWouldBeginWhereItIs(t *testing.T) {
	moved := 0
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		for i := range w.cfg.Uplinks {
			w.cfg.Uplinks[i].TakesBack = true
		}
		_, report = w.plan()
		check := func(q query, source netip.Addr, from *rules.Uplink) {
			c := rules.Connection{Family: rules.FamilyOf(q.dst), Source: source, Dest: q.dst, ReplyDest: source, Protocol: q.protocol,
				SPort: q.sport, DPort: q.dport, Mark: numbers.Mark(from.ID)}
			for i := range w.cfg.Uplinks {
				to := &w.cfg.Uplinks[i]
				if !report.Old.MovesTo(to.ID, &c) {
					continue
				}
				moved++
				for _, d := range w.sent(q, &connection{fresh: true}) {
					if d.device == from.Device {
						t.Errorf("%v from %v of %s moves to %s, and would be sent by %v", q, source, from.Name, to.Name, d)
					}
				}
			}
		}
		for i := range w.cfg.Uplinks {
			from := &w.cfg.Uplinks[i]
			for f, remote := range internet {
				for _, dst := range []netip.Addr{remote, selected[f]} {
					for _, q := range []query{{protocol: 6, sport: 40000, dport: 443}, {protocol: 17, sport: 40000, dport: 53, mark: 1, dscp: 46}} {
						q.dst, q.iif, q.mac = dst, "lo", [6]byte{2, 5: 9}
						for _, a := range w.obs.Addrs {
							if a.Device == from.Device && rules.FamilyOf(a.Prefix.Addr()) == f {
								check(q, a.Prefix.Addr(), from)
							}
						}
						w.eachLANHost(f, func(lan string, host netip.Addr) {
							q.src, q.iif = host, lan
							check(q, host, from)
						})
					}
				}
			}
		}
	})
	if moved == 0 {
		t.Error("nothing ever moves")
	}
}
