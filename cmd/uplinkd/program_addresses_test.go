package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// leases takes the router's addresses away, and has each provider lease them for two minutes and advertise itself as router.
func (h *house) leases() {
	h.Helper()
	for _, u := range h.Uplinks() {
		port := map[string]string{"fiber": "cust1", "lte": "cust2"}[u.Name]
		h.background(u.ISP, "dnsmasq", "-k", "-C", "/dev/null", "--port=0", "--user=root", "--pid-file=", "--interface="+port, "--bind-interfaces", "--dhcp-authoritative",
			"--dhcp-leasefile="+h.dir+"/leases-"+u.Name, fmt.Sprintf("--dhcp-range=%v,%[1]v,2m", u.Address4.Addr()), fmt.Sprintf("--dhcp-option=3,%v", u.Gateway4),
			fmt.Sprintf("--dhcp-range=%v,ra-only", u.Address6.Masked().Addr()), "--enable-ra", "--ra-param="+port+",4,600")
		h.in(fmt.Sprintf("ip address flush dev %[1]s scope global; ip -6 route flush default dev %[1]s; sysctl -qw net.ipv6.conf.%[1]s.use_tempaddr=0 net.ipv6.conf.%[1]s.accept_ra=2", u.Device))
	}
}

// leased waits until the router has an address of each line and family, and a default route.
func (h *house) leased() {
	h.Helper()
	h.await("addresses of both lines", func() error {
		for _, u := range h.Uplinks() {
			if len(h.addresses(u.Name)) < 2 {
				return fmt.Errorf("%s has %v", u.Name, h.addresses(u.Name))
			}
			if out := h.sh("router", "ip route show default dev "+u.Device+"; ip -6 route show default"); strings.Count(out, "default") < 2 || !strings.Contains(out, u.Device) {
				return fmt.Errorf("%s: %s", u.Name, out)
			}
		}
		return nil
	})
}

// addresses are those that the router has of a line at this moment.
func (h *house) addresses(line string) (list []netip.Addr) {
	h.Helper()
	for _, family := range []string{"-4", "-6"} {
		for _, l := range strings.Split(h.sh("router", "ip "+family+" -o address show scope global -deprecated dev "+h.Uplink(line).Device), "\n") {
			if words := strings.Fields(l); len(words) > 3 {
				address, _, _ := strings.Cut(words[3], "/") // one with a peer has none
				list = append(list, netip.MustParseAddr(address))
				break
			}
		}
	}
	return list
}

// networkd is systemd-networkd with these lines in networkd.conf.
func networkd(lines string) besideScene {
	prepare := "mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp /etc/systemd/network /etc/systemd/networkd.conf.d\n" +
		"chown -R systemd-network: /run/systemd/netif; rm -f /etc/systemd/network/*\n"
	for device, metric := range map[string]int{"wan1": 100, "wan2": 200} {
		prepare += fmt.Sprintf("printf '[Match]\\nName=%[1]s\\n[Network]\\nDHCP=ipv4\\nIPv6AcceptRA=yes\\nLinkLocalAddressing=ipv6\\n[DHCPv4]\\nRouteMetric=%[2]d\\nUseDNS=no\\n"+
			"[IPv6AcceptRA]\\nRouteMetric=%[2]d\\nUseDNS=no\\n' >/etc/systemd/network/10-%[1]s.network\n", device, metric)
	}
	return besideScene{
		program: "systemd-networkd", version: "networkctl --version | sed -n '1s/systemd \\([0-9]*\\).*/\\1/p'",
		Options: lab.Options{DNAT: true}, addresses: true,
		prepare: prepare + "printf '[Network]\\n" + lines + "' >/etc/systemd/networkd.conf.d/uplinkd.conf\n",
		start: func(h *house) {
			h.serve("/lib/systemd/systemd-networkd")
			h.leased()
		},
	}
}

func TestBesideNetworkd(t *testing.T) {
	playBeside(t, networkd("ManageForeignRoutingPolicyRules=no\\nManageForeignRoutes=no\\n"))
}

// TestBesideNetworkdThatDeletesRules is networkd as it is when nobody has told it anything: it deletes our rules and routes each
// time it starts, and they are put back.
func TestBesideNetworkdThatDeletesRules(t *testing.T) {
	s := networkd("")
	s.known, s.variant = []string{"networkd-foreign-rules"}, true
	playBeside(t, s)
}

// TestBesideNetplan has networkd with the files that netplan makes for it.
func TestBesideNetplan(t *testing.T) {
	s := networkd("ManageForeignRoutingPolicyRules=no\\nManageForeignRoutes=no\\n")
	s.setup, s.version = "by netplan", s.version+" | tr '\\n' ,; dpkg-query -W -f ' netplan ${Version}' netplan.io"
	s.prepare += `rm -f /etc/systemd/network/*; mkdir -p /etc/netplan; chmod 700 /etc/netplan
cat >/etc/netplan/50-lines.yaml <<'X'
network:
  version: 2
  renderer: networkd
  ethernets:
    wan1: {dhcp4: true, accept-ra: true, dhcp4-overrides: {route-metric: 100, use-dns: false}}
    wan2: {dhcp4: true, accept-ra: true, dhcp4-overrides: {route-metric: 200, use-dns: false}}
X
chmod 600 /etc/netplan/*
netplan generate
test -s /run/systemd/network/10-netplan-wan1.network`
	playBeside(t, s)
}

// TestBesideIfupdown has Debian's ifupdown run dhclient, and the kernel take router advertisements.
func TestBesideIfupdown(t *testing.T) {
	playBeside(t, besideScene{
		program: "ifupdown", version: "dpkg-query -W -f '${Version}, dhclient ' ifupdown; dhclient --version 2>&1 | sed 's/isc-dhclient-//'",
		Options: lab.Options{DNAT: true}, addresses: true,
		prepare: `mkdir -p /run/network
printf 'auto wan1\niface wan1 inet dhcp\n metric 100\nauto wan2\niface wan2 inet dhcp\n metric 200\n' >/etc/network/interfaces`,
		start: func(h *house) {
			h.in("ifup wan1 wan2; ip link set wan1 up; ip link set wan2 up")
			h.leased()
		},
		stop: func(h *house) { h.in("ifdown wan1 wan2") },
	})
}

func TestBesideDhcpcd(t *testing.T) {
	playBeside(t, besideScene{
		program: "dhcpcd", version: "dhcpcd --version | sed -n '1s/dhcpcd //p'",
		Options: lab.Options{DNAT: true}, addresses: true,
		prepare: "mkdir -p /run/dhcpcd /var/lib/dhcpcd; printf 'nodev\\nallowinterfaces wan1 wan2\\nslaac hwaddr\\nnohook resolv.conf\\ninterface wan1\\nmetric 100\\ninterface wan2\\nmetric 200\\n' >/etc/dhcpcd.conf",
		start: func(h *house) {
			h.serve("dhcpcd", "-B", "-f", "/etc/dhcpcd.conf")
			h.leased()
		},
	})
}

func TestBesideNetworkManager(t *testing.T) {
	playBeside(t, besideScene{
		program: "NetworkManager", version: "d=/usr/local/lib/uplinkd-deps; LD_LIBRARY_PATH=$(echo $d/nm/usr/lib/*-linux-gnu) $d/NetworkManager --version",
		Options: lab.Options{DNAT: true}, addresses: true,
		prepare: "mkdir -p /run/NetworkManager /var/lib/NetworkManager",
		start: func(h *house) {
			if h.argv == nil {
				h.argv = h.networkManager("wan1", "wan2")
			}
			h.serve(h.argv...)
			h.leased()
		},
	})
}
