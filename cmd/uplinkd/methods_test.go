package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// uplinkStatus is what the daemon tells of one uplink.
func (r *router) uplinkStatus(name string) (status.Uplink, error) {
	s, err := r.client.Status(context.Background())
	if err != nil {
		return status.Uplink{}, err
	}
	for _, u := range s.Uplinks {
		if u.Name == name {
			return u, nil
		}
	}
	return status.Uplink{}, fmt.Errorf("there is no uplink %s", name)
}

// awaitSource waits until an uplink is up in a family with the given address, alone or the first of
// several, and the kernel is as the daemon wants.
func (r *router) awaitSource(name string, want netip.Addr) {
	r.Helper()
	r.await(fmt.Sprintf("%s to be up with %v", name, want), func() error {
		u, err := r.uplinkStatus(name)
		if err != nil {
			return err
		}
		f := u.IPv4
		if want.Is6() {
			f = u.IPv6
		}
		if f.State != uplink.Up || len(f.Addresses) == 0 || f.Addresses[0].Addr() != want {
			return fmt.Errorf("it is %s (%s) with %v", f.State, f.Reason, f.Addresses)
		}
		return r.converged()
	})
}

// hasSourceRule reports whether a policy rule sends packets with this source into a table of an uplink.
func (r *router) hasSourceRule(source netip.Addr) bool {
	r.Helper()
	family := "-4"
	if source.Is6() {
		family = "-6"
	}
	return strings.Contains(r.sh("router", "ip "+family+" rule show"), "from "+source.String()+" ")
}

// wellKept fails the test unless the device of an uplink is as the daemon keeps all of them, and the
// daemon itself would change nothing.
func (r *router) wellKept(name string) {
	r.Helper()
	u, err := r.uplinkStatus(name)
	if err != nil {
		r.Fatal(err)
	}
	if out := r.sh("router", "ip link show group 117"); !strings.Contains(out, " "+u.Device+"@") {
		r.Errorf("%s is not in the link group of uplinks:\n%s", u.Device, out)
	}
	if v, err := r.Host("router").Sysctl("net/ipv4/conf/" + u.Device + "/src_valid_mark"); err != nil || v != "1" {
		r.Errorf("src_valid_mark of %s: %q, %v", u.Device, v, err)
	}
	for _, f := range []struct {
		ip     string
		status status.FamilyStatus
	}{{"-4", u.IPv4}, {"-6", u.IPv6}} {
		if f.status.State == uplink.Disabled {
			continue
		}
		routes := r.sh("router", fmt.Sprintf("ip %s route show table %d", f.ip, u.Table))
		if !strings.Contains(routes, "default") || !strings.Contains(routes, "dev "+u.Device) || !strings.Contains(routes, "unreachable default") {
			r.Errorf("table %d:\n%s", u.Table, routes)
		}
	}
	r.awaitNoChange()
}

// awaitNoChange waits until there is nothing left to change.
func (r *router) awaitNoChange() {
	r.Helper()
	r.await("the daemon to want no change", func() error {
		out, err := r.program("plan", "-c", r.config).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "# nothing to change") {
			return fmt.Errorf("%w\n%s", errors.Join(err, errors.New("plan:")), out)
		}
		return nil
	})
}

// lanProbes open new flows of both families from the LAN host until the test ends.
func (r *router) lanProbes() (v4, v6 *lab.FlowProbe) {
	v4 = &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort("192.0.2.1:7")}
	v6 = &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort("[2001:db8:ffff::1]:7")}
	r.probe(v4)
	r.probe(v6)
	return v4, v6
}

// streamFrom sends packets from a host into the Internet until the returned function is called, which gives what
// became of them.
func (r *router) streamFrom(host, target string) (*lab.Stream, func() lab.StreamStats) {
	return r.streamOf(200, host, target)
}

// streamOf is streamFrom with that many packets a second.
func (r *router) streamOf(rate int, host, target string) (*lab.Stream, func() lab.StreamStats) {
	s := &lab.Stream{From: r.Host(host), Target: addrPort(target), Rate: rate}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); err != nil {
			r.Error(err)
		}
	}()
	stop := func() lab.StreamStats { cancel(); <-done; return s.Stats() }
	r.Cleanup(func() { stop() })
	r.await("the stream to flow", func() error { return answers(s, 20) })
	return s, stop
}

// answers reports whether a stream has that many answers.
func answers(s *lab.Stream, want int) error {
	if st := s.Stats(); st.Answered < want {
		return fmt.Errorf("%v", st)
	}
	return nil
}

// awaitMore waits until a stream has had some more answers.
func (r *router) awaitMore(s *lab.Stream) {
	r.Helper()
	want := s.Stats().Answered + 50
	r.await("further answers to the stream", func() error { return answers(s, want) })
}

// awaitSourceOf waits until a stream leaves with an address.
func (r *router) awaitSourceOf(s *lab.Stream, want netip.Addr) {
	r.Helper()
	r.await(fmt.Sprintf("the stream to have %v", want), func() error {
		moves := s.Stats().Moves
		if last := moves[len(moves)-1].Source.Addr(); last != want {
			return fmt.Errorf("it has %v", last)
		}
		return nil
	})
}

