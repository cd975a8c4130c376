package rules_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
)

func TestRoutesThatMakeUpTheInternetAreADefault(t *testing.T) {
	for name, c := range map[string]struct {
		dsts []string
		want bool
	}{
		"OpenVPN's halves":               {[]string{"0.0.0.0/1", "128.0.0.0/1"}, true},
		"in the other order":             {[]string{"128.0.0.0/1", "0.0.0.0/1"}, true},
		"one half":                       {[]string{"0.0.0.0/1"}, false},
		"the other half":                 {[]string{"128.0.0.0/1"}, false},
		"no route":                       {nil, false},
		"what IPv6 has given out":        {[]string{"2000::/3"}, true},
		"halves of IPv6":                 {[]string{"::/1", "8000::/1"}, true},
		"halves of IPv6, the other way":  {[]string{"8000::/1", "::/1"}, true},
		"a half of the given":            {[]string{"2000::/4"}, false},
		"the given and the empty half":   {[]string{"8000::/1", "2000::/3"}, true},
		"a half and a quarter":           {[]string{"0.0.0.0/1", "128.0.0.0/2"}, false},
		"the half with all of the given": {[]string{"::/1"}, true},
		"the empty half of IPv6":         {[]string{"8000::/1"}, false},
		"a quarter":                      {[]string{"0.0.0.0/2", "64.0.0.0/2", "128.0.0.0/2", "192.0.0.0/2"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := box(rules.Link{}, "wan1", "tun0")
			family := rules.IPv4
			for _, dst := range c.dsts {
				family = rules.FamilyOf(netip.MustParsePrefix(dst).Addr())
				w.addForeignRoute(static(dst, "tun0", netip.Addr{}, 0))
			}
			_, report := w.converge(t)
			if got := report.Paths[rules.Path{Uplink: 2, Family: family}].HasDefault; got != c.want {
				t.Errorf("a default: %v, want %v", got, c.want)
			}
			if slices.Contains(codes(report), "vpn-bypassed") {
				t.Error("an uplink is told to be bypassed")
			}
		})
	}
}

// pppd does not replace a default that stands in main, not even ours: after a redial its line has none of its own.
func TestAPointToPointLineWithAnAddressNeedsNoDefault(t *testing.T) {
	for name, c := range map[string]struct {
		link    rules.Link
		address string
		want    bool
	}{
		"PPP with an address":         {rules.Link{PointToPoint: true}, "198.51.100.50/32", true},
		"PPP without an address":      {rules.Link{PointToPoint: true}, "", false},
		"Ethernet":                    {rules.Link{}, "198.51.100.50/26", false},
		"PPP with an IPv6 address":    {rules.Link{PointToPoint: true}, "2001:db8:a::2/64", false},
		"PPP with a link-local alone": {rules.Link{PointToPoint: true}, "fe80::2/64", false},
	} {
		w := box(c.link, "ppp0", "wan2")
		w.hold("wan2", "203.0.113.2/26", "2001:db8:b::2/64")
		w.lead("wan2", "203.0.113.1", 200)
		family := rules.IPv4
		if c.address != "" {
			w.hold("ppp0", c.address)
			family = rules.FamilyOf(netip.MustParsePrefix(c.address).Addr())
		}
		_, report := w.converge(t)
		if got := report.Paths[rules.Path{Uplink: 1, Family: family}].HasDefault; got != c.want {
			t.Errorf("%s: a default: %v", name, got)
		}
	}
}

func TestARealDefaultComesBeforeRoutesThatMakeUpOne(t *testing.T) {
	w := dual()
	gateway := netip.MustParseAddr("198.51.100.7")
	for _, dst := range []string{"0.0.0.0/1", "128.0.0.0/1"} {
		w.addForeignRoute(static(dst, "wan1", gateway, 0))
	}
	_, report := w.converge(t)
	if f := report.Paths[rules.Path{Uplink: 1, Family: rules.IPv4}]; !f.HasDefault || f.Gateway == gateway {
		t.Errorf("by %v", f.Gateway)
	}
}

func TestABypassedVPNIsNamedWithItsRoutes(t *testing.T) {
	w := dual()
	for _, dst := range []string{"0.0.0.0/1", "128.0.0.0/1", "2000::/3"} {
		w.addForeignRoute(static(dst, "lan0", netip.Addr{}, 0))
	}
	_, report := w.converge(t)
	if got := codes(report); !slices.Equal(got, []string{"vpn-bypassed"}) {
		t.Errorf("problems: %q", got)
	}
}

func TestAnUplinkForPoliciesNeverCarriesTheDefault(t *testing.T) {
	w := dual()
	w.cfg.Uplinks[0].PoliciesOnly = true
	w.cfg.Groups = []rules.Group{{ID: 9, Tiers: [][]int{{1}}}}
	w.cfg.Policies = []rules.Policy{{Name: "some", Group: 9, Select: rules.Selector{rules.SelectAddresses{Dest: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}}}}}
	verdict := map[rules.Health]bool{rules.Good: true, rules.Dead: false}
	for health, alive := range verdict {
		w.verdicts = map[rules.Path]rules.Verdict{{Uplink: 1, Family: rules.IPv4}: {Health: rules.Good}, {Uplink: 2, Family: rules.IPv4}: {Health: health}}
		_, report := w.converge(t)
		if choice := report.Defaults[rules.IPv4]; choice.Has(1) || !choice.Has(2) {
			t.Errorf("with the other one alive %v: %+v", alive, choice)
		}
		if choice := report.Policies[0].Choice[rules.IPv4]; !choice.Has(1) {
			t.Errorf("the policy, with the other one alive %v: %+v", alive, choice)
		}
	}
}
