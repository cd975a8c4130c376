//go:build vm

package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// fixed6RD is 6rd over a line with an address of its own.
const fixed6RD = `
[[uplink]]
name = "fiber"
device = "wan1"
  [uplink.ipv4]
  method = "static"
  address = "LOCAL/26"
  gateway = "198.51.100.1"
  [uplink.ipv6]
  method = "off"
` + targets + `
[[uplink]]
name = "rapid"
kind = "6rd"
device = "6rd1"
over = "fiber"
  [uplink.6rd]
  prefix = "2001:db8:9000::/36"
  ipv4_mask_length = 20
  border_relay = "192.0.2.9"
` + targets

func TestVMThePlanOf6RDIsWhatRunDoes(t *testing.T) { checkPlanOfTunnels(t, fixed6RD) }

// A house has IPv6 by 6rd: by the border relay to everybody, straight to other customers, whom nobody else can be taken for; with another address
// of the line it has another prefix.
func TestVMAHouseHasIPv6By6RD(t *testing.T) {
	r := newRouter(t, lab.Options{}, sixRDLine)
	r.pace = emulated
	r.listen()
	r.sh("router", "ip address flush dev wan1 scope global")
	pool := netip.MustParsePrefix("2001:db8:9000::/36")
	r.delegate("fiber", pool)
	r.sh("isp1", `
ip link add relay type sit local 198.51.100.1 ttl 64 6rd-prefix 2001:db8:9000::/36 6rd-relay_prefix 198.51.96.0/20
ip link set relay up
ip -6 route replace 2001:db8:9000::/36 dev relay
ip address add 198.51.100.7/32 dev lo
ip link add neighbour type sit local 198.51.100.7 ttl 64 6rd-prefix 2001:db8:9000::/36 6rd-relay_prefix 198.51.96.0/20
ip link set neighbour up
ip -6 address add 2001:db8:9407::1/128 dev neighbour nodad`)
	server := r.serveDHCP("198.51.100.2", 20, say6RD)
	r.start()
	r.has6RD("2001:db8:9402::/48")
	r.awaitState("rapid", uplink.Up)
	r.awaitHost(netip.MustParsePrefix("2001:db8:9402::/48"))
	flow := r.hostFlow()
	r.awaitFlow(flow, "fiber") // whose provider has the relay
	// The neighbour's answers come by the relay at first, with an address that is not the relay's to have.
	const ask = "if ping -q -c 1 -W 3 2001:db8:9407::1 >/dev/null; then echo answered; else echo silent; fi"
	if out := r.sh("lan", ask); out != "silent\n" {
		t.Errorf("what the relay says in the name of another customer is believed: %s", out)
	}
	r.sh("isp1", "ip -6 route replace 2001:db8:9402::/48 dev neighbour")
	if out := r.sh("lan", ask); out != "answered\n" {
		t.Errorf("another customer is not reached straight: %s", out)
	}
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets with a foreign source", n)
	}
	server.stop()
	r.sh("router", "ip link set wan1 down; ip link set wan1 up")
	r.serveDHCP("198.51.100.9", 60, say6RD)
	r.has6RD("2001:db8:9409::/48")
	r.awaitHost(netip.MustParsePrefix("2001:db8:9409::/48"))
	r.awaitState("rapid", uplink.Up)
	r.awaitFlow(flow, "fiber") // whose provider has the relay
	r.stop()
	r.command("clean", "-c", r.config)
	if out := r.sh("router", "ip -o link show type sit"); strings.Contains(out, "6rd1") {
		t.Errorf("clean leaves %s", out)
	}
}
