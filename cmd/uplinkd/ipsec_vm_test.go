//go:build vm

package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// The LAN has an IPsec policy to a remote one by the second uplink, with the route that strongSwan installs, or without one as Libreswan
// leaves it: what is covered then leads to the first uplink, and what carries it must not follow it there.
func TestVMWhatIPsecCoversIsNeitherTranslatedNorDropped(t *testing.T) {
	for name, routed := range map[string]bool{"with a route": true, "without": false} {
		t.Run(name, func(t *testing.T) { testIPsec(t, routed) })
	}
}

func testIPsec(t *testing.T, routed bool) {
	const here, there, near, far = "203.0.113.128/25", "192.0.2.192/26", "203.0.113.2", "192.0.2.100"
	r := newRouter(t, lab.Options{}, dualWAN)
	r.sh("router", "modprobe -aq esp4 xfrm_user authenc cbc aes_generic sha256_generic hmac || true")
	for host, ends := range map[string][4]string{"router": {here, there, near, far}, lab.Internet: {there, here, far, near}} {
		for spi, way := range map[string][2]string{"0x100": {near, far}, "0x200": {far, near}} {
			r.sh(host, fmt.Sprintf("ip xfrm state add src %s dst %s proto esp spi %s reqid 1 mode tunnel auth-trunc 'hmac(sha256)' 0x%s 128 enc 'cbc(aes)' 0x%s",
				way[0], way[1], spi, strings.Repeat("11", 32), strings.Repeat("22", 16)))
		}
		r.sh(host, fmt.Sprintf(`ip xfrm policy add src %[1]s dst %[2]s dir out tmpl src %[3]s dst %[4]s proto esp reqid 1 mode tunnel
			for d in in fwd; do ip xfrm policy add src %[2]s dst %[1]s dir $d tmpl src %[4]s dst %[3]s proto esp reqid 1 mode tunnel; done`, ends[0], ends[1], ends[2], ends[3]))
	}
	if routed {
		r.sh("router", "ip rule add pref 220 lookup 220; ip route add "+there+" via 203.0.113.1 dev wan2 src 203.0.113.129 table 220")
	}
	r.sh(lab.Internet, "ip addr add 192.0.2.200/32 dev lo; ip route add "+here+" via $(ip route get 203.0.113.2 | grep -o 'via [0-9.]*' | cut -d' ' -f2) src 192.0.2.200")
	r.sh(lab.Internet, "nft 'table inet seen { chain i { type filter hook input priority 0; ip saddr 203.0.113.130 ip daddr 192.0.2.200 meta secpath exists counter; ip protocol esp ip saddr != "+near+" counter drop; }; }'")
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	before := r.foreign()
	out := r.sh("lan", "ping -c 5 -W 5 192.0.2.200 || true")
	if !strings.Contains(out, "5 received") {
		t.Errorf("through IPsec:\n%s", out)
	}
	if seen := r.sh(lab.Internet, "nft list table inet seen"); !strings.Contains(seen, "packets 5") || !strings.Contains(seen, "counter packets 0") {
		t.Errorf("the remote network sees:\n%s", seen)
	}
	if n := r.foreign() - before; n != 0 {
		t.Errorf("%d packets left with their own source", n)
	}
	if out := r.command("explain", "-c", r.config, "--to", "192.0.2.200", "--from", "203.0.113.130", "--iif", "lan0"); !strings.Contains(out, "IPsec carries it, and the packets that carry it lead to lte") {
		t.Errorf("explain:\n%s", out)
	}
	if out := r.sh("lan", "ping -c 3 -W 5 192.0.2.1 || true"); !strings.Contains(out, "3 received") {
		t.Errorf("what no policy covers:\n%s", out)
	}
}
