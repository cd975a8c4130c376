//go:build vm

package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// PPPoE by pppd is redialed beside a second provider, and gets another address. pppd does not put a default route while somebody's default,
// ours, is there, and without the option defaultroute it never does: the peer of a point-to-point line is its gateway.
//
//	[router] ══ ppp0 over wan1, wan2 ══ [net]
func TestVMAPPPoELineComesBackAfterARedial(t *testing.T) {
	namespaces(t, "net", "router")
	mustScript(t, `
		for m in ppp_generic pppoe; do modprobe $m; done
		ip link add wan1 netns router type veth peer name s1 netns net
		ip link add wan2 netns router type veth peer name s2 netns net
		ip -n net address add 192.0.2.129/32 dev lo; ip -n net address add 203.0.113.1/24 dev s2
		ip -n router address add 203.0.113.2/24 dev wan2
		for d in s1 s2; do ip -n net link set $d up; done; for d in wan1 wan2; do ip -n router link set $d up; done
		ip -n router route add default via 203.0.113.1 dev wan2 metric 200
		mkdir -p /etc/ppp; printf 'noauth\nlcp-echo-interval 5\nlcp-echo-failure 3\nnodefaultroute\n' > /etc/ppp/pppoe-server-options
		for f in pap chap; do echo '* * secret *' > /etc/ppp/$f-secrets; chmod 600 /etc/ppp/$f-secrets; done`)
	serveIn(t, "net", "pppoe-server", "-F", "-I", "s1", "-L", "198.51.100.1", "-R", "198.51.100.50", "-N", "20", "-O", "/etc/ppp/pppoe-server-options", "-q", "/usr/sbin/pppd")
	r := newBox(t, "router")
	const probed = "  [uplink.ipv6]\n  method = \"off\"\n  [uplink.probe]\n  targets = [\"192.0.2.129\"]\n" + unhurriedProbes
	r.configure("[[uplink]]\nname = \"dsl\"\ndevice = \"ppp0\"\n" + probed + "[[uplink]]\nname = \"cable\"\ndevice = \"wan2\"\ntier = 2\n" + probed)
	dial := func(option string) {
		r.in("pppd plugin rp-pppoe.so nic-wan1 updetach noauth user u password secret " + option + " unit 0 lcp-echo-interval 5 noipv6 linkname dsl")
	}
	dial("defaultroute defaultroute-metric 10")
	r.start()
	r.awaitState("dsl", uplink.Up)
	leads := func() error {
		out := r.in("ip route get 192.0.2.129; ip -4 -o address show dev ppp0; ping -n -c 1 -W 2 192.0.2.129 > /dev/null")
		if !strings.Contains(out, "dev ppp0 ") || !strings.Contains(out, " src 198.51.100.") {
			return errors.New(out)
		}
		return nil
	}
	r.await("traffic by PPPoE", leads)
	before := r.in("ip -4 -o address show dev ppp0")
	for _, option := range []string{"defaultroute", "nodefaultroute"} {
		r.in("kill $(cat /run/ppp-dsl.pid | head -1)")
		r.awaitState("dsl", uplink.Down)
		r.await("the device to go", func() error {
			if _, err := script("ip -n router link show dev ppp0"); err == nil {
				return errors.New("ppp0 is there")
			}
			return nil
		})
		dial(option)
		r.awaitState("dsl", uplink.Up)
		r.await("traffic by PPPoE after a redial with "+option, leads)
		after := r.in("ip -4 -o address show dev ppp0")
		if after == before {
			t.Errorf("the address is the former one: %s", after)
		}
		before = after
	}
	if out := r.in("ip route show table main default"); strings.Count(out, "proto 117") != 1 {
		t.Errorf("main's defaults:\n%s", out)
	}
}

// TestVMBesidePPPD has the first line dialed by PPPoE. Both ends of the connection have the names that the devices of the line had, so that the
// provider filters and breaks what is in it.
func TestVMBesidePPPD(t *testing.T) {
	for _, m := range []string{"ppp_generic", "pppoe"} {
		mustScript(t, "modprobe "+m)
	}
	playBeside(t, besideScene{
		program: "pppd", version: "pppd --version 2>&1 | sed 's/.* //'", Options: lab.Options{DNAT: true}, gateways: true,
		config: strings.ReplaceAll(dualWAN, targets, targets+unhurriedProbes),
		prepare: `ip link set wan1 down; ip link set wan1 name dsl; ip address flush dev dsl; ip link set dsl up
mkdir -p /etc/ppp; printf '#!/bin/sh\nip -6 address add 2001:db8:a::2/64 dev $1 nodad\nip -6 route add default via fe80::1 dev $1 metric 100\n' >/etc/ppp/ipv6-up; chmod 755 /etc/ppp/ipv6-up`,
		start: func(h *house) {
			if _, err := os.Stat(h.dir + "/server"); err != nil {
				h.sh("isp1", "ip link set cust1 down; ip link set cust1 name dsl; ip address flush dev dsl; ip link set dsl up; nft -s list table netdev isp >"+h.dir+"/filter\n"+
					"printf 'noauth\nnodefaultroute\nifname cust1\nipv6 ::1,::2\n' >"+h.dir+"/server")
				h.background("isp1", "pppoe-server", "-F", "-I", "dsl", "-L", "198.51.100.1", "-R", "198.51.100.2", "-N", "9", "-O", h.dir+"/server", "-q", "/usr/sbin/pppd")
			}
			h.await("a former connection to end", func() error {
				if _, err := h.Host("isp1").Run("ip", "link", "show", "cust1"); err == nil {
					return errors.New("the provider has it")
				}
				return nil
			})
			h.serve("pppd", "plugin", "rp-pppoe.so", "nic-dsl", "nodetach", "noauth", "user", "u", "password", "secret", "ifname", "wan1", "defaultroute", "defaultroute-metric", "100",
				"+ipv6", "ipv6", "::2,::1", "persist", "maxfail", "0", "holdoff", "1")
			h.await("the connection", func() error {
				_, err := h.try("ip link show wan1")
				if err == nil {
					_, err = h.Host("isp1").Run("sh", "-ec", "ip -6 address replace 2001:db8:a::1/64 dev cust1 nodad")
				}
				if err == nil && len(h.addresses("fiber")) < 2 {
					err = errors.New("no addresses")
				}
				return err
			})
			h.sentProperly() // the filter begins anew: a device is gone with its chains
			h.sh("isp1", "nft delete table netdev isp; nft -f "+h.dir+"/filter")
		},
	})
}

