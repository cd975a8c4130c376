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

// A host in the network of the first provider uses this router as its gateway: it goes where a LAN host goes, also when that is back where it
// came from, and answers find it there whichever provider brings them. Source validation is strict.
func TestAHostInAProvidersNetworkIsLikeALANHost(t *testing.T) {
	t.Parallel()
	const neighbour = "198.51.100.9"
	r := newRouter(t, lab.Options{}, dualWAN)
	r.sh("router", "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $f; done")
	r.sh("isp1", "ip address add "+neighbour+"/26 dev cust1; ip rule add from "+neighbour+" lookup 99; ip route add default via 198.51.100.2 dev cust1 table 99; "+
		"nft insert rule netdev isp fiber ip daddr "+neighbour+" accept") // what is for it stays on the link
	r.serve()
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)

	ask := func(network, to string) (seen netip.AddrPort, err error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), unhurried)
		defer cancel()
		conn, err := r.Host("isp1").Dial(ctx, network, neighbour, to)
		if err != nil {
			return seen, err
		}
		defer conn.Close()
		if network == "tcp" {
			return lab.AskTCP(ctx, conn)
		}
		return lab.AskUDP(ctx, conn, []byte("hello"))
	}
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
