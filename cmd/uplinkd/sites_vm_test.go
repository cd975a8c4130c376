//go:build vm

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/uplink"
)

// sites are three routers with a LAN each, joined by what their configurations say. A phone calls the first.
//
//	host1 ── [site1] ──┐           ┌── [site2] ── host2
//	                   ├── [net] ──┤
//	[phone] ───────────┘           └── [site3] ── host3
type sites struct {
	testing.TB
	routers map[int]*router
	dir     string
	public  map[string]string // keys, by file
}

// siteWAN are the address of each site's line and its gateway.
var siteWAN = map[int][2]string{1: {"198.51.100.2", "198.51.100.1"}, 2: {"203.0.113.2", "203.0.113.1"}, 3: {"192.0.2.130", "192.0.2.129"}}

func siteHost(n int) string { return fmt.Sprintf("192.168.%d.10", 34+n) }

func newSites(t *testing.T) *sites {
	t.Helper()
	namespaces(t, "net", "site1", "site2", "site3", "host1", "host2", "host3", "phone")
	mustScript(t, linkFunction+`
		ip netns exec net sysctl -qw net.ipv4.ip_forward=1
		ip -n net address add 192.0.2.1/32 dev lo
		link site1 wan0 198.51.100.2/24 net s1 198.51.100.1/24
		link site2 wan0 203.0.113.2/24 net s2 203.0.113.1/24
		link site3 wan0 192.0.2.130/26 net s3 192.0.2.129/26
		link phone wan0 192.0.2.10/29 net s4 192.0.2.9/29
		ip -n phone route add default via 192.0.2.9
		for n in 1 2 3; do
			link host$n eth0 192.168.$((34+n)).10/24 site$n lan0 192.168.$((34+n)).1/24
			ip -n host$n route add default via 192.168.$((34+n)).1
			ip netns exec site$n sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=1
			ip netns exec host$n nft 'table ip seen { set by { type ipv4_addr; flags dynamic; }; chain i { type filter hook input priority 0; icmp type echo-request add @by { ip saddr }; }; }'
		done
		ip netns exec net nft 'table ip seen { counter private { }; chain p { type filter hook prerouting priority -300; ip saddr { 10.0.0.0/8, 192.168.0.0/16 } counter name private drop; }; }'`)
	return &sites{TB: t, routers: make(map[int]*router), dir: t.TempDir(), public: make(map[string]string)}
}

// key returns the public key of a private one, which it makes.
func (s *sites) key(name string) string {
	s.Helper()
	if s.public[name] == "" {
		s.public[name] = newKey(s, filepath.Join(s.dir, name))
	}
	return s.public[name]
}

// start runs a site with its line, of some tier, and what else it has.
func (s *sites) start(n, tier int, tunnels string) {
	s.Helper()
	r := newBox(s, fmt.Sprintf("site%d", n))
	length := map[int]int{1: 24, 2: 24, 3: 26}[n]
	r.configure(fmt.Sprintf("[[uplink]]\nname = \"fiber\"\ndevice = \"wan0\"\ntier = %d\n  [uplink.ipv4]\n  method = \"static\"\n  address = \"%s/%d\"\n  gateway = \"%s\"\n"+
		"  [uplink.ipv6]\n  method = \"off\"\n  [uplink.probe]\n  targets = [\"192.0.2.1\"]\n%s", tier, siteWAN[n][0], length, siteWAN[n][1], unhurriedProbes) + tunnels)
	s.routers[n] = r
	r.start()
}

// reaches waits until one host reaches another.
func (s *sites) reaches(from, to string) {
	s.Helper()
	s.routers[1].await(from+" to reach "+to, func() error {
		_, err := script(fmt.Sprintf("ip netns exec %s ping -n -c 1 -W 2 %s", from, to))
		return err
	})
}

