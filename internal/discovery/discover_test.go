package discovery

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// via is a default route as a DHCP client or the kernel would leave it.
func via(family rules.Family, metric uint32, devices ...string) netcfg.Route {
	r := netcfg.Route{Family: family, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: family.Default(), Metric: metric, Protocol: 16}
	for _, d := range devices {
		r.Nexthops = append(r.Nexthops, netcfg.Nexthop{Device: d, Weight: 1})
	}
	return r
}

func changed(r netcfg.Route, change func(*netcfg.Route)) netcfg.Route {
	change(&r)
	return r
}

// summary writes uplinks as "name device tier".
func summary(c *config.Config) string {
	var words []string
	for _, u := range c.Uplinks {
		words = append(words, fmt.Sprintf("%s %s %d", u.Name, u.Device, u.Tier))
	}
	return strings.Join(words, ", ")
}

func TestDevicesWithADefaultRouteAreUplinksInMetricOrder(t *testing.T) {
	v4, v6 := rules.IPv4, rules.IPv6
	for name, c := range map[string]struct {
		routes []netcfg.Route
		want   string
	}{
		"two providers":                     {[]netcfg.Route{via(v4, 200, "wan2"), via(v4, 100, "wan1")}, "wan1 wan1 1, wan2 wan2 2"},
		"both families of one device":       {[]netcfg.Route{via(v4, 100, "wan1"), via(v6, 1024, "wan1")}, "wan1 wan1 1"},
		"the better family counts":          {[]netcfg.Route{via(v4, 500, "a"), via(v6, 20, "a"), via(v4, 100, "b")}, "a a 1, b b 2"},
		"only IPv6":                         {[]netcfg.Route{via(v6, 1024, "wan1")}, "wan1 wan1 1"},
		"equal metrics share a tier":        {[]netcfg.Route{via(v4, 5, "c"), via(v4, 0, "b"), via(v4, 0, "a")}, "a a 1, b b 1, c c 2"},
		"a route over two devices":          {[]netcfg.Route{via(v4, 10, "b", "a")}, "a a 1, b b 1"},
		"nobody":                            {nil, ""},
		"not a VLAN's dot in a name":        {[]netcfg.Route{via(v4, 0, "eth0.7")}, "eth0-7 eth0.7 1"},
		"two devices that sound alike":      {[]netcfg.Route{via(v4, 0, "eth0.7"), via(v4, 1, "eth0-7")}, "eth0-7 eth0.7 1, eth0-7-2 eth0-7 2"},
		"not ours":                          {[]netcfg.Route{changed(via(v4, 1, "wan1"), func(r *netcfg.Route) { r.Protocol = 117 })}, ""},
		"not of another table":              {[]netcfg.Route{changed(via(v4, 1, "wan1"), func(r *netcfg.Route) { r.Table = 100 })}, ""},
		"nothing unreachable":               {[]netcfg.Route{changed(via(v6, 1), func(r *netcfg.Route) { r.Type = netcfg.Unreachable })}, ""},
		"not half of the Internet":          {[]netcfg.Route{changed(via(v4, 1, "tun0"), func(r *netcfg.Route) { r.Dst = netip.MustParsePrefix("0.0.0.0/1") })}, ""},
		"not what leads to a local network": {[]netcfg.Route{changed(via(v4, 1, "lan0"), func(r *netcfg.Route) { r.Dst = netip.MustParsePrefix("203.0.113.128/25") })}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			found, _ := New(config.Default(), Machine{}).Scan(&rules.Observed{Routes: c.routes})
			if got := summary(found); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestMobileNetworksStandBehindWiredLines(t *testing.T) {
	drivers := map[string]string{"eth1": "rndis_host", "enx0c5b8f279a64": "cdc_ether", "eth2": "r8152"}
	machine := Machine{Driver: func(device string) string { return drivers[device] }}
	for name, c := range map[string]struct {
		routes []netcfg.Route
		want   string
	}{
		"equal metrics, an LTE stick by its name":     {[]netcfg.Route{via(rules.IPv4, 0, "wwan0"), via(rules.IPv4, 0, "wan1")}, "wan1 wan1 1, wwan0 wwan0 2"},
		"equal metrics, a phone by its driver":        {[]netcfg.Route{via(rules.IPv4, 0, "eth1"), via(rules.IPv4, 0, "eth2")}, "eth2 eth2 1, eth1 eth1 2"},
		"two of each":                                 {[]netcfg.Route{via(rules.IPv4, 0, "usb0", "eth2", "eth1", "eth0")}, "eth0 eth0 1, eth2 eth2 1, eth1 eth1 2, usb0 usb0 2"},
		"a stick that says it is a card":              {[]netcfg.Route{via(rules.IPv4, 5, "enx0c5b8f279a64"), via(rules.IPv4, 5, "wan1")}, "wan1 wan1 1, enx0c5b8f279a64 enx0c5b8f279a64 2"},
		"a mobile network that somebody has in front": {[]netcfg.Route{via(rules.IPv4, 50, "wwan0"), via(rules.IPv4, 100, "wan1")}, "wwan0 wwan0 1, wan1 wan1 2"},
		"nothing but a phone":                         {[]netcfg.Route{via(rules.IPv4, 0, "usb0")}, "usb0 usb0 1"},
	} {
		found, _ := New(config.Default(), machine).Scan(&rules.Observed{Routes: c.routes})
		if got := summary(found); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		for _, u := range found.Uplinks {
			if mobile := machine.Mobile(u.Device); u.Metered != mobile {
				t.Errorf("%s: %s metered = %v", name, u.Device, u.Metered)
			}
		}
	}
}

func TestWhatWasDiscoveredStaysAndWhatComesLaterTakesItsPlace(t *testing.T) {
	d := New(config.Default(), Machine{})
	fiber, lte, dsl := via(rules.IPv4, 100, "fiber"), via(rules.IPv4, 700, "lte"), via(rules.IPv4, 300, "dsl")
	for _, step := range []struct {
		name    string
		routes  []netcfg.Route
		want    string
		changed bool
	}{
		{"the stick is there at start", []netcfg.Route{lte}, "lte lte 1", true},
		{"the fiber comes up later", []netcfg.Route{lte, fiber}, "fiber fiber 1, lte lte 2", true},
		{"nothing new", []netcfg.Route{fiber, lte}, "fiber fiber 1, lte lte 2", false},
		{"the fiber loses its route", []netcfg.Route{lte}, "fiber fiber 1, lte lte 2", false},
		{"a third one comes meanwhile", []netcfg.Route{lte, dsl}, "fiber fiber 1, dsl dsl 2, lte lte 3", true},
		{"all lose their routes", nil, "fiber fiber 1, dsl dsl 2, lte lte 3", false},
		{"one returns with a penalty", []netcfg.Route{via(rules.IPv4, 20100, "fiber"), lte}, "fiber fiber 1, dsl dsl 2, lte lte 3", false},
		{"one is preferred from now on", []netcfg.Route{via(rules.IPv4, 50, "lte")}, "lte lte 1, fiber fiber 2, dsl dsl 3", true},
	} {
		c, changed := d.Scan(&rules.Observed{Routes: step.routes})
		if got := summary(c); got != step.want || changed != step.changed {
			t.Errorf("%s: %q, changed %v, want %q, %v", step.name, got, changed, step.want, step.changed)
		}
	}
}

func TestADiscoveredUplinkIsWhatAFewLinesOfAFileMean(t *testing.T) {
	for _, device := range []string{"wan1", "eth0.7", "enp0s31f6", "WAN", "_x", "-", "ppp-dsl:0", "wwan0", "br@lan", "ünï"} {
		found, _ := New(config.Default(), Machine{}).Scan(&rules.Observed{Routes: []netcfg.Route{via(rules.IPv4, 0, device)}})
		name := found.Uplinks[0].Name
		want, err := config.Parse("two lines", []byte(fmt.Sprintf("[[uplink]]\nname = %q\ndevice = \"wan1\"\nmetered = %v\n", name, device == "wwan0")))
		if err != nil {
			t.Errorf("device %s gives a name that a file may not have: %v", device, err)
			continue
		}
		want.Uplinks[0].Device = device
		if diff := cmp.Diff(want.Uplinks, found.Uplinks, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, probe.Target{})); diff != "" {
			t.Errorf("%s (-file +discovered):\n%s", device, diff)
		}
	}
}

func TestNoMoreUplinksAreDiscoveredThanThereAreMarks(t *testing.T) {
	var obs rules.Observed
	for i := range config.MaxUplinks + 5 {
		obs.Routes = append(obs.Routes, via(rules.IPv4, uint32(i), fmt.Sprintf("ppp%d", i)))
	}
	found, _ := New(config.Default(), Machine{}).Scan(&obs)
	if len(found.Uplinks) != config.MaxUplinks {
		t.Fatalf("%d uplinks", len(found.Uplinks))
	}
	if last := found.Uplinks[config.MaxUplinks-1].Device; last != "ppp61" {
		t.Errorf("the last one is %s: the worst are to be left out", last)
	}
	if _, err := planinput.AssignIDs(found, map[string]int{}); err != nil {
		t.Error(err)
	}
}
