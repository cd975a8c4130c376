package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// Targets that the tests' policies tell apart.
const (
	selected4, selected6 = "192.0.2.2:7", "[2001:db8:ffff::2]:7"
	other4, other6       = "192.0.2.1:7", "[2001:db8:ffff::1]:7"
)

// by opens one new UDP flow from a host and returns the uplink that it took, or why it failed.
func (r *router) by(from, target string) (uplink string, err error) {
	source, err := r.seenAs(from, target)
	return r.UplinkOf(source), err
}

// seenAs opens one new UDP flow from a host and returns the source that the target sees, or why it failed.
func (r *router) seenAs(from, target string) (source netip.Addr, err error) {
	probe := &lab.FlowProbe{From: r.Host(from), Network: "udp", Target: addrPort(target), Timeout: 2 * time.Second}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // one flow
	if err := probe.Run(ctx); err != nil {
		return netip.Addr{}, err
	}
	flow := probe.Flows()[0]
	return flow.Source.Addr(), flow.Err
}

// expectBy checks which uplink new flows take.
func (r *router) expectBy(from, target, uplink string) {
	r.Helper()
	if got, err := r.by(from, target); err != nil || got != uplink {
		r.Errorf("from %s to %s by %q (%v), want %q", from, target, got, err, uplink)
	}
}

// awaitBy waits until new flows take an uplink.
func (r *router) awaitBy(from, target, uplink string) {
	r.Helper()
	r.await(fmt.Sprintf("flows from %s to %s by %s", from, target, uplink), func() error {
		got, err := r.by(from, target)
		if err == nil && got != uplink {
			err = fmt.Errorf("by %q", got)
		}
		return err
	})
}

// awaitRefused waits until new flows fail.
func (r *router) awaitRefused(from, target string) {
	r.Helper()
	r.await("flows from "+from+" to "+target+" to be refused", func() error {
		if got, err := r.by(from, target); err == nil {
			return errors.New("by " + got)
		}
		return nil
	})
}

// watch makes the provider of an uplink count what comes to it for some addresses and the port of the echo, which
// no prober asks; the returned function says how many packets that were.
func (r *router) watch(uplink string, targets ...string) func() int {
	r.Helper()
	isp := r.Uplink(uplink).ISP
	script := "table inet watched {\n\tcounter seen { }\n\tchain forward {\n\t\ttype filter hook forward priority 0;\n"
	for _, t := range targets {
		addr := netip.MustParseAddrPort(t).Addr()
		family := "ip"
		if addr.Is6() {
			family = "ip6"
		}
		script += fmt.Sprintf("\t\t%s daddr %v th dport 7 counter name seen\n", family, addr)
	}
	r.sh(isp, "nft -f - <<'EOF'\n"+script+"\t}\n}\nEOF")
	return func() int {
		r.Helper()
		var packets, bytes int
		out := r.sh(isp, "nft list counter inet watched seen")
		if _, err := fmt.Sscanf(out[strings.Index(out, "packets"):], "packets %d bytes %d", &packets, &bytes); err != nil {
			r.Fatalf("%v in %s", err, out)
		}
		return packets
	}
}

// ready starts the daemon and waits until both uplinks are up. The selected target echoes from then on, as the other
// one does in every world.
func (r *router) ready() {
	r.Helper()
	for _, target := range []string{selected4, selected6} {
		if err := r.Host("inet").ServeUDPEcho(context.Background(), addrPort(target)); err != nil {
			r.Fatal(err)
		}
	}
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
}

func TestAPolicySendsSomeDestinationsElsewhereAndFallsBack(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN+`
[[policy]]
name = "by-lte"
from = ["203.0.113.128/25", "2001:db8:1::/64"]
to = ["192.0.2.0/26", "2001:db8:ffff::/64"]
except = ["192.0.2.1", "2001:db8:ffff::1"]
uplinks = ["lte"]
`)
	r.ready()
	for _, target := range []string{selected4, selected6} {
		r.expectBy("lan", target, "lte")
		r.expectBy("router", target, "fiber") // the policy is about the LAN
	}
	for _, target := range []string{other4, other6} {
		r.expectBy("lan", target, "fiber")
	}
	if err := r.Break(lab.Blackhole, "lte"); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{selected4, selected6} {
		r.awaitBy("lan", target, "fiber")
	}
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{selected4, selected6} {
		r.awaitBy("lan", target, "lte")
	}
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source", n)
	}
}

