//go:build vm

package main

import (
	"strings"
	"testing"
)

// What this takes modules for: a VLAN, WireGuard, and PPPoE beside another line, where pppd puts no default route.
func TestVMInitPlacesVLANsTunnelsAndPPP(t *testing.T) {
	namespaces(t, "net", "router")
	mustScript(t, `
		for m in ppp_generic pppoe 8021q wireguard; do modprobe $m; done
		ip link add wan1 netns router type veth peer name s1 netns net
		ip link add wan2 netns router type veth peer name s2 netns net
		ip -n router link add link wan2 name wan2.7 type vlan id 7
		ip -n router link add wg0 type wireguard
		ip -n router address add 10.0.31.2/24 dev wg0
		ip -n router address add 203.0.113.2/24 dev wan2.7
		for d in s1 s2; do ip -n net link set $d up; done; for d in wan1 wan2 wan2.7 wg0; do ip -n router link set $d up; done
		ip -n router route add default via 203.0.113.1 dev wan2.7
		mkdir -p /etc/ppp; printf 'noauth\nnodefaultroute\n' > /etc/ppp/pppoe-server-options
		for f in pap chap; do echo '* * secret *' > /etc/ppp/$f-secrets; chmod 600 /etc/ppp/$f-secrets; done`)
	serveIn(t, "net", "pppoe-server", "-F", "-I", "s1", "-L", "198.51.100.1", "-R", "198.51.100.50", "-N", "20", "-O", "/etc/ppp/pppoe-server-options", "-q", "/usr/sbin/pppd")
	r := newBox(t, "router")
	r.in("pppd plugin rp-pppoe.so nic-wan1 updetach noauth user u password secret defaultroute unit 0 noipv6 linkname dsl")
	text := r.command("init")
	for _, want := range []string{
		"## wan2.7: VLAN on wan2; 203.0.113.2/24; ipv4 default via 203.0.113.1, metric 0 ", "device = \"wan2.7\"\n",
		"## ppp0: PPP; 198.51.100.50/32\n[[uplink]]\nname = \"ppp0\"\ndevice = \"ppp0\"\n", "which pppd does not install beside that of wan2.7",
		"## * wan2: wan2.7 is on it\n", "## * wg0: WireGuard; 10.0.31.2/24; no default route leads there", "# kind = \"wireguard\"\n# device = \"wg0\"\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("init does not say %q", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}
