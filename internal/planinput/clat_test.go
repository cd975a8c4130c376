package planinput

import (
	"net/netip"
	"testing"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/rules"
)

// translating is a configuration in which each uplink carries IPv4 by a translator.
func translating(names ...string) *config.Config {
	c := named(names...)
	for i := range c.Uplinks {
		c.Uplinks[i].IPv4.Method = config.MethodCLAT
	}
	return c
}

func TestAnUplinkWithATranslatorIsTwo(t *testing.T) {
	c, other := translating("lte"), netip.MustParsePrefix("2001:db8:64::/96")
	resolvers := []Resolver{{netip.MustParseAddr("192.0.2.53"), FromConfig}, {netip.MustParseAddr("2001:db8::53"), FromRouter}}
	learned := Learned{"lte": {NAT64: other, Resolvers: resolvers, Delegations: []rules.Delegation{{Prefix: netip.MustParsePrefix("2001:db8:a00::/56")}}}}
	c.Uplinks[0].IPv6.Delegation = true
	got := Build(c, map[string]int{"lte": 3}, learned, netip.Prefix{}).Uplinks
	if len(got) != 2 {
		t.Fatalf("%+v", got)
	}
	line, tun := got[0], got[1]
	switch {
	case line.ID != 3 || tun.ID != 3 || line.Name != "lte" || tun.Name != "lte" || line.Device != "lte" || tun.Device != "clat-lte" || line.IsCLAT() || !tun.IsCLAT():
		t.Errorf("%+v %+v", line, tun)
	case line.IPv4.Enabled || !line.IPv6.Enabled || !tun.IPv4.Enabled || tun.IPv6.Enabled || !tun.IPv4.Masquerade || tun.IPv4.Assign.NoDefault:
		t.Errorf("%+v %+v", line, tun)
	case len(line.Delegations) != 1 || len(tun.Delegations) != 0 || len(line.Resolvers) != 1 || !line.Resolvers[0].Is6() || len(tun.Resolvers) != 1 || !tun.Resolvers[0].Is4():
		t.Errorf("%+v %+v", line, tun)
	case line.CLAT.NAT64 != other || line.IPv6.MasqueradeFrom[0].Addr() != line.CLAT.Addr6:
		t.Errorf("%+v", line.CLAT)
	}
	c.Uplinks[0].IPv4.NAT64 = netip.MustParsePrefix("64:ff9b::/96") // the owner knows best
	if got := Build(c, map[string]int{"lte": 3}, learned, netip.Prefix{}).Uplinks[0].CLAT.NAT64; got != c.Uplinks[0].IPv4.NAT64 {
		t.Errorf("%v", got)
	}
	c.Uplinks[0].IPv4.NAT64 = netip.Prefix{}
	if got := Build(c, map[string]int{"lte": 3}, nil, netip.Prefix{}).Uplinks[1]; !got.IPv4.Assign.NoDefault {
		t.Error("there is a way without a prefix")
	}
}

// No two translators have an address in common, and one more mostly changes no other's.
func TestTranslatorsHaveAddressesOfTheirOwn(t *testing.T) {
	addresses := func(names ...string) map[string]netip.Addr {
		ids := map[string]int{"a": 1, "b": 2, "c": 8, "d": 15, "e": 62, "f": 6, "g": 7}
		all := make(map[string]netip.Addr)
		for _, u := range Build(translating(names...), ids, nil, netip.Prefix{}).Uplinks {
			all[u.Name] = u.CLAT.Addr4
		}
		return all
	}
	seen := make(map[netip.Addr]bool)
	for name, a := range addresses("g", "f", "e", "d", "c", "b", "a") {
		if seen[a] || !netip.MustParsePrefix("192.0.0.0/29").Contains(a) || a == netip.AddrFrom4([4]byte{192}) {
			t.Errorf("%s has %v", name, a)
		}
		seen[a] = true
	}
	if before, after := addresses("a", "b"), addresses("g", "b", "a"); before["a"] != after["a"] || before["b"] != after["b"] {
		t.Errorf("%v, then %v", before, after)
	}
}
