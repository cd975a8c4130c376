package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// sixRDLine is a line of IPv4 alone, whose provider has 6rd and says so by DHCP.
const sixRDLine = `
[[uplink]]
name = "fiber"
device = "wan1"
  [uplink.ipv4]
  method = "dhcp"
  [uplink.ipv6]
  method = "off"
` + targets + `
[[uplink]]
name = "rapid"
kind = "6rd"
device = "6rd1"
over = "fiber"
` + targets + `
[[lan]]
device = "lan0"
subnet_id = 1
`

// say6RD are lines of dhcpd.conf: all customers have 2001:db8:9000::/36 and 198.51.96.0/20 in common, and 198.51.100.1 is the border relay.
const say6RD = `option sixrd code 212 = string; option sixrd 14:24:20:01:0d:b8:90:00:00:00:00:00:00:00:00:00:00:00:c6:33:64:01;`

// has6RD waits until an uplink has a prefix for LANs.
func (r *router) has6RD(want string) {
	r.Helper()
	r.await("the prefix "+want, func() error {
		u, err := r.uplinkStatus("rapid")
		if err == nil && (len(u.IPv6.Delegated) != 1 || u.IPv6.Delegated[0].Prefix.String() != want) {
			err = fmt.Errorf("%+v", u.IPv6)
		}
		return err
	})
}

// What a real server says of 6rd is taken, and the prefix is that of the address. (The kernel of this test may have no sit: what
// packets do is for the virtual machine.)
func TestAPrefixBy6RDIsThatOfTheLease(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, sixRDLine)
	r.sh("router", "ip address flush dev wan1")
	r.serveDHCP("198.51.100.2", 600, say6RD)
	r.launch()
	r.has6RD("2001:db8:9402::/48")
	const device = "type sit local 198.51.100.2 ttl 64 6rd-prefix 2001:db8:9000::/36 6rd-relay_prefix 198.51.96.0/20"
	r.await("the device, or that it cannot be", func() error {
		_, err := r.Host("router").Run("ip", "link", "show", "6rd1")
		if err != nil && len(r.status().Problems) > 0 {
			return nil
		}
		return err
	})
	r.kill()
	if log := r.log.String(); !strings.Contains(log, device) {
		t.Errorf("the device was not tried:\n%s", log)
	}
	if plan := r.command("plan", "-c", r.config); strings.Contains(plan, "ip link delete") || !strings.Contains(plan, device) && strings.Contains(plan, "ip link add") {
		t.Errorf("the plan while no daemon runs:\n%s", plan)
	}
}
