package rules_test

import (
	"net/netip"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

func TestTheSourceOfAPathIsTheOneThatNewPacketsHave(t *testing.T) {
	assigned := func(addresses ...string) rules.Addressing {
		a := &rules.Assignment{Gateway: netip.MustParseAddr("198.51.100.1")}
		for _, text := range addresses {
			a.Addresses = append(a.Addresses, rules.Address{Prefix: netip.MustParsePrefix(text)})
		}
		return rules.Addressing{Enabled: true, Managed: true, Assign: a}
	}
	follow := rules.Addressing{Enabled: true}
	cases := map[string]struct {
		on4         []string // addresses of the device, in the kernel's order
		onLo        string
		gateway     string // of the others' default; "": there is none
		prefers     string
		addressing  rules.Addressing
		want        string // "": none is fit
		routeSource string
	}{
		"the only address":                              {on4: []string{"198.51.100.2/26"}, gateway: "198.51.100.1", addressing: follow, want: "198.51.100.2"},
		"the one in the gateway's subnet":               {on4: []string{"192.168.100.2/24", "198.51.100.2/26"}, gateway: "198.51.100.1", addressing: follow, want: "198.51.100.2"},
		"the first when the gateway is in none":         {on4: []string{"198.51.100.2/26", "192.168.100.2/24"}, gateway: "10.0.0.1", addressing: follow, want: "198.51.100.2"},
		"the preferred one of two in a subnet":          {on4: []string{"198.51.100.2/26", "198.51.100.5/26"}, gateway: "198.51.100.1", prefers: "198.51.100.5", addressing: follow, want: "198.51.100.5", routeSource: "198.51.100.5"},
		"a preferred one that the kernel takes anyway":  {on4: []string{"198.51.100.2/26"}, gateway: "198.51.100.1", prefers: "198.51.100.2", addressing: follow, want: "198.51.100.2"},
		"a preferred one of lo":                         {on4: []string{"10.99.0.2/30"}, onLo: "198.51.100.65/32", gateway: "10.99.0.1", prefers: "198.51.100.65", addressing: follow, want: "198.51.100.65", routeSource: "198.51.100.65"},
		"a preferred one that is gone is none":          {on4: []string{"198.51.100.2/26"}, gateway: "198.51.100.1", prefers: "198.51.100.9", addressing: follow, want: "198.51.100.2"},
		"one of lo where the device has none":           {onLo: "198.51.100.65/32", gateway: "10.99.0.1", addressing: follow, want: "198.51.100.65"},
		"the configured one":                            {on4: []string{"192.168.100.2/24", "198.51.100.2/26"}, addressing: assigned("198.51.100.2/26"), want: "198.51.100.2"},
		"the configured one though another comes first": {on4: []string{"198.51.100.2/26", "198.51.100.9/26"}, addressing: assigned("198.51.100.9/26"), want: "198.51.100.9", routeSource: "198.51.100.9"},
		"none while the configured one is not there":    {on4: []string{"192.168.100.2/24"}, addressing: assigned("198.51.100.2/26")},
		"none without a lease":                          {on4: []string{"192.168.100.2/24"}, addressing: rules.Addressing{Enabled: true, Managed: true}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := box(rules.Link{}, "wan1")
			w.hold("wan1", c.on4...)
			if c.onLo != "" {
				w.hold("lo", c.onLo)
			}
			if c.gateway != "" {
				r := netcfg.Route{Family: rules.IPv4, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: rules.IPv4.Default(), Protocol: protoDHCP,
					Nexthops: []netcfg.Nexthop{{Device: "wan1", Gateway: netip.MustParseAddr(c.gateway), Onlink: true, Weight: 1}}}
				if c.prefers != "" {
					r.Src = netip.MustParseAddr(c.prefers)
				}
				w.obs.Routes = append(w.obs.Routes, r)
			}
			w.cfg.Uplinks[0].IPv4, w.cfg.Uplinks[0].IPv6 = c.addressing, rules.Addressing{}
			info := rules.ReadPaths(w.cfg, w.snapshot())[rules.Path{Uplink: 1, Family: rules.IPv4}]
			if got := text(info.Source()); got != c.want {
				t.Errorf("source %q, want %q, of %v", got, c.want, info.Addresses)
			}
			if got := text(info.RouteSource); c.want != "" && got != c.routeSource {
				t.Errorf("routes name the source %q, want %q", got, c.routeSource)
			}
			if info.HasAddress() != (c.want != "") {
				t.Errorf("has an address: %v", info.HasAddress())
			}
		})
	}
}

// text is empty for no address.
func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// RFC 6724 chooses among the addresses of a device: routes name the one that is configured where that may be another.
func TestRoutesNameAConfiguredIPv6AddressThatHasARival(t *testing.T) {
	for rival, want := range map[string]string{"": "", "2001:db8:a::99/64": "2001:db8:a::2", "2001:db8:77::1/64": "2001:db8:a::2", "fd00:9::1/64": ""} {
		w := staticAddresses()
		w.hold("wan1", "2001:db8:a::2/64")
		if rival != "" {
			w.hold("wan1", rival)
		}
		info := rules.ReadPaths(w.cfg, w.snapshot())[rules.Path{Uplink: 1, Family: rules.IPv6}]
		if got := text(info.RouteSource); got != want || text(info.Source()) != "2001:db8:a::2" {
			t.Errorf("beside %q: routes name %q, want %q; the source is %v", rival, got, want, info.Source())
		}
	}
}

func TestALeaseThatRenumbersIsTheSourceOfTheRoutesOnceItsAddressIsThere(t *testing.T) {
	w := box(rules.Link{}, "wan1")
	lease := func(address string) {
		w.cfg.Uplinks[0].IPv6 = rules.Addressing{}
		w.cfg.Uplinks[0].IPv4 = rules.Addressing{Enabled: true, Masquerade: true, Managed: true, Assign: &rules.Assignment{
			Addresses: []rules.Address{{Prefix: netip.MustParsePrefix(address)}}, Gateway: netip.MustParseAddr("198.51.100.1")}}
	}
	w.hold("wan1", "192.168.100.2/24")
	for _, address := range []string{"198.51.100.2/26", "198.51.100.7/26"} {
		lease(address)
		_, report := w.converge(t)
		info := report.Paths[rules.Path{Uplink: 1, Family: rules.IPv4}]
		if want := netip.MustParsePrefix(address).Addr(); info.Source() != want || info.RouteSource.IsValid() {
			t.Errorf("leased %s, the source is %v, of routes %v", address, info.Source(), info.RouteSource)
		}
	}
}

// What leaves by a device without an address gets one of some other device: of another uplink, or of the LAN.
func TestAnIPv4UplinkWithoutAnAddressCarriesNothing(t *testing.T) {
	w := dual()
	_ = w.delAddr("wan1", netip.MustParsePrefix("198.51.100.2/26"))
	w.addForeignRoute(netcfg.Route{Family: rules.IPv4, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: rules.IPv4.Default(), Protocol: protoDHCP,
		Nexthops: []netcfg.Nexthop{{Device: "wan1", Weight: 1}}})
	_, report := w.converge(t)
	if !report.Paths[rules.Path{Uplink: 1, Family: rules.IPv4}].HasDefault {
		t.Fatal("it has no default, which explains the rest")
	}
	if choice := report.Defaults[rules.IPv4]; choice.Has(1) || !choice.Has(2) {
		t.Errorf("chosen: %+v", choice)
	}
	if _, leads := defaultRoute(w.obs.Routes, rules.IPv4, numbers.Table(1)); leads {
		t.Error("its table leads out")
	}
}
