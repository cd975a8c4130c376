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
	const config = "[[uplink]]\nname = \"fiber\"\ndevice = \"wan1\"\n" + families + unhurriedProbes + "[[uplink]]\nname = \"lte\"\ndevice = \"wan2\"\ntier = 2\n" + families + unhurriedProbes
	r := newRouter(t, lab.Options{}, config)
	r.pace = emulated
	r.sh("router", `modprobe nf_flow_table; modprobe nft_flow_offload; nft 'table inet fast { flowtable f { hook ingress priority 0; devices = { lan0, wan1, wan2 }; };
		chain forward { type filter hook forward priority 0; ct state established meta l4proto { tcp, udp } flow add @f; }; }'`)
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
}
