package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/uplink"
)

// sharing is a line with a delegation, and a point-to-point one of which the LAN gets the only /64 that there is.
const sharing = `
[[uplink]]
name = "fiber"
device = "wan1"
  [uplink.ipv6]
  delegation = true
` + targets + `
[[uplink]]
name = "lte"
device = "wan2"
tier = 2
  [uplink.ipv6]
  method = "ra"
  share = true
` + targets + `
[[lan]]
device = "lan0"
`

// mobile makes lte a mobile line: point-to-point, with a /64 that is announced as not on the link and that the provider has no address in.
func (r *router) mobile(prefix string) (stop func()) {
	r.Helper()
	r.dialedUp("lte")
	r.sh("router", "ip -6 address flush dev wan2 scope global; ip -6 route flush dev wan2 proto static")
	r.sh("isp2", "ip -6 address flush dev cust2 scope global; ip -6 route replace "+prefix+" dev cust2")
	return r.advertise("isp2", "cust2", "AdvDefaultLifetime 30; prefix "+prefix+" { AdvOnLink off; AdvValidLifetime infinity; AdvPreferredLifetime infinity; };")
}

// startSharing starts the daemon, and waits until the LAN host has the fiber's delegation and an address of lte's line.
func (r *router) startSharing(line netip.Prefix) {
	r.Helper()
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	r.awaitHost(pools["fiber"])
	r.await("the host to have an address of the line", func() error {
		if len(r.holds(line)) != 1 {
			return fmt.Errorf("it has %+v", r.hostAddresses())
		}
		return nil
	})
}

// servesAt checks that the router's services are reached at its own address, from both sides, and the LAN host's at the host's.
func (r *router) servesAt(own, host netip.Addr) {
	r.Helper()
	for _, s := range services[:2] {
		for _, from := range []string{"inet", "lan"} {
			if err := r.ask(from, s, own, unhurried); err != nil {
				r.Errorf("from %s: %v", from, err)
			}
		}
	}
	for _, s := range services[2:] {
		if err := r.ask("inet", s, host, unhurried); err != nil {
			r.Error(err)
		}
	}
}

func TestALANHasTheNetworkOfAPointToPointLine(t *testing.T) {
	t.Parallel()
	line := netip.MustParsePrefix("2001:db8:b::/64")
	r := newRouter(t, lab.Options{}, sharing)
	r.serve()
	r.listen()
	stop := r.mobile(line.String())
	r.delegateByKea(pools["fiber"], anHour)
	r.startSharing(line)
	u, err := r.uplinkStatus("lte")
	if err != nil || len(u.IPv6.Addresses) != 1 || !u.IPv6.Addresses[0].IsSingleIP() || !line.Contains(u.IPv6.Addresses[0].Addr()) {
		t.Errorf("the line has %v, %v", u.IPv6.Addresses, err)
	}
	if len(u.IPv6.Delegated) != 1 || u.IPv6.Delegated[0].Prefix != line {
		t.Errorf("the status says that it gives %+v", u.IPv6.Delegated)
	}
	own := u.IPv6.Addresses[0].Addr()
	host := r.holds(line)[0].Local
	reached := func() { t.Helper(); r.servesAt(own, host) }
	reached()
	flow := r.hostFlow()
	r.awaitFlow(flow, "fiber")
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitHost(line)
	r.awaitFlow(flow, "lte")
	t.Logf("new flows stood still for %v", flow.Stall(r.brokenSince()))
	reached()
	r.kill()
	reached()
	r.start()
	r.awaitHost(line)
	reached()

	// Dialed again, the line has another network; nobody takes the former one back, which was announced for ever.
	next := netip.MustParsePrefix("2001:db8:b:7::/64")
	stop()
	r.sh("isp2", "ip link set cust2 down")
	r.awaitState("lte", uplink.Down)
	r.sh("isp2", "ip link set cust2 up; ip -6 address replace fe80::1/64 dev cust2 nodad; ip -6 route del "+line.String()+" dev cust2 || true")
	r.delegate("lte", next) // which the provider lets pass from now on
	r.mobile(next.String())
	r.awaitHost(next)
	r.await("flows from the new network", func() error {
		if f, ok := flow.Last(time.Now().Add(-time.Second)); !ok || f.Err != nil || !next.Contains(f.Source.Addr()) {
			return fmt.Errorf("the last one is %+v", f)
		}
		return nil
	})
	r.await("the line to have its new address alone", func() error {
		u, err := r.uplinkStatus("lte")
		if err != nil || len(u.IPv6.Addresses) != 1 || !next.Contains(u.IPv6.Addresses[0].Addr()) {
			return fmt.Errorf("it has %v, %w", u.IPv6.Addresses, err)
		}
		own = u.IPv6.Addresses[0].Addr()
		return nil
	})
	host = r.holds(next)[0].Local
	reached()
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	r.awaitHost(pools["fiber"])
	r.awaitFlow(flow, "fiber")
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets with a foreign source: %s", n, r.foreignSources())
	}
	if problems := r.status().Problems; slices.ContainsFunc(problems, func(p rules.Problem) bool { return strings.HasPrefix(p.Code, "s") }) {
		t.Errorf("problems: %+v", problems)
	}
}

