package rules_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

func TestSubnetsOfADelegation(t *testing.T) {
	for _, c := range []struct {
		delegation, exclude string
		id                  int
		want                string // "" for none
	}{
		{delegation: "2001:db8:a00::/56", id: 0, want: "2001:db8:a00::/64"},
		{delegation: "2001:db8:a00::/56", id: 255, want: "2001:db8:a00:ff::/64"},
		{delegation: "2001:db8:a00::/56", id: 256},
		{delegation: "2001:db8:a00:10::/60", id: 15, want: "2001:db8:a00:1f::/64"},
		{delegation: "2001:db8:a00::/64", id: 0, want: "2001:db8:a00::/64"},
		{delegation: "2001:db8:a00::/64", id: 1},
		{delegation: "2001:db8:a00::/65", id: 0},
		{delegation: "2001:db8::/32", id: 65535, want: "2001:db8:0:ffff::/64"},
		{delegation: "2001:db8:a00::/56", exclude: "2001:db8:a00:3::/64", id: 2, want: "2001:db8:a00:2::/64"},
		{delegation: "2001:db8:a00::/56", exclude: "2001:db8:a00:3::/64", id: 3},
		{delegation: "2001:db8:a00::/56", exclude: "2001:db8:a00:3::7/128", id: 3},
		{delegation: "2001:db8:a00::/56", id: -1},
	} {
		d := rules.Delegation{Prefix: netip.MustParsePrefix(c.delegation)}
		if c.exclude != "" {
			d.Exclude = netip.MustParsePrefix(c.exclude)
		}
		got, ok := d.Subnet(c.id)
		if s := got.String(); ok != (c.want != "") || ok && s != c.want {
			t.Errorf("subnet %d of %s but %q: %s, %v; want %q", c.id, c.delegation, c.exclude, s, ok, c.want)
		}
	}
}

// A host in a LAN has an address of each provider and chooses one. Wherever the load goes, its packets take
// the uplink that the address belongs to, or are rejected.
func TestPacketsFromADelegatedPrefixLeaveByItsUplink(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		choice := report.Defaults[rules.IPv6]
		for _, s := range report.Subnets {
			u := w.uplinkByID(s.Uplink)
			info := report.Paths[rules.Path{Uplink: u.ID, Family: rules.IPv6}]
			host := hostIn(s.Prefix)
			got := w.receive(packet{query: query{src: host, dst: internet[rules.IPv6], iif: s.Device}, conn: &connection{fresh: true}}, netip.Addr{})
			for _, d := range got {
				switch {
				case d.device == "" || d.device == u.Device:
				case !choice.Has(u.ID) && d.src != host: // rewritten
				default:
					t.Errorf("from %v of %s: %v", host, u.Name, d)
				}
			}
			works := info.Up && info.HasDefault
			if left := slices.ContainsFunc(got, func(d departure) bool { return d.device != "" }); s.Usable && works && !left && !u.IPv6.Masquerade {
				t.Errorf("%v of %s is said to be usable: %v", host, u.Name, got)
			}
		}
	})
}

// Somebody outside asks a host in a LAN: the answer goes back where the question came from, also while the
// prefix is deprecated.
func TestAnswersFromADelegatedPrefixLeaveByTheirArrivalUplink(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		for _, s := range report.Subnets {
			u := w.uplinkByID(s.Uplink)
			p := path{u, report.Paths[rules.Path{Uplink: u.ID, Family: rules.IPv6}], rules.IPv6}
			host := hostIn(s.Prefix)
			conn := w.arrive(&p, internet[rules.IPv6], host)
			answer := w.receive(packet{query: query{src: host, dst: internet[rules.IPv6], iif: s.Device}, conn: conn}, netip.Addr{})
			for _, d := range answer {
				if d.device != u.Device && d.device != "" {
					t.Errorf("from %v by %s: %v", host, u.Name, d)
				}
			}
		}
	})
}

