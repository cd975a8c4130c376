package rules_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// The kernel refuses every IPv6 address and route on such a device: a plan with one of them never converges.
func TestADeviceWithIPv6SwitchedOffGetsNothingAndIsNamedOnce(t *testing.T) {
	static := rules.Addressing{Enabled: true, Managed: true, Assign: &rules.Assignment{Addresses: []rules.Address{{Prefix: netip.MustParsePrefix("2001:db8:a::2/64")}},
		Gateway: netip.MustParseAddr("2001:db8:a::1"), Routes: []rules.AssignedRoute{{Dst: netip.MustParsePrefix("2001:db8:77::/48"), Gateway: netip.MustParseAddr("fe80::1")}}}}
	for name, c := range map[string]struct {
		device string
		change func(*world)
		named  bool
	}{
		"a LAN":                         {device: "lan0", change: func(*world) {}, named: true},
		"an uplink that follows others": {device: "wan1", change: func(w *world) { w.cfg.Uplinks[0].Delegations = nil }},
		"an uplink with addresses":      {device: "wan1", change: func(w *world) { w.cfg.Uplinks[0].IPv6 = static }, named: true},
		"an uplink with a delegation":   {device: "wan1", change: func(*world) {}, named: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := delegating()
			w.cfg.LANs[0].ULA, w.cfg.LANs[0].Withdrawn = netip.MustParsePrefix("fd00:1:2:3::/64"), []netip.Prefix{netip.MustParsePrefix("2001:db8:c00:1::/64")}
			c.change(w)
			w.obs.Addrs = slices.DeleteFunc(w.obs.Addrs, func(a rules.Addr) bool { return a.Device == c.device && a.Prefix.Addr().Is6() })
			w.obs.Routes = slices.DeleteFunc(w.obs.Routes, func(r netcfg.Route) bool {
				return r.Family == rules.IPv6 && len(r.Nexthops) > 0 && r.Nexthops[0].Device == c.device
			})
			w.obs.Sysctls["net/ipv6/conf/"+c.device+"/disable_ipv6"] = "1"
			want, report := w.plan()
			for _, a := range want.Addrs {
				if a.Device == c.device && a.Prefix.Addr().Is6() {
					t.Errorf("address %v", a.Prefix)
				}
			}
			for _, r := range want.Routes {
				if r.Family == rules.IPv6 && slices.ContainsFunc(r.Nexthops, func(n netcfg.Nexthop) bool { return n.Device == c.device }) {
					t.Errorf("route %s", r.String())
				}
			}
			var said []string
			for _, p := range report.Problems {
				if strings.Contains(p.Message+p.Fix, c.device) {
					said = append(said, p.Code)
				}
			}
			if c.named != slices.Equal(said, []string{"ipv6-disabled"}) || !c.named && len(said) > 0 {
				t.Errorf("problems %v, named %v", said, c.named)
			}
			if choice := report.Defaults[rules.IPv6]; !choice.Has(2) {
				t.Errorf("the other uplink carries nothing: %+v", choice)
			}
		})
	}
}

func TestADuplicateAddressIsNamedWithItsDevice(t *testing.T) {
	failed := func(w *world, device, address string) {
		w.hold(device, address)
		a := &w.obs.Addrs[len(w.obs.Addrs)-1]
		a.Tentative, a.Failed = true, true
	}
	for name, c := range map[string]struct {
		change func(*world)
		names  string // "" for no problem
	}{
		"the link-local one of a LAN":            {func(w *world) { failed(w, "lan0", "fe80::5/64") }, "lan0"},
		"the link-local one of an uplink":        {func(w *world) { failed(w, "wan1", "fe80::5/64") }, "wan1"},
		"a link-local one beside one that works": {func(w *world) { failed(w, "wan1", "fe80::5/64"); w.hold("wan1", "fe80::6/64") }, ""},
		"the router's address in a LAN":          {func(w *world) { failed(w, "lan0", "2001:db8:a00:1::1/64") }, "2001:db8:a00:1::1"},
		"the configured one of an uplink":        {func(w *world) { failed(w, "wan2", "2001:db8:b::9/64") }, "2001:db8:b::9"},
		"one that discovery replaces":            {func(w *world) { w.cfg.Uplinks[0].IPv6.Discovers = true; failed(w, "wan1", "2001:db8:a::9/64") }, ""},
		"one of a device that is not ours to use": {func(w *world) {
			w.plug(rules.Link{Name: "dummy0", Up: true, MTU: 1500})
			failed(w, "dummy0", "fe80::5/64")
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := delegating()
			w.obs.Addrs = slices.DeleteFunc(w.obs.Addrs, func(a rules.Addr) bool { return a.Prefix.Addr().IsLinkLocalUnicast() })
			c.change(w)
			_, report := w.plan()
			i := slices.IndexFunc(report.Problems, func(p rules.Problem) bool { return p.Code == "duplicate-address" })
			switch {
			case i < 0 && c.names != "":
				t.Errorf("not named: %v", codes(report))
			case i >= 0 && (c.names == "" || !strings.Contains(report.Problems[i].Message, c.names)):
				t.Errorf("%+v", report.Problems[i])
			}
		})
	}
}
