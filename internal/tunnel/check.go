package tunnel

import (
	"fmt"
	"strings"
)

// Flaw is what breaks a tunnel of Ethernet frames without a word.
type Flaw struct{ Code, Message, Fix string }

// Check looks for the flaws of devices as they are. Filters are the parameters by which bridged traffic goes through the
// firewall of routed traffic.
func Check(wanted []Spec, links []Link, filters []string) []Flaw {
	w := World{Links: links}
	var flaws []Flaw
	flaw := func(code, fix, format string, args ...any) {
		flaws = append(flaws, Flaw{code, fmt.Sprintf(format, args...), fix})
	}
	for i := range wanted {
		s := &wanted[i]
		device := w.find(s.Device)
		if device == nil || s.Kind == WireGuard {
			continue
		}
		const lost = "neighbour discovery, router advertisements and DHCPv6 do not get through, and with them IPv6"
		if !device.Multicast {
			flaw("tunnel-multicast", "ip link set dev "+s.Device+" multicast on", "%s takes no multicast: %s", s.Device, lost)
		}
		bridge := w.find(s.Bridge)
		if s.Bridge == "" || bridge == nil {
			continue
		}
		if device.Bridge == s.Bridge && !device.Floods {
			flaw("tunnel-multicast", "bridge link set dev "+s.Device+" mcast_flood on", "%s passes no multicast on to %s: %s", s.Bridge, s.Device, lost)
		}
		if len(filters) > 0 {
			flaw("bridge-filter", "sysctl -w "+strings.ReplaceAll(strings.Join(filters, "=0 "), "/", ".")+"=0, or accept it there",
				"what %s bridges goes through the firewall's forward chain, which may drop it without a word: %s", s.Bridge, strings.Join(filters, " and "))
		}
		if device.MTU < bridge.MTU {
			flaw("bridge-mtu", "use kind gretap over IPv4, which fragments what does not fit, or lower the bridge's MTU and all of its hosts'",
				"%s takes %d bytes and %s passes on %d: longer frames are dropped without a word", s.Device, device.MTU, s.Bridge, bridge.MTU)
		}
	}
	return flaws
}