// awaitEnd waits until all of some connections, by name, have been silent for a while.
func (r *router) awaitEnd(since map[string]func() time.Duration) {
	r.Helper()
	r.await("the connections to end", func() error {
		for name, silent := range since {
			if silent() < 2*time.Second {
				return fmt.Errorf("%s goes on", name)
			}
		}
		return nil
	})
}

func TestAutoFollowsARenumberedUplinkAndBack(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{DNAT: true}, dualWAN)
	r.serve()
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	v4, v6 := r.lanProbes()
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"renumbered", func() error { return r.Break(lab.Prefix, "fiber") }},
		{"and back", r.Heal},
	} {
		before := r.addresses("fiber")
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		now := r.addresses("fiber")
		for _, a := range now {
			r.awaitSource("fiber", a)
		}
		// Between the provider's change and the router's, anything that was sent was foreign.
		foreign := r.foreign()
		for i := range now {
			if r.hasSourceRule(before[i]) || !r.hasSourceRule(now[i]) {
				t.Errorf("%s: rule for %v: %v, for %v: %v", step.name, before[i], r.hasSourceRule(before[i]), now[i], r.hasSourceRule(now[i]))
			}
		}
		r.awaitFlow(v4, "fiber")
		r.awaitFlow(v6, "fiber")
		r.answersEverywhere("inet", "fiber", "lte")
		r.answersEverywhere("lan", "fiber", "lte")
		r.wellKept("fiber")
		if n := r.foreign() - foreign; n != 0 {
			t.Errorf("%s: %d packets left with a foreign source", step.name, n)
		}
	}
}

// TestALongFlowSurvivesRenumbering shows that its translation does not outlive the address.
func TestALongFlowSurvivesRenumbering(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	s4, _ := r.streamFrom("lan", "192.0.2.1:7")
	s6, _ := r.streamFrom("lan", "[2001:db8:ffff::1]:7")
	if err := r.Break(lab.Prefix, "fiber"); err != nil {
		t.Fatal(err)
	}
	now := r.addresses("fiber")
	for i, s := range []*lab.Stream{s4, s6} {
		r.awaitSourceOf(s, now[i])
		r.awaitMore(s)
	}
}

// TestDrainEndsWhatRunsWhenToldTo ends, at a spare that works: flows that were translated to it, the router's own, and those that came in by
// it to the router. What came in by the other line goes on.
func TestDrainEndsWhatRunsWhenToldTo(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{DNAT: true}, dualWAN)
	r.serve()
	if err := r.Host("inet").ServeTCPEcho(t.Context(), addrPort("192.0.2.1:7002")); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	drain := func(args ...string) { r.command(append(args, "--socket", r.socket())...) }
	drain("drain", "fiber")
	v4, v6 := r.lanProbes()
	r.awaitFlow(v4, "lte")
	r.awaitFlow(v6, "lte")
	s4, _ := r.streamFrom("lan", "192.0.2.1:7")
	s6, _ := r.streamFrom("lan", "[2001:db8:ffff::1]:7")
	lte := r.addresses("lte")
	alive := map[string]func() time.Duration{
		"the router's own":    r.typing("router", lte[0].String()+":0", addrPort("192.0.2.1:7002")),
		"to the router, IPv4": r.typing("inet", lab.Client4, netip.AddrPortFrom(lte[0], services[0].port)),
		"to the router, IPv6": r.typing("inet", lab.Client6, netip.AddrPortFrom(lte[1], services[0].port)),
	}
	other := r.typing("inet", lab.Client4, netip.AddrPortFrom(r.addresses("fiber")[0], lab.ForwardedTCP))
	drain("undrain", "fiber")
	r.awaitFlow(v4, "fiber")
	r.awaitFlow(v6, "fiber")
	drain("drain", "lte")
	r.awaitMore(s4)
	r.awaitMore(s6)
	for name, since := range alive {
		if since() > time.Second {
			t.Errorf("drain alone ended %s", name)
		}
	}
	for _, s := range []*lab.Stream{s4, s6} {
		if moves := s.Stats().Moves; len(moves) != 1 {
			t.Errorf("drain alone moved a stream: %v", moves)
		}
	}
	drain("drain", "--now", "lte")
	for i, s := range []*lab.Stream{s4, s6} {
		r.awaitSourceOf(s, r.addresses("fiber")[i])
	}
	r.awaitEnd(alive)
	if other() > time.Second {
		t.Error("what came in by fiber was ended")
	}
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source", n)
	}
}