// mesh has every host reach every other with its own address.
func (s *sites) mesh() {
	s.Helper()
	for from := 1; from <= 3; from++ {
		for to := 1; to <= 3; to++ {
			if to == from {
				continue
			}
			mustScript(s, fmt.Sprintf("ip netns exec host%d nft flush set ip seen by", to))
			s.reaches(fmt.Sprintf("host%d", from), siteHost(to))
			if seen := mustScript(s, fmt.Sprintf("ip netns exec host%d nft list set ip seen by", to)); !strings.Contains(seen, siteHost(from)) {
				s.Errorf("host%d is seen by host%d as %s", from, to, seen)
			}
		}
	}
}

// leaks is how many packets with a private source have come to the Internet.
func (s *sites) leaks() {
	s.Helper()
	if out := mustScript(s, "ip netns exec net nft list counter ip seen private"); !strings.Contains(out, "packets 0 ") {
		s.Errorf("private sources have left: %s", out)
	}
}

// TestVMThreeSitesReachOneAnother has nothing but keys, addresses and allowed_ips.
func TestVMThreeSitesReachOneAnother(t *testing.T) {
	s := newSites(t)
	for n := 1; n <= 3; n++ {
		s.key(fmt.Sprintf("site%d", n))
	}
	mustScript(t, fmt.Sprintf(`
		ip -n phone link add wg0 type wireguard; ip -n phone address add 10.9.0.2/32 dev wg0
		ip netns exec phone wg set wg0 private-key %[1]s/phone peer %[3]s endpoint 198.51.100.2:51821 allowed-ips 10.0.0.0/8,192.168.0.0/16,192.0.2.1/32 persistent-keepalive 5
	`, s.dir, s.key("phone"), s.key("phones")))
	mustScript(t, "ip -n phone link set wg0 up; for net in 10.0.0.0/8 192.168.0.0/16 192.0.2.1/32; do ip -n phone route add $net dev wg0; done")
	for n := 1; n <= 3; n++ {
		var peers []string
		for m := 1; m <= 3; m++ {
			if m == n {
				continue
			}
			allowed := fmt.Sprintf(`"10.8.0.%d/32", "192.168.%d.0/24"`, m, 34+m)
			if m == 1 {
				allowed += `, "10.9.0.0/24"`
			}
			peers = append(peers, fmt.Sprintf(`{ public_key = "%s", endpoint = "%s:51820", allowed_ips = [%s], keepalive = "5s" }`,
				s.key(fmt.Sprintf("site%d", m)), siteWAN[m][0], allowed))
		}
		tunnels := fmt.Sprintf("\n[[uplink]]\nname = \"sites\"\nkind = \"wireguard\"\ndevice = \"wg-sites\"\n  [uplink.ipv6]\n  method = \"off\"\n  [uplink.wireguard]\n  private_key_file = \"%s/site%d\"\n"+
			"  listen_port = 51820\n  addresses = [\"10.8.0.%d/24\"]\n  peers = [ %s ]\n", s.dir, n, n, strings.Join(peers, ", "))
		if n == 1 {
			tunnels += fmt.Sprintf("\n[[uplink]]\nname = \"phones\"\nkind = \"wireguard\"\ndevice = \"wg-phones\"\n  [uplink.ipv6]\n  method = \"off\"\n  [uplink.wireguard]\n  private_key_file = \"%s/phones\"\n"+
				"  listen_port = 51821\n  addresses = [\"10.9.0.1/24\"]\n  peers = [ { public_key = \"%s\", allowed_ips = [\"10.9.0.2/32\"] } ]\n", s.dir, s.key("phone"))
		}
		s.start(n, 1, tunnels)
	}
	s.mesh()
	for n := 1; n <= 3; n++ {
		s.reaches("phone", siteHost(n))
		s.reaches(fmt.Sprintf("host%d", n), "10.9.0.2")
		s.reaches(fmt.Sprintf("host%d", n), "192.0.2.1")
		s.reaches(fmt.Sprintf("site%d", n), "192.0.2.1")
	}
	s.reaches("phone", "192.0.2.1") // by the first site's line
	s.reaches("site2", siteHost(1)) // the routers themselves
	s.reaches("site1", siteHost(3))
	for n, r := range s.routers {
		for _, p := range r.status().Problems {
			if p.Severity != "notice" {
				t.Errorf("site%d: %s: %s", n, p.Code, p.Message)
			}
		}
		findings, _ := r.doctor()
		for _, f := range findings {
			if f.Severity == "error" {
				t.Errorf("site%d: doctor: %+v", n, f)
			}
		}
	}
	s.leaks()
}

