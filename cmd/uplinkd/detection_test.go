package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// threeTargets asks three targets of each family, often enough for a test.
var threeTargets = strings.NewReplacer(
	`, "dns://192.0.2.53?name=example.net"`, "",
	`, "dns://[2001:db8:ffff::53]?name=example.net"`, "",
	"[uplink.probe]", "[uplink.probe]\n  interval = \"250ms\"",
).Replace(dualWAN)

// silence has hosts of the Internet answer nobody, or only not those sources.
func (r *router) silence(hosts4, hosts6, match4, match6 string) {
	r.Helper()
	r.sh(lab.Internet, fmt.Sprintf(`nft -f - <<E
table inet silence
delete table inet silence
table inet silence {
  chain input {
    type filter hook input priority 0
    ip daddr { %s } %s drop
    ip6 daddr { %s } %s meta l4proto != ipv6-icmp drop
    ip6 daddr { %s } %s icmpv6 type echo-request drop
  }
}
E`, hosts4, match4, hosts6, match6, hosts6, match6))
}

func (r *router) unsilence() { r.sh(lab.Internet, "nft delete table inet silence") }

// awaitProblem waits until the status shows a problem whose message has the words, or none of that code
// for no words.
func (r *router) awaitProblem(code string, words ...string) {
	r.Helper()
	r.await(fmt.Sprintf("problem %s %q", code, words), func() error {
		problems, missing := r.status().Problems, slices.Clone(words)
		for _, p := range problems {
			if p.Code == code {
				if len(words) == 0 {
					return fmt.Errorf("it is there: %s", p.Message)
				}
				missing = slices.DeleteFunc(missing, func(w string) bool { return strings.Contains(p.Message, w) })
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("%q are missing in %+v", missing, problems)
		}
		return nil
	})
}

// switches returns the events of moved traffic.
func (r *router) switches() []string {
	r.Helper()
	var list []string
	err := r.client.Events(context.Background(), 0, false, func(e status.Event) error {
		if e.Kind == status.EventSwitch {
			list = append(list, e.Family+": "+e.To)
		}
		return nil
	})
	if err != nil {
		r.Fatal(err)
	}
	return list
}

func TestDeadTargetsMoveNoTraffic(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, threeTargets)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	before := r.switches()
	flows := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort("192.0.2.100:7"), Timeout: unhurried}
	stop := r.probe(flows)
	r.awaitFlow(flows, "fiber")

	r.silence(lab.Echo4, lab.Echo6, "", "")
	r.awaitProblem("dead-target", "target 192.0.2.1 ", "target 2001:db8:ffff::1 ")
	r.silence(lab.Echo4+","+lab.TCP4, lab.Echo6+","+lab.TCP6, "", "")
	r.awaitProblem("dead-target", "target tcp://192.0.2.2:443 ", "target tcp://[2001:db8:ffff::2]:443 ")
	if after := r.switches(); !slices.Equal(after, before) {
		t.Errorf("traffic moved for dead targets: %q", after[len(before):])
	}

	// All of them, by every uplink.
	all4, all6 := strings.Join([]string{lab.Echo4, lab.TCP4, lab.HTTP4}, ","), strings.Join([]string{lab.Echo6, lab.TCP6, lab.HTTP6}, ",")
	r.silence(all4, all6, "", "")
	r.awaitState("fiber", uplink.Down)
	r.awaitState("lte", uplink.Down)
	r.awaitProblem("common-cause", "common cause: no target answers by any of fiber, lte (IPv4)", "fiber, lte (IPv6)")
	if reason := r.status().Uplinks[0].IPv4.Reason; !strings.Contains(reason, "common cause") {
		t.Errorf("the reason does not say it: %s", reason)
	}
	r.unsilence()
	r.awaitProblem("common-cause")
	r.awaitState("fiber", uplink.Up)
	if after := r.switches(); !slices.Equal(after, before) {
		t.Errorf("traffic moved for a common cause: %q", after[len(before):])
	}
	stop()
	for _, f := range flows.Flows() {
		if f.Err != nil || r.UplinkOf(f.Source.Addr()) != "fiber" {
			t.Errorf("a flow of %v: %v, %v", f.Start, f.Source, f.Err)
		}
	}
}

func TestTargetsThatAreDeadByOneUplinkMoveTraffic(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	flows := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort("192.0.2.100:7"), Timeout: unhurried}
	r.probe(flows)
	r.awaitFlow(flows, "fiber")
	fiber := r.status().Uplinks[0]
	if len(fiber.IPv4.Addresses) == 0 || len(fiber.IPv6.Addresses) == 0 {
		t.Fatal("fiber has no addresses")
	}
	begun := time.Now()
	r.silence("192.0.2.0/26", "2001:db8:ffff::1, 2001:db8:ffff::2, 2001:db8:ffff::3, 2001:db8:ffff::53",
		"ip saddr "+fiber.IPv4.Addresses[0].Addr().String(), "ip6 saddr "+fiber.IPv6.Addresses[0].Addr().String())
	r.awaitFlow(flows, "lte")
	t.Logf("new flows moved after %v", time.Since(begun))
	r.awaitState("fiber", uplink.Down)
	r.awaitState("lte", uplink.Up)
}

