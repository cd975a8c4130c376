package offline

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/discovery"
	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Init looks at this machine and proposes a configuration, as text with comments. It changes nothing.
func Init() (string, error) {
	c := config.Default()
	k, err := kernel.Open(planinput.KernelNumbers(c.Kernel), slog.New(slog.DiscardHandler))
	if err != nil {
		return "", err
	}
	defer k.Close()
	obs, err := k.Snapshot(rules.Query{})
	if err != nil {
		return "", err
	}
	found, _ := discovery.New(c).Scan(obs)
	return proposal(found, obs), nil
}

// proposal writes what was found. The text always passes config.Parse.
func proposal(found *config.Config, obs *rules.Observed) string {
	var b strings.Builder
	b.WriteString("# Proposed by \"uplinkd init\" from what this machine had when it was asked. Every key that is\n" +
		"# commented out shows its default; \"uplinkd check -c FILE\" validates, \"uplinkd plan -c FILE\" shows\n" +
		"# what would change in the kernel. Keys are explained in docs/configuration.md.\n\n" +
		"[daemon]\n# listen = \"127.0.0.1:9275\"      # dashboard, JSON and metrics; an address of the LAN shows it there too\n" +
		"# token_file = \"/etc/uplinkd/token\"  # with it, the dashboard's buttons work over the network\n")
	for i := range found.Uplinks {
		u := &found.Uplinks[i]
		if !accepted(u) {
			fmt.Fprintf(&b, "\n# The device %+q has a default route too, and a name that no configuration may have: rename it.\n", u.Device)
			continue
		}
		b.WriteString("\n" + describeDevice(obs, u))
		fmt.Fprintf(&b, "[[uplink]]\nname = %q\ndevice = %q\n", u.Name, u.Device)
		if u.Tier > 1 {
			fmt.Fprintf(&b, "tier = %d                       # used when nothing of a lower tier works\n", u.Tier)
		} else {
			b.WriteString("# tier = 1                     # the lowest tier that works carries new traffic\n")
		}
		b.WriteString("# weight = 1                   # share of new flows among the uplinks of a tier\n")
		if mobile(u.Device) {
			b.WriteString("metered = true                 # looks like a mobile network: probes are rarer\n# quota = \"20GB\"               # a month; above it, new flows go elsewhere\n")
		} else {
			b.WriteString("# metered = false              # true: traffic costs money, probes are rarer\n")
		}
		writeFamilies(&b, obs, u)
		b.WriteString("  # [uplink.probe]\n  # targets = [\"1.1.1.1\", ...]  # anycast resolvers of three operators unless you name others\n")
	}
	if len(found.Uplinks) == 0 {
		b.WriteString("\n# No device of this machine has a default route now, so nothing could be proposed. An uplink looks like this:\n" +
			"#\n# [[uplink]]\n# name = \"fiber\"\n# device = \"eth1\"\n")
	}
	return b.String()
}

// describeDevice says in a comment what was seen.
func describeDevice(obs *rules.Observed, u *config.Uplink) string {
	var seen []string
	for _, a := range obs.Addrs {
		if a.Device == u.Device && !a.LinkScope && a.Prefix.Addr().IsGlobalUnicast() {
			seen = append(seen, a.Prefix.String())
		}
	}
	for _, r := range obs.Routes {
		if r.Table != netcfg.TableMain || !r.IsDefault() || r.Type != netcfg.Unicast {
			continue
		}
		for _, hop := range r.Nexthops {
			if hop.Device != u.Device {
				continue
			}
			via := "on the link itself"
			if hop.Gateway.IsValid() {
				via = "via " + hop.Gateway.String()
			}
			seen = append(seen, fmt.Sprintf("%s default %s, metric %d (%s)", r.Family, via, r.Metric, protocolWord(r.Protocol)))
		}
	}
	return "# " + u.Device + ": " + strings.Join(seen, "; ") + "\n"
}

// protocolWord says who installed a route (linux/rtnetlink.h, and /etc/iproute2/rt_protos).
func protocolWord(protocol uint8) string {
	switch protocol {
	case 2:
		return "by the kernel"
	case 3:
		return "by hand"
	case 4:
		return "static"
	case 9:
		return "router advertisement"
	case 16:
		return "DHCP"
	}
	return "protocol " + strconv.Itoa(int(protocol))
}

// writeFamilies proposes to follow what is there, and to turn off a family that is not.
func writeFamilies(b *strings.Builder, obs *rules.Observed, u *config.Uplink) {
	has := make(map[rules.Family]bool)
	for _, r := range obs.Routes {
		for _, hop := range r.Nexthops {
			if r.Table == netcfg.TableMain && r.IsDefault() && hop.Device == u.Device {
				has[r.Family] = true
			}
		}
	}
	for _, family := range rules.Families {
		if has[family] {
			fmt.Fprintf(b, "  # [uplink.%s]\n  # method = \"auto\"              # follow the addresses and the gateway that others set\n", family)
			if family == rules.IPv6 && !globallyAddressed(obs, u.Device) {
				b.WriteString("  # (there is no global IPv6 address on the device: hosts need a delegated prefix)\n")
			}
			continue
		}
		fmt.Fprintf(b, "  [uplink.%s]\n  method = \"off\"                # there is no %s default route now; \"auto\" would wait for one\n", family, family)
	}
}

func globallyAddressed(obs *rules.Observed, device string) bool {
	global := netip.MustParsePrefix("2000::/3")
	for _, a := range obs.Addrs {
		if a.Device == device && global.Contains(a.Prefix.Addr()) {
			return true
		}
	}
	return false
}

// mobile reports whether a device is named as the kernel and ModemManager name those of mobile networks.
func mobile(device string) bool {
	return strings.HasPrefix(device, "wwan") || strings.HasPrefix(device, "ww") || strings.HasPrefix(device, "usb") || strings.HasPrefix(device, "rmnet")
}

// accepted reports whether an uplink of such a name on such a device may stand in a configuration. A name that
// means something else ("main", "7") is replaced.
func accepted(u *config.Uplink) bool {
	for _, name := range []string{u.Name, "wan-" + u.Name[:min(len(u.Name), 20)]} {
		if _, err := config.Parse("", fmt.Appendf(nil, "[[uplink]]\nname = %q\ndevice = %q\n", name, u.Device)); err == nil {
			u.Name = name
			return true
		}
	}
	return false
}