// TestVMEachLevelSurfsByTheNext has a host behind site 1, which surfs by site 2, which surfs by site 3.
func TestVMEachLevelSurfsByTheNext(t *testing.T) {
	s := newSites(t)
	for n := 1; n <= 3; n++ {
		s.key(fmt.Sprintf("site%d", n))
		s.key(fmt.Sprintf("served%d", n))
	}
	mustScript(t, `ip netns exec net nft 'add set ip seen by { type ipv4_addr; flags dynamic; }; add chain ip seen i { type filter hook input priority 0; }; add rule ip seen i ip daddr 192.0.2.1 icmp type echo-request add @by { ip saddr }'`)
	up := func(n, to int) string {
		return fmt.Sprintf("\n[[uplink]]\nname = \"up\"\nkind = \"wireguard\"\ndevice = \"wg-up\"\ntier = 1\n  [uplink.ipv6]\n  method = \"off\"\n  [uplink.wireguard]\n  private_key_file = \"%s/site%d\"\n"+
			"  addresses = [\"10.%d.0.2/24\"]\n  peers = [ { public_key = \"%s\", endpoint = \"%s:51820\", allowed_ips = [\"0.0.0.0/0\"], keepalive = \"5s\" } ]\n  [uplink.probe]\n  targets = [\"192.0.2.1\"]\n%s",
			s.dir, n, to, s.key(fmt.Sprintf("served%d", to)), siteWAN[to][0], unhurriedProbes)
	}
	serves := func(n, from int) string {
		return fmt.Sprintf("\n[[uplink]]\nname = \"below\"\nkind = \"wireguard\"\ndevice = \"wg-below\"\n  [uplink.ipv6]\n  method = \"off\"\n  [uplink.wireguard]\n  private_key_file = \"%s/served%d\"\n"+
			"  listen_port = 51820\n  addresses = [\"10.%d.0.1/24\"]\n  peers = [ { public_key = \"%s\", allowed_ips = [\"10.%d.0.2/32\"] } ]\n", s.dir, n, n, s.key(fmt.Sprintf("site%d", from)), n)
	}
	s.start(3, 1, serves(3, 2))
	s.start(2, 2, serves(2, 1)+up(2, 3))
	s.start(1, 2, up(1, 2))
	for _, n := range []int{2, 1} {
		s.routers[n].await("the next level to be the way out", func() error {
			for _, u := range s.routers[n].status().Uplinks {
				if u.Name == "up" && (u.IPv4.State != uplink.Up || u.IPv4.Share != 1) {
					return fmt.Errorf("it is %s, %s, with a share of %v", u.IPv4.State, u.IPv4.Reason, u.IPv4.Share)
				}
			}
			return nil
		})
	}
	for _, from := range []string{"host1", "site1", "host2", "site2", "host3"} {
		mustScript(t, "ip netns exec net nft flush set ip seen by")
		s.routers[1].await(from+" to surf by site 3", func() error {
			if _, err := script("ip netns exec " + from + " ping -n -c 1 -W 2 192.0.2.1"); err != nil {
				return err
			}
			if seen := mustScript(t, "ip netns exec net nft list set ip seen by"); !strings.Contains(seen, "192.0.2.130") {
				return fmt.Errorf("seen from %s", seen)
			}
			return nil
		})
	}
	s.leaks()
}