// TestImmediateAllTakesBackWhatTheSpareCarries ends, when fiber is back, what LAN hosts and the router began at the spare meanwhile, and what
// began there before, whatever keeps it alive. What a policy sends by the spare, and sessions from outside, go on.
func TestImmediateAllTakesBackWhatTheSpareCarries(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{DNAT: true}, strings.Replace(dualWAN, `device = "wan1"`, "device = \"wan1\"\nfailback = \"immediate-all\"", 1)+`
[[policy]]
name = "camera"
to = "192.0.2.2"
uplinks = ["lte"]
`)
	r.serve()
	for _, at := range []string{"192.0.2.1:7002", "192.0.2.2:7002", "[2001:db8:ffff::1]:7002"} {
		if err := r.Host("inet").ServeTCPEcho(t.Context(), addrPort(at)); err != nil {
			t.Fatal(err)
		}
	}
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	v4, v6 := r.lanProbes()
	r.awaitFlow(v4, "fiber")
	r.awaitFlow(v6, "fiber")
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitFlow(v4, "lte")
	r.awaitFlow(v6, "lte")
	s4, _ := r.streamFrom("lan", "192.0.2.1:7")
	s6, _ := r.streamFrom("lan", "[2001:db8:ffff::1]:7")
	lte := r.addresses("lte")
	ends := map[string]func() time.Duration{
		"of the LAN":        r.typing("lan", "", addrPort("192.0.2.1:7002")),
		"the router's":      r.typing("router", "", addrPort("192.0.2.1:7002")),
		"the router's IPv6": r.typing("router", "", addrPort("[2001:db8:ffff::1]:7002")),
	}
	stays := map[string]func() time.Duration{
		"of a policy":           r.typing("lan", "", addrPort("192.0.2.2:7002")),
		"the router's policy":   r.typing("router", "", addrPort("192.0.2.2:7002")),
		"to the router, IPv4":   r.typing("inet", lab.Client4, netip.AddrPortFrom(lte[0], services[0].port)),
		"to the router, IPv6":   r.typing("inet", lab.Client6, netip.AddrPortFrom(lte[1], services[0].port)),
		"to the LAN, forwarded": r.typing("inet", lab.Client4, netip.AddrPortFrom(lte[0], lab.ForwardedTCP)),
	}
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	r.awaitFlow(v4, "fiber")
	r.awaitFlow(v6, "fiber")
	for i, s := range []*lab.Stream{s4, s6} {
		r.awaitSourceOf(s, r.addresses("fiber")[i])
	}
	r.awaitEnd(ends)
	for name, since := range stays {
		if since() > time.Second {
			t.Errorf("%s was ended", name)
		}
	}
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source: %s", n, r.foreignSources())
	}
}

// TestNothingLeavesWithAFormerAddress renumbers a line while packets wait for its gateway to be found, and while a connection of the
// router's own, and one to a host of the LAN, have something to send again.
func TestNothingLeavesWithAFormerAddress(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{DNAT: true}, dualWAN)
	r.serve()
	if err := r.Host("inet").ServeTCPEcho(t.Context(), addrPort("192.0.2.1:7002")); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	v4, v6 := r.lanProbes()
	r.awaitFlow(v4, "fiber")
	r.awaitFlow(v6, "fiber")
	former := r.addresses("fiber")
	r.typing("router", former[0].String()+":0", addrPort("192.0.2.1:7002"))
	for i, client := range []string{lab.Client4, lab.Client6} {
		r.typing("inet", client, netip.AddrPortFrom(former[i], lab.ForwardedTCP))
	}
	uses := func() string {
		return r.sh("router", fmt.Sprintf("{ conntrack -L; conntrack -L -f ipv6; } 2>/dev/null | grep -e '=%[1]v ' -e '=%[2]v ' || true; ss -Htan '( src %[1]v or src [%[2]v] )'", former[0], former[1]))
	}
	if lines := strings.Count(uses(), "\n"); lines < 4 {
		t.Fatalf("%d connections use the addresses: %s", lines, uses())
	}
	r.sh("inet", fmt.Sprintf("nft 'table inet deaf { chain input { type filter hook input priority 0; tcp sport { 7002, %d } drop; }; }'", lab.ForwardedTCP))
	r.sh("isp1", `nft 'table netdev still { chain fiber { type filter hook ingress device "cust1" priority -20; icmpv6 type nd-neighbor-solicit drop; }; }'`)
	r.sh("router", "ip -6 neigh flush dev wan1 2>/dev/null; true")
	r.await("packets that wait for a neighbour", func() error {
		if known := r.sh("router", "ip -6 neigh show dev wan1"); !strings.Contains(known, "INCOMPLETE") {
			return errors.New(known)
		}
		return nil
	})
	if err := r.Break(lab.Prefix, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.await("the rules of the new addresses", func() error {
		if now := r.addresses("fiber"); !r.hasSourceRule(now[0]) || !r.hasSourceRule(now[1]) {
			return errors.New("they are not there")
		}
		return r.converged()
	})
	foreign := r.foreign()
	r.sh("isp1", "nft delete table netdev still")
	for i, now := range r.addresses("fiber") {
		r.awaitSource("fiber", now)
		r.awaitFlow([]*lab.FlowProbe{v4, v6}[i], "fiber")
	}
	r.await("the end of what uses the former addresses", func() error {
		if left := uses(); left != "" {
			return errors.New(left)
		}
		return nil
	})
	if n := r.foreign() - foreign; n != 0 {
		t.Errorf("%d packets left with a former address: %s", n, r.foreignSources())
	}
}