// RFC 7084 WPD-5: what is delegated and not in use goes nowhere, least of all back to the provider.
func TestUnusedPartsOfADelegationAreRejected(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, _ rules.Report) {
		for i := range w.cfg.Uplinks {
			u := &w.cfg.Uplinks[i]
			for _, d := range u.Delegations {
				b := d.Prefix.Addr().As16()
				if d.Prefix.Bits() == 64 || !u.IPv6.Enabled {
					continue
				}
				b[7] |= 0xe // no LAN has such a number
				stray := netip.AddrFrom16(b)
				for _, iif := range []string{"lo", u.Device} {
					if got := devices(w.lookup(query{src: internet[rules.IPv6], dst: stray, iif: iif})); got != "rejected" {
						t.Errorf("to %v by %s: %s", stray, iif, got)
					}
				}
			}
		}
	})
}

// Every uplink that has only a link-local address and a delegation gets an address of that one: without it
// the kernel would take a source that belongs to another uplink.
func TestAnUplinkWithADelegationHasASourceOfItsOwn(t *testing.T) {
	planned(t, func(t *rapid.T, w *world, report rules.Report) {
		for i := range w.cfg.Uplinks {
			u := &w.cfg.Uplinks[i]
			info := report.Paths[rules.Path{Uplink: u.ID, Family: rules.IPv6}]
			if !info.Present || !u.IPv6.Enabled || len(u.Delegations) == 0 || u.Delegations[0].Deprecated {
				continue
			}
			if len(info.Addresses) == 0 {
				t.Errorf("%s has no address", u.Name)
			}
		}
	})
}

