package rules_test

import (
	"net/netip"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// given is a world whose first uplink is given an assignment, beside a second one that works and a LAN 192.168.1.0/24.
func given(address, gateway string, mtu int) *world {
	w := box(rules.Link{}, "wan1", "wan2")
	w.hold("wan2", "203.0.113.2/26", "2001:db8:b::2/64")
	w.lead("wan2", "203.0.113.1", 200)
	a := &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix(address)}}, Gateway: netip.MustParseAddr(gateway), MTU: mtu}
	v := rules.Addressing{Enabled: true, Managed: true, Masquerade: true, Assign: a}
	if w.cfg.Uplinks[0].IPv4, w.cfg.Uplinks[0].IPv6 = v, (rules.Addressing{}); a.Gateway.Is6() {
		v.Masquerade = false
		w.cfg.Uplinks[0].IPv4, w.cfg.Uplinks[0].IPv6 = rules.Addressing{}, v
	}
	return w
}

func TestAValueFromOutsideThatIsOfNoUseCostsItsOwnUplinkAlone(t *testing.T) {
	const address, gateway, mtu = "unusable-address", "unusable-gateway", "unusable-mtu"
	cases := map[string]struct {
		address, gateway string
		mtu              int
		codes            []string
	}{
		"nothing is wrong":                       {"198.51.100.2/26", "198.51.100.1", 1492, nil},
		"a gateway outside of the network":       {"198.51.100.2/26", "10.99.0.1", 0, nil},
		"a gateway that is our LAN address":      {"198.51.100.2/26", "192.168.1.1", 0, []string{gateway}},
		"a gateway that is the address itself":   {"198.51.100.2/26", "198.51.100.2", 0, []string{gateway}},
		"a gateway that is another uplink's own": {"198.51.100.2/26", "203.0.113.2", 0, []string{gateway}},
		"a gateway that another uplink has too":  {"198.51.100.2/26", "203.0.113.1", 0, nil},
		"a gateway on the LAN":                   {"198.51.100.2/26", "192.168.1.77", 0, []string{gateway}},
		"a loopback gateway":                     {"198.51.100.2/26", "127.0.0.1", 0, []string{gateway}},
		"a multicast gateway":                    {"198.51.100.2/26", "224.0.0.9", 0, []string{gateway}},
		"a broadcast gateway":                    {"198.51.100.2/26", "255.255.255.255", 0, []string{gateway}},
		"the broadcast address as the gateway":   {"198.51.100.2/26", "198.51.100.63", 0, []string{gateway}},
		"the network as the gateway":             {"198.51.100.2/26", "198.51.100.0", 0, []string{gateway}},
		"an unspecified gateway":                 {"198.51.100.2/26", "0.0.0.0", 0, []string{gateway}},
		"the other end of a /31":                 {"198.51.100.2/31", "198.51.100.3", 0, nil},
		"our LAN address":                        {"192.168.1.1/24", "192.168.1.254", 0, []string{address, gateway}},
		"the address of a LAN host":              {"192.168.1.10/32", "198.51.100.1", 0, []string{address}},
		"a network that covers the LAN":          {"192.168.200.2/16", "192.168.200.1", 0, []string{"wide-network"}},
		"a loopback address":                     {"127.0.0.1/8", "198.51.100.1", 0, []string{address}},
		"a multicast address":                    {"224.0.0.1/4", "198.51.100.1", 0, []string{address}},
		"a broadcast address":                    {"198.51.100.63/26", "198.51.100.1", 0, []string{address}},
		"a network as an address":                {"198.51.100.0/26", "198.51.100.1", 0, []string{address}},
		"the address of a target":                {"198.51.100.53/26", "198.51.100.1", 0, []string{address}},
		"the address of a target in IPv6":        {"2001:db8:ff::53/64", "fe80::1", 0, []string{address}},
		"an address of another uplink":           {"203.0.113.2/26", "203.0.113.1", 0, nil},
		"an MTU beyond the device's":             {"198.51.100.2/26", "198.51.100.1", 65535, []string{mtu}},
		"an absurdly small MTU":                  {"198.51.100.2/26", "198.51.100.1", 68, []string{mtu}},
		"nothing is wrong in IPv6":               {"2001:db8:a::2/64", "fe80::1", 1280, nil},
		"our own link-local address":             {"2001:db8:a::2/64", "fe80::1002", 0, []string{gateway}},
		"that of another device":                 {"2001:db8:a::2/64", "fe80::1003", 0, nil},
		"a multicast router":                     {"2001:db8:a::2/64", "ff02::1", 0, []string{gateway}},
		"the loopback address in IPv6":           {"2001:db8:a::2/64", "::1", 0, []string{gateway}},
		"an address in the LAN's /64":            {"2001:db8:1::77/64", "fe80::1", 0, []string{address}},
		"a LAN host as the router":               {"2001:db8:a::2/64", "2001:db8:1::77", 0, []string{gateway}},
		"our LAN's IPv6 address as the router":   {"2001:db8:a::2/64", "2001:db8:1::1", 0, []string{gateway}},
		"a router beyond its IPv6 network":       {"2001:db8:a::2/64", "2001:db8:c::1", 0, nil},
		"an unspecified router":                  {"2001:db8:a::2/64", "::", 0, []string{gateway}},
		"a multicast address in IPv6":            {"ff02::7/64", "fe80::1", 0, []string{address}},
		"a gateway of 0.0.0.0/8":                 {"198.51.100.2/26", "0.0.0.7", 0, []string{gateway}},
		"the broadcast address of a /30":         {"10.66.0.1/30", "10.66.0.3", 0, []string{gateway}},
		"the other end of a /30":                 {"10.66.0.1/30", "10.66.0.2", 0, nil},
		"the least MTU of IPv4":                  {"198.51.100.2/26", "198.51.100.1", 576, nil},
		"one byte less":                          {"198.51.100.2/26", "198.51.100.1", 575, []string{mtu}},
		"one byte less in IPv6":                  {"2001:db8:a::2/64", "fe80::1", 1279, []string{mtu}},
		"an MTU below IPv6's":                    {"2001:db8:a::2/64", "fe80::1", 1000, []string{mtu}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := given(c.address, c.gateway, c.mtu)
			w.cfg.Targets = []netip.Addr{netip.MustParseAddr("198.51.100.53"), netip.MustParseAddr("2001:db8:ff::53")}
			ops, report := w.converge(t) // the model refuses what the kernel would
			got := codes(report)
			if diff := gocmp.Diff(c.codes, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s\n%v", diff, report.Problems)
			}
			family := rules.FamilyOf(netip.MustParseAddr(c.gateway))
			info := report.Paths[rules.Path{Uplink: 1, Family: family}]
			if lost := slices.Contains(got, gateway); info.HasDefault == lost {
				t.Errorf("it has a default: %v", info.HasDefault)
			}
			if lost := slices.Contains(got, address); info.Source().IsValid() == lost {
				t.Errorf("its source is %v", info.Source())
			}
			if lost := slices.Contains(got, mtu); lost && info.MTU != 0 {
				t.Errorf("its MTU is %d", info.MTU)
			}
			if other := report.Paths[rules.Path{Uplink: 2, Family: family}]; !other.HasDefault || !other.Source().IsValid() {
				t.Errorf("the other uplink: %+v", other)
			}
			for _, op := range ops {
				if r, ok := op.(netcfg.PutRoute); ok && r.IsDefault() && r.Table == numbers.Table(1) && r.Type == netcfg.Unicast && slices.Contains(got, gateway) {
					t.Errorf("planned: %s", op.Command())
				}
			}
		})
	}
}