// segment makes lte a network of several customers, in which each makes addresses of its own, and returns what begins the commands of another
// one. Its device does not hear what the provider's own machine sends.
func (r *router) segment(prefix string) (neighbour string) {
	r.Helper()
	r.sh("router", "ip -6 address flush dev wan2 scope global; ip -6 route flush dev wan2 proto static")
	r.advertise("isp2", "cust2", "AdvDefaultLifetime 30; prefix "+prefix+" { AdvOnLink on; AdvAutonomous on; };")
	cmd, _, _ := r.background("isp2", "unshare", "-n", "sleep", "3600")
	neighbour = fmt.Sprintf("nsenter -t %d -n ", cmd.Process.Pid)
	r.await("a namespace of its own", func() error {
		if out := r.sh("isp2", neighbour+"ip -o link"); strings.Contains(out, "cust2") {
			return errors.New("not yet")
		}
		return nil
	})
	r.sh("isp2", fmt.Sprintf("ip link add link cust2 name next type macvlan mode bridge; ip link set next netns %d", cmd.Process.Pid))
	r.sh("isp2", neighbour+"ip link set next up")
	return neighbour
}

// Nobody delegates anything on that line, nor answers who asks for it.
func TestALANHasTheNetworkOfAnEthernetLine(t *testing.T) {
	t.Parallel()
	line := netip.MustParsePrefix("2001:db8:b::/64")
	r := newRouter(t, lab.Options{}, strings.Replace(sharing, "share = true", "delegation = true", 1))
	r.serve()
	r.listen()
	next := r.segment(line.String())
	r.delegateByKea(pools["fiber"], anHour)
	r.startSharing(line)
	u, err := r.uplinkStatus("lte")
	if err != nil || len(u.IPv6.Addresses) != 1 || !line.Contains(u.IPv6.Addresses[0].Addr()) || len(u.IPv6.Delegated) != 1 || u.IPv6.Delegated[0].Prefix != line {
		t.Fatalf("the line: %+v, %v", u.IPv6, err)
	}
	own, host := u.IPv6.Addresses[0].Addr(), r.holds(line)[0].Local
	reached := func() { t.Helper(); r.servesAt(own, host) }
	reached()

	// Another customer, whom nobody here has heard of, and the host find one another, whoever begins.
	neighbour := netip.MustParseAddr("2001:db8:b::55")
	r.sh("isp2", fmt.Sprintf("%sip -6 address add %v/64 dev next nodad", next, neighbour))
	r.sh("lan", fmt.Sprintf("ping -c 1 -W 10 -I %v %v", host, neighbour))
	r.sh("isp2", fmt.Sprintf("%sping -c 1 -W 10 %v", next, host))
	r.sh("router", fmt.Sprintf("ping -c 1 -W 10 %v", neighbour))
	if out := r.sh("router", fmt.Sprintf("ip -6 neighbour show proxy; ip route get %v from %v iif lan0", neighbour, host)); !strings.Contains(out, host.String()+" dev wan2") ||
		!strings.Contains(out, neighbour.String()+" dev lan0") || strings.Contains(out, "via") || strings.Contains(out, own.String()+" dev") {
		t.Errorf("the kernel answers for, and sends by:\n%s", out)
	}

	// Duplicate address detection works over both links.
	duplicate := func(at, begin, device string, a netip.Addr) {
		t.Helper()
		r.sh(at, fmt.Sprintf("%[1]ssysctl -qw net.ipv6.conf.all.accept_dad=1 net.ipv6.conf.%[3]s.accept_dad=1 net.ipv6.conf.%[3]s.dad_transmits=1; %[1]sip -6 address add %[2]v/64 dev %[3]s", begin, a, device))
		r.await("a duplicate to be found", func() error {
			if out := r.sh(at, begin+"ip -6 -o address show dev "+device+" dadfailed"); !strings.Contains(out, a.String()) {
				return fmt.Errorf("on %s: %s", device, r.sh(at, begin+"ip -6 address show dev "+device))
			}
			return nil
		})
		r.sh(at, fmt.Sprintf("%[1]sip -6 address del %[2]v/64 dev %[3]s", begin, a, device))
	}
	duplicate("lan", "", "eth0", neighbour)
	duplicate("isp2", next, "next", host)
	r.sh("isp2", next+"ip -6 address add 2001:db8:b::d0/64 dev next nodad") // nobody here has heard of this one
	duplicate("lan", "", "eth0", netip.MustParseAddr("2001:db8:b::d0"))

	flow := r.hostFlow()
	r.awaitFlow(flow, "fiber")
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitHost(line)
	r.awaitFlow(flow, "lte")
	t.Logf("new flows stood still for %v", flow.Stall(r.brokenSince()))
	reached()
	r.kill() // the kernel goes on answering
	r.sh("isp2", "ip -6 neighbour flush dev cust2; "+next+"ip -6 neighbour flush dev next")
	r.sh("isp2", fmt.Sprintf("%sping -c 1 -W 10 %v", next, host))
	reached()
	r.start()
	r.awaitHost(line)
	reached()
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	r.awaitHost(pools["fiber"])
	r.awaitFlow(flow, "fiber")
	reached()

	// A host that moves over to the other link is found there, once it is gone here.
	r.sh("lan", "ip -6 address add 2001:db8:b::70/64 dev eth0")
	r.await("the host's further address", func() error {
		_, err := r.Host("isp2").Run("ping", "-c", "1", "-W", "1", "2001:db8:b::70")
		return err
	})
	r.sh("lan", "ip -6 address del 2001:db8:b::70/64 dev eth0")
	r.sh("isp2", next+"ip -6 address add 2001:db8:b::70/64 dev next nodad")
	r.await("the address on the other link", func() error {
		_, err := r.Host("lan").Run("ping", "-c", "1", "-W", "1", "-I", host.String(), "2001:db8:b::70")
		return err
	})
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets with a foreign source: %s", n, r.foreignSources())
	}
	r.await("status to say why", func() error { // asked anew after the restart
		problems := r.status().Problems
		if len(problems) != 1 || problems[0].Code != "no-delegation" || problems[0].Severity != "notice" || !strings.Contains(problems[0].Message, line.String()) {
			return fmt.Errorf("problems: %+v", problems)
		}
		return nil
	})
	r.stop()
	r.command("clean", "-c", r.config)
	if out := r.sh("router", "ip -6 neighbour show proxy; sysctl net.ipv6.conf.wan2.proxy_ndp net.ipv6.neigh.wan2.proxy_delay"); strings.Contains(out, "2001:db8:") || !strings.Contains(out, "proxy_ndp = 0") || !strings.Contains(out, "proxy_delay = 80") {
		t.Errorf("after clean:\n%s", out)
	}
}
