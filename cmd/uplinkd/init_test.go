package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// proposedBy runs init on the router, perhaps behind a shell's preparations in mounts of their own, and makes sure that
// check takes what it prints.
func (r *router) proposedBy(prepare string) string {
	r.Helper()
	file := filepath.Join(r.dir, "proposed.toml")
	cmd := r.Host("router").Command(context.Background(), "unshare", "--mount", "sh", "-ec", prepare+"\n\"$0\" init > "+file, r.program().Args[len(r.program().Args)-1])
	cmd.Env = r.program().Env
	if out, err := cmd.CombinedOutput(); err != nil {
		r.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		r.Fatal(err)
	}
	if out := r.command("check", "-c", file); !strings.Contains(out, ": fine, ") {
		r.Errorf("check says %q of\n%s", out, text)
	}
	return string(text)
}

// proposes checks that a text has some lines.
func (r *router) proposes(text string, want ...string) {
	r.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			r.Errorf("init does not say %q:\n%s", w, text)
		}
	}
}

func TestTheStarterConfigurationPassesCheckOnARouter(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, "")
	r.proposes(r.proposedBy(""), "## wan1: 198.51.100.2/26; 2001:db8:a::2/64; ipv4 default via 198.51.100.1, metric 100 (DHCP)")
}

func TestInitPlacesMobileNetworksBridgesAndLANs(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, "")
	r.sh("router", `
		ip link set wan2 down; ip link set wan2 name wwan0; ip link set wwan0 up
		ip route flush default; ip -6 route flush default
		ip route add default proto dhcp nexthop via 198.51.100.1 dev wan1 nexthop via 203.0.113.1 dev wwan0
		ip -6 route add default via fe80::1 dev wan1 metric 1024
		ip link add br-lan type bridge; ip link add port0 type veth peer name port1; ip link set port0 master br-lan
		ip address add 192.168.7.1/24 dev br-lan
		ip link add docker0 type bridge; ip address add 172.17.0.1/16 dev docker0
		for d in br-lan port0 port1 docker0; do ip link set $d up; done`)
	text := r.proposedBy("")
	r.proposes(text, "device = \"wan1\"\n# tier = 1 ", "  [uplink.ipv6]\n  # method = \"auto\"", "  delegation = true ",
		"## wwan0: mobile network or phone, by its name; ", "device = \"wwan0\"\ntier = 2 ", "\nmetered = true ",
		"## br-lan: bridge of port0; 192.168.7.1/24\n## It has no IPv6, and a provider has", "[[lan]]\ndevice = \"br-lan\"\nsubnet_id = 0 ",
		"## * port0: a port of br-lan\n", "## * docker0: bridge of nothing; 172.17.0.1/16; of containers")
}

// dhclient leases an address on an uplink, as ifupdown has it done: without a metric. It writes into mounts of its own.
const dhclient = `
	mount -t tmpfs tmpfs /var/lib/dhcp
	mkdir /var/lib/dhcp/up /var/lib/dhcp/work
	mount -t overlay -o lowerdir=/etc,upperdir=/var/lib/dhcp/up,workdir=/var/lib/dhcp/work overlay /etc
	dhclient -1 -q -pf %[1]s/pid -lf /var/lib/dhcp/dhclient.wan1.leases wan1
	trap 'kill $(cat %[1]s/pid)' EXIT
`

// Two DHCP clients that are told no metric want the same default route, and the second is refused: the most frequent state of
// a router that has just got its second line.
func TestASecondLineWhoseDefaultWasRefusedIsFoundByItsLease(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, "")
	r.sh("router", `ip address flush dev wan1; ip route flush default; ip route add default via 203.0.113.1 dev wan2`)
	r.serveDHCP("198.51.100.2", 3600)
	text := r.proposedBy(fmt.Sprintf(dhclient, r.dir))
	if out := r.sh("router", "ip route show default"); strings.Count(out, "default") != 1 || !strings.Contains(out, "wan2") {
		t.Fatalf("the second default was not refused:\n%s", out)
	}
	r.proposes(text, "device = \"wan1\"\n", "dhclient has leased 198.51.100.2, with the gateway 198.51.100.1, but there is no default route of it: that of wan2 has the same\n  ## metric (0)",
		"  [uplink.ipv4]\n  method = \"dhcp\"\n")
}