// unplug takes the device of an uplink away. The returned function makes it anew, as ModemManager does
// when a stick comes back: with the same name, addresses and routes, and another index.
func (r *router) unplug(name string) (plug func()) {
	r.Helper()
	u := r.Uplink(name)
	port := "cust" + strings.TrimPrefix(u.Device, "wan")
	// With a port the provider's filter of it goes, on kernels before 6.16.
	filter := r.sh(u.ISP, "nft list table netdev isp")
	r.sh("router", "ip link delete "+u.Device)
	return func() {
		r.Helper()
		r.sh(u.ISP, fmt.Sprintf("ip link add %[1]s type veth peer name %[2]s netns %[3]s; ip link set %[1]s addrgenmode none up",
			port, u.Device, r.Host("router").Namespace()))
		r.sh(u.ISP, fmt.Sprintf("ip address add %s/%d dev %[3]s; ip address add %[4]s/64 dev %[3]s nodad; ip address add %[5]v/64 dev %[3]s nodad",
			u.Gateway4, u.Address4.Bits(), port, u.Address6.Masked().Addr().Next(), u.Gateway6))
		saved := filepath.Join(r.dir, "filter.nft")
		if err := os.WriteFile(saved, []byte("delete table netdev isp\n"+filter), 0o600); err != nil {
			r.Fatal(err)
		}
		r.sh(u.ISP, "nft -f "+saved)
		r.sh("router", fmt.Sprintf(`
			ip address add %[2]s dev %[1]s
			ip address add %[3]s dev %[1]s nodad
			ip link set %[1]s up
			ip route add default via %[4]v dev %[1]s proto dhcp metric %[6]d
			ip -6 route add default via %[5]v dev %[1]s proto static metric %[6]d`,
			u.Device, u.Address4, u.Address6, u.Gateway4, u.Gateway6, u.Metric))
	}
}

func TestAModemThatIsUnpluggedAndComesBackIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{DNAT: true}, dualWAN)
	r.serve()
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	index := r.sh("router", "cat /sys/class/net/wan2/ifindex")
	plug := r.unplug("lte")
	r.awaitState("lte", uplink.Down)
	r.await("the reason to be the device's", func() error { // its addresses and routes may be seen to go first
		if u, err := r.uplinkStatus("lte"); err != nil || u.IPv4.Code != uplink.CodeNoDevice {
			return fmt.Errorf("%+v, %v", u.IPv4, err)
		}
		return nil
	})
	r.await("the daemon to be content without the device", r.converged)
	if s := r.status(); len(s.Problems) != 0 {
		t.Errorf("problems: %+v", s.Problems)
	}
	plug()
	if again := r.sh("router", "cat /sys/class/net/wan2/ifindex"); again == index {
		t.Fatalf("the device came back with the same index %s", index)
	}
	r.awaitState("lte", uplink.Up)
	r.wellKept("lte")
	r.answersEverywhere("inet", "fiber", "lte")
	v4, v6 := r.lanProbes()
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitFlow(v4, "lte")
	r.awaitFlow(v6, "lte")
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source", n)
	}
	r.stop()
	r.command("clean", "-c", r.config)
	if v, err := r.Host("router").Sysctl("net/ipv4/conf/wan2/src_valid_mark"); err != nil || v != "0" {
		t.Errorf("after clean, src_valid_mark of the new device: %q, %v", v, err)
	}
	if out := r.sh("router", "ip link show group 117"); out != "" {
		t.Errorf("after clean, in the link group:\n%s", out)
	}
}

func TestADeviceThatAppearsAfterTheStartIsTakenUp(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{DNAT: true}, dualWAN)
	r.serve()
	plug := r.unplug("lte")
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Down)
	plug()
	r.awaitState("lte", uplink.Up)
	r.wellKept("lte")
	r.answersEverywhere("inet", "fiber", "lte")
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source", n)
	}
}

// dialedUp turns an uplink's Ethernet into a point-to-point line: nobody asks for hardware addresses,
// and what one end sends is for the other.
func (r *router) dialedUp(name string) {
	r.Helper()
	u := r.Uplink(name)
	port := "cust" + strings.TrimPrefix(u.Device, "wan")
	r.sh("router", "ip link set "+u.Device+" address 02:00:00:00:00:99 arp off")
	r.sh(u.ISP, "ip link set "+port+" address 02:00:00:00:00:99 arp off")
}

