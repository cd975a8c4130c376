//go:build vm

package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// Somebody's flowtable carries connections past every chain. A kill switch that a reload brings ends them all the same, and so does an uplink
// that dies.
func TestVMWhatAFlowtableCarriesEndsWithAKillSwitch(t *testing.T) {
	flowtableCarries(t, "", `nft 'table inet fast { flowtable f { hook ingress priority 0; devices = { lan0, wan1, wan2 }; };
		chain forward { type filter hook forward priority 0; ct state established meta l4proto { tcp, udp } flow add @f; }; }'`)
}

// Our own flowtable does as well, what it carries is counted, and what somebody drops it does not carry.
func TestVMOffloadIsLikeNoOffload(t *testing.T) {
	r := flowtableCarries(t, "offload = true\n", "true") // the preamble ends in [kernel]
	sent := func() (sum int64) {
		for _, name := range []string{"fiber", "lte"} {
			u, err := r.reportOf(name)
			if err != nil {
				t.Fatal(err)
			}
			sum += u.SentBytes
		}
		return sum
	}
	before := sent()
	if before == 0 {
		t.Error("nothing is counted of what the flowtable carries")
	}
	if out := r.sh("router", "nft list table inet uplinkd"); !strings.Contains(out, "flowtable fast") || !strings.Contains(out, "lan0") {
		t.Errorf("no flowtable in %s", out)
	}
	for _, p := range r.status().Problems {
		t.Errorf("a problem: %+v", p)
	}
	// A device goes, and comes back.
	r.sh("router", "ip link add lan9 type veth peer name far9; ip address add 192.168.99.1/24 dev lan9; ip link set lan9 up")
	devices := func(want bool) func() error {
		return func() error {
			out := r.sh("router", "nft list flowtables")
			if strings.Contains(out, "lan9") != want {
				return errors.New(out)
			}
			return nil
		}
	}
	r.await("a new network in the flowtable", devices(true))
	r.sh("router", "ip link del lan9")
	r.await("the flowtable without it", devices(false))
	r.stop()
	r.command("clean", "-c", r.config)
	if out := r.sh("router", "nft list ruleset"); strings.Contains(out, "flowtable") {
		t.Errorf("left behind: %s", out)
	}
}

func flowtableCarries(t *testing.T, kernel, others string) *router {
	config := kernel + "[[uplink]]\nname = \"fiber\"\ndevice = \"wan1\"\n" + families + unhurriedProbes + "[[uplink]]\nname = \"lte\"\ndevice = \"wan2\"\ntier = 2\n" + families + unhurriedProbes
	r := newRouter(t, lab.Options{}, config)
	r.pace = emulated
	r.sh("router", "modprobe nf_flow_table; modprobe nft_flow_offload; "+others)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	streams := []*lab.Stream{
		{From: r.Host("lan"), Target: addrPort("192.0.2.1:7"), Grace: unhurried},
		{From: r.Host("lan"), Target: addrPort("[2001:db8:ffff::1]:7"), Grace: unhurried},
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, s := range streams {
		running.Go(func() { _ = s.Run(ctx) }) // it does not live on everywhere
		r.await("the stream to use fiber", over(s, "fiber"))
	}
	defer func() { cancel(); running.Wait() }()
	r.await("the streams to be offloaded", func() error {
		if out := r.sh("router", "cat /proc/net/nf_conntrack"); strings.Count(out, "[OFFLOAD]") < len(streams) {
			return errors.New(out)
		}
		return nil
	})

	seen := r.watch("fiber", "192.0.2.1:7", "[2001:db8:ffff::1]:7")
	r.configure(config + "[[policy]]\nname = \"sealed\"\niif = [\"lan0\"]\nuplinks = [\"lte\"]\nfallback = \"unreachable\"\n")
	r.command("reload", "--socket", r.socket())
	for _, s := range streams {
		r.await("the stream to go by lte", over(s, "fiber", "lte"))
	}
	before := seen()
	rest(t.Context(), 3*time.Second)
	if n := seen() - before; n != 0 {
		t.Errorf("%d packets left by fiber after the reload", n)
	}

	// Offloaded again, they move back when the uplink of the kill switch may be another one, and that one dies.
	r.configure(config)
	r.command("reload", "--socket", r.socket())
	if err := r.Break(lab.Blackhole, "lte"); err != nil {
		t.Fatal(err)
	}
	for _, s := range streams {
		r.await("the stream to be back at fiber", over(s, "fiber", "lte", "fiber"))
	}
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source: %s", n, r.foreignSources())
	}
	return r
}

// BenchmarkVMOffload compares what a router forwards with and without a flowtable.
func BenchmarkVMOffload(b *testing.B) {
	with, without := newRouter(b, lab.Options{}, "offload = true\n"+everything), newRouter(b, lab.Options{}, everything)
	for _, r := range []*router{with, without} {
		r.pace = emulated
		r.ready()
	}
	compareThroughput(b, with, without)
}