func TestALeasedPrefixThatHoldsATargetIsNotUsed(t *testing.T) {
	prefix := netip.MustParsePrefix
	cases := map[string]struct {
		delegation rules.Delegation
		refused    bool
	}{
		"another prefix":                     {rules.Delegation{Prefix: prefix("2001:db8:a00::/56")}, false},
		"a target's /64":                     {rules.Delegation{Prefix: prefix("2001:db8:ff::/64")}, true},
		"a network that covers the target's": {rules.Delegation{Prefix: prefix("2001:db8::/32")}, true},
		"the target is on the provider's":    {rules.Delegation{Prefix: prefix("2001:db8:ff::/56"), Exclude: prefix("2001:db8:ff::/64")}, false},
		"it is the owner's word":             {rules.Delegation{Prefix: prefix("2001:db8:ff::/56"), Configured: true}, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := given("2001:db8:a::2/64", "fe80::1", 0)
			w.cfg.Targets = []netip.Addr{netip.MustParseAddr("2001:db8:ff::53")}
			w.cfg.Uplinks[0].Delegations = []rules.Delegation{c.delegation}
			_, report := w.converge(t)
			if got := slices.Contains(codes(report), "unusable-prefix"); got != c.refused {
				t.Errorf("problems: %v", report.Problems)
			}
			held := slices.ContainsFunc(w.obs.Routes, func(r netcfg.Route) bool { return r.Dst == c.delegation.Prefix })
			if held == c.refused {
				t.Errorf("%v is kept from loops: %v", c.delegation.Prefix, held)
			}
			if len(w.cfg.Uplinks[0].Delegations) != 1 {
				t.Error("the caller's configuration changed")
			}
		})
	}
}