func TestAPointToPointLineIsFollowedThroughARedial(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{DNAT: true}, `
[[uplink]]
name = "fiber"
device = "wan1"
tier = 2
`+families+`
[[uplink]]
name = "lte"
device = "wan2"
`+families)
	r.serve()
	r.dialedUp("lte")
	dial := func(v4, v6 string) {
		r.sh("router", fmt.Sprintf(`
			ip address flush dev wan2 scope global
			ip address add %s peer 203.0.113.1 dev wan2
			ip address add %s dev wan2 nodad
			ip route add default dev wan2 metric 200
			ip -6 route replace default dev wan2 metric 200`, v4, v6))
		r.awaitSource("lte", netip.MustParseAddr(v4))
		r.awaitSource("lte", netip.MustParseAddr(strings.TrimSuffix(v6, "/64")))
	}
	r.sh("router", "ip -6 route del default dev wan2")
	r.launch()
	r.await("the daemon", r.converged)
	v4, v6 := r.lanProbes()
	before := []string{"203.0.113.2", "2001:db8:b::2/64"}
	dial(before[0], before[1])
	for _, now := range [][]string{{"203.0.113.3", "2001:db8:b::3/64"}, {"203.0.113.4", "2001:db8:b::4/64"}} {
		dial(now[0], now[1])
		foreign := r.foreign()
		r.awaitFlow(v4, "lte")
		r.awaitFlow(v6, "lte")
		for i := range now {
			new, old := netip.MustParseAddr(strings.TrimSuffix(now[i], "/64")), netip.MustParseAddr(strings.TrimSuffix(before[i], "/64"))
			if r.hasSourceRule(old) || !r.hasSourceRule(new) {
				t.Errorf("rules after a redial from %v to %v:\n%s", old, new, r.sh("router", "ip rule; ip -6 rule"))
			}
			for _, s := range services {
				if err := r.ask("inet", s, new, 5*time.Second); err != nil {
					t.Error(err)
				}
			}
		}
		if u, err := r.uplinkStatus("lte"); err != nil || u.IPv4.Gateway.IsValid() || u.IPv6.Gateway.IsValid() {
			t.Errorf("a line without gateways shows %v and %v, %v", u.IPv4.Gateway, u.IPv6.Gateway, err)
		}
		r.wellKept("lte")
		if n := r.foreign() - foreign; n != 0 {
			t.Errorf("%d packets left with a foreign source", n)
		}
		before = now
	}
	if err := r.Break(lab.Blackhole, "lte"); err != nil {
		t.Fatal(err)
	}
	r.awaitFlow(v4, "fiber")
	r.awaitFlow(v6, "fiber")
}

// background runs a server on a host until the test ends or the returned function is called.
func (r *router) background(host, name string, args ...string) (cmd *exec.Cmd, log *safeBuffer, stop func()) {
	r.Helper()
	return r.runBeside(r.Host(host).Command(context.Background(), name, args...))
}

// runBeside is background for a command.
func (r *router) runBeside(server *exec.Cmd) (cmd *exec.Cmd, log *safeBuffer, stop func()) {
	r.Helper()
	log, cmd = new(safeBuffer), server
	cmd.WaitDelay = 5 * time.Second // a child of it may keep its output open
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		r.Fatal(err)
	}
	stop = sync.OnceFunc(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	r.Cleanup(func() {
		stop()
		if r.Failed() {
			r.Logf("%s says:\n%s", strings.Join(cmd.Args, " "), log)
		}
	})
	return cmd, log, stop
}

// safeBuffer is read while a program writes to it.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// radvdConfig announces a default route and prefixes; a retired prefix is not to be used any more.
func radvdConfig(retired, used string) string {
	var b strings.Builder
	b.WriteString("interface cust2 {\n AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 600;\n")
	if retired != "" {
		fmt.Fprintf(&b, " prefix %s { AdvOnLink on; AdvAutonomous on; AdvValidLifetime 7200; AdvPreferredLifetime 0; };\n", retired)
	}
	fmt.Fprintf(&b, " prefix %s { AdvOnLink on; AdvAutonomous on; AdvValidLifetime 7200; AdvPreferredLifetime 3600; };\n};\n", used)
	return b.String()
}

