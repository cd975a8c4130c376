package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/rules/explain"
	"github.com/uplinkd/uplinkd/uplink"
)

// The camera is a second host of the LAN: its packets have a hardware address of their own, in both families.
const (
	cameraMAC          = "02:00:00:00:00:10"
	camera4, camera6   = "203.0.113.140", "2001:db8:1::140"
	lanHost4, lanHost6 = "203.0.113.130", "2001:db8:1::2"
)

// addCamera makes the host of the LAN a second one, by a device with another hardware address.
func (r *router) addCamera() {
	r.Helper()
	router := strings.TrimSpace(r.sh("router", "ip -6 -o address show dev lan0 scope link | sed 's/.*inet6 \\([^/]*\\).*/\\1/'"))
	r.sh("lan", strings.NewReplacer("GATEWAY", router, "MAC", cameraMAC, "A4", camera4, "A6", camera6).Replace(`
sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0
ip link add camera0 link eth0 address MAC type macvlan mode bridge
ip link set camera0 up
ip address add A4/25 dev camera0 noprefixroute
ip -6 address add A6/64 dev camera0 nodad noprefixroute
ip route add 203.0.113.128/25 dev camera0 table 100
ip route add default via 203.0.113.129 dev camera0 table 100
ip rule add from A4 lookup 100
ip -6 route add default via GATEWAY dev camera0 table 100
ip -6 rule add from A6 lookup 100
`))
}

// byHost opens one new flow from an address of the LAN and returns the uplink that it took.
func (r *router) byHost(source, network, target string) (string, error) {
	probe := &lab.FlowProbe{From: r.Host("lan"), Network: network, Source: netip.MustParseAddr(source), Target: addrPort(target), Timeout: 2 * time.Second}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // one flow
	if err := probe.Run(ctx); err != nil {
		return "", err
	}
	flow := probe.Flows()[0]
	return r.UplinkOf(flow.Source.Addr()), flow.Err
}

// awaitByHost waits until new flows from an address of the LAN take an uplink; "" for none.
func (r *router) awaitByHost(source, network, target, uplink string) {
	r.Helper()
	r.await(fmt.Sprintf("%s from %s to %s by %q", network, source, target, uplink), func() error {
		by, err := r.byHost(source, network, target)
		if by == uplink && (err == nil) == (uplink != "") {
			return nil
		}
		return fmt.Errorf("by %q: %w", by, errors.Join(err, errors.New("not yet")))
	})
}

// One host of the LAN goes by LTE and by nothing else, in both families and whatever addresses it takes; the others are left alone.
func TestAHostIsSelectedByItsHardwareAddressAndNeverLeaks(t *testing.T) {
	t.Parallel()
	r := promised(t, "policy-device.toml")
	r.addCamera()
	leaked := r.watch("fiber", selected4, selected6)
	_, text, _ := strings.Cut(r.configured(), "[[uplink]]")
	example := "[[uplink]]" + text
	uplinks, _, _ := strings.Cut(example, "[[policy]]")
	r.configure(uplinks)
	r.up()
	// What it has begun before there is a policy does not go on by that uplink.
	old := r.hostConnection(camera4, selected4, 5)
	if by := old(); by != "fiber" {
		t.Fatalf("before there is a policy it goes by %q", by)
	}
	before := leaked()
	if before == 0 {
		t.Error("the provider counts nothing")
	}
	r.configure(example)
	r.command("reload", "--socket", filepath.Join(r.dir, "s"))
	r.await("the policy to be in force", r.converged)
	for _, network := range []string{"udp", "tcp"} {
		r.awaitByHost(camera4, network, selected4, "lte")
		r.awaitByHost(camera6, network, selected6, "lte")
		r.awaitByHost(lanHost4, network, other4, "fiber")
		r.awaitByHost(lanHost6, network, other6, "fiber")
	}
	r.await("the connection from before to begin anew", func() error {
		if by := old(); by != "lte" {
			return fmt.Errorf("by %q", by)
		}
		return nil
	})
	if n := leaked() - before; n != 0 {
		t.Errorf("%d packets of it leaked", n)
	}
	// Packets in fragments have no other header.
	for source, target := range map[string]string{camera4: selected4, camera6: selected6} {
		if by := r.hostConnection(source, target, 4000)(); by != "lte" {
			t.Errorf("fragments from %s by %q", source, by)
		}
	}
	r.explainsHost()
	if err := r.Break(lab.Blackhole, "lte"); err != nil {
		t.Fatal(err)
	}
	r.awaitState("lte", uplink.Down)
	for _, network := range []string{"udp", "tcp"} {
		r.awaitByHost(camera4, network, selected4, "")
		r.awaitByHost(camera6, network, selected6, "")
		r.awaitByHost(lanHost4, network, other4, "fiber")
	}
	// It takes another address.
	r.sh("lan", "ip address add 203.0.113.141/25 dev camera0 noprefixroute; ip rule add from 203.0.113.141 lookup 100")
	r.awaitByHost("203.0.113.141", "udp", selected4, "")
	r.kill()
	r.awaitByHost(camera4, "udp", selected4, "")
	if n := leaked() - before; n != 0 {
		t.Errorf("%d packets leaked", n)
	}
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source", n)
	}
}

// explainsHost asks what becomes of packets with a hardware address, and without.
func (r *router) explainsHost() {
	r.Helper()
	for args, want := range map[string]struct {
		uplink  string
		certain bool
	}{
		"--mac " + cameraMAC:      {"lte", true},
		"--mac 02:00:00:00:00:11": {"fiber", true},
		"":                        {"fiber", false},
	} {
		var e api.Explanation
		all := append([]string{"explain", "--json", "--socket", filepath.Join(r.dir, "s"), "--to", "192.0.2.2", "--from", camera4, "--iif", "lan0"}, strings.Fields(args)...)
		if err := json.Unmarshal([]byte(r.command(all...)), &e); err != nil {
			r.Fatal(err)
		}
		if e.Outcome != explain.Leaves || len(e.Egresses) != 1 || e.Egresses[0].Uplink != want.uplink || (e.Uncertain == "") != want.certain {
			r.Errorf("%q: %s by %+v, not certain: %q", args, e.Outcome, e.Egresses, e.Uncertain)
		}
	}
}

// hostConnection keeps one UDP socket of a LAN host: each call sends a packet of some bytes and returns the uplink that it took, "" for
// none.
func (r *router) hostConnection(source, target string, size int) func() string {
	r.Helper()
	conn, err := r.Host("lan").Dial(context.Background(), "udp", source, target)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = conn.Close() })
	return func() string {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		seen, err := lab.AskUDP(ctx, conn, make([]byte, size))
		if err != nil {
			return ""
		}
		return r.UplinkOf(seen.Addr())
	}
}
