package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// The second provider gives an address whose mask covers the targets, says that their IPv6 prefix is on its link, and answers ARP
// and neighbour solicitations for everybody.
func TestNoProviderTakesWhatAnotherCarries(t *testing.T) {
	for name, c := range map[string]struct{ method, router string }{
		"with an address of ours":   {"  method = \"static\"\n  address = \"203.0.113.2/2\"\n  gateway = \"203.0.113.1\"\n", "ip address flush dev wan2 scope global"},
		"with an address of others": {"  method = \"auto\"\n", "ip -4 route delete default dev wan2; ip -4 address flush dev wan2 scope global; ip address add 203.0.113.2/2 dev wan2; ip route add default via 203.0.113.1 dev wan2 metric 200"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRouter(t, lab.Options{}, strings.Replace(dualWAN, "tier = 2\n", "tier = 2\n  [uplink.ipv4]\n"+c.method, 1))
			v6 := "ip -6 address replace 2001:db8:b::2/64 dev wan2 nodad; ip -6 route replace default via fe80::1 dev wan2 metric 200; " +
				"ip -6 address add 2001:db8:ffff::99/64 dev wan2 nodad valid_lft 3600 preferred_lft 1800; ip address add 192.168.100.2/24 dev wan2"
			r.sh("router", c.router+"; "+v6)
			r.sh("isp2", "sysctl -qw net.ipv4.conf.cust2.proxy_arp=1 net.ipv6.conf.cust2.proxy_ndp=1; ip address add 192.168.100.1/24 dev cust2; ip -6 neighbour add proxy 2001:db8:ffff::1 dev cust2")
			r.start()
			r.awaitState("fiber", uplink.Up)
			r.await("lte in IPv4", func() error {
				if u, err := r.uplinkStatus("lte"); err != nil || u.IPv4.State != uplink.Up {
					return fmt.Errorf("%+v, %w", u.IPv4, err)
				}
				return nil
			})
			r.await("the daemon to converge", r.converged)
			v4, six := r.lanProbes()
			r.awaitFlow(v4, "fiber")
			r.awaitFlow(six, "fiber")
			for _, target := range []string{"192.0.2.1", "192.0.2.2", "198.18.0.1", "2001:db8:ffff::1"} {
				if out := r.sh("router", "ip route get "+target); !strings.Contains(out, "dev wan1 ") {
					t.Errorf("the way to %s:\n%s", target, out)
				}
			}
			for _, neighbour := range []string{"203.0.113.1", "192.168.100.1"} {
				if out := r.sh("router", "ip route get "+neighbour); !strings.Contains(out, "dev wan2 ") || strings.Contains(out, " via ") {
					t.Errorf("the way to the neighbour %s:\n%s", neighbour, out)
				}
			}
			if out := r.sh("router", "ip route get 192.0.2.1 from 203.0.113.2"); !strings.Contains(out, "dev wan2 ") {
				t.Errorf("lte's own packets:\n%s", out)
			}
			for _, f := range append(v4.Flows(), six.Flows()...) {
				if by := r.UplinkOf(f.Source.Addr()); f.Err == nil && by != "fiber" {
					t.Errorf("a flow left by %q from %v", by, f.Source)
				}
			}
		})
	}
}