// TestVMPoliciesLeadByATunnel runs the examples of policies with a tunnel as they stand, but for the names of devices and the targets.
// The tunnel is made by another program, and ends at site 3.
func TestVMPoliciesLeadByATunnel(t *testing.T) {
	s := newSites(t)
	mustScript(t, `ip -n net address add 192.0.2.2/32 dev lo
		ip netns exec net nft 'table ip asked { set by { type inet_proto . ipv4_addr . ipv4_addr; flags dynamic; }; chain i { type filter hook input priority 0; ip daddr { 192.0.2.1, 192.0.2.2 } add @by { ip protocol . ip daddr . ip saddr }; }; }'`)
	s.key("server")
	s.start(3, 1, fmt.Sprintf("\n[[uplink]]\nname = \"below\"\nkind = \"wireguard\"\ndevice = \"wg-below\"\n  [uplink.ipv6]\n  method = \"off\"\n  [uplink.wireguard]\n  private_key_file = \"%s/server\"\n"+
		"  listen_port = 51820\n  addresses = [\"10.3.0.1/24\"]\n  peers = [ { public_key = \"%s\", allowed_ips = [\"10.3.0.2/32\"] } ]\n", s.dir, s.key("client")))
	mustScript(t, fmt.Sprintf(`
		ip -n site1 route add default via 198.51.100.1
		ip -n site1 link add wg0 type wireguard; ip -n site1 address add 10.3.0.2/24 dev wg0
		ip netns exec site1 wg set wg0 private-key %s/client peer %s endpoint 192.0.2.130:51820 allowed-ips 0.0.0.0/0 persistent-keepalive 5
		ip -n site1 link set wg0 up`, s.dir, s.key("server")))
	asked := func(how string) string {
		mustScript(t, "ip netns exec net nft flush set ip asked by")
		_, _ = script(how) // TCP is refused: nobody listens
		return mustScript(t, "ip netns exec net nft list set ip asked by")
	}
	tcp := func(from, to string) string {
		return fmt.Sprintf("ip netns exec %s timeout 3 bash -c '</dev/tcp/%s/7'", from, to)
	}
	echo := func(from, to, options string) string {
		return fmt.Sprintf("ip netns exec %s ping -n -c 1 -W 2 %s %s", from, options, to)
	}
	const byFiber, byTunnel = ". 198.51.100.2", ". 192.0.2.130"
	for file, wants := range map[string]map[string]string{
		"policy-tcp-tunnel.toml": {
			tcp("host1", "192.0.2.1"):      byTunnel,
			tcp("host1", "192.0.2.2"):      byFiber,
			echo("host1", "192.0.2.1", ""): byFiber,
			tcp("site1", "192.0.2.1"):      byFiber,
		},
		"policy-destinations.toml": {
			tcp("host1", "192.0.2.2"):          byTunnel,
			echo("site1", "192.0.2.2", ""):     byTunnel,
			tcp("host1", "192.0.2.1"):          byFiber,
			echo("site1", "192.0.2.1", "-m 1"): byTunnel,
		},
	} {
		text, err := os.ReadFile(filepath.Join(examples, file))
		if err != nil {
			t.Fatal(err)
		}
		r := newBox(t, "site1")
		r.configure(strings.NewReplacer(`"eth1"`, `"wan0"`+probedAt, `"wg0"`, `"wg0"`+probedAt, `"br-lan"`, `"lan0"`).Replace(string(text)))
		s.routers[1] = r
		r.start()
		for _, u := range r.status().Uplinks {
			r.awaitState(u.Name, uplink.Up)
		}
		r.await("the daemon to converge", r.converged)
		for how, by := range wants {
			if got := asked(how); !strings.Contains(got, by) {
				t.Errorf("%s: %s: want %s, got %s", file, how, by, got)
			}
		}
		mustScript(t, "ip -n site1 link set wg0 down")
		r.await("all to go without the tunnel", func() error {
			for how := range wants {
				if got := asked(how); !strings.Contains(got, byFiber) {
					return fmt.Errorf("%s: %s: %s", file, how, got)
				}
			}
			return nil
		})
		mustScript(t, "ip -n site1 link set wg0 up")
		r.stop()
	}
	s.leaks()
}

// probedAt is what these examples need to be told in a world without the Internet.
const probedAt = "\nipv6.method = \"off\"\nprobe.targets = [\"192.0.2.1\"]\nprobe.timeout = \"5s\"\nprobe.fast_interval = \"200ms\"\nprobe.fall = 12\nprobe.rise = 2"

// tunnelDevice is that of the tunnel between two sites, and tunnelAddress that of the first of them in it.
func tunnelDevice(i, j int) string { return fmt.Sprintf("wg%d%d", min(i, j), max(i, j)) }

