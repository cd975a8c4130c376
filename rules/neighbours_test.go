package rules_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
)

// leadsFromLAN is the device by which a host of the LAN is led to another, "" for none.
func (w *world) leadsFromLAN(to string) string {
	got := w.lookup(query{src: lanHost(1, rules.FamilyOf(netip.MustParseAddr(to)), 9), dst: netip.MustParseAddr(to), iif: "lan0"})
	if len(got) == 0 {
		return ""
	}
	return got[0].device
}

func TestConnectedNetworksOfUplinksAttractNothingButTheirSegment(t *testing.T) {
	cases := map[string]struct {
		addr   string
		ra     bool // advertised, or by a DHCP client of others
		assign bool // ours to give
		near   string
		far    string
	}{
		"a network as providers have it":  {addr: "203.0.113.2/26", near: "203.0.113.9", far: "192.0.2.77"},
		"the same, leased by our client":  {addr: "203.0.113.2/26", assign: true, near: "203.0.113.9", far: "192.0.2.77"},
		"a large one that is believed":    {addr: "203.0.113.2/20", near: "203.0.120.9", far: "192.0.2.77"},
		"a mask of /8":                    {addr: "192.0.0.50/8", near: "192.0.0.77", far: "192.0.2.77"},
		"a mask of /8, leased by us":      {addr: "192.0.0.50/8", assign: true, near: "192.0.0.77", far: "192.0.2.77"},
		"a mask of /2":                    {addr: "203.0.113.2/2", near: "203.0.113.9", far: "192.0.2.77"},
		"a mask of /2, leased by us":      {addr: "203.0.113.2/2", assign: true, near: "203.0.113.9", far: "192.0.2.77"},
		"the page of a modem at 10/8":     {addr: "10.0.0.140/8", near: "10.0.0.138", far: "10.9.9.9"},
		"one bit more than is believed":   {addr: "203.0.112.2/19", near: "203.0.112.9", far: "203.0.120.9"},
		"a mask of /15":                   {addr: "192.0.2.130/15", near: "192.0.2.200", far: "192.1.2.77"},
		"an IPv6 network of /48":          {addr: "2001:db8:b::2/48", near: "2001:db8:b::9", far: "2001:db8:b:7::77"},
		"an IPv6 mask of /32":             {addr: "2001:db8:b::2/32", near: "2001:db8:b::9", far: "2001:db8:ffff::77"},
		"an IPv6 mask of /40, configured": {addr: "2001:db8:ff0b::2/40", assign: true, near: "2001:db8:ff0b::9", far: "2001:db8:ffff::77"},
		"an IPv6 network that is owned":   {addr: "2001:db8:b::2/64", near: "2001:db8:b::9", far: "2001:db8:ffff::77"},
		"an IPv6 network that is claimed": {addr: "2001:db8:ffff::2/64", ra: true, far: "2001:db8:ffff::77"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := box(rules.Link{}, "wan1", "wan2")
			w.hold("wan1", "198.51.100.2/26", "2001:db8:a::2/64")
			w.lead("wan1", "198.51.100.1", 100)
			w.cfg.Uplinks[1].Tier = 2
			prefix := netip.MustParsePrefix(c.addr)
			if c.assign {
				a := &w.cfg.Uplinks[1].IPv4
				if prefix.Addr().Is6() {
					a = &w.cfg.Uplinks[1].IPv6
				}
				a.Managed, a.Assign = true, &rules.Assignment{Addresses: []rules.Address{{Prefix: prefix}}, Gateway: prefix.Addr().Next()}
			} else {
				_ = w.addAddr(rules.Addr{Device: "wan2", Prefix: prefix, Dynamic: c.ra})
			}
			w.converge(t)
			if got := w.leadsFromLAN(c.far); got != "wan1" {
				t.Errorf("%s is led to by %q", c.far, got)
			}
			if c.near != "" {
				if got := w.leadsFromLAN(c.near); got != "wan2" {
					t.Errorf("the neighbour %s is led to by %q", c.near, got)
				}
			}
			own := w.lookup(query{src: prefix.Addr(), dst: netip.MustParseAddr(c.far), iif: "lo"})
			if prefix.Contains(netip.MustParseAddr(c.far)) && (len(own) == 0 || own[0].device != "wan2") {
				t.Errorf("the uplink's own packets: %v", own)
			}
		})
	}
}

func TestNetworksThatOverlapAreNamed(t *testing.T) {
	for name, c := range map[string]struct {
		make func(*world)
		want []string
	}{
		"a LAN in the network of an uplink wins":      {func(w *world) { w.hold("lan0", "198.51.100.33/28") }, nil},
		"the network of an uplink in a LAN's":         {func(w *world) { w.hold("lan0", "198.51.100.200/24") }, []string{"network-overlap"}},
		"both in one and the same network are twins":  {func(w *world) { w.hold("wan2", "198.51.100.3/26") }, nil},
		"one in the other's":                          {func(w *world) { w.hold("wan2", "198.51.100.3/28") }, []string{"network-overlap"}},
		"a LAN in the IPv6 network of an uplink wins": {func(w *world) { w.hold("lan0", "2001:db8:a::7:1/112") }, nil},
		"the IPv6 network of an uplink in a LAN's":    {func(w *world) { w.hold("lan0", "2001:db8:a:ff::1/48") }, []string{"network-overlap"}},
		"the network of the second uplink in a LAN's": {func(w *world) { w.hold("lan0", "203.0.113.200/24") }, []string{"network-overlap"}},
		"in a network behind a LAN": {func(w *world) {
			w.addForeignRoute(static("198.51.0.0/16", "lan0", netip.MustParseAddr("192.168.1.7"), 0))
		}, []string{"network-overlap"}},
		"a route to the gateway itself, as networkd has it": {func(w *world) {
			r := static("203.0.113.1/32", "wan2", netip.Addr{}, 0)
			r.Protocol = 16
			w.addForeignRoute(r)
		}, nil},
		"a host elsewhere that a DHCP server says to be on the link": {func(w *world) {
			r := static("192.0.2.1/32", "wan2", netip.Addr{}, 0)
			r.Protocol = 16
			w.addForeignRoute(r)
		}, []string{"wide-network"}},
		"a mask that covers other uplinks": {func(w *world) { w.hold("wan2", "10.0.0.2/8") }, []string{"wide-network"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := dual()
			c.make(w)
			_, report := w.converge(t)
			if !slices.Equal(codes(report), c.want) {
				t.Errorf("%v", report.Problems)
			}
		})
	}
}

// A kill switch is about a family that no uplink carries, while one's device is in a network of it.
func TestAKillSwitchHoldsInAFamilyThatNoUplinkCarries(t *testing.T) {
	w := dual()
	for i := range w.cfg.Uplinks {
		w.cfg.Uplinks[i].IPv6.Enabled = false
	}
	_ = w.addAddr(rules.Addr{Device: "wan2", Prefix: netip.MustParsePrefix("2001:db8:ffff::2/64"), Dynamic: true})
	w.cfg.Groups = []rules.Group{{ID: firstGroup, KillSwitch: true, Tiers: [][]int{{1}}}}
	w.cfg.Policies = []rules.Policy{{Name: "closed", Group: firstGroup, Select: rules.Selector{rules.SelectAddresses{Dest: true, Prefixes: []netip.Prefix{netip.PrefixFrom(selected[rules.IPv6], 128)}}}}}
	w.converge(t)
	if ways := w.lookup(query{dst: selected[rules.IPv6], iif: "lo"}); !ways[0].rejected {
		t.Errorf("leaves %v", ways)
	}
}
