package offline

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/discovery"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// machineWith is a machine with these devices, each with a default route of a family.
func machineWith(devices ...string) *rules.Observed {
	obs := &rules.Observed{}
	for i, device := range devices {
		obs.Links = append(obs.Links, rules.Link{Index: i + 1, Name: device, Up: true, Carrier: true})
		obs.Routes = append(obs.Routes, netcfg.Route{Family: rules.IPv4, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: rules.IPv4.Default(), Metric: uint32(100 * (i + 1)),
			Protocol: 16, Nexthops: []netcfg.Nexthop{{Device: device, Gateway: netip.MustParseAddr("198.51.100.1"), Weight: 1}}})
	}
	return obs
}

func proposed(t fatal, obs *rules.Observed) (string, *config.Config) {
	t.Helper()
	found, _ := discovery.New(config.Default()).Scan(obs)
	text := proposal(found, obs)
	c, err := config.Parse("proposed", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return text, c
}

type fatal interface {
	Helper()
	Fatalf(format string, args ...any)
}

func TestTheStarterConfigurationSaysWhatWasFound(t *testing.T) {
	obs := machineWith("eth0.7", "wwan0")
	obs.Addrs = []rules.Addr{{Device: "eth0.7", Prefix: netip.MustParsePrefix("198.51.100.2/26")}, {Device: "eth0.7", Prefix: netip.MustParsePrefix("fe80::1/64"), LinkScope: true}}
	obs.Routes = append(obs.Routes, netcfg.Route{Family: rules.IPv6, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: rules.IPv6.Default(), Metric: 1024,
		Protocol: 9, Nexthops: []netcfg.Nexthop{{Device: "eth0.7", Gateway: netip.MustParseAddr("fe80::2"), Weight: 1}}})
	text, c := proposed(t, obs)
	for _, want := range []string{
		"# eth0.7: 198.51.100.2/26; ipv4 default via 198.51.100.1, metric 100 (DHCP); ipv6 default via fe80::2, metric 1024 (router advertisement)\n",
		"name = \"eth0-7\"\ndevice = \"eth0.7\"\n", "there is no global IPv6 address on the device", "# wwan0: ", "tier = 2 ", "metered = true ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it lacks %q:\n%s", want, text)
		}
	}
	if len(c.Uplinks) != 2 || c.Uplinks[0].IPv6.Method != config.MethodAuto || c.Uplinks[1].IPv6.Method != config.MethodOff || !c.Uplinks[1].Metered || c.Uplinks[1].Tier != 2 {
		t.Errorf("it means %+v", c.Uplinks)
	}
	text, c = proposed(t, &rules.Observed{})
	if len(c.Uplinks) != 0 || !strings.Contains(text, "# device = \"eth1\"") {
		t.Errorf("of a machine without uplinks:\n%s", text)
	}
}

// TestTheStarterConfigurationAlwaysPasses draws devices with every name that the kernel takes.
func TestTheStarterConfigurationAlwaysPasses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		devices := rapid.SliceOfNDistinct(rapid.StringMatching(`[!-.0-9;-~]{1,15}|eth[0-9]\.[0-9]{1,3}|main|default|all|lo|[0-9]|[^\x00-\x20/:\x7f]{1,5}`), 0, 8, rapid.ID[string]).Draw(t, "devices")
		devices = slices.DeleteFunc(devices, func(name string) bool { return name == "." || name == ".." }) // dev_valid_name
		obs := machineWith(devices...)
		for i := range obs.Routes {
			if rapid.Bool().Draw(t, fmt.Sprint("ipv6 ", i)) {
				obs.Routes[i].Family, obs.Routes[i].Dst = rules.IPv6, rules.IPv6.Default()
			}
		}
		proposed(t, obs)
	})
}
