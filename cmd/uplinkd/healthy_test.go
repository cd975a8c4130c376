package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/doctor"
	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// TestTheDoctorIsSilentWhereAllIsWell examines each kind of world of the lab, and what owners have beside uplinkd for good reasons, while
// everything works: neither the doctor nor status has an error or a warning.
func TestTheDoctorIsSilentWhereAllIsWell(t *testing.T) {
	t.Parallel()
	all := func(n int) string {
		names := []string{"fiber", "lte", "isp3", "isp4"}
		var b strings.Builder
		for i := range n {
			b.WriteString(section(names[i], fmt.Sprintf("wan%d", i+1), 1+i/2, 1+i%2))
		}
		return b.String()
	}
	untranslated := strings.Replace(ipv4Only("", 2), "device = \"wan1\"\n", "device = \"wan1\"\n  [uplink.ipv4]\n  masquerade = false\n", 1)
	for name, scene := range map[string]struct {
		lab.Options
		config string
		others string // what is set up on the router before
	}{
		"two providers":              {lab.Options{}, dualWAN, ""},
		"loose filters of sources":   {lab.Options{RPFilter: "loose"}, dualWAN, ""},
		"no filters of sources":      {lab.Options{RPFilter: "off"}, dualWAN, ""},
		"four providers":             {lab.Options{Uplinks: 4}, all(4), ""},
		"port forwardings of others": {lab.Options{DNAT: true}, dualWAN, ""},
		"our own port forwardings":   {lab.Options{}, dualWAN + forwarded("::2"), ""},
		"two customers of one net":   {lab.Options{SameSubnet: true, DNAT: true}, dualWAN, ""},
		"twins":                      {lab.Options{Twins: true, DNAT: true}, dualWAN, ""},
		"delegated prefixes":         {lab.Options{Delegation: true}, twoDelegations, ""},
		"static addresses":           {lab.Options{}, staticFiber, ""},
		"IPv4 alone":                 {lab.Options{}, ipv4Only("", 1), ""},
		"policies": {lab.Options{}, killed + `
[[policy]]
name = "shared"
iif = "lan0"
protocol = "tcp"
dport = 443
uplinks = [["fiber", "lte"]]
sticky = "source"
`, ""},
		"a firewall that lets the LAN out": {lab.Options{}, dualWAN, `nft -f - <<'E'
table inet fw {
 chain input { type filter hook input priority 0; policy drop
  ct state vmap { established : accept, related : accept }
  iifname { "lo", "lan0" } accept
  meta l4proto ipv6-icmp accept
 }
 chain forward { type filter hook forward priority 0; policy drop
  ct state established,related accept
  iifname "lan0" oifname { "wan1", "wan2" } accept
 }
}
E`},
		"the owner's masquerading": {lab.Options{}, untranslated, `nft 'table ip nat { chain postrouting { type nat hook postrouting priority srcnat; oifname "wan1" masquerade; }; }'`},
		"public addresses behind it": {lab.Options{}, untranslated + `
[[policy]]
name = "dmz"
from = ["198.51.100.32/28"]
uplinks = ["fiber"]
fallback = "unreachable"
`, `nft 'table ip nat { chain postrouting { type nat hook postrouting priority srcnat; oifname "wan1" ip saddr 192.168.0.0/16 masquerade; }; }'
ip link add dmz0 type bridge; ip address add 198.51.100.33/28 dev dmz0; ip link set dmz0 up`},
		"containers": {lab.Options{}, dualWAN, `ip link add docker0 type bridge; ip address add 172.17.0.1/16 dev docker0; ip link set docker0 up
iptables-nft -P FORWARD DROP; iptables-nft -N DOCKER; iptables-nft -A FORWARD -o docker0 -j DOCKER
iptables-nft -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; iptables-nft -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
iptables-nft -A FORWARD -i lan0 -j ACCEPT; iptables-nft -A FORWARD -o lan0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE`},
		"a VPN for some networks": {lab.Options{}, dualWAN, `ip link add tun0 type veth peer name tun1; ip address add 10.8.0.2/24 dev tun0; ip link set tun0 up; ip link set tun1 up; ip route add 10.20.0.0/16 via 10.8.0.1 dev tun0`},
		"Tailscale's rules":       {lab.Options{}, dualWAN, `ip rule add pref 5210 fwmark 0x80000/0xff0000 lookup main; ip rule add pref 5230 fwmark 0x80000/0xff0000 lookup default; ip rule add pref 5270 lookup 52; ip route add 100.64.0.7 dev lo table 52`},
		"cameras that stay inside": {lab.Options{}, dualWAN, `ip link add cam0 type bridge; ip address add 192.168.66.1/24 dev cam0; ip link set cam0 up
nft 'table inet cams { chain forward { type filter hook forward priority 0; iifname "cam0" drop; }; }'`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRouter(t, scene.Options, scene.config)
			if scene.others != "" {
				r.sh("router", scene.others)
			}
			r.start()
			var findings []doctor.Finding
			r.await("everything to work and the doctor to be silent", func() error {
				if err := r.converged(); err != nil {
					return err
				}
				for _, u := range r.status().Uplinks {
					for _, s := range []uplink.State{u.IPv4.State, u.IPv6.State} {
						if s != uplink.Up && s != uplink.Disabled {
							return fmt.Errorf("%s is %v", u.Name, s)
						}
					}
				}
				findings, _ = r.doctor()
				for _, f := range findings {
					if f.Severity != doctor.Notice {
						return fmt.Errorf("%s: %s: %s", f.Severity, f.Check, f.Cause)
					}
				}
				return nil
			})
			if got, want := r.alsoHere(), map[string]string{"containers": "Docker", "Tailscale's rules": "Tailscale"}[name]; got != want {
				t.Errorf("of other programs doctor knows %q, want %q", got, want)
			}
		})
	}
}

// alsoHere are the known programs that doctor names.
func (r *router) alsoHere() string {
	r.Helper()
	out, _ := r.program("doctor", "--quiet", "-c", r.config).Output() // warnings have an exit code
	_, list, _ := strings.Cut(string(out), "also here: ")
	list, _, _ = strings.Cut(list, " (docs/programs.md)")
	return list
}