func TestARouterAdvertisementIsFollowedAndSoIsAChangedPrefix(t *testing.T) {
	t.Parallel()
	const first, second = "2001:db8:b::/64", "2001:db8:b:1::/64"
	r := newRouter(t, lab.Options{DNAT: true}, dualWAN)
	r.serve()
	// No privacy addresses: the test has to know the address. The identifier comes from the hardware address.
	r.sh("router", `
		ip address del 2001:db8:b::2/64 dev wan2
		ip -6 route del default dev wan2
		sysctl -qw net.ipv6.conf.wan2.use_tempaddr=0 net.ipv6.conf.wan2.accept_ra=2`)
	r.sh("isp2", `
		ip address add 2001:db8:b:1::1/64 dev cust2 nodad
		nft add element netdev isp lte_net6 { 2001:db8:b:1::/64 }`)
	r.sh("inet", "ip route add 2001:db8:b:1::/64 via 2001:db8:fff2::1")
	file := filepath.Join(r.dir, "radvd.conf")
	write := func(retired, used string) {
		if err := os.WriteFile(file, []byte(radvdConfig(retired, used)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("", first)
	identifier := strings.Fields(r.sh("router", "ip -6 -o address show dev wan2 scope link"))[3]
	slaac := func(prefix string) netip.Addr {
		a, low := netip.MustParsePrefix(prefix).Addr().As16(), netip.MustParsePrefix(identifier).Addr().As16()
		copy(a[8:], low[8:])
		return netip.AddrFrom16(a)
	}
	r.start()
	radvd := func() (stop func()) {
		_, _, stop = r.background("isp2", "radvd", "--nodaemon", "--config", file, "--pidfile", filepath.Join(r.dir, "radvd.pid"), "--logmethod", "stderr")
		return stop
	}
	stop := radvd()
	r.awaitSource("lte", slaac(first))
	r.wellKept("lte")
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	v4, v6 := r.lanProbes()
	r.awaitFlow(v4, "lte")
	r.awaitFlow(v6, "lte")

	stop()
	write(first, second)
	_ = radvd()
	r.awaitSource("lte", slaac(second))
	r.await("new flows with the new prefix", func() error {
		flow, ok := v6.Last(time.Now().Add(-time.Second))
		if !ok || flow.Source.Addr() != slaac(second) {
			return fmt.Errorf("the latest one: %+v", flow)
		}
		return nil
	})
	for _, prefix := range []string{first, second} { // the old one may still be used by what began with it
		if at := slaac(prefix); !r.hasSourceRule(at) {
			t.Errorf("no rule for %v", at)
		} else if err := r.ask("inet", services[0], at, 5*time.Second); err != nil {
			t.Error(err)
		}
	}
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source", n)
	}
}

const staticFiber = `
[[uplink]]
name = "fiber"
device = "wan1"
  [uplink.ipv4]
  method = "static"
  address = "198.51.100.2/26"
  gateway = "198.51.100.1"
  [uplink.ipv6]
  method = "static"
  address = "2001:db8:a::2/64"
  gateway = "fe80::1"
  masquerade = true
` + targets + `
[[uplink]]
name = "lte"
device = "wan2"
tier = 2
` + families

func TestAStaticUplinkIsBroughtUpAddressedRoutedAndCleaned(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{DNAT: true}, staticFiber)
	r.serve()
	r.sh("router", "ip address flush dev wan1; ip link set wan1 down")
	before := r.sh("router", "ip address show dev wan2; ip route; ip -6 route; ip rule; ip -6 rule; nft list ruleset")
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	r.wellKept("fiber")
	for _, a := range r.addresses("fiber") {
		if out := r.sh("router", "ip -j address show dev wan1"); !strings.Contains(out, `"`+a.String()+`"`) {
			t.Errorf("%v is not on wan1:\n%s", a, out)
		}
		if tag := r.addressTag(a); tag != 117 {
			t.Errorf("%v has the protocol number %d", a, tag)
		}
	}
	v4, v6 := r.lanProbes()
	r.awaitFlow(v4, "fiber")
	r.awaitFlow(v6, "fiber")
	r.answersEverywhere("inet", "fiber", "lte")
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source", n)
	}
	r.stop()
	out := r.command("clean", "-c", r.config)
	for _, a := range r.addresses("fiber") {
		if !strings.Contains(out, a.String()) {
			t.Errorf("clean does not speak of %v:\n%s", a, out)
		}
	}
	if out := r.sh("router", "ip address show dev wan1 scope global"); strings.Contains(out, "inet") {
		t.Errorf("after clean:\n%s", out)
	}
	r.sh("router", "ip link set wan1 down") // as it was; its link-local routes go with that
	after := r.sh("router", "ip address show dev wan2; ip route; ip -6 route; ip rule; ip -6 rule; nft list ruleset")
	if before != after {
		t.Errorf("before:\n%s\nafter clean:\n%s", before, after)
	}
}

// addressTag reads IFA_PROTO of an address, 0 for none; not every iproute2 shows it.
func (r *router) addressTag(want netip.Addr) (tag uint8) {
	r.Helper()
	var messages []netlink.Message
	err := r.Host("router").Do(func() error {
		conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
		if err != nil {
			return err
		}
		defer conn.Close()
		messages, err = conn.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.RTM_GETADDR, Flags: netlink.Request | netlink.Dump},
			Data:   make([]byte, unix.SizeofIfAddrmsg),
		})
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
	const ifaProto = 11
	for _, m := range messages {
		attributes, err := netlink.NewAttributeDecoder(m.Data[unix.SizeofIfAddrmsg:])
		if err != nil {
			r.Fatal(err)
		}
		var address netip.Addr
		var proto uint8
		for attributes.Next() {
			switch attributes.Type() {
			case unix.IFA_ADDRESS:
				address, _ = netip.AddrFromSlice(attributes.Bytes())
			case ifaProto:
				proto = attributes.Uint8()
			}
		}
		if address == want {
			tag = proto
		}
	}
	return tag
}

func TestOneFamilyThatIsOffIsLeftAloneAndTheOtherWorks(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, `
[[uplink]]
name = "fiber"
device = "wan1"
`+families+`
[[uplink]]
name = "lte"
device = "wan2"
tier = 2
  [uplink.ipv6]
  method = "off"
`+targets)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	if u, err := r.uplinkStatus("lte"); err != nil || u.IPv6.State != uplink.Disabled {
		t.Errorf("%+v, %v", u.IPv6, err)
	}
	if out := r.sh("router", "ip -6 rule; ip -6 route show table all"); strings.Contains(out, "11702") {
		t.Errorf("a family that is off has state of ours:\n%s", out)
	}
	v4, v6 := r.lanProbes()
	r.awaitFlow(v4, "fiber")
	r.awaitFlow(v6, "fiber")
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitFlow(v4, "lte")
	broken := time.Now()
	r.awaitState("fiber", uplink.Down)
	if flow, ok := v6.Last(broken); ok {
		t.Errorf("an IPv6 flow found a way: %+v", flow)
	}
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	r.awaitFlow(v6, "fiber")
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source", n)
	}
}

