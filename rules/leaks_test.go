package rules_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/explain"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// sealed is two uplinks with a kill switch for what comes in by some devices.
func sealed(devices ...string) *world {
	w := dual()
	w.cfg.Groups = []rules.Group{{ID: 3, Tiers: [][]int{{2}}, KillSwitch: true}}
	w.cfg.Policies = []rules.Policy{{Name: "sealed", Group: 3, Select: rules.Selector{rules.SelectDevices(devices)}}}
	return w
}

// Of two kill switches that are about a packet the first decides: a host by the one line, and its network by the other.
func TestAKillSwitchLetsPassWhatOneBeforeItDecides(t *testing.T) {
	w := lanBox(dual())
	w.cfg.Groups = []rules.Group{{ID: 3, Tiers: [][]int{{1}}, KillSwitch: true}, {ID: 4, Tiers: [][]int{{2}}, KillSwitch: true}, {ID: 5, Tiers: [][]int{{1}}}}
	from := func(prefix string) rules.Selector {
		return rules.Selector{rules.SelectAddresses{Prefixes: []netip.Prefix{netip.MustParsePrefix(prefix)}}}
	}
	w.cfg.Policies = []rules.Policy{{Name: "host", Group: 3, Select: from("192.168.1.7/32")}, {Name: "soft", Group: 5, Select: from("192.168.1.8/32")},
		{Name: "network", Group: 4, Select: from("192.168.1.0/24")}, {Name: "all", Group: 3, Select: from("192.168.0.0/16")}}
	for source, want := range map[string]string{"192.168.1.7": "wan1", "192.168.1.8": "wan1", "192.168.1.9": "wan2"} {
		e := w.explained(t, explain.Packet{To: netip.MustParseAddr("192.0.2.1"), From: netip.MustParseAddr(source), In: "lan0"})
		if e.Outcome != explain.Leaves || len(e.Egresses) != 1 || e.Egresses[0].Device != want {
			t.Errorf("%s: %s by %v, want %s: %s", source, e.Outcome, e.Egresses, want, e.Reason)
		}
	}
	for _, dead := range []string{"wan1", "wan2"} {
		w.setDown(dead)
		source := map[string]string{"wan1": "192.168.1.7", "wan2": "192.168.1.9"}[dead]
		if e := w.explained(t, explain.Packet{To: netip.MustParseAddr("192.0.2.1"), From: netip.MustParseAddr(source), In: "lan0"}); e.Outcome != explain.Refused {
			t.Errorf("%s while %s is down: %s", source, dead, e.Outcome)
		}
	}
}

func TestAPatternIsForDevicesThatComeLaterToo(t *testing.T) {
	for pattern, matches := range map[string]bool{"lan*": true, "lan0*": true, "l*": true, "br*": false, "lan00*": false} {
		w := sealed(pattern)
		want, report := w.plan()
		if absent := len(report.Absent) > 0; absent == matches {
			t.Errorf("%s: named as absent %v", pattern, absent)
		}
		text := want.Policies.String()
		if strings.Count(text, `iifname "`+pattern+`"`) < 2 { // the mark, and the lock
			t.Errorf("%s:\n%s", pattern, text)
		}
		for _, r := range want.Rules {
			if strings.HasSuffix(r.IIF, "*") {
				t.Errorf("%s became a rule of the kernel, which knows no patterns: %v", pattern, r)
			}
		}
	}
}

func TestADeviceThatIsNotThereIsNamed(t *testing.T) {
	for devices, severity := range map[string]string{"br-lan": "error", "lan0": "", "lan0 br-lan": "error"} {
		w := sealed(strings.Fields(devices)...)
		_, report := w.plan()
		got := ""
		for _, p := range report.Absent {
			got = p.Severity
			if p.Code != "policy-device" || !strings.Contains(p.Message, "br-lan") || !strings.Contains(p.Fix, "lan0") {
				t.Errorf("%+v", p)
			}
		}
		if got != severity {
			t.Errorf("%s: %q, want %q", devices, got, severity)
		}
	}
}

