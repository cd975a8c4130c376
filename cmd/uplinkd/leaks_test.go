package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// Somebody's "nft -f" with a "flush ruleset" takes all translation away until our table is back. Six hundred packets a second, of new
// flows and of old ones, by both families, go on meanwhile.
func TestNothingLeavesUntranslatedWhileTheRulesetIsFlushed(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	for _, target := range []string{"192.0.2.1:7", "[2001:db8:ffff::1]:7"} {
		r.streamFrom("lan", target)
		r.probe(&lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort(target), Timeout: unhurried})
	}
	whole := r.settled()
	for range 40 {
		r.sh("router", "nft flush ruleset")
		r.await("our table to be back", func() error {
			if out := r.sh("router", "nft list tables"); !strings.Contains(out, "table inet uplinkd") {
				return errors.New(out)
			}
			return nil
		})
	}
	if n := r.foreign(); n != 0 {
		t.Errorf("the providers saw %d packets with foreign sources", n)
	}
	if !slices.ContainsFunc(r.decisions(), func(e status.Event) bool {
		return e.Kind == status.EventRepair && strings.Contains(e.Message, "inet uplinkd")
	}) {
		t.Errorf("no event tells of it: %+v", r.decisions())
	}
	r.await("all to be as it was", func() error {
		if now := r.settled(); now != whole {
			return errors.New(now)
		}
		return nil
	})
}

// What the filters hang on goes with them, unless it was there before or others use it.
func TestTheFiltersOfSourcesComeAndGoWithUplinkd(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.sh("router", "tc qdisc add dev wan2 clsact")
	hooks := func() string {
		return r.sh("router", "for d in wan1 wan2; do tc qdisc show dev $d; tc filter show dev $d egress; done")
	}
	before := hooks()
	r.start()
	r.awaitState("lte", uplink.Up)
	for _, device := range []string{"wan1", "wan2"} {
		if out := r.sh("router", "tc filter show dev "+device+" egress"); strings.Count(out, "direct-action") != 1 {
			t.Errorf("%s: %s", device, out)
		}
	}
	r.kill()
	r.sh("router", "nft flush ruleset") // nobody is there to put it back
	r.sh("lan", "for to in 192.0.2.1 2001:db8:ffff::1; do ping -c 3 -i 0.2 -W 1 $to || true; done")
	if n := r.foreign(); n != 0 {
		t.Errorf("without a daemon %d packets leave with foreign sources", n)
	}
	r.start()
	r.awaitState("lte", uplink.Up)
	r.sh("router", "tc filter del dev wan1 egress")
	r.await("the filter to be back", func() error {
		if out := r.sh("router", "tc filter show dev wan1 egress"); !strings.Contains(out, "direct-action") {
			return errors.New("it is away")
		}
		return nil
	})
	r.stop()
	r.command("clean", "-c", r.config)
	if after := hooks(); after != before {
		t.Errorf("before:\n%s\nafter clean:\n%s", before, after)
	}
}

// A device whose ingress qdisc is in use cannot have a filter behind nftables: that is said, and all else works.
func TestAnIngressQdiscOfOthersStays(t *testing.T) {
	r := newRouter(t, lab.Options{}, dualWAN)
	r.sh("router", "tc qdisc add dev wan1 ingress")
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitProblem("no-egress-filter", "wan1")
	r.await("the daemon to converge", r.converged)
	if out := r.sh("router", "tc qdisc show dev wan1"); !strings.Contains(out, "ingress") {
		t.Errorf("it is gone: %s", out)
	}
}

// A flow of one port that began while nobody translated stays as it began in the eyes of connection tracking, for as long as it sends.
func TestAFlowFromBeforeTheStartIsTranslated(t *testing.T) {
	t.Parallel()
	for name, others := range map[string]string{
		"nobody has a nat chain": "true",
		"a container host has":   `nft 'table ip nat { chain post { type nat hook postrouting priority srcnat; ip saddr 172.17.0.0/16 oifname != "docker0" masquerade; }; }'`,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRouter(t, lab.Options{}, dualWAN)
			r.sh("router", others)
			r.sh("router", "nft 'table inet watch { chain f { type filter hook forward priority 0; ct state new counter; }; }'") // which has connections tracked
			s := &lab.Stream{From: r.Host("lan"), Target: addrPort("192.0.2.1:7"), Rate: 50}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() { defer close(done); _ = s.Run(ctx) }()
			t.Cleanup(func() { cancel(); <-done })
			r.await("the provider to drop it", func() error {
				if r.foreign() == 0 {
					return errors.New("nothing has left yet")
				}
				return nil
			})
			r.start()
			r.await("the flow to be answered", func() error { return answers(s, 10) })
			before := r.foreign()
			r.await("it to go on", func() error { return answers(s, 50) })
			if after := r.foreign(); after != before {
				t.Errorf("%d packets more leave untranslated", after-before)
			}
		})
	}
}