// TestAFamilyThatNobodyOffersIsNoFailure has IPv6 come to one of two houses without, and go again.
func TestAFamilyThatNobodyOffersIsNoFailure(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.sh("router", "ip -6 route flush default; ip -6 address flush dev wan1 scope global; ip -6 address flush dev wan2 scope global; ip address add fd77::2/64 dev wan2 nodad")
	r.start()
	awaitIPv6 := func(name string, state uplink.State, code uplink.Code) {
		t.Helper()
		r.await(fmt.Sprintf("IPv6 of %s to be %s", name, state), func() error {
			u, err := r.uplinkStatus(name)
			if err == nil && (u.IPv6.State != state || u.IPv6.Code != code || state == uplink.Disabled && len(u.IPv6.Targets) > 0) {
				err = fmt.Errorf("it is %s: %s (%s)", u.IPv6.State, u.IPv6.Reason, u.IPv6.Code)
			}
			return err
		})
	}
	for _, name := range []string{"fiber", "lte"} {
		r.awaitState(name, uplink.Up)
		awaitIPv6(name, uplink.Disabled, uplink.CodeNotOffered)
	}
	if s := r.status(); len(s.Problems) > 0 {
		t.Errorf("problems: %+v", s.Problems)
	}
	r.sh("router", "ip address add 2001:db8:a::2/64 dev wan1 nodad; ip -6 route add default via fe80::1 dev wan1")
	awaitIPv6("fiber", uplink.Up, uplink.CodeAnswer)
	_, v6 := r.lanProbes()
	r.awaitFlow(v6, "fiber")
	r.sh("router", "ip -6 address flush dev wan1 scope global; ip -6 route flush default proto boot")
	awaitIPv6("fiber", uplink.Down, uplink.CodeNoAddress)
	awaitIPv6("lte", uplink.Disabled, uplink.CodeNotOffered)
	r.stop()
	r.start()
	awaitIPv6("fiber", uplink.Down, uplink.CodeNoAddress)
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source", n)
	}
}

func TestTwoUplinksInOneSubnetAreKeptApart(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{SameSubnet: true, DNAT: true}, dualWAN)
	r.serve()
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	for _, conf := range []string{"all", "wan1", "wan2"} {
		if v, err := r.Host("router").Sysctl("net/ipv4/conf/" + conf + "/rp_filter"); err != nil || v != "1" {
			t.Errorf("rp_filter of %s is %q, %v: it need not give way", conf, v, err)
		}
	}
	neighbourly := func(ignore, announce string) {
		t.Helper()
		for _, device := range []string{"wan1", "wan2"} {
			for key, want := range map[string]string{"arp_ignore": ignore, "arp_announce": announce} {
				if v, err := r.Host("router").Sysctl("net/ipv4/conf/" + device + "/" + key); err != nil || v != want {
					t.Errorf("%s of %s is %q, %v; want %s", key, device, v, err, want)
				}
			}
		}
	}
	neighbourly("1", "2")
	v4, v6 := r.lanProbes()
	r.awaitFlow(v4, "fiber")
	r.awaitFlow(v6, "fiber")
	r.answersEverywhere("inet", "fiber", "lte")
	r.answersEverywhere("lan", "fiber", "lte")
	r.wellKept("fiber")
	r.wellKept("lte")
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitFlow(v4, "lte")
	r.awaitFlow(v6, "lte")
	r.awaitState("fiber", uplink.Down)
	r.awaitState("lte", uplink.Up)
	r.answersEverywhere("inet", "lte")
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	r.awaitFlow(v4, "fiber")
	r.awaitFlow(v6, "fiber")
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source", n)
	}
	r.stop()
	r.command("clean", "-c", r.config)
	neighbourly("0", "0")
}

