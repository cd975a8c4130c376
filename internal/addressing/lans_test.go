package addressing

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/ndisc"
	"github.com/uplinkd/uplinkd/rules"
)

var (
	fiberPrefix, ltePrefix = netip.MustParsePrefix("2001:db8:a00::/56"), netip.MustParsePrefix("2001:db8:b00::/56")
	noon                   = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
)

// leased is a source that has a lease of one prefix.
func leased(prefix netip.Prefix, mtu int, dns ...string) lanSource {
	s := lanSource{mtu: mtu, lifetimes: func(p netip.Prefix) (preferred, valid time.Time, brief, ok bool) {
		return noon, noon.Add(time.Hour), false, p == prefix
	}}
	for _, a := range dns {
		s.dns = append(s.dns, netip.MustParseAddr(a))
	}
	return s
}

func subnetOf(uplink int, delegation netip.Prefix, usable bool) rules.Subnet {
	d := rules.Delegation{Prefix: delegation}
	prefix, _ := d.Subnet(1)
	return rules.Subnet{Device: "lan0", Uplink: uplink, Prefix: prefix, Delegation: d, Usable: usable, Router: rules.RouterAddress(prefix)}
}

func TestALANIsToldWhatItsUplinksGive(t *testing.T) {
	lan := &config.LAN{Device: "lan0", SubnetID: 1, Advertise: true, DNS: config.DNS{Uplinks: true, Self: true}}
	report := &rules.Report{Online: map[string]bool{"lan0": true}, Subnets: []rules.Subnet{
		subnetOf(1, fiberPrefix, true), subnetOf(2, ltePrefix, false),
		subnetOf(3, netip.MustParsePrefix("2001:db8:c00::/56"), true), // of an uplink that has left the configuration
		{Device: "lan1", Uplink: 1, Prefix: netip.MustParsePrefix("2001:db8:a00:2::/64")},
	}}
	// What a provider sends is not always what it should be: one resolver that no advertisement can carry must not keep
	// hosts from being told of prefixes.
	sources := map[string]lanSource{
		"fiber": leased(fiberPrefix, 1492, "2001:db8:ffff::53", "::ffff:192.0.2.53", "ff02::1", "::", "fe80::1", "192.0.2.53"),
		"lte":   leased(ltePrefix, 1280, "2001:db8:ffff::54"),
	}
	in, mtu := input(lan, report, map[int]string{1: "fiber", 2: "lte", 3: "gone"}, netip.MustParsePrefix("fd00:77::/48"), sources)
	want := ndisc.Input{AnyUsable: true,
		Prefixes: []ndisc.LivePrefix{
			{Prefix: netip.MustParsePrefix("2001:db8:a00:1::/64"), Uplink: "fiber", Delegation: fiberPrefix, Preferred: noon, Valid: noon.Add(time.Hour), Usable: true},
			{Prefix: netip.MustParsePrefix("2001:db8:b00:1::/64"), Uplink: "lte", Delegation: ltePrefix, Preferred: noon, Valid: noon.Add(time.Hour)},
		},
		ULA: netip.MustParsePrefix("fd00:77:0:1::/64"), Site: netip.MustParsePrefix("fd00:77::/48"),
		DNS: []netip.Addr{netip.MustParseAddr("2001:db8:ffff::53"), netip.MustParseAddr("fd00:77:0:1::1")},
	}
	if diff := cmp.Diff(want, in, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if mtu != 1280 {
		t.Errorf("MTU %d, want that of the narrowest path that a host may take", mtu)
	}
}

// Two uplinks have the same prefix: hosts hear of it once, in the terms of the one that carries it.
func TestAPrefixOfTwoUplinksIsToldOnce(t *testing.T) {
	prefix := netip.MustParsePrefix("2001:db8:a00:1::/64")
	fiber, lte := ndisc.LivePrefix{Prefix: prefix, Uplink: "fiber"}, ndisc.LivePrefix{Prefix: prefix, Uplink: "lte", Usable: true}
	for _, order := range [][]ndisc.LivePrefix{{fiber, lte}, {lte, fiber}} {
		var list []ndisc.LivePrefix
		for _, p := range order {
			list = withPrefix(list, p)
		}
		if len(list) != 1 || list[0].Uplink != "lte" {
			t.Errorf("of %+v: %+v", order, list)
		}
	}
}