// Packets of a tunnel have no hardware addresses.
func TestAKillSwitchForHostsOfADeviceWithoutHardwareAddressesIsNamed(t *testing.T) {
	w := sealed("lan0")
	w.cfg.Policies[0].Select = append(w.cfg.Policies[0].Select, rules.SelectMACs{{2, 5: 0x10}})
	_, report := w.plan()
	if len(report.Absent) != 1 || report.Absent[0].Severity != "error" || !strings.Contains(report.Absent[0].Message, "its packets carry no hardware address: its kill switch blocks nothing") {
		t.Errorf("%+v", report.Absent)
	}
	w.ethernet("lan0")
	if _, report := w.plan(); len(report.Absent) != 0 {
		t.Errorf("%+v", report.Absent)
	}
}

func TestWhatBeginsAnewIsWhatNobodyTranslatedOrAKillSwitchForbids(t *testing.T) {
	w := dual()
	w.cfg.Uplinks[1].IPv4.Masquerade = false
	w.cfg.Groups = []rules.Group{{ID: 3, Tiers: [][]int{{2}}, KillSwitch: true}, {ID: 4, Tiers: [][]int{{1}}}}
	w.cfg.Policies = []rules.Policy{
		{Name: "before", Group: 4, Select: rules.Selector{rules.SelectAddresses{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.1.30/32")}}}},
		{Name: "sealed", Group: 3, Select: rules.Selector{rules.SelectAddresses{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.1.24/29")}}, rules.SelectProtocols{17}, rules.SelectPorts{Dest: true, List: []netcfg.Ports{{First: 53, Last: 60}}}}},
		{Name: "camera", Group: 3, Select: rules.Selector{rules.SelectMACs{{2, 5: 0x10}}}},
		{Name: "devices", Group: 3, Select: rules.Selector{rules.SelectDevices{"br0", "la*"}, rules.SelectAddresses{Dest: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.64/26")}}}},
	}
	w.obs.Neighbours = []rules.Neighbour{{Address: netip.MustParseAddr("192.168.9.40"), Hardware: [6]byte{2, 5: 0x10}}, {Address: netip.MustParseAddr("192.168.9.41"), Hardware: [6]byte{2, 5: 0x11}}}
	w.plug(rules.Link{Name: "eth9", Up: true, Carrier: true})
	w.hold("eth9", "192.168.9.1/24")
	w.obs.Routes = append(w.obs.Routes, netcfg.Route{Family: rules.IPv4, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: netip.MustParsePrefix("10.9.0.0/16"),
		Protocol: protoStatic, Nexthops: []netcfg.Nexthop{{Device: "lan0", Gateway: netip.MustParseAddr("192.168.1.5"), Weight: 1}}})
	_, report := w.plan()
	addr := netip.MustParseAddr
	translated := addr("198.51.100.2")
	for name, c := range map[string]struct {
		source, dest, reply netip.Addr
		port                uint16
		uplink              int
		old                 bool
	}{
		"translated":                               {addr("192.168.1.9"), addr("192.0.2.1"), translated, 7, 1, false},
		"untranslated by an uplink that does":      {addr("192.168.1.9"), addr("192.0.2.1"), addr("192.168.1.9"), 7, 1, true},
		"untranslated by one that does not":        {addr("192.168.1.9"), addr("192.0.2.1"), addr("192.168.1.9"), 7, 2, false},
		"from before the start":                    {addr("192.168.1.9"), addr("192.0.2.1"), addr("192.168.1.9"), 7, 0, true},
		"between local networks":                   {addr("192.168.1.9"), addr("192.168.1.1"), addr("192.168.1.9"), 7, 0, false},
		"of this machine":                          {translated, addr("192.0.2.1"), translated, 7, 1, false},
		"from outside":                             {addr("192.0.2.1"), translated, addr("192.0.2.1"), 7, 1, false},
		"forbidden":                                {addr("192.168.1.25"), addr("192.0.2.1"), translated, 53, 1, true},
		"by the uplink that the kill switch knows": {addr("192.168.1.25"), addr("192.0.2.1"), addr("203.0.113.2"), 53, 2, false},
		"of another port":                          {addr("192.168.1.25"), addr("192.0.2.1"), translated, 61, 1, false},
		"of a policy before it":                    {addr("192.168.1.30"), addr("192.0.2.1"), translated, 53, 1, false},
		"from behind a device":                     {addr("192.168.1.9"), addr("192.0.2.77"), translated, 7, 1, true},
		"from far behind it":                       {addr("10.9.0.9"), addr("192.0.2.77"), translated, 7, 1, true},
		"of a host that is selected":               {addr("192.168.9.40"), addr("192.0.2.1"), translated, 7, 1, true},
		"of another host":                          {addr("192.168.9.41"), addr("192.0.2.1"), translated, 7, 1, false},
		"from behind another device":               {addr("192.168.9.9"), addr("192.0.2.77"), translated, 7, 1, false},
	} {
		mark := uint32(0)
		if c.uplink > 0 {
			mark = numbers.Mark(c.uplink)
		}
		conn := rules.Connection{Family: rules.IPv4, Source: c.source, Dest: c.dest, ReplyDest: c.reply, Protocol: 17, DPort: c.port, Mark: mark}
		if why := report.Old.Old(&conn); (why != "") != c.old {
			t.Errorf("%s: %q", name, why)
		}
	}
}

// A provider that renumbers leaves connections with the translation of before: each of their packets keeps it alive.
func TestWhatIsTranslatedToAFormerPrefixBeginsAnew(t *testing.T) {
	w := delegating()
	w.cfg.LANs[0].ULA = netip.MustParsePrefix("fd00:77:0:1::/64")
	w.cfg.Uplinks[0].IPv6.PrefixNAT = true
	_, report := w.plan()
	addr := netip.MustParseAddr
	for name, c := range map[string]struct {
		source, reply netip.Addr
		uplink        int
		old           bool
	}{
		"to the delegation":            {addr("fd00:77:0:1::9"), addr("2001:db8:a00:1::9"), 1, false},
		"to the uplink's own address":  {addr("fd00:77:0:1::9"), addr("2001:db8:a::2"), 1, false},
		"to a former one":              {addr("fd00:77:0:1::9"), addr("2001:db8:c00:1::9"), 1, true},
		"by one that does not":         {addr("fd00:77:0:1::9"), addr("2001:db8:c00:1::9"), 2, false},
		"of an address of this router": {addr("2001:db8:a::2"), addr("2001:db8:a::2"), 1, false},
	} {
		conn := rules.Connection{Family: rules.IPv6, Source: c.source, Dest: addr("2001:db8:ffff::1"), ReplyDest: c.reply, Protocol: 17, DPort: 7, Mark: numbers.Mark(c.uplink)}
		if why := report.Old.Old(&conn); (why != "") != c.old {
			t.Errorf("%s: %q", name, why)
		}
	}
}

// What the other router of a pair has begun has that one's address, and each of its packets keeps it alive.
func TestWhatAnotherRouterHasTranslatedBeginsAnew(t *testing.T) {
	addr := netip.MustParseAddr
	for name, c := range map[string]struct {
		inherits   bool
		reply      netip.Addr
		withoutOwn bool
		old        bool
	}{
		"by a line of each":             {true, addr("198.51.100.7"), false, true},
		"with our own address":          {true, addr("198.51.100.2"), false, false},
		"by a shared line":              {false, addr("198.51.100.7"), false, false},
		"while we wait for the address": {true, addr("198.51.100.7"), true, false},
	} {
		w := dual()
		w.cfg.Uplinks[0].Inherits = c.inherits
		if c.withoutOwn {
			w.obs.Addrs = slices.DeleteFunc(w.obs.Addrs, func(a rules.Addr) bool { return a.Device == "wan1" })
		}
		_, report := w.plan()
		conn := rules.Connection{Family: rules.IPv4, Source: addr("192.168.1.9"), Dest: addr("192.0.2.1"), ReplyDest: c.reply, Protocol: 17, DPort: 7, Mark: numbers.Mark(1)}
		if why := report.Old.Old(&conn); (why != "") != c.old {
			t.Errorf("%s: %q", name, why)
		}
	}
}

// A tunnel that is set up before the rules about its source stand sends by the wrong uplink, and what it sends keeps that alive.
func TestAConnectionWithTheSourceOfAnotherUplinkBeginsAnew(t *testing.T) {
	addr := netip.MustParseAddr
	first, second, to := addr("198.51.100.2"), addr("203.0.113.2"), addr("192.0.2.1")
	for name, c := range map[string]struct {
		source, dest, reply netip.Addr
		uplink              int
		policy              rules.Selector
		old                 bool
	}{
		"translated by the first":          {second, to, first, 1, nil, true},
		"by its own":                       {second, to, second, 2, nil, false},
		"by its own, translated":           {second, to, first, 2, nil, false},
		"what a tunnel of ours sends":      {second, to, first, 0, nil, false},
		"the source of a LAN":              {addr("192.168.1.1"), to, first, 1, nil, false},
		"an address that no uplink has":    {addr("198.18.0.1"), to, first, 1, nil, false},
		"to a LAN":                         {second, addr("192.168.1.9"), first, 1, nil, false},
		"from outside":                     {to, second, to, 1, nil, false},
		"as a policy wants it":             {second, to, first, 1, rules.Selector{rules.SelectAddresses{Dest: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}}, false},
		"a policy may want it":             {second, to, first, 1, rules.Selector{rules.SelectUIDs{{First: 7, Last: 7}}}, false},
		"a policy about others":            {second, to, first, 1, rules.Selector{rules.SelectAddresses{Dest: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.64/26")}}}, true},
		"a policy about what is forwarded": {second, to, first, 1, rules.Selector{rules.SelectDevices{"lan0"}}, true},
	} {
		w := dual()
		w.hold("lo", "198.18.0.1/32")
		if c.policy != nil {
			w.cfg.Groups = []rules.Group{{ID: 3, Tiers: [][]int{{1}}}}
			w.cfg.Policies = []rules.Policy{{Name: "p", Group: 3, Select: c.policy}}
		}
		_, report := w.plan()
		conn := rules.Connection{Family: rules.IPv4, Source: c.source, Dest: c.dest, ReplyDest: c.reply, Protocol: 17, DPort: 4789}
		if c.uplink > 0 {
			conn.Mark = numbers.Mark(c.uplink)
		}
		if why := report.Old.Old(&conn); (why != "") != c.old {
			t.Errorf("%s: %q", name, why)
		}
	}
}

// Somebody's own rules have translated what began before the first start: its answers say where it left.
func TestWhatBeganBeforeTheFirstStartHasAnUplink(t *testing.T) {
	addr := netip.MustParseAddr
	first, second, to, host := addr("198.51.100.2"), addr("203.0.113.2"), addr("192.0.2.1"), addr("192.168.1.9")
	for name, c := range map[string]struct {
		source, dest, reply netip.Addr
		mark                uint32
		uplink              int
	}{
		"by the first":                    {host, to, first, 0, 1},
		"by the second":                   {host, to, second, 0, 2},
		"with a mark of somebody else":    {host, to, second, 0x5, 2},
		"pinned":                          {host, to, second, numbers.Mark(1), 0},
		"untranslated":                    {host, to, host, 0, 0},
		"translated to something else":    {host, to, addr("198.18.0.1"), 0, 0},
		"by a dead one":                   {host, to, addr("203.0.113.66"), 0, 0},
		"of this machine":                 {addr("192.168.1.1"), to, second, 0, 0},
		"from outside, to a port of ours": {to, second, to, 0, 0},
		"between networks of ours":        {host, addr("192.168.1.1"), second, 0, 0},
	} {
		w := box(rules.Link{}, "wan1", "wan2", "wan3")
		for device, address := range map[string]string{"wan1": "198.51.100.2/26", "wan2": "203.0.113.2/26", "wan3": "203.0.113.66/26"} {
			w.hold(device, address)
			w.lead(device, netip.MustParsePrefix(address).Masked().Addr().Next().String(), 100)
		}
		w.verdicts[rules.Path{Uplink: 3, Family: rules.IPv4}] = rules.Verdict{Health: rules.Dead}
		_, report := w.plan()
		conn := rules.Connection{Family: rules.IPv4, Source: c.source, Dest: c.dest, ReplyDest: c.reply, Protocol: 6, DPort: 22, Mark: c.mark}
		if by := report.Old.Began(&conn); by != c.uplink {
			t.Errorf("%s: by %d, want %d", name, by, c.uplink)
		}
	}
}

// The program of a filter says of every source what it is for.
func TestAnEgressFilterDropsForeignSourcesAlone(t *testing.T) {
	w := dual()
	want, _ := w.plan()
	if len(want.Egress) != 2 {
		t.Fatalf("%d filters", len(want.Egress))
	}
	both, none := [2]bool{true, true}, [2]bool{}
	first, second := [2]bool{true, false}, [2]bool{false, true}
	for source, passes := range map[string][2]bool{ // by each uplink
		"198.51.100.2": first, "203.0.113.2": second, "192.168.1.9": none, "192.0.2.1": both, "0.0.0.0": both,
		"9.255.255.255": both, "10.0.0.0": none, "10.1.2.3": none, "10.255.255.255": none, "11.0.0.0": both,
		"172.15.255.255": both, "172.16.0.1": none, "172.31.0.1": none, "172.32.0.1": both, "192.167.255.255": both, "192.168.255.255": none, "192.169.0.0": both,
		"2001:db8:a::2": first, "2001:db8:a::99": first, "2001:db8:b::2": second, "2001:db8:b:1::2": both, "2001:db8:77::1": both,
		"fbff::1": both, "fc00::1": none, "fd00::1": none, "fdff::1": none, "fe80::1": both, "::": both,
	} {
		for i, filter := range want.Egress {
			if got := runBPF(t, filter.Program, netip.MustParseAddr(source)); got != passes[i] {
				t.Errorf("%s passes by %s: %v", source, filter.Device, got)
			}
		}
	}
}

// A former address leaves by none of the uplinks from the first change on: it goes after the routes have changed.
func TestAFormerAddressLeavesNoMore(t *testing.T) {
	for _, c := range []struct{ former, next, gateway, formerRouter string }{
		{"198.51.100.2/26", "198.51.100.7/26", "198.51.100.1", "198.51.100.1"},
		{"198.51.100.2/26", "192.0.2.130/27", "192.0.2.129", "198.51.100.1"},
		{"2001:db8:a::2/64", "2001:db8:c::2/64", "fe80::2", "fe80::1"},
	} {
		former, next := netip.MustParsePrefix(c.former), netip.MustParsePrefix(c.next)
		w := box(rules.Link{}, "wan1", "wan2")
		w.hold("wan2", "203.0.113.2/26", "2001:db8:b::2/64")
		assign := func(address netip.Prefix, gateway string) {
			a := &w.cfg.Uplinks[0].IPv4
			if address.Addr().Is6() {
				a = &w.cfg.Uplinks[0].IPv6
			}
			a.Enabled, a.Managed = true, true
			a.Assign = &rules.Assignment{Addresses: []rules.Address{{Prefix: address}}, Gateway: netip.MustParseAddr(gateway)}
		}
		assign(former, c.formerRouter)
		w.converge(t)
		assign(next, c.gateway)
		want, _ := w.plan()
		for _, filter := range want.Egress {
			passes := filter.Device == "wan1"
			if runBPF(t, filter.Program, former.Addr()) || runBPF(t, filter.Program, next.Addr()) != passes {
				t.Errorf("%s to %s, by %s: the filter lets the former or not the next pass", c.former, c.next, filter.Device)
			}
		}
		ops := netcfg.Diff(rules.Ours(w.cfg.Kernel, w.foreseen()), want)
		at := func(is func(netcfg.Op) bool) int { return slices.IndexFunc(ops, is) }
		filter := at(func(op netcfg.Op) bool { o, is := op.(netcfg.PutEgress); return is && o.Device == "wan1" })
		route := at(func(op netcfg.Op) bool { _, is := op.(netcfg.PutRoute); return is })
		gone := at(func(op netcfg.Op) bool { o, is := op.(netcfg.DelAddr); return is && o.Prefix == former })
		if filter < 0 || route >= 0 && route < filter || gone < filter {
			t.Errorf("%s to %s: the filter is change %d, a route %d, the end of the address %d", c.former, c.next, filter, route, gone)
		}
		w.converge(t)
	}
}

// The address for a modem's page is no source on the Internet, as long as there is a public one.
// What was sent just before somebody else took an address away leaves by no uplink, its own included. One that is back is as before.
func TestAnAddressThatAnUplinkHasLostLeavesNoMore(t *testing.T) {
	w := dual()
	lost := []netip.Addr{netip.MustParseAddr("198.51.100.77"), netip.MustParseAddr("203.0.113.2"), netip.MustParseAddr("2001:db8:77::2")}
	w.obs.Former = lost
	want, _ := w.plan()
	chain := want.Table.String()
	for _, ip := range lost {
		for _, filter := range want.Egress {
			has := filter.Device == "wan2" && ip == lost[1]
			if got := runBPF(t, filter.Program, ip); got != has {
				t.Errorf("%v passes by %s: %v", ip, filter.Device, got)
			}
		}
		if !strings.Contains(chain, ip.String()) {
			t.Errorf("%v is not in our table", ip)
		}
	}
}

func TestWhatHasTheAddressForAModemGoesToTheModemAlone(t *testing.T) {
	for _, c := range []struct {
		provider string
		passes   bool
	}{{"198.51.100.2/26", false}, {"100.64.7.2/10", false}, {"192.168.178.2/24", true}} {
		w := box(rules.Link{}, "wan1")
		w.hold("wan1", c.provider, "192.168.100.2/24")
		w.lead("wan1", netip.MustParsePrefix(c.provider).Addr().Next().String(), 100)
		w.obs.Routes = append(w.obs.Routes, netcfg.Route{Family: rules.IPv4, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: netip.MustParsePrefix("10.77.0.0/16"),
			Protocol: protoStatic, Nexthops: []netcfg.Nexthop{{Device: "wan1", Gateway: netip.MustParseAddr("192.168.100.1"), Weight: 1}}})
		want, _ := w.plan()
		addr := netip.MustParseAddr
		for to, passes := range map[string]bool{"192.168.100.1": true, "10.77.3.4": true, "239.255.255.250": true, "192.0.2.1": c.passes, "192.168.101.1": c.passes} {
			if got := runBPFTo(t, want.Egress[0].Program, addr("192.168.100.2"), addr(to)); got != passes {
				t.Errorf("%s: the filter lets it go to %s: %v", c.provider, to, got)
			}
			if own := netip.MustParsePrefix(c.provider).Addr(); !runBPFTo(t, want.Egress[0].Program, own, addr(to)) {
				t.Errorf("%v to %s is dropped", own, to)
			}
		}
		e := chainText(want.Table, "egress_"+w.cfg.Uplinks[0].Name)
		if drops := strings.Contains(e, "ip saddr 192.168.100.2 counter drop"); drops == c.passes {
			t.Errorf("%s:\n%s", c.provider, e)
		}
	}
}

// A provider that gives private addresses may know ours; one that gives an address of the Internet does not.
func TestPrivateSourcesLeaveByPrivateNetworksAlone(t *testing.T) {
	for address, passes := range map[string]bool{"198.51.100.2/26": false, "100.64.7.2/10": true, "10.20.0.2/24": true, "100.128.0.2/24": false} {
		w := box(rules.Link{}, "wan1")
		w.hold("wan1", address)
		w.lead("wan1", netip.MustParsePrefix(address).Addr().Next().String(), 100)
		want, _ := w.plan()
		if got := runBPF(t, want.Egress[0].Program, netip.MustParseAddr("172.16.9.9")); got != passes {
			t.Errorf("by %s: %v", address, got)
		}
		if drops := strings.Contains(chainText(want.Table, "egress_filter"), "ip saddr { 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 } counter drop"); drops == passes {
			t.Errorf("by %s:\n%s", address, chainText(want.Table, "egress_filter"))
		}
	}
}

// What a policy names may go on from uplink to uplink, unless it is of a network behind this machine, or of nobody's.
func TestPublicSourcesOfAPolicyMayPassThrough(t *testing.T) {
	for from, asked := range map[string]bool{"192.0.2.128/25": true, "10.9.0.0/16": false, "2001:db8:77::/48": true, "2001:db8:1::/64": false, "fd00:9::/48": false} {
		w := lanBox(dual())
		w.cfg.Groups = []rules.Group{{ID: 3, Tiers: [][]int{{2}}}}
		w.cfg.Policies = []rules.Policy{{Name: "through", Group: 3, Select: rules.Selector{rules.SelectAddresses{Prefixes: []netip.Prefix{netip.MustParsePrefix(from)}}}}}
		want, _ := w.plan()
		passes := false
		for _, line := range strings.Split(chainText(want.Table, "egress_filter"), "\n") {
			passes = passes || strings.HasPrefix(line, "iifname") && strings.Contains(line, from)
		}
		if passes != asked {
			t.Errorf("from %s: %v in\n%s", from, passes, chainText(want.Table, "egress_filter"))
		}
	}
}

// runBPF is net/core/filter.c, as far as it goes here.
func runBPF(t *testing.T, program []netcfg.BPFInstruction, source netip.Addr) bool {
	t.Helper()
	return runBPFTo(t, program, source, source)
}

func runBPFTo(t *testing.T, program []netcfg.BPFInstruction, source, dest netip.Addr) bool {
	t.Helper()
	address, at := append(source.AsSlice(), dest.AsSlice()...), 12
	a, protocol := uint32(0), uint32(0x0800)
	if source.Is6() {
		at, protocol = 8, 0x86dd
	}
	for pc := 0; pc < len(program); pc++ {
		switch i := program[pc]; i.Op {
		case 0x28:
			a = protocol
		case 0x20:
			b := address[int(int32(i.K)+0x100000)-at:]
			a = uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		case 0x54:
			a &= i.K
		case 0x15:
			if a == i.K {
				pc += int(i.Jt)
			} else {
				pc += int(i.Jf)
			}
		case 0x05:
			pc += int(i.K)
		case 0x06:
			return i.K != 2
		default:
			t.Fatalf("instruction %#x", i.Op)
		}
	}
	t.Fatal("the program does not end")
	return false
}

func TestExplainFollowsIPsecPolicies(t *testing.T) {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	tunnel := explain.IPsecPolicy{From: prefix("192.168.1.0/24"), To: prefix("10.9.0.0/24"), Priority: 100, Transforms: true,
		TunnelFrom: addr("203.0.113.2"), TunnelTo: addr("192.0.2.9")}
	bypass := explain.IPsecPolicy{From: prefix("192.168.1.0/24"), To: prefix("10.9.0.5/32"), Priority: 10}
	block := explain.IPsecPolicy{From: prefix("0.0.0.0/0"), To: prefix("10.9.0.6/32"), Protocol: 6, DPort: netcfg.Ports{First: 25, Last: 25}, Priority: 10, Block: true}
	unless := explain.IPsecPolicy{From: prefix("192.168.1.0/24"), To: prefix("10.9.0.0/24"), Priority: 1, Mark: 5, Mask: 0xff, Block: true}
	for name, c := range map[string]struct {
		packet  explain.Packet
		outcome explain.Outcome
		reason  string
		uplink  string
	}{
		"what a policy covers":          {explain.Packet{To: addr("10.9.0.1")}, explain.Leaves, "IPsec carries it, and the packets that carry it lead to lte", "lte"},
		"what an earlier one lets pass": {explain.Packet{To: addr("10.9.0.5")}, explain.Leaves, "leads to fiber", "fiber"},
		"what one blocks":               {explain.Packet{To: addr("10.9.0.6"), Protocol: 6, DPort: 25}, explain.Filtered, "an IPsec policy covers it, but the encrypted packet has no route", ""},
		"another port than it blocks":   {explain.Packet{To: addr("10.9.0.6"), Protocol: 6, DPort: 26}, explain.Leaves, "IPsec carries it, and the packets that carry it lead to lte", "lte"},
		"what none covers":              {explain.Packet{To: addr("192.0.2.1")}, explain.Leaves, "leads to fiber", "fiber"},
	} {
		w := lanBox(dual())
		w.cfg.Uplinks[1].Tier = 2
		c.packet.In, c.packet.From = "lan0", addr("192.168.1.7")
		w.converge(t)
		state, _ := w.plan()
		rt := w.routing()
		rt.IPsec = []explain.IPsecPolicy{tunnel, bypass, block, unless}
		e, err := explain.Explain(w.cfg, rt, &state, c.packet)
		if err != nil {
			t.Fatal(err)
		}
		if e.Outcome != c.outcome || e.Reason != c.reason || c.uplink != "" && (len(e.Egresses) != 1 || e.Egresses[0].Uplink != c.uplink) {
			t.Errorf("%s: %v, %s, %+v", name, e.Outcome, e.Reason, e.Egresses)
		}
	}
}

func TestTranslationsThatTakePacketsOutOfIPsecAreNamed(t *testing.T) {
	prefix := netip.MustParsePrefix
	for name, c := range map[string]struct {
		policy explain.IPsecPolicy
		by     string // "": none
	}{
		"a network":           {explain.IPsecPolicy{From: prefix("192.168.1.0/24"), To: prefix("10.9.0.0/24"), Transforms: true}, "inet fw4"},
		"one of IPv6":         {explain.IPsecPolicy{From: prefix("2001:db8:1::/64"), To: prefix("2001:db8:9::/64"), Transforms: true}, ""},
		"an address of ours":  {explain.IPsecPolicy{From: prefix("198.51.100.2/32"), To: prefix("10.9.0.0/24"), Transforms: true}, ""},
		"what is let through": {explain.IPsecPolicy{From: prefix("192.168.1.0/24"), To: prefix("10.9.0.0/24")}, ""},
	} {
		w := dual()
		w.obs.Translations = []rules.Translation{{Family: rules.IPv4, Only: []string{"wan2"}, By: "inet fw4"}}
		rt := w.routing()
		rt.IPsec = []explain.IPsecPolicy{c.policy}
		found := rt.TranslatedIPsec(w.cfg)
		if len(found) > 1 || (len(found) == 1) != (c.by != "") || c.by != "" && found[c.by] == nil {
			t.Errorf("%s: %v", name, found)
		}
	}
}

func TestTheIngressQdiscIsLeftToOthersWhereTheyNeedIt(t *testing.T) {
	w := dual()
	w.converge(t)
	if len(w.obs.Egress.Filters) != 2 || len(w.obs.Recorded.Qdiscs) != 2 {
		t.Fatalf("%+v, recorded %v", w.obs.Egress, w.obs.Recorded.Qdiscs)
	}
	w.cfg.IngressQdisc = true
	w.converge(t)
	if len(w.obs.Egress.Filters)+len(w.obs.Egress.Qdiscs) != 0 {
		t.Errorf("%+v", w.obs.Egress)
	}
	w.cfg.IngressQdisc = false
	w.obs.Egress.Impossible = map[string]string{"wan1": "its qdisc ingress stands where clsact would"}
	_, report := w.converge(t)
	if len(w.obs.Egress.Filters) != 1 || codes(report)[0] != "no-egress-filter" {
		t.Errorf("%+v, %v", w.obs.Egress.Filters, report.Problems)
	}
}

// An answer that is under way when its address goes leaves by no uplink, whichever line, family or port; what a host on the segment began
// through this machine is answered all the same. So until the next plan, and on a router whose peer has the address.
func TestAnswersToAnAddressThatIsGoneLeaveByNoUplink(t *testing.T) {
	for _, c := range []struct {
		device, gone, from, to string
		uplink                 int
		leaves                 bool
	}{
		{"wan1", "198.51.100.2/26", "192.0.2.1", "198.51.100.2", 1, false},
		{"wan2", "203.0.113.2/26", "192.0.2.1", "203.0.113.2", 2, false},
		{"wan1", "2001:db8:a::2/64", "2001:db8:ffff::1", "2001:db8:a::2", 1, false},
		{"wan2", "2001:db8:b::2/64", "2001:db8:ffff::1", "2001:db8:b::2", 2, false},
		{"wan1", "198.51.100.2/26", "198.51.100.1", "198.51.100.2", 1, false}, // of the gateway itself
		{"wan1", "", "192.0.2.1", "198.51.100.9", 1, true},
		{"wan2", "", "2001:db8:ffff::1", "2001:db8:b::9", 2, true},
	} {
		w := dual()
		w.converge(t)
		if c.gone != "" { // the address alone: the routes of our table stand until the next plan
			w.obs.Addrs = slices.DeleteFunc(w.obs.Addrs, func(a rules.Addr) bool { return a.Prefix == netip.MustParsePrefix(c.gone) })
		}
		answer := packet{query: query{src: netip.MustParseAddr(c.from), dst: netip.MustParseAddr(c.to), iif: c.device},
			conn: &connection{mark: numbers.Mark(c.uplink), reply: true}}
		if got := fmt.Sprint(w.receive(answer, netip.Addr{})); strings.Contains(got, "leaves by "+c.device) != c.leaves {
			t.Errorf("%s by %s to %s: %s, want that it leaves: %v", c.from, c.device, c.to, got, c.leaves)
		}
	}
}