// A LAN whose traffic is to leave by fiber and by nothing else: whatever happens to fiber, to the daemon and to
// the configuration, the other provider never sees a packet of it.
func TestAKillSwitchLeaksNothing(t *testing.T) {
	t.Parallel()
	const rounds = 4 // two kinds of breaks, and each disturbance; BenchmarkKillSwitch has more
	r := newRouter(t, lab.Options{}, killed)
	leaks := r.watch("lte", selected4, selected6)
	r.ready()
	r.expectBy("lan", selected4, "fiber")
	r.expectBy("lan", selected6, "fiber")
	r.killSwitchRounds(rounds, leaks)
}

// killed trusts an uplink soon, so that there may be many rounds.
var killed = strings.ReplaceAll(dualWAN, "[uplink.probe]", "[uplink.probe]\n  rise = 2") + `
[[policy]]
name = "tight"
to = ["192.0.2.2", "2001:db8:ffff::2"]
uplinks = ["fiber"]
fallback = "unreachable"
`

// killSwitchRounds breaks fiber again and again, in turn by each kind of break, each time with another disturbance
// of the daemon, while flows are opened all the time. It fails when lte's provider sees one of their packets.
func (r *router) killSwitchRounds(rounds int, leaks func() int) {
	r.Helper()
	probes := []*lab.FlowProbe{
		{From: r.Host("lan"), Network: "udp", Target: addrPort(selected4), Interval: 5 * time.Millisecond},
		{From: r.Host("lan"), Network: "udp", Target: addrPort(selected6), Interval: 5 * time.Millisecond},
		{From: r.Host("router"), Network: "udp", Target: addrPort(selected4), Interval: 5 * time.Millisecond},
	}
	for _, p := range probes {
		defer r.probe(p)()
	}
	kinds := []string{lab.Carrier, lab.Blackhole, lab.Carrier, lab.Gateway, lab.Carrier, lab.Carrier, lab.Upstream}
	for n := range rounds {
		for _, p := range probes {
			r.awaitFlow(p, "fiber")
		}
		if err := r.Break(kinds[n%len(kinds)], "fiber"); err != nil {
			r.Fatal(err)
		}
		switch n % 3 {
		case 0:
			r.kill()
			r.start()
		case 1:
			r.configure(killed + fmt.Sprintf("\n[[policy]]\nname = \"more\"\nto = \"192.0.2.%d\"\nuplinks = [\"lte\"]\n", 100+n%100))
			r.command("reload", "--socket", r.dir+"/s")
		}
		r.awaitState("fiber", uplink.Down)
		r.awaitRefused("lan", selected4)
		r.awaitRefused("lan", selected6)
		r.awaitRefused("router", selected4)
		r.awaitBy("lan", other4, "lte")
		if err := r.Heal(); err != nil {
			r.Fatal(err)
		}
		if n := leaks(); n != 0 {
			r.Fatalf("%d packets leaked", n)
		}
	}
}

// From the boot on: before the daemon runs, nothing of it leaves by any uplink, and all else does.
func TestAGuardedKillSwitchIsClosedBeforeTheDaemonRuns(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, killed)
	leaks := []func() int{r.watch("fiber", selected4, selected6), r.watch("lte", selected4, selected6)}
	session := r.sessionTo(t, "203.0.113.129:22")
	r.command("guard", "-c", r.config)
	for _, target := range []string{selected4, selected6} {
		for _, from := range []string{"lan", "router"} {
			if by, err := r.by(from, target); err == nil {
				t.Errorf("from %s to %s by %q", from, target, by)
			}
		}
	}
	for _, n := range leaks {
		if n := n(); n != 0 {
			t.Errorf("%d packets leaked", n)
		}
	}
	if by, err := r.by("router", other4); err != nil || by != "fiber" {
		t.Errorf("other traffic by %q, %v", by, err)
	}
	session()
	if out := r.command("guard", "-c", r.config); out != "# no kill switch is left to be closed\n" {
		t.Errorf("a second time it does %s", out)
	}
	r.ready()
	r.expectBy("lan", selected4, "fiber")
	r.expectBy("lan", selected6, "fiber")
	if out := r.command("guard", "-c", r.config); out != "# no kill switch is left to be closed\n" {
		t.Errorf("beside the daemon it does %s", out)
	}
	r.expectBy("lan", selected4, "fiber")
	if n := leaks[1](); n != 0 {
		t.Errorf("%d packets leaked", n)
	}
}

