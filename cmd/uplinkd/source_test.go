package main

import (
	"bufio"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// sources are the addresses that a target on the Internet sees when a host opens so many connections.
func (r *router) sources(from string, connections int) map[netip.Addr]int {
	r.Helper()
	seen := make(map[netip.Addr]int)
	for range connections {
		conn, err := r.Host(from).Dial(r.Context(), "tcp", "", "192.0.2.1:7")
		if err != nil {
			r.Errorf("from %s: %v", from, err)
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		line, err := bufio.NewReader(conn).ReadString('\n')
		_ = conn.Close()
		source, perr := netip.ParseAddrPort(strings.TrimSpace(line))
		if err != nil || perr != nil {
			r.Errorf("from %s: %q, %v, %v", from, line, err, perr)
			continue
		}
		seen[source.Addr()]++
	}
	return seen
}

func TestNewPacketsHaveTheSourceThatTheKernelWouldChoose(t *testing.T) {
	const (
		provider = "198.51.100.2"
		routed   = "198.51.100.41"
		static   = "  [uplink.ipv4]\n  method = \"static\"\n  address = \"198.51.100.2/26\"\n  gateway = \"198.51.100.1\"\n"
	)
	transfer := "ip address add 10.99.0.2/30 dev wan1; ip address add " + routed + "/32 dev %s; ip route add default via 10.99.0.1 dev wan1 src " + routed + " metric 50"
	cases := map[string]struct {
		config string
		router string // what the owner has put on the device, instead of the lab's address
		want   string
		shared bool
		direct bool // the provider has no transfer network: what it routes is on the line
		modem  bool // its page is at 192.168.100.1
	}{
		"the page of a modem is listed first":                    {config: ipv4Only("", 2), router: "ip address add 192.168.100.2/24 dev wan1; ip address add 198.51.100.2/26 dev wan1; ip route add default via 198.51.100.1 dev wan1 metric 50", want: provider, modem: true},
		"the page of a modem, and the address is configured":     {config: ipv4Only(static, 2), router: "ip address add 192.168.100.2/24 dev wan1", want: provider, modem: true},
		"another address of the subnet was there before":         {config: ipv4Only(strings.Replace(static, "100.2/", "100.9/", 1), 2), router: "ip address add 198.51.100.2/26 dev wan1", want: "198.51.100.9"},
		"a transfer network, the address on lo":                  {config: ipv4Only("", 2), router: fmt.Sprintf(transfer, "lo"), want: routed},
		"a transfer network, the address on a LAN":               {config: ipv4Only("", 2), router: fmt.Sprintf(transfer, "lan0"), want: routed},
		"a transfer network, both uplinks share":                 {config: ipv4Only("", 1), router: fmt.Sprintf(transfer, "wan1"), want: routed, shared: true},
		"the second address of the subnet, both uplinks share":   {config: ipv4Only("", 1), router: "ip address add 198.51.100.2/26 dev wan1; ip address add 198.51.100.9/26 dev wan1; ip route add default via 198.51.100.1 dev wan1 src 198.51.100.9 metric 50", want: "198.51.100.9", shared: true},
		"an unnumbered line borrows the address of lo":           {config: ipv4Only("", 2), router: "ip address add " + routed + "/32 dev lo; ip route add default via 10.99.0.1 dev wan1 onlink metric 50", want: routed, direct: true},
		"a point-to-point address behind that of a modem's page": {config: ipv4Only("", 2), router: "ip address add 192.168.100.2/24 dev wan1; ip address add 198.51.100.2 peer 198.51.100.1 dev wan1; ip route add default via 198.51.100.1 dev wan1 metric 50", want: provider, modem: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRouter(t, lab.Options{}, c.config)
			r.sh("isp1", "ip address add 10.99.0.1/30 dev cust1; ip address add 192.168.100.1/24 dev cust1; ip route add 198.51.100.40/29 via 10.99.0.2 dev cust1 onlink")
			r.sh("router", "ip route delete default dev wan1; ip address flush dev wan1 scope global; "+c.router)
			if c.direct {
				r.sh("isp1", "ip route replace 198.51.100.40/29 dev cust1")
			}
			before := r.foreign() // a late answer to the address that was taken away is sent on by the default route
			r.start()
			want := netip.MustParseAddr(c.want)
			r.awaitSource("fiber", want)
			r.awaitState("lte", uplink.Up)
			r.await("the daemon to converge", r.converged)
			n := 1
			if c.shared {
				n = 40
			}
			for _, from := range []string{"router", "lan"} {
				for source, count := range r.sources(from, n) {
					if source != want && !(c.shared && r.UplinkOf(source) == "lte") {
						t.Errorf("%d of %d connections from %s have the source %v", count, n, from, source)
					}
				}
			}
			if n := r.foreign() - before; n != 0 {
				t.Errorf("%d packets left with a foreign source", n)
			}
			if c.modem {
				r.sh("isp1", "nft add element netdev isp fiber_net4 { 192.168.100.2 }") // the modem is no provider
				if out := r.sh("lan", "ping -c 1 -W 5 192.168.100.1"); !strings.Contains(out, "1 received") {
					t.Errorf("the page of the modem:\n%s", out)
				}
			}
		})
	}
}