func tunnelAddress(i, j int) string {
	return fmt.Sprintf("10.0.%d%d.%d", min(i, j), max(i, j), i)
}

// tunnels configures a site's tunnels to the two others.
func (s *sites) tunnels(i int) string {
	s.Helper()
	var b strings.Builder
	key := func(i, j int) string { return fmt.Sprintf("key%d%d", i, j) }
	for j := 1; j <= 3; j++ {
		if j == i {
			continue
		}
		s.key(key(i, j))
		fmt.Fprintf(&b, "\n[[uplink]]\nname = \"to%[1]d\"\nkind = \"wireguard\"\ndevice = \"%[2]s\"\ndefault = false\n  [uplink.ipv4]\n  masquerade = false\n  [uplink.ipv6]\n  method = \"off\"\n  [uplink.wireguard]\n"+
			"  private_key_file = \"%[3]s/%[4]s\"\n  listen_port = 51%[5]d%[1]d0\n  addresses = [\"%[6]s/24\"]\n"+
			"  peers = [ { public_key = \"%[7]s\", endpoint = \"%[8]s:51%[1]d%[5]d0\", allowed_ips = [\"0.0.0.0/0\", \"::/0\"], keepalive = \"5s\" } ]\n  [uplink.probe]\n  targets = [\"%[9]s\"]\n%[10]s",
			j, tunnelDevice(i, j), s.dir, key(i, j), i, tunnelAddress(i, j), s.key(key(j, i)), siteWAN[j][0], tunnelAddress(j, i), unhurriedProbes)
	}
	return b.String()
}

// cuts ends the direct way from site 1 to site 2, and then every way: what is for site 2 goes by site 3, and then nowhere. Protocol is
// that of the routes between sites.
func (s *sites) cuts(protocol string) {
	s.Helper()
	mustScript(s, `ip netns exec net nft 'table ip cut { chain f { type filter hook forward priority 0; ip saddr 198.51.100.2 ip daddr 203.0.113.2 drop; ip saddr 203.0.113.2 ip daddr 198.51.100.2 drop; }; }'`)
	s.routers[1].await("the way by site 3", func() error {
		if out := s.routers[1].in("ip route get 192.168.36.10"); !strings.Contains(out, "dev wg13") {
			return fmt.Errorf("it is %s", out)
		}
		return nil
	})
	s.mesh()
	mustScript(s, `ip netns exec net nft 'add rule ip cut f ip saddr 192.0.2.130 ip daddr 203.0.113.2 drop; add rule ip cut f ip saddr 203.0.113.2 ip daddr 192.0.2.130 drop'`)
	s.routers[1].await("the route to site 2 to go", func() error {
		if out := s.routers[1].in("ip route show type unicast proto " + protocol); strings.Contains(out, "192.168.36.0/24") {
			return fmt.Errorf("there is %s", out)
		}
		return nil
	})
	if out, err := script("ip netns exec host1 ping -n -c 3 -W 1 192.168.36.10"); err == nil {
		s.Errorf("site 2 answers: %s", out)
	}
	s.leaks()
}

// TestVMSitesByOSPF has FRR find the routes between sites that are joined by a tunnel for each pair.
func TestVMSitesByOSPF(t *testing.T) {
	s := newSites(t)
	for i := 1; i <= 3; i++ {
		ospf := "hostname site\n"
		for j := 1; j <= 3; j++ {
			if j != i {
				ospf += fmt.Sprintf("interface %s\n ip ospf network point-to-point\n ip ospf hello-interval 1\n ip ospf dead-interval 6\n!\n", tunnelDevice(i, j))
			}
		}
		ospf += fmt.Sprintf("router ospf\n ospf router-id 10.255.0.%d\n passive-interface lan0\n network 10.0.0.0/16 area 0\n network 192.168.%d.0/24 area 0\n", i, 34+i)
		s.start(i, 1, s.tunnels(i))
		s.route(i, ospf)
	}
	s.mesh()
	for i := 1; i <= 3; i++ {
		s.reaches(fmt.Sprintf("host%d", i), "192.0.2.1")
	}
	s.cuts("ospf")
}