func TestTheOnlyPrefixGoesToTheLANOfTheLowestNumber(t *testing.T) {
	w := dual()
	w.plug(rules.Link{Name: "lan1", Up: true, Carrier: true})
	w.cfg.Uplinks[0].Delegations = []rules.Delegation{{Prefix: netip.MustParsePrefix("2001:db8:a00::/64")}}
	w.cfg.LANs = []rules.LAN{{Device: "lan1", SubnetID: 7, From: []int{1}}, {Device: "lan0", SubnetID: 1, From: []int{1, 2}}}
	_, report := w.converge(t)
	var got []string
	for _, s := range report.Subnets {
		got = append(got, fmt.Sprint(s.Device, " ", s.Prefix, " ", s.Usable))
	}
	if diff := gocmp.Diff([]string{"lan0 2001:db8:a00::/64 true"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if codes := codes(report); !slices.Equal(codes, []string{"subnet-unavailable"}) {
		t.Errorf("problems: %q", codes)
	}
}

// What an uplink's prefix is good for follows its verdict, and so does the router's address of it.
func TestAPrefixIsDeprecatedWhileItsUplinkIsDown(t *testing.T) {
	w := delegated()
	w.converge(t)
	fiber, lte := netip.MustParsePrefix("2001:db8:a00:1::1/64"), netip.MustParsePrefix("2001:db8:b00::1/64")
	deprecated := func(a netip.Prefix) bool {
		i := slices.IndexFunc(w.obs.Addrs, func(o rules.Addr) bool { return o.Device == "lan0" && o.Prefix == a })
		if i < 0 {
			t.Fatalf("lan0 has no address %v", a)
		}
		return w.obs.Addrs[i].Deprecated
	}
	if !deprecated(fiber) || deprecated(lte) {
		t.Error("while the fiber is down, its prefix must be deprecated and the other must not")
	}
	host := hostIn(netip.MustParsePrefix("2001:db8:a00:1::/64"))
	out := packet{query: query{src: host, dst: internet[rules.IPv6], iif: "lan0"}, conn: &connection{fresh: true}}
	if got := w.receive(out, netip.Addr{}); len(got) != 1 || got[0].why != "dropped" {
		t.Errorf("a host that goes on using it is not told: %v", got)
	}
	for _, f := range rules.Families {
		w.verdicts[rules.Path{Uplink: 1, Family: f}] = rules.Verdict{Health: rules.Good, State: "up"}
	}
	ops, _ := w.converge(t)
	if deprecated(fiber) || !deprecated(lte) {
		t.Error("when the fiber is back, its prefix must be preferred, and the other deprecated: it is of a worse tier")
	}
	if got := w.receive(out, netip.Addr{}); len(got) != 1 || got[0].device != "wan1" {
		t.Errorf("and it leads nowhere: %v", got)
	}
	for _, op := range ops {
		if _, ok := op.(netcfg.DelAddr); ok {
			t.Errorf("%s: hosts would lose their way to the router", op.Command())
		}
	}
}

// On a router the kernel ignores advertisements unless it is told to heed them; and where we listen, it is
// told not to. What stood there before comes back.
func TestWhoHeedsRouterAdvertisements(t *testing.T) {
	for _, c := range []struct {
		name                     string
		accept, forwarding, want string
		managed, discovers       bool
	}{
		{name: "the kernel of a host", accept: "1", forwarding: "0", want: "1"},
		{name: "the kernel of a router", accept: "1", forwarding: "1", want: "2"},
		{name: "a network daemon", accept: "0", forwarding: "1", want: "0"},
		{name: "the kernel, told by the owner", accept: "2", forwarding: "1", want: "2"},
		{name: "we", accept: "2", forwarding: "1", managed: true, discovers: true, want: "0"},
		{name: "nobody, for the address is static", accept: "1", forwarding: "1", managed: true, want: "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := dual()
			w.obs.Sysctls["net/ipv6/conf/wan1/accept_ra"], w.obs.Sysctls["net/ipv6/conf/wan1/forwarding"] = c.accept, c.forwarding
			w.cfg.Uplinks[0].IPv6.Managed, w.cfg.Uplinks[0].IPv6.Discovers = c.managed, c.discovers
			w.converge(t)
			if got := w.obs.Sysctls["net/ipv6/conf/wan1/accept_ra"]; got != c.want {
				t.Errorf("accept_ra is %s, want %s", got, c.want)
			}
			w.cfg.Uplinks = nil
			w.converge(t)
			if got := w.obs.Sysctls["net/ipv6/conf/wan1/accept_ra"]; got != c.accept {
				t.Errorf("accept_ra is left at %s, it was %s", got, c.accept)
			}
		})
	}
}

// A router may offer more than a default (RFC 4191). That is for packets of its own uplink: one provider must not
// take what another carries.
func TestOfferedRoutesAreForTheirUplinkOnly(t *testing.T) {
	w := dual()
	campus, gateway := netip.MustParsePrefix("2001:db8:ca00::/40"), netip.MustParseAddr("fe80::7")
	w.cfg.Uplinks[1].IPv6 = rules.Addressing{Enabled: true, Managed: true, Discovers: true, Assign: &rules.Assignment{
		Addresses: []rules.Address{{Prefix: netip.MustParsePrefix("2001:db8:b::2/64")}}, Gateway: netip.MustParseAddr("fe80::1"),
		Routes: []rules.AssignedRoute{{Dst: campus, Gateway: gateway}, {Dst: netip.MustParsePrefix("2000::/4"), Gateway: gateway}}}}
	w.verdicts[rules.Path{Uplink: 2, Family: rules.IPv6}] = rules.Verdict{Health: rules.Doubtful, State: "suspect"}
	w.converge(t)
	own := query{src: netip.MustParseAddr("2001:db8:b::2"), dst: campus.Addr().Next(), iif: "lo"}
	if got := w.lookup(own); len(got) != 1 || got[0].device != "wan2" || got[0].gateway != gateway {
		t.Errorf("from its own address: %v", got)
	}
	for _, q := range []query{{dst: campus.Addr().Next(), iif: "lo"}, {src: lanHost(1, rules.IPv6, 9), dst: internet[rules.IPv6], iif: "lan0"}} {
		if got := devices(w.lookup(q)); got != "wan1" {
			t.Errorf("%v leaves by %q", q, got)
		}
	}
}

func TestLANsOfAMachineThatDoesNotForwardAreAProblem(t *testing.T) {
	for value, want := range map[string][]string{"0": {"forwarding-off"}, "1": nil} {
		w := delegated()
		w.obs.Sysctls["net/ipv6/conf/all/forwarding"] = value
		if _, report := w.converge(t); !slices.Equal(codes(report), want) {
			t.Errorf("forwarding is %s: problems %q, want %q", value, codes(report), want)
		}
	}
}

func TestALANIsOnlineWhileOneOfItsPrefixesIsUsable(t *testing.T) {
	w := delegated()
	_, report := w.converge(t)
	if !report.Online["lan0"] {
		t.Error("the LAN has a prefix of the mobile network and is not online")
	}
	for id := range 2 {
		w.verdicts[rules.Path{Uplink: id + 1, Family: rules.IPv6}] = rules.Verdict{Health: rules.Dead, State: "down"}
	}
	if _, report = w.converge(t); report.Online["lan0"] {
		t.Error("all uplinks are down, and the LAN is said to be online")
	}
}

// A router that hands over, or is about to take over, sends hosts what comes for them, and has no address of theirs.
func TestNetworksOfLANsThatAnotherRouterHasAreRouted(t *testing.T) {
	w := delegated()
	w.cfg.LANsElsewhere = true
	addresses := func() (list []netip.Prefix) {
		for _, a := range w.obs.Addrs {
			if a.Device == "lan0" && a.Prefix.Addr().Is6() && a.Protocol == w.cfg.Kernel.Protocol {
				list = append(list, a.Prefix)
			}
		}
		return list
	}
	reached := func(when string, report rules.Report) {
		t.Helper()
		if len(report.Subnets) == 0 {
			t.Fatal("the LAN has no network")
		}
		for _, s := range report.Subnets {
			host := hostIn(s.Prefix)
			if got := devices(w.lookup(query{src: internet[rules.IPv6], dst: host, iif: "wan1"})); got != "lan0" {
				t.Errorf("%s, to %v: %s", when, host, got)
			}
		}
	}
	_, report := w.converge(t)
	if got := addresses(); len(got) != 0 {
		t.Errorf("it has %v", got)
	}
	reached("elsewhere", report)
	w.cfg.LANsElsewhere = false
	_, report = w.converge(t)
	if got := addresses(); len(got) != len(report.Subnets)+1 { // the unique-local one
		t.Errorf("it has %v of %v", got, report.Subnets)
	}
	reached("here", report)
	if slices.ContainsFunc(w.obs.Routes, func(r netcfg.Route) bool { return r.Metric == 512 }) {
		t.Error("a route is left")
	}
}

// With translation hosts need not know which provider carries them.
func TestTranslatedHostsKeepTheirAddresses(t *testing.T) {
	w := translated()
	w.converge(t)
	for _, inside := range []string{"fd00:77:0:1::9", "2001:db8:a00:1::9"} {
		conn := &connection{fresh: true}
		got := w.receive(packet{query: query{src: netip.MustParseAddr(inside), dst: internet[rules.IPv6], iif: "lan0"}, conn: conn}, netip.Addr{})
		if len(got) != 1 || got[0].device != "wan2" || got[0].src != netip.MustParseAddr("2001:db8:b00::9") {
			t.Errorf("from %s: %v", inside, got)
		}
	}
	in := packet{query: query{src: internet[rules.IPv6], dst: netip.MustParseAddr("2001:db8:b00::9"), iif: "wan2"}, conn: &connection{fresh: true}}
	if w.hook("prerouting", &in, 0); in.dst != netip.MustParseAddr("fd00:77:0:1::9") {
		t.Errorf("from outside to the translated address: %v", in.dst)
	}
}

func (w *world) uplinkByID(id int) *rules.Uplink {
	i := slices.IndexFunc(w.cfg.Uplinks, func(u rules.Uplink) bool { return u.ID == id })
	return &w.cfg.Uplinks[i]
}

func hostIn(subnet netip.Prefix) netip.Addr {
	b := subnet.Addr().As16()
	b[15] = 9
	return netip.AddrFrom16(b)
}

func TestALANsOnlyPrefixIsUsableThoughAnotherUplinkIsPreferred(t *testing.T) {
	for _, tt := range []struct {
		health rules.Health
		want   bool
	}{{rules.Good, true}, {rules.Impaired, true}, {rules.Doubtful, true}, {rules.Dead, false}} {
		w := delegated()
		w.cfg.Uplinks[0].Delegations = nil
		w.setVerdict(1, rules.Good)
		w.setVerdict(2, tt.health)
		_, report := w.plan()
		if choice := report.Defaults[rules.IPv6]; !choice.Has(1) {
			t.Fatalf("new traffic: %s", choice.Reason)
		}
		if len(report.Subnets) != 1 || report.Subnets[0].Usable != tt.want || report.Online["lan0"] != tt.want {
			t.Errorf("health %v: %+v, online %v", tt.health, report.Subnets, report.Online)
		}
	}
}

// What an IPv6 uplink without an address sends has a source of somebody else: its provider drops it, and our own egress filter does
// before.
func TestAnIPv6UplinkWithoutASourceCarriesNothing(t *testing.T) {
	path := rules.Path{Uplink: 1, Family: rules.IPv6}
	for name, c := range map[string]struct {
		change  func(*world)
		carries bool
	}{
		"link-local alone":            {change: func(*world) {}},
		"a unique-local LAN":          {change: func(w *world) { w.hold("lan0", "fd00:1::1/64") }},
		"a LAN of the other provider": {change: func(w *world) { w.hold("lan0", "2001:db8:b:0:1::1/80") }},
		"a LAN of the other's delegation": {change: func(w *world) {
			w.cfg.Uplinks[1].Delegations = []rules.Delegation{{Prefix: netip.MustParsePrefix("2001:db8:b00::/56")}}
			w.hold("lan0", "2001:db8:b00:7::1/64")
		}},
		"an address that is checked still": {change: func(w *world) {
			w.hold("wan1", "2001:db8:a::2/64")
			w.obs.Addrs[len(w.obs.Addrs)-1].Tentative = true
		}},
		"an address":                          {change: func(w *world) { w.hold("wan1", "2001:db8:a::2/64") }, carries: true},
		"a LAN whose prefix others dealt out": {change: func(w *world) { w.hold("lan0", "2001:db8:c00:7::1/64") }, carries: true},
		"a delegation that has just come": {change: func(w *world) {
			w.cfg.Uplinks[0].Delegations = []rules.Delegation{{Prefix: netip.MustParsePrefix("2001:db8:a00::/56")}}
		}, carries: true},
		"an address that is about to be given": {change: func(w *world) {
			w.cfg.Uplinks[0].IPv6.Assign = &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix("2001:db8:a::2/64")}}, Gateway: netip.MustParseAddr("fe80::1")}
		}, carries: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := box(rules.Link{}, "wan1", "wan2")
			w.obs.Addrs = slices.DeleteFunc(w.obs.Addrs, func(a rules.Addr) bool { return a.Device == "lan0" && a.Prefix.Addr().Is6() })
			w.hold("wan1", "198.51.100.2/26")
			w.hold("wan2", "203.0.113.2/26", "2001:db8:b::2/64")
			w.lead("wan1", "198.51.100.1", 100)
			w.lead("wan2", "203.0.113.1", 200)
			w.verdicts[path] = rules.Verdict{Health: rules.Good}
			c.change(w)
			want, report := w.plan()
			choice := report.Defaults[rules.IPv6]
			_, inTable := defaultRoute(want.Routes, rules.IPv6, numbers.Table(1))
			if choice.Has(1) != c.carries || inTable != c.carries {
				t.Errorf("new traffic: %v, a default in its table: %v; want %v", choice.Has(1), inTable, c.carries)
			}
			if choice := report.Defaults[rules.IPv4]; !choice.Has(1) {
				t.Error("its IPv4 carries nothing")
			}
		})
	}
}