func TestTwinsWithTheSameAddressAndGatewayAreJudgedAndUsedApart(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{Twins: true, DNAT: true}, dualWAN)
	r.serve()
	// The sticks hand on what is sent to their own addresses.
	for _, isp := range []string{"isp1", "isp2"} {
		r.sh(isp, `nft 'table ip inbound { chain prerouting { type nat hook prerouting priority dstnat;
			iifname "up0" meta l4proto { tcp, udp } th dport { 7000, 7001, 8080, 8081 } dnat to 198.51.100.2; }; }'`)
	}
	public := map[string]netip.Addr{"fiber": netip.MustParseAddr("198.51.100.129"), "lte": netip.MustParseAddr("203.0.113.65")}
	askTwin := func(name string) {
		t.Helper()
		for _, s := range services {
			if err := r.ask("inet", s, public[name], 5*time.Second); err != nil {
				t.Errorf("through %s: %v", name, err)
			}
			if err := r.ask(r.Uplink(name).ISP, s, netip.MustParseAddr("198.51.100.2"), 5*time.Second); err != nil {
				t.Errorf("from the stick of %s itself: %v", name, err)
			}
		}
	}
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	if v, err := r.Host("router").Sysctl("net/ipv4/conf/all/rp_filter"); err != nil || v != "1" {
		t.Fatalf("rp_filter of all: %q, %v", v, err)
	}
	v4, v6 := r.lanProbes()
	r.awaitFlow(v4, "fiber")
	r.awaitFlow(v6, "fiber")
	askTwin("fiber")
	askTwin("lte")
	for _, c := range []struct{ dead, alive string }{{"lte", "fiber"}, {"fiber", "lte"}} {
		if err := r.Break(lab.Upstream, c.dead); err != nil {
			t.Fatal(err)
		}
		r.awaitState(c.dead, uplink.Down)
		r.awaitState(c.alive, uplink.Up)
		r.awaitFlow(v4, c.alive)
		r.awaitFlow(v6, c.alive)
		askTwin(c.alive)
		if err := r.Heal(); err != nil {
			t.Fatal(err)
		}
		r.awaitState(c.dead, uplink.Up)
	}
	r.awaitFlow(v4, "fiber")
	for _, e := range r.events(status.EventVerdict) {
		if e.To == string(uplink.Down) && e.Code == string(uplink.CodeNoCarrier) {
			t.Errorf("%+v", e)
		}
	}
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source", n)
	}
}

// events returns what the daemon's decision log holds of one kind.
func (r *router) events(kind status.EventKind) []status.Event {
	r.Helper()
	var found []status.Event
	err := r.client.Events(context.Background(), 0, false, func(e status.Event) error {
		if e.Kind == kind {
			found = append(found, e)
		}
		return nil
	})
	if err != nil {
		r.Fatal(err)
	}
	return found
}

// TestAStaticAddressThatIsThereAlreadyIsUsedAndStays is what happens to a box whose network configuration
// is handed over to us without a reboot.
func TestAStaticAddressThatIsThereAlreadyIsUsedAndStays(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{DNAT: true}, staticFiber)
	r.serve()
	before := r.sh("router", "ip address; ip route; ip -6 route; ip rule; ip -6 rule; nft list ruleset")
	r.start()
	r.awaitState("fiber", uplink.Up)
	stream, stop := r.streamFrom("router", "192.0.2.1:7") // the first clsact on a device stops it for a moment
	r.wellKept("fiber")
	r.awaitMore(stream)
	r.answersEverywhere("inet", "fiber", "lte")
	r.kill()
	r.start()
	r.wellKept("fiber")
	r.awaitMore(stream)
	r.stop()
	r.awaitMore(stream)
	if st := stop(); st.Lost != 0 {
		t.Errorf("%v", st)
	}
	stream, stop = r.streamFrom("router", "192.0.2.1:7")
	r.awaitMore(stream)
	r.command("clean", "-c", r.config) // so does the end of the last
	r.awaitMore(stream)
	_ = stop()
	if after := r.sh("router", "ip address; ip route; ip -6 route; ip rule; ip -6 rule; nft list ruleset"); before != after {
		t.Errorf("before:\n%s\nafter clean:\n%s", before, after)
	}
}

// Names are as their owners write them: capitals, fifteen bytes, digits and marks, wherever they are shown or used.
func TestNamesMayBeAsLongAndAsMixedAsDevices(t *testing.T) {
	t.Parallel()
	const name, set, policy = "_Fiber-ISP_2of3", "List_A", "WORK-hosts"
	config := strings.Replace(dualWAN, `"fiber"`, `"`+name+`"`, 1) + fmt.Sprintf(`
[[set]]
name = %[1]q
addresses = ["192.0.2.53"]
[[policy]]
name = %[2]q
to = "@%[1]s"
uplinks = [%[3]q]
fallback = "unreachable"
`, set, policy, name)
	r := newRouter(t, lab.Options{}, config)
	r.start()
	r.awaitState(name, uplink.Up)
	r.await("convergence", r.converged)
	if out := r.sh("router", "cat "+r.dir+"/names.conf"); !strings.Contains(out, name) {
		t.Errorf("ip is told of %s", out)
	}
	if out := r.command("explain", "--socket", r.socket(), "--to", "192.0.2.53"); !strings.Contains(out, name) || !strings.Contains(out, policy) {
		t.Errorf("explain: %s", out)
	}
	r.command("drain", "--socket", r.socket(), name)
	r.await("the other line to carry new traffic", func() error {
		if u, err := r.uplinkStatus(name); err != nil || u.IPv4.Share != 0 {
			return fmt.Errorf("%+v, %v", u.IPv4, err)
		}
		return r.converged()
	})
	r.command("undrain", "--socket", r.socket(), name)
	if out := r.command("status", "--socket", r.socket()); !strings.Contains(out, name) {
		t.Errorf("status: %s", out)
	}
}