// A typing error in the file must neither open a kill switch at boot, nor keep clean from cleaning: like the daemon, both
// stand by the last good configuration.
func TestWithAMistakeInTheFileGuardAndCleanGoByTheLastGoodOne(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, killed)
	ours := func() string { return r.sh("router", "ip rule; ip -6 rule; nft list tables") }
	before := ours()
	r.ready()
	r.stop()
	r.configure(strings.Replace(killed, "device", "devcie", 1))
	r.command("clean", "-c", r.config)
	if after := ours(); after != before {
		t.Errorf("before:\n%s\nafter clean:\n%s", before, after)
	}
	r.command("guard", "-c", r.config)
	r.awaitRefused("lan", selected4)
	r.awaitRefused("router", selected6)
	r.start()
	r.awaitBy("lan", selected4, "fiber")
}

// BenchmarkKillSwitch counts leaked packets over 200 failovers, kill -9 and reloads among them, in several worlds at a
// time, because a round mostly waits.
func BenchmarkKillSwitch(b *testing.B) {
	const worlds, rounds = 5, 40
	for b.Loop() {
		var leaked atomic.Int64
		var done sync.WaitGroup
		for range worlds {
			r := newRouter(b, lab.Options{}, killed)
			leaks := r.watch("lte", selected4, selected6)
			r.ready()
			done.Go(func() {
				r.killSwitchRounds(rounds, leaks)
				leaked.Add(int64(leaks()))
			})
		}
		done.Wait()
		b.ReportMetric(float64(leaked.Load()), "leaked-packets")
		b.ReportMetric(worlds*rounds, "failovers")
		b.ReportMetric(0, "ns/op")
	}
}

// A host has an address of each provider. A policy asks for lte: what comes from the prefix of fiber is refused in
// words that make the host choose again, and never leaves.
func TestAPolicyAndDelegatedSources(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, strings.Replace(twoDelegations, "tier = 2", "", 1)+`
[[policy]]
name = "by-lte"
iif = "lan0"
to = ["2001:db8:ffff::2"]
uplinks = ["lte"]
fallback = "unreachable"
`)
	r.listen()
	r.delegateByKea(pools["fiber"], anHour)
	r.delegateByISC(pools["lte"], anHour)
	leaked := r.watch("fiber", selected6)
	r.ready()
	r.awaitHost(pools["fiber"], pools["lte"])
	from := func(pool netip.Prefix, target string) (string, error) {
		for _, a := range r.hostAddresses() {
			if pool.Contains(a.Local) {
				p := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Source: a.Local, Target: addrPort(target)}
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				if err := p.Run(ctx); err != nil {
					return "", err
				}
				return r.UplinkOf(p.Flows()[0].Source.Addr()), p.Flows()[0].Err
			}
		}
		return "", errors.New("the host has no address of " + pool.String())
	}
	if by, err := from(pools["lte"], selected6); err != nil || by != "lte" {
		t.Errorf("from the prefix of lte by %q, %v", by, err)
	}
	if by, err := from(pools["fiber"], selected6); !errors.Is(err, syscall.EACCES) {
		t.Errorf("from the prefix of fiber by %q, %v", by, err)
	}
	if by, err := from(pools["fiber"], other6); err != nil || by != "fiber" {
		t.Errorf("other destinations from the prefix of fiber by %q, %v", by, err)
	}
	if err := r.Break(lab.Blackhole, "lte"); err != nil {
		t.Fatal(err)
	}
	r.await("the policy to refuse", func() error {
		if by, err := from(pools["fiber"], selected6); err == nil {
			return errors.New("by " + by)
		}
		return nil
	})
	if n, foreign := leaked(), r.foreign(); n != 0 || foreign != 0 {
		t.Errorf("%d packets leaked, %d had a foreign source", n, foreign)
	}
}