func TestTheDecisionLogSurvivesARestart(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.start()
	r.awaitState("fiber", uplink.Up)
	if err := r.Break(lab.Carrier, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitState("fiber", uplink.Down)
	file := filepath.Join(r.dir, "state", "events.log")
	r.await("the loss to be on disk", func() error {
		content, err := os.ReadFile(file)
		if err == nil && !strings.Contains(string(content), uplink.ReasonCarrier.Text) {
			err = errors.New("it is not in there yet")
		}
		return err
	})
	before := r.history()
	r.kill()
	r.start()
	after := r.history()
	if len(after) <= len(before) || !slices.Equal(kinds(after[:len(before)]), kinds(before)) {
		t.Errorf("before: %v\nafter: %v", kinds(before), kinds(after))
	}
	if out := r.command("events", "--socket", filepath.Join(r.dir, "s")); !strings.Contains(out, "carrier lost") {
		t.Errorf("uplinkd events:\n%s", out)
	}

	r.stop()
	if err := os.WriteFile(file, []byte("[{\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.awaitProblem("state-damaged", "events.log")
	if last := after[len(after)-1].ID; r.history()[0].ID <= last {
		t.Errorf("id %d comes after %d", r.history()[0].ID, last)
	}
}

// history returns the decision log.
func (r *router) history() []status.Event {
	r.Helper()
	var list []status.Event
	if err := r.client.Events(context.Background(), 0, false, func(e status.Event) error { list = append(list, e); return nil }); err != nil {
		r.Fatal(err)
	}
	return list
}

func kinds(events []status.Event) []string {
	var list []string
	for _, e := range events {
		list = append(list, fmt.Sprintf("%d %s %s", e.ID, e.Kind, e.Uplink))
	}
	return list
}

func TestAnUplinkWithManualFailbackWaitsForTheOperator(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, strings.Replace(dualWAN, `device = "wan1"`, "device = \"wan1\"\nfailback = \"manual\"", 1))
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	flows := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort("192.0.2.1:7")}
	r.probe(flows)
	r.awaitFlow(flows, "fiber")
	if err := r.Break(lab.Carrier, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitFlow(flows, "lte")
	r.awaitState("fiber", uplink.Down)
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	r.awaitState("fiber", uplink.Up)
	waits := func() error {
		if u := r.status().Uplinks[0]; !u.IPv4.AwaitsUndrain || u.IPv4.Share != 0 {
			return fmt.Errorf("%+v", u.IPv4)
		}
		return nil
	}
	r.await("fiber to wait", waits)
	r.stop()
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.await("fiber to wait after a restart", waits)
	r.awaitFlow(flows, "lte")
	r.command("undrain", "--socket", filepath.Join(r.dir, "s"), "fiber")
	r.awaitFlow(flows, "fiber")
}

func TestAFirewallThatDropsProbesIsNamed(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, threeTargets)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.sh("router", `nft add table ip own
nft add chain ip own output '{ type filter hook output priority 0; }'
nft add rule ip own output oifname wan1 icmp type echo-request drop`)
	r.awaitProblem("probe-blocked", "probes of fiber (IPv4)")
	r.sh("router", "nft delete table ip own")
	r.awaitProblem("probe-blocked")
}

func TestARuleOfSomebodyElseTakesNoProbes(t *testing.T) {
	t.Parallel()
	pings := strings.NewReplacer("tcp://192.0.2.2:443", "192.0.2.2", "http://192.0.2.3/generate_204", "192.0.2.3",
		"tcp://[2001:db8:ffff::2]:443", "2001:db8:ffff::2", "http://[2001:db8:ffff::3]/generate_204", "2001:db8:ffff::3").Replace(threeTargets)
	r := newRouter(t, lab.Options{}, pings)
	// It leads by fiber, and strict filtering would drop the answers that come by lte.
	r.sh("router", "ip rule add pref 100 lookup main; ip -6 rule add pref 100 lookup main; sysctl -qw net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.wan2.rp_filter=2")
	r.sh("router", `nft -f - <<E
table inet seen {
  counter own4 { }
  counter own6 { }
  counter stray { }
  chain output {
    type filter hook output priority 300
    meta mark & 0x3f000000 != 0x02000000 accept comment "not lte's"
    oifname wan2 icmp type echo-request counter name own4
    oifname wan2 icmpv6 type echo-request counter name own6
    oifname != wan2 meta l4proto { icmp, ipv6-icmp } counter name stray
  }
}
E`)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	for _, counter := range []string{"own4", "own6"} {
		r.await("echo requests of lte by its device", func() error { return r.counted(counter, 10) })
	}
	if err := r.counted("stray", 1); err == nil {
		t.Error("echo requests of lte leave by another device")
	}
}

// counted checks that a counter of the table seen has counted so many packets.
func (r *router) counted(counter string, atLeast int) error {
	r.Helper()
	out := r.sh("router", "nft list counter inet seen "+counter)
	_, after, _ := strings.Cut(out, "packets ")
	n := 0
	if _, err := fmt.Sscan(after, &n); err != nil {
		r.Fatalf("%s: %v", out, err)
	}
	if n < atLeast {
		return fmt.Errorf("%s has counted %d packets", counter, n)
	}
	return nil
}