// Private addresses are of no use behind an uplink that does not translate them: hosts are told, and nothing leaves.
func TestPrivateSourcesAreRefusedAtOnce(t *testing.T) {
	t.Parallel()
	config := strings.ReplaceAll(dualWAN, "  [uplink.ipv6]\n  masquerade = true\n", "  [uplink.ipv4]\n  masquerade = false\n")
	r := newRouter(t, lab.Options{}, config)
	r.sh("router", "ip addr add 10.7.0.1/24 dev lan0; ip addr add fd07::1/64 dev lan0 nodad")
	r.sh("lan", "ip addr add 10.7.0.2/24 dev eth0; ip addr add fd07::2/64 dev eth0 nodad")
	r.start()
	r.awaitState("fiber", uplink.Up)
	before := r.foreign()
	for source, target := range map[string]string{"10.7.0.2": "192.0.2.1", "fd07::2": "2001:db8:ffff::1"} {
		out := r.sh("lan", "ping -c 3 -i 0.3 -W 1 -I "+source+" "+target+" || true")
		if !strings.Contains(out, "From ") { // an ICMP error
			t.Errorf("from %s: nobody is told:\n%s", source, out)
		}
		explained := r.command("explain", "-c", r.config, "--to", target, "--from", source, "--iif", "lan0")
		if !strings.Contains(explained, "private") {
			t.Errorf("explain says of %s:\n%s", source, explained)
		}
	}
	if n := r.foreign() - before; n != 0 {
		t.Errorf("%d packets left", n)
	}
}

// An answer whose host is not to be found any more goes nowhere: not back to the Internet, by whatever uplink.
func TestAnswersDoNotBounceFromUplinkToUplink(t *testing.T) {
	r := newRouter(t, lab.Options{}, dualWAN)
	r.sh("router", "for d in all wan1 wan2 lan0; do sysctl -qw net.ipv4.conf.$d.rp_filter=0; done")
	r.sh("lan", "ip addr add 192.0.2.201/32 dev eth0; ip addr add 10.5.5.5/32 dev eth0; ip addr add 2001:db8:77::5/128 dev eth0 nodad; ip addr add 203.0.113.7/32 dev eth0")
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	for source, target := range map[string]string{"10.5.5.5": "192.0.2.1", "203.0.113.7": "192.0.2.1", "2001:db8:77::5": "2001:db8:ffff::1"} {
		before := r.foreign()
		r.sh("lan", "ping -c 3 -i 0.3 -W 1 -I "+source+" "+target+" || true")
		if n := r.foreign() - before; n != 0 {
			t.Errorf("answers to %s: %d packets of somebody else's left by our uplinks", source, n)
		}
	}
}

// Answers to the router itself that come late, when their address is gone, do not go back: to the provider, or to another router that has it now.
func TestAnswersToAnAddressThatIsGoneStayHere(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.answerPings(300 * time.Millisecond)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	u := r.Uplink("fiber")
	for _, c := range []struct{ address, target, add string }{
		{u.Address4.String(), "192.0.2.1", ""},
		{u.Address6.String(), "2001:db8:ffff::1", "nodad"},
	} {
		before := r.foreign()
		source, _, _ := strings.Cut(c.address, "/")
		r.sh("router", fmt.Sprintf("ping -q -c 200 -i 0.002 -W 1 -I %s %s >/dev/null & sleep 0.5; ip neighbour replace %[1]s lladdr 02:00:00:00:00:99 dev %[4]s; ip address del %[3]s dev %[4]s; sleep 1", source, c.target, c.address, u.Device))
		if n := r.foreign() - before; n != 0 {
			t.Errorf("%s: %d answers went back to a provider: %s", source, n, r.foreignSources())
		}
		r.sh("router", fmt.Sprintf("ip address add %s dev %s %s", c.address, u.Device, c.add))
	}
}
