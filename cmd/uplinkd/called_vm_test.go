//go:build vm

package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/uplink"
)

// A WireGuard server with two lines is called by either, and answers by it: the phone is behind a translation that lets
// in nothing else. The server also calls a site itself, by the best line.
//
//	[host] ── [server] ══ two lines ══ [net] ── [phone]
//	                                     └───── [site]
func TestVMAServerAnswersByTheLineItWasCalledAt(t *testing.T) {
	namespaces(t, "net", "server", "host", "phone", "site")
	mustScript(t, linkFunction+`
		ip netns exec net sysctl -qw net.ipv4.ip_forward=1
		ip -n net address add 192.0.2.129/32 dev lo
		link server wan1 198.51.100.2/24 net s1 198.51.100.1/24
		link server wan2 203.0.113.2/24 net s2 203.0.113.1/24
		link phone wan0 192.0.2.2/29 net phone 192.0.2.1/29
		link site wan0 192.0.2.10/29 net site 192.0.2.9/29
		link host eth0 10.1.0.2/24 server lan0 10.1.0.1/24
		ip -n phone route add default via 192.0.2.1; ip -n site route add default via 192.0.2.9; ip -n host route add default via 10.1.0.1
		ip netns exec server sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=1
		ip netns exec phone nft 'table ip nat { chain in { type filter hook input priority 0; iifname "wan0" ct state established accept; iifname "wan0" drop; }; }'
		for n in phone site; do ip -n $n link add wg0 type wireguard; ip -n $n link set wg0 up; done
		ip -n phone address add 10.9.0.2/32 dev wg0; ip -n phone route add 10.1.0.0/24 dev wg0; ip -n phone route add 10.9.0.1 dev wg0
		ip -n site address add 10.8.0.1/24 dev wg0; ip -n site route add 10.1.0.0/24 dev wg0`)
	dir := t.TempDir()
	keys := make(map[string]string)
	for _, name := range []string{"phone", "site", "server"} {
		keys[name] = newKey(t, filepath.Join(dir, name))
	}
	mustScript(t, fmt.Sprintf(`
		ip netns exec phone wg set wg0 private-key %[1]s/phone
		ip netns exec site wg set wg0 private-key %[1]s/site listen-port 51820 peer %[2]s allowed-ips 10.1.0.0/24,10.8.0.2/32`, dir, keys["server"]))
	r := newBox(t, "server")
	line := `
[[uplink]]
name = "%[1]s"
device = "%[2]s"
tier = %[3]d
  [uplink.ipv4]
  method = "static"
  address = "%[4]s.2/24"
  gateway = "%[4]s.1"
  [uplink.ipv6]
  method = "off"
  [uplink.probe]
  targets = ["192.0.2.129"]
` + unhurriedProbes
	r.configure(fmt.Sprintf(line, "fiber", "wan1", 1, "198.51.100") + fmt.Sprintf(line, "lte", "wan2", 2, "203.0.113") + fmt.Sprintf(`
[[uplink]]
name = "office"
kind = "wireguard"
device = "wg0"
peer_routes = true
underlay = ["lte", "fiber"]
  [uplink.ipv4]
  masquerade = false
  [uplink.wireguard]
  private_key_file = "%s/server"
  listen_port = 51820
  addresses = ["10.9.0.1/32", "10.8.0.2/32"]
  peers = [
    { public_key = "%s", allowed_ips = ["10.9.0.2/32"] },
    { public_key = "%s", endpoint = "192.0.2.10:51820", allowed_ips = ["10.8.0.0/24"], keepalive = "5s" },
  ]
`, dir, keys["phone"], keys["site"]))
	r.start()
	for _, u := range []string{"fiber", "lte"} {
		r.awaitState(u, uplink.Up)
	}
	reaches := func(from, to string) {
		t.Helper()
		r.await(from+" to reach "+to, func() error {
			_, err := script(fmt.Sprintf("ip netns exec %s ping -n -c 1 -W 1 %s", from, to))
			return err
		})
	}
	for _, at := range []string{"203.0.113.2", "198.51.100.2", "203.0.113.2"} {
		mustScript(t, fmt.Sprintf(`ip netns exec phone wg set wg0 peer %[1]s remove
			ip netns exec phone wg set wg0 peer %[1]s endpoint %[2]s:51820 allowed-ips 10.9.0.1/32,10.1.0.0/24 persistent-keepalive 5`, keys["server"], at))
		reaches("phone", "10.9.0.1")
		reaches("phone", "10.1.0.2")
		reaches("host", "10.9.0.2")
		if out := mustScript(t, "ip netns exec phone wg show wg0 endpoints"); !strings.Contains(out, at+":51820") {
			t.Errorf("called at %s, the server answers from %s", at, out)
		}
	}

	// The site is called by the line that the underlay names first, and by the other one when that dies.
	by := func(address string) func() error {
		return func() error {
			if out := mustScript(t, "ip netns exec site wg show wg0 endpoints"); !strings.Contains(out, address+":") {
				return errors.New(strings.TrimSpace(out))
			}
			_, err := script("ip netns exec host ping -n -c 1 -W 1 10.8.0.1")
			return err
		}
	}
	r.await("the site to be called by lte", by("203.0.113.2"))
	mustScript(t, `ip netns exec net nft 'table ip hole { chain f { type filter hook forward priority 0; iifname "s2" drop; oifname "s2" drop; }; }'; ip -n net address del 192.0.2.129/32 dev lo; ip -n net address add 192.0.2.129/32 dev lo
		ip netns exec net nft 'table ip deaf { chain i { type filter hook input priority 0; iifname "s2" ip daddr 192.0.2.129 drop; }; }'`)
	r.await("the site to be called by fiber", by("198.51.100.2"))
}
