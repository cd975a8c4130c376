package main

import (
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

func TestNewTrafficLeavesADeadProviderAndComesBack(t *testing.T) {
	for _, kind := range []string{lab.Blackhole, lab.Far, lab.Gateway, lab.Carrier} {
		t.Run(kind, func(t *testing.T) {
			r := newRouter(t, lab.Options{}, dualWAN)
			r.start()
			v4 := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort("192.0.2.1:7")}
			v6 := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Target: addrPort("[2001:db8:ffff::1]:7")}
			r.probe(v4)
			r.probe(v6)
			r.awaitState("fiber", uplink.Up)
			r.awaitState("lte", uplink.Up)
			r.awaitFlow(v4, "fiber")
			r.awaitFlow(v6, "fiber")
			broken := time.Now()
			if err := r.Break(kind, "fiber"); err != nil {
				t.Fatal(err)
			}
			r.awaitFlow(v4, "lte")
			r.awaitFlow(v6, "lte")
			t.Logf("new flows stood still for %v (IPv4), %v (IPv6)", v4.Stall(broken), v6.Stall(broken))
			r.awaitState("fiber", uplink.Down)
			if err := r.Heal(); err != nil {
				t.Fatal(err)
			}
			r.awaitFlow(v4, "fiber")
			r.awaitFlow(v6, "fiber")
			if n := r.foreign(); n != 0 {
				t.Errorf("%d packets left with a foreign source", n)
			}
		})
	}
}
