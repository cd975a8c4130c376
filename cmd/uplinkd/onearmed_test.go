package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// neighbour puts a host into the network of the first provider that uses this router as its gateway. What it returns asks somebody from
// there, who tells where he was asked from. Source validation is strict.
func (r *router) neighbour() (ask func(network, to string) (seen netip.AddrPort, err error)) {
	r.Helper()
	const at = "198.51.100.9"
	r.sh("router", "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $f; done")
	r.sh("isp1", "ip address add "+at+"/26 dev cust1; ip rule add from "+at+" lookup 99; ip route add default via 198.51.100.2 dev cust1 table 99; "+
		"nft insert rule netdev isp fiber ip daddr "+at+" accept") // what is for it stays on the link
	return func(network, to string) (seen netip.AddrPort, err error) {
		ctx, cancel := context.WithTimeout(context.Background(), unhurried)
		defer cancel()
		conn, err := r.Host("isp1").Dial(ctx, network, at, to)
		if err != nil {
			return seen, err
		}
		defer conn.Close()
		if network == "tcp" {
			return lab.AskTCP(ctx, conn)
		}
		return lab.AskUDP(ctx, conn, []byte("hello"))
	}
}

// A host in the network of the first provider uses this router as its gateway: it goes where a LAN host goes, also when that is back where it
// came from, and answers find it there whichever provider brings them. Source validation is strict.
func TestAHostInAProvidersNetworkIsLikeALANHost(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	ask := r.neighbour()
	r.serve()
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)

	leavesBy := func(uplink string) {
		t.Helper()
		for _, network := range []string{"tcp", "udp"} {
			if seen, err := ask(network, "192.0.2.1:7"); err != nil || r.UplinkOf(seen.Addr()) != uplink {
				t.Errorf("%s: seen from %v, want by %s: %v", network, seen, uplink, err)
			}
		}
	}
	leavesBy("fiber")
	if err := r.Break(lab.Upstream, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitState("fiber", uplink.Down)
	leavesBy("lte")
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	r.awaitState("fiber", uplink.Up)
	r.await("new flows to be back", func() error {
		if share := r.status().Uplinks[0].IPv4.Share; share != 1 {
			return fmt.Errorf("fiber carries %v", share)
		}
		return nil
	})
	leavesBy("fiber")

	// This router and hosts of the LAN answer it with their own addresses.
	for _, s := range services {
		at := r.addresses("fiber")[0]
		if strings.HasSuffix(s.name, "LAN") {
			at = netip.MustParseAddr(lab.LANHost4)
		}
		if _, err := ask(s.network, netip.AddrPortFrom(at, s.port).String()); err != nil {
			t.Errorf("%s at %v: %v", s.name, at, err)
		}
	}
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source: %s", n, r.foreignSources())
	}
}

// The same where a tunnel is preferred to all providers, and where a policy sends some of it past the tunnel.
func TestAHostInAProvidersNetworkUsesThePreferredTunnel(t *testing.T) {
	t.Parallel()
	r := withVPN(t, strings.NewReplacer("tier = 2", "tier = 3", "device = \"wan1\"", "device = \"wan1\"\ntier = 2").Replace(dualWAN)+fmt.Sprintf(vpnUplink, "tier = 1")+`
[[policy]]
name = "some"
from = "198.51.100.9"
to = "192.0.2.2"
uplinks = ["lte"]
`)
	ask := r.neighbour()
	r.ready()
	r.awaitState("vpn", uplink.Up)
	leavesAs := func(target string, right func(netip.Addr) bool) {
		t.Helper()
		for _, network := range []string{"tcp", "udp"} {
			if network == "tcp" && target != "192.0.2.1:7" {
				continue // its echo is UDP alone
			}
			if seen, err := ask(network, target); err != nil || !right(seen.Addr()) {
				t.Errorf("%s to %s: seen from %v, %v", network, target, seen, err)
			}
		}
	}
	by := func(name string) func(netip.Addr) bool {
		return func(a netip.Addr) bool { return r.UplinkOf(a) == name }
	}
	leavesAs("192.0.2.1:7", func(a netip.Addr) bool { return a.String() == "198.51.100.225" })
	leavesAs("192.0.2.2:7", by("lte"))
	r.sh("router", "ip link set tun0 down")
	r.await("the way without the tunnel", func() error {
		seen, err := ask("udp", "192.0.2.1:7")
		if err == nil && r.UplinkOf(seen.Addr()) != "fiber" {
			err = fmt.Errorf("seen from %v", seen)
		}
		return err
	})
	leavesAs("192.0.2.2:7", by("lte"))
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source: %s", n, r.foreignSources())
	}
}