func TestADefaultOfOthersThatLeadsToThisMachineIsNone(t *testing.T) {
	w := dual()
	w.hold("lan0", "198.51.100.1/32") // after the route
	_, report := w.converge(t)
	if info := report.Paths[rules.Path{Uplink: 1, Family: rules.IPv4}]; info.HasDefault {
		t.Errorf("%+v", info)
	}
	if choice := report.Defaults[rules.IPv4]; choice.Has(1) || !choice.Has(2) {
		t.Errorf("%+v", choice)
	}
	if len(report.Problems) != 1 || report.Problems[0].Code != "unusable-gateway" {
		t.Errorf("%v", report.Problems)
	}
}

func TestAParameterThatCannotBeSetIsNamedAndLeftAlone(t *testing.T) {
	w := dual()
	w.obs.RefusedSysctls = map[string]string{"net/ipv4/conf/wan1/src_valid_mark": "read-only file system"}
	_, report := w.converge(t)
	if v := w.obs.Sysctls["net/ipv4/conf/wan1/src_valid_mark"]; v != "0" {
		t.Errorf("set to %s", v)
	}
	if v := w.obs.Sysctls["net/ipv4/conf/wan2/src_valid_mark"]; v != "1" {
		t.Errorf("the other device's is %s", v)
	}
	if len(report.Problems) != 1 || report.Problems[0].Code != "sysctl-refused" {
		t.Errorf("%v", report.Problems)
	}
	w.obs.Sysctls["net/ipv4/conf/wan1/src_valid_mark"] = "1" // somebody has done it from outside
	if _, report := w.plan(); len(report.Problems) != 0 {
		t.Errorf("set from outside: %v", report.Problems)
	}
}

func TestWithoutAPacketFilterRoutesAndRulesStand(t *testing.T) {
	w := dual()
	w.obs.NoTables = "protocol not supported"
	_, report := w.converge(t)
	if w.obs.Table != nil || len(report.Problems) != 1 || report.Problems[0].Code != "no-nftables" {
		t.Errorf("%v, %v", w.obs.Table, report.Problems)
	}
	if choice := report.Defaults[rules.IPv4]; len(choice.Members) != 2 {
		t.Errorf("%+v", choice)
	}
}

func TestARouteToANetworkBehindThisMachineIsNotTaken(t *testing.T) {
	for dst, refused := range map[string]bool{"192.168.1.0/24": true, "192.168.1.128/25": true, "192.168.1.7/32": true,
		"192.168.0.0/16": false, "192.0.2.0/24": false, "0.0.0.0/1": false,
		"2001:db8:1::/64": true, "2001:db8:1::7/128": true, "2001:db8:1::/48": false, "2001:db8:7::/48": false} {
		address, gateway := "198.51.100.2/26", "198.51.100.1"
		p := netip.MustParsePrefix(dst)
		if p.Addr().Is6() {
			address, gateway = "2001:db8:a::2/64", "fe80::1"
		}
		w := given(address, gateway, 0)
		w.cfg.Uplinks[0].Family(rules.FamilyOf(p.Addr())).Assign.Routes = []rules.AssignedRoute{{Dst: p, Gateway: netip.MustParseAddr(gateway)}}
		_, report := w.converge(t)
		if got := slices.Contains(codes(report), "unusable-route"); got != refused {
			t.Errorf("%s: refused %v", dst, got)
		}
		if there := slices.ContainsFunc(w.obs.Routes, func(r netcfg.Route) bool { return r.Dst == p && r.Table == numbers.Table(1) }); there == refused {
			t.Errorf("%s: planned %v", dst, there)
		}
	}
}
