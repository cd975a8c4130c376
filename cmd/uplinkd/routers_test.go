package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// discovered is one provider whose router is found by its advertisements.
func discovered(method string) string {
	return strings.Replace(oneDelegation, "  [uplink.ipv6]\n", fmt.Sprintf("  [uplink.ipv4]\n  method = \"off\"\n  [uplink.ipv6]\n  method = %q\n", method), 1)
}

// routerAt starts radvd at the provider of fiber. The returned function kills it, so that it sends no final advertisement.
func (r *router) routerAt(address string) (kill func()) {
	r.Helper()
	dir := r.scratch("radvd-")
	r.write(filepath.Join(dir, "conf"), fmt.Sprintf(`interface cust1 { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 1800;
		AdvRASrcAddress { %s; }; prefix 2001:db8:a::/64 { AdvValidLifetime 3600; AdvPreferredLifetime 1800; }; };`, address))
	_, _, kill = r.background("isp1", "radvd", "-n", "-C", filepath.Join(dir, "conf"), "-p", filepath.Join(dir, "pid"), "-m", "stderr")
	return kill
}

// A provider replaces its router: the new one has another MAC and another link-local address, and the old one has said
// that it would be there for half an hour.
func TestAReplacedRouterIsLeftForItsSuccessor(t *testing.T) {
	for _, method := range []string{"ra", "auto"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			r := newRouter(t, lab.Options{}, discovered(method))
			r.listen()
			r.sh("router", "ip -6 address flush dev wan1 scope global; ip -6 route flush dev wan1 proto static")
			if method == "auto" {
				r.sh("router", "sysctl -qw net.ipv6.conf.wan1.accept_ra=2")
			}
			kill := r.routerAt("fe80::1")
			server := r.delegateByKea(pools["fiber"], anHour)
			r.start()
			r.awaitHost(pools["fiber"])
			flow := r.hostFlow()
			r.awaitFlow(flow, "fiber")

			kill()
			server.stop()
			r.sh("isp1", `ip link set cust1 down; ip link set cust1 address 02:00:00:00:0a:99; ip link set cust1 up
				ip -6 address flush dev cust1 scope link; ip -6 address add fe80::99/64 dev cust1 nodad
				ip -6 address replace 2001:db8:a::1/64 dev cust1 nodad`)
			r.delegateByKea(pools["fiber"], anHour)
			r.routerAt("fe80::99")
			r.await("the new router to be used", func() error {
				u, err := r.uplinkStatus("fiber")
				if err != nil || u.IPv6.Gateway != netip.MustParseAddr("fe80::99") || u.IPv6.State == uplink.Down {
					return fmt.Errorf("%s (%s) by %v, %w", u.IPv6.State, u.IPv6.Reason, u.IPv6.Gateway, err)
				}
				return nil
			})
			r.awaitFlow(flow, "fiber")
			if n := r.foreign(); n != 0 {
				t.Errorf("%d packets with a foreign source", n)
			}
		})
	}
}

// A host goes on with a prefix that its provider has taken back: it hears so at once, and nothing leaves.
func TestAWithdrawnPrefixIsRefused(t *testing.T) {
	t.Parallel()
	next := netip.MustParsePrefix("2001:db8:f100::/48")
	r := newRouter(t, lab.Options{}, twoDelegations)
	r.listen()
	server := r.delegateByKea(pools["fiber"], lifetimes{3, 6, 900, 1800})
	r.delegateByISC(pools["lte"], anHour)
	r.start()
	r.awaitHost(pools["fiber"])
	old := r.holds(pools["fiber"])[0].Local
	server.stop()
	if err := r.Revoke(context.Background(), "fiber", pools["fiber"]); err != nil {
		t.Fatal(err)
	}
	r.delegateByKea(next, anHour)
	r.awaitHost(next)
	refused := func() error {
		out := r.sh("lan", fmt.Sprintf("ping -n -c 3 -i 0.2 -W 1 -I %v 2001:db8:ffff::1 || true", old))
		if n := strings.Count(out, "Destination unreachable"); n == 0 {
			return errors.New(out)
		}
		return nil
	}
	r.await("packets with the old source to be refused", refused)
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source", n)
	}
	r.kill()
	r.start()
	r.await("them to be refused after a restart", refused)
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitHost(pools["lte"])
	r.await("them to be refused while another uplink carries the traffic", refused)
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source", n)
	}
}

// A host whose addresses are translated sends from one port all the time; its connection keeps the translation of its first
// packet.
func TestATranslatedFlowOutlivesARenumberedPrefix(t *testing.T) {
	t.Parallel()
	next := netip.MustParsePrefix("2001:db8:f100::/48")
	r := newRouter(t, lab.Options{}, strings.Replace(oneDelegation, "delegation = true\n", "delegation = true\n  translate = true\n", 1))
	r.listen()
	server := r.delegateByKea(pools["fiber"], lifetimes{3, 6, 900, 1800})
	r.start()
	r.await("the delegation", func() error {
		if len(r.status().Uplinks[0].IPv6.Delegated) == 0 {
			return errors.New("there is none")
		}
		return r.converged()
	})
	r.awaitFlow(r.hostFlow(), "fiber")
	stream, _ := r.streamFrom("lan", "[2001:db8:ffff::1]:7")
	server.stop()
	if err := r.Revoke(context.Background(), "fiber", pools["fiber"]); err != nil {
		t.Fatal(err)
	}
	r.delegateByKea(next, anHour)
	r.await("answers to the new prefix", func() error {
		moves := stream.Stats().Moves
		if len(moves) < 2 || !next.Contains(moves[len(moves)-1].Source.Addr()) {
			return fmt.Errorf("the server sees %+v", moves)
		}
		return nil
	})
	r.awaitMore(stream)
}

// A prefix that is routed by contract serves the LAN as a delegation does, and fails over to one.
func TestARoutedPrefixServesTheLAN(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, strings.Replace(twoDelegations, "delegation = true\n  prefix_hint = \"::/56\"", fmt.Sprintf("prefix = %q", pools["fiber"]), 1))
	r.listen()
	r.delegate("fiber", pools["fiber"])
	r.delegateByISC(pools["lte"], anHour)
	r.start()
	r.awaitHost(pools["fiber"])
	flow := r.hostFlow()
	r.awaitFlow(flow, "fiber")
	if d := r.status().Uplinks[0].IPv6.Delegated; len(d) != 1 || d[0].Prefix != pools["fiber"] {
		t.Errorf("the status shows %+v", d)
	}
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitHost(pools["lte"])
	r.awaitFlow(flow, "lte")
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	r.awaitHost(pools["fiber"])
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets with a foreign source", n)
	}
}