// TestVMSitesByBabel has babeld find them, by link-local addresses that somebody gives the tunnels, and tell the other sites the phone of the first,
// whose route is ours (protocol 117).
func TestVMSitesByBabel(t *testing.T) {
	s := newSites(t)
	mustScript(t, fmt.Sprintf(`
		ip -n phone link add wg0 type wireguard; ip -n phone address add 10.9.0.2/32 dev wg0
		ip netns exec phone wg set wg0 private-key %[1]s/phone peer %[3]s endpoint 198.51.100.2:51821 allowed-ips 192.168.0.0/16 persistent-keepalive 5
		ip -n phone link set wg0 up; ip -n phone route add 192.168.0.0/16 dev wg0`, s.dir, s.key("phone"), s.key("phones")))
	for i := 1; i <= 3; i++ {
		tunnels, babel := s.tunnels(i), fmt.Sprintf("redistribute ip 192.168.%d.0/24 eq 24 allow\nredistribute proto 117 ip 10.9.0.0/24 ge 32 allow\nredistribute local deny\nredistribute deny\n", 34+i)
		for j := 1; j <= 3; j++ {
			if j != i {
				babel += fmt.Sprintf("interface %s type tunnel hello-interval 1 update-interval 2\n", tunnelDevice(i, j))
			}
		}
		if i == 1 {
			tunnels += fmt.Sprintf("\n[[uplink]]\nname = \"phones\"\nkind = \"wireguard\"\ndevice = \"wg-phones\"\npeer_routes = true\n  [uplink.ipv6]\n  method = \"off\"\n  [uplink.wireguard]\n  private_key_file = \"%s/phones\"\n"+
				"  listen_port = 51821\n  addresses = [\"10.9.0.1/32\"]\n  peers = [ { public_key = \"%s\", allowed_ips = [\"10.9.0.2/32\"] } ]\n", s.dir, s.key("phone"))
		}
		s.start(i, 1, tunnels)
		for j := 1; j <= 3; j++ {
			if j != i {
				s.routers[i].in(fmt.Sprintf("ip address add fe80::%d/64 dev %s", i, tunnelDevice(i, j)))
			}
		}
		conf := filepath.Join(s.dir, fmt.Sprintf("babel%d", i))
		if err := os.WriteFile(conf, []byte(babel), 0o644); err != nil {
			t.Fatal(err)
		}
		serveIn(t, fmt.Sprintf("site%d", i), "babeld", "-I", conf+".pid", "-S", conf+".state", "-c", conf)
	}
	s.mesh()
	for i := 1; i <= 3; i++ {
		s.reaches(fmt.Sprintf("host%d", i), "192.0.2.1")
		s.reaches(fmt.Sprintf("host%d", i), "10.9.0.2")
	}
	s.routers[1].kill()
	s.routers[1].start()
	s.mesh()
	s.reaches("host2", "10.9.0.2")
	s.cuts("babel")
}

// route runs zebra and ospfd at a site.
func (s *sites) route(n int, ospf string) {
	s.Helper()
	dir := filepath.Join("/run", fmt.Sprintf("frr-test%d", n)) // the programs run as another user
	s.Cleanup(func() { _ = os.RemoveAll(dir) })
	mustScript(s, "mkdir -p "+dir+"; chown frr:frr "+dir)
	for name, content := range map[string]string{"zebra.conf": "hostname site\n", "ospfd.conf": ospf} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			s.Fatal(err)
		}
	}
	for _, program := range []string{"zebra", "ospfd"} {
		serveIn(s, fmt.Sprintf("site%d", n), "/usr/lib/frr/"+program, "-u", "frr", "-g", "frr", "-f", filepath.Join(dir, program+".conf"),
			"-i", filepath.Join(dir, program+".pid"), "-z", filepath.Join(dir, "zserv.api"), "--vty_socket", dir)
		s.routers[n].await(program+" to run", func() error {
			_, err := os.Stat(filepath.Join(dir, program+".vty"))
			return err
		})
	}
}