// WireGuard in its usual form: addresses with the length of the whole network, peers of /32. What leads to peers alone is like a LAN: a peer
// surfs through the server and on through a further tunnel, and the LANs of both sites reach one another with their own addresses, all with
// nothing but keys, addresses and allowed_ips.
//
//	[host] ── [site] ── [net] ── [server] ── [host2]
func TestVMPeersOfAServerAreLikeALAN(t *testing.T) {
	namespaces(t, "net", "server", "site", "host", "host2")
	mustScript(t, linkFunction+`
		ip netns exec net sysctl -qw net.ipv4.ip_forward=1
		ip -n net address add 192.0.2.129/32 dev lo
		link server wan1 198.51.100.2/24 net s1 198.51.100.1/24
		link server wan2 203.0.113.2/24 net s2 203.0.113.1/24
		link site wan1 192.0.2.2/29 net s3 192.0.2.1/29
		link host eth0 192.168.35.10/24 site lan0 192.168.35.1/24
		link host2 eth0 192.168.36.10/24 server lan0 192.168.36.1/24
		ip -n host route add default via 192.168.35.1; ip -n host2 route add default via 192.168.36.1
		for n in site server; do ip netns exec $n sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=1; done
		ip netns exec net nft 'table ip seen { set by { type ipv4_addr; flags dynamic; }; chain i { type filter hook input priority 0; ip daddr 192.0.2.129 icmp type echo-request add @by { ip saddr }; }; }'`)
	dir := t.TempDir()
	server, site := newKey(t, dir+"/server"), newKey(t, dir+"/site")
	line := "\n[[uplink]]\nname = \"%[1]s\"\ndevice = \"%[1]s\"\ntier = %[2]d\n  [uplink.ipv4]\n  method = \"static\"\n  address = \"%[3]s\"\n  gateway = \"%[4]s\"\n" +
		"  [uplink.ipv6]\n  method = \"off\"\n  [uplink.probe]\n  targets = [\"192.0.2.129\"]\n" + unhurriedProbes
	tunnel := "\n[[uplink]]\nname = \"wg\"\nkind = \"wireguard\"\ndevice = \"wg0\"\n  [uplink.ipv6]\n  method = \"off\"\n  [uplink.wireguard]\n  private_key_file = \"%s\"\n  %s\n  addresses = [\"%s\"]\n" +
		"  peers = [ { public_key = \"%s\", allowed_ips = [%s]%s } ]\n  [uplink.probe]\n  targets = [\"%s\"]\n" + unhurriedProbes
	here, there := newBox(t, "server"), newBox(t, "site")
	here.configure(fmt.Sprintf(line, "wan1", 1, "198.51.100.2/24", "198.51.100.1") + fmt.Sprintf(line, "wan2", 2, "203.0.113.2/24", "203.0.113.1") +
		fmt.Sprintf(tunnel, dir+"/server", "listen_port = 51820", "10.1.0.1/24", site, `"10.1.0.2/32", "192.168.35.0/24"`, "", "10.1.0.2"))
	there.configure(fmt.Sprintf(line, "wan1", 2, "192.0.2.2/29", "192.0.2.1") +
		fmt.Sprintf(tunnel, dir+"/site", "", "10.1.0.2/24", server, `"0.0.0.0/0"`, `, endpoint = "203.0.113.2:51820", keepalive = "5s"`, "192.0.2.129"))
	here.start()
	there.start()
	there.awaitState("wg", uplink.Up)
	reaches := func(from, to string) {
		t.Helper()
		there.await(from+" to reach "+to, func() error {
			_, err := script(fmt.Sprintf("ip netns exec %s ping -n -c 1 -W 2 %s", from, to))
			return err
		})
	}
	reaches("host", "192.168.36.10")
	reaches("host2", "192.168.35.10")
	reaches("host2", "10.1.0.2")
	reaches("site", "192.0.2.129")
	mustScript(t, "ip netns exec net nft flush set ip seen by")
	reaches("host", "192.0.2.129")
	if seen := mustScript(t, "ip netns exec net nft list set ip seen by"); !strings.Contains(seen, "198.51.100.2") {
		t.Errorf("the host's Internet is seen from %s", seen)
	}
	// Hosts behind the site keep their addresses on the way to the server's LAN.
	mustScript(t, `ip netns exec host2 nft 'table ip seen { set by { type ipv4_addr; flags dynamic; }; chain i { type filter hook input priority 0; icmp type echo-request add @by { ip saddr }; }; }'`)
	reaches("host2", "192.168.35.10")
	here.in("ping -n -c 1 -W 2 10.1.0.2 > /dev/null")
}
