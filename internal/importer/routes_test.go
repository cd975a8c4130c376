package importer

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/config"
)

// TestRoutesOfOtherSystemsAreKept judges the examples of pbr and VyOS by the lines of their file "routes":
//
//	br-lan 192.168.1.20 203.0.113.9 tcp 443 = wg0          a host's connection, and the device that it leaves by
//	down wg0: router - 203.0.113.9 udp 53 = refused        the router's own, while a device is down
//	br-lan 192.168.1.20 203.0.113.9 icmp = eth1:3 eth2:1   shared
//
// Behind the ports of the form 1000>443 stands the hardware address of the host, where it matters.
func TestRoutesOfOtherSystemsAreKept(t *testing.T) {
	for _, system := range []string{"pbr", "vyos"} {
		for _, x := range examples(t, system) {
			t.Run(system+"/"+strings.TrimSuffix(filepath.Base(x.path), ".txtar"), func(t *testing.T) {
				result, c := x.convert(t, system)
				worlds := make(map[string]*world)
				for line := range strings.Lines(string(x.file("routes").Data)) {
					asked, want, _ := strings.Cut(strings.TrimSpace(line), " = ")
					down, rest, isDown := strings.Cut(strings.TrimPrefix(asked, "down "), ": ")
					if !isDown {
						down, rest = "", asked
					}
					if worlds[down] == nil {
						worlds[down] = newWorld(t, c, downPorts(c, down))
					}
					got, e := worlds[down].leads(t, parseFlow(t, rest))
					if !got.shares(parseOutcome(want)) {
						t.Errorf("%s goes by %v: %s\n%s", strings.TrimSpace(line), got, e.Reason, result.TOML)
					}
				}
			})
		}
	}
}

func downPorts(c *config.Config, devices string) map[port]bool {
	down := make(map[port]bool)
	for _, device := range strings.Split(devices, ",") {
		down[port{device, 0}], down[port{device, 1}] = true, true
	}
	return down
}

func parseFlow(t *testing.T, line string) flow {
	t.Helper()
	words := strings.Fields(line)
	f := flow{in: words[0], to: netip.MustParseAddr(words[2]), protocol: map[string]uint8{"tcp": 6, "udp": 17, "icmp": 1, "esp": 50}[words[3]]}
	if f.in == "router" {
		f.in = ""
	} else {
		f.from = netip.MustParseAddr(words[1])
	}
	if len(words) > 4 {
		sport, dport, both := strings.Cut(words[4], ">")
		if !both {
			sport, dport = "50000", words[4]
		}
		for _, p := range []struct {
			text string
			dst  *uint16
		}{{sport, &f.sport}, {dport, &f.dport}} {
			n, err := strconv.ParseUint(p.text, 10, 16)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			*p.dst = uint16(n)
		}
	}
	if len(words) > 5 {
		mac, err := net.ParseMAC(words[5])
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		f.mac = [6]byte(mac)
	}
	return f
}

func parseOutcome(text string) outcome {
	out := make(outcome)
	for _, w := range strings.Fields(text) {
		if w == "refused" {
			return nil
		}
		device, weight, _ := strings.Cut(w, ":")
		n := 1
		fmt.Sscan(weight, &n)
		out[device] = n
	}
	return out
}
